"""What a tokenizer's split pattern says by itself: which engines read it alike, and where no
pre-token can lie across."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Regex, pre_tokenizers

# ByteLevel's own, where it is not told to leave splitting to another.
GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # tokenizers 0.23
)
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Those that a test compares over all code points between the two regex engines, Oniguruma in
# `tokenizers` and Rust's in `tiktoken`; \w, \h and [:alpha:] for instance mean different things.
PROPERTIES = "L N M P S Z Lu Ll Lt Lm Lo Nd Han Hiragana Katakana Latin".split()

_NAMED = r"\\[pP]\{(?:" + "|".join(PROPERTIES) + r")\}|\\[sSdrnt]|\\[.^$*+?()\[\]{}|\\/-]"
_IN_SET = r"[^\\\[\]^&~-]"
_SET = rf"\[\^?(?:{_NAMED}|{_IN_SET}(?:-{_IN_SET})?)+\]"
_CLASS = rf"(?:{_NAMED}|{_SET}|[^\\^$.|?*+()\[\]{{}}])"
_ITEM = re.compile(rf"({_CLASS})([?*+]|\{{(\d+)(,?)(\d*)\}})?")
_LOOKAHEAD = re.compile(rf"\(\?!({_CLASS})\)(?=\||$)")


@dataclass(frozen=True)
class Item:
    """One character class, how often it has to come, and whether it may come more than once."""

    characters: str
    least: int = 1
    repeated: bool = False


@dataclass(frozen=True)
class Alternative:
    items: tuple[Item, ...]
    looks_ahead: bool = False

    def neighbours(self) -> set[tuple[str, str]]:
        """Classes of any two characters side by side within one match."""
        pairs = {(item.characters, item.characters) for item in self.items if item.repeated}
        for i, first in enumerate(self.items):
            for second in self.items[i + 1 :]:
                pairs.add((first.characters, second.characters))
                if second.least:
                    break
        return pairs

    def suffices(self) -> str | None:
        """A class of which any one character is a match, whatever stands around it."""
        required = [item for item in self.items if item.least]
        alone = len(required) == 1 and required[0].least == 1 and not self.looks_ahead
        return required[0].characters if alone else None

    def before_lookahead(self) -> set[str]:
        """Classes of a match's last character, if what follows it is looked at."""
        last = set()
        for item in reversed(self.items if self.looks_ahead else ()):
            last.add(item.characters)
            if item.least:
                break
        return last


class Unreadable(Exception):
    """A pattern, or a part of it, that is outside the plain form; says which."""


class Pattern:
    """Alternatives of character classes in a row, such as GPT-2's and its successors'.

    A class has a quantifier or none; the last one may be followed by a negative lookahead of one
    class. No groups, anchors, look-behind or back-references: of a pattern in this form it is
    known where it cuts. Unreadable for any other.
    """

    def __init__(self, pattern: str):
        self.pattern = pattern
        self.alternatives: list[Alternative] = []
        rest = pattern
        if rest.startswith(CONTRACTIONS + "|"):
            rest = rest.removeprefix(CONTRACTIONS + "|")
            for letters in "s t re ve m ll d".split():
                folded = tuple(Item(f"(?i:{letter})") for letter in letters)
                self.alternatives.append(Alternative((Item("'"), *folded)))
        while True:
            alternative, rest = _alternative(rest)
            self.alternatives.append(alternative)
            if not rest:
                break
            rest = rest[1:]

    def safe_cut(self, text: str, start: int) -> int:
        """The first place from `start` on where a text can be cut with the same pre-tokens.

        No match can hold the characters before and after it together, nor look across it, and
        at least one of them always belongs to a match. The text's length where there is none.
        """
        width = 256
        while start < len(text):
            places = np.flatnonzero(self._safe(text[start - 1 : start + width]))
            if len(places):
                return start + int(places[0])
            start, width = start + width, min(width * 4, 1 << 20)
        return len(text)

    def parts(self, text: str, size: int) -> Iterator[tuple[int, int]]:
        """Begin and end of parts of `size` characters and what follows to the next safe cut.

        Their pre-tokens together are those of the text. One part where it has less than twice
        `size`.
        """
        start = 0
        while len(text) - start > 2 * size:
            end = self.safe_cut(text, start + size)
            yield start, end
            start = end
        if start < len(text) or not text:
            yield start, len(text)

    def _safe(self, text: str) -> np.ndarray:
        """For every two neighbouring characters of the text, whether it can be cut there."""
        holds = {c: splitter(text) for c, splitter in self._members.items()}
        unsafe = np.zeros(len(text) - 1, dtype=bool)
        matched = np.zeros(len(text), dtype=bool)
        for alternative in self.alternatives:
            for first, second in alternative.neighbours():
                unsafe |= holds[first][:-1] & holds[second][1:]
            for last in alternative.before_lookahead():
                unsafe |= holds[last][:-1]
            if alternative.suffices():
                matched |= holds[alternative.suffices()]
        return ~unsafe & (matched[:-1] | matched[1:])

    @cached_property
    def _members(self) -> dict[str, "_Members"]:
        names = {item.characters for a in self.alternatives for item in a.items}
        return {name: _Members(name) for name in sorted(names)}


class _Members:
    """Which characters of a text are in a class, as the tokenizer's own regex engine sees it."""

    def __init__(self, characters: str):
        self.kept = pre_tokenizers.Split(Regex(f"{characters}+"), "removed", invert=True)

    def __call__(self, text: str) -> np.ndarray:
        members = np.zeros(len(text), dtype=bool)
        for _, (start, end) in self.kept.pre_tokenize_str(text):
            members[start:end] = True
        return members


def _alternative(rest: str) -> tuple[Alternative, str]:
    """The first alternative of what is left of a pattern, and what follows it."""
    begin, items, looks_ahead = rest, [], False
    while rest and not rest.startswith("|"):
        if items and (look := _LOOKAHEAD.match(rest)):
            looks_ahead, rest = True, rest[look.end() :]
        elif item := _ITEM.match(rest):
            items.append(_item(*item.groups()))
            rest = rest[item.end() :]
        else:
            raise Unreadable(f"its split pattern is not of the plain form at {rest[:20]!r}")
    if not any(item.least for item in items) or rest == "|":
        raise Unreadable(f"its split pattern can match nothing at {begin[:20]!r}")
    return Alternative(tuple(items), looks_ahead), rest


def _item(characters: str, quantifier: str | None, least: str, comma: str, most: str) -> Item:
    if not quantifier:
        return Item(characters)
    if quantifier in "?*+":
        return Item(characters, int(quantifier == "+"), quantifier != "?")
    return Item(characters, int(least), bool(comma) or int(least) > 1)
