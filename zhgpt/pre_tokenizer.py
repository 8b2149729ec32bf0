"""Where text is cut before BPE joins anything: patterns by name, or a regular expression."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import tiktoken
from tokenizers import Regex, pre_tokenizers

from zhgpt import check
from zhgpt.errors import InputError
from zhgpt.pattern import GPT2, Pattern, Unreadable

Split = Callable[[str], list[str]]

# Digits in threes, a line end apart from the text before it, a word with the mark before it.
_REST = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# As in GPT-4's cl100k_base, without its English contractions.
_MODERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|" + _REST
_HAN_RUNS = pre_tokenizers.Split(Regex(r"\p{Han}+"), "isolated")
_NOT_HAN = r"[^\r\n\p{L}\p{N}]?[^\P{L}\p{Han}]+|" + _REST

_PART = 1 << 20  # characters

# Name to pattern; "" cuts nowhere.
PATTERNS = {
    "gpt2": GPT2,
    "modern": _MODERN,
    "han_apart": r"\p{Han}+|" + _NOT_HAN,
    "han_in_fours": r"\p{Han}{1,4}|" + _NOT_HAN,
    "han_single": r"\p{Han}|" + _NOT_HAN,
    "words": _MODERN,
    "none": "",
}


@dataclass(frozen=True)
class PreTokenizer:
    """Cuts text at `pattern`; in training also between Chinese words, if `by_words`.

    A tokenizer's file can hold a pattern, and no dictionary of words: with `by_words` entries are
    learnt within the words that rjieba finds in runs of Han characters, and text is encoded with
    the pattern alone. What is not Han stays as the pattern has it, English words with the space
    before them.
    """

    pattern: str
    by_words: bool = False

    def saved(self) -> pre_tokenizers.PreTokenizer:
        """As a tokenizer has it: cut, and written in the characters that stand for bytes."""
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([self._split(), bytes_]) if self.pattern else bytes_

    def splitter(self) -> Split:
        """Text to its pre-tokens in training, none of it lost; InputError where one is not found.

        A pattern with repetitions inside repetitions may give up on a text.
        """
        if not self.pattern:
            return lambda text: [text]
        if not self.by_words:
            return functools.partial(_cut, self._split(), self.pattern)
        apart = pre_tokenizers.Sequence([self._split(), _HAN_RUNS])
        cut = functools.partial(_cut, apart, self.pattern)
        return functools.partial(_words, cut, _rjieba().cut)

    def parts(self, text: str) -> Iterator[str]:
        """The same pre-tokens in training, of parts that can be cut one after the other.

        A text's pre-tokens take a hundred times its memory at once. In one piece where nothing is
        cut, or by a regular expression of which it is not known where it cuts.
        """
        spans = self._known.parts(text, _PART) if self._known else [(0, len(text))]
        return (text[start:end] for start, end in spans)

    @functools.cached_property
    def _known(self) -> Pattern | None:
        try:
            return Pattern(self.pattern) if self.pattern else None
        except Unreadable:
            return None

    def _split(self) -> pre_tokenizers.PreTokenizer:
        try:
            return pre_tokenizers.Split(Regex(self.pattern), "isolated")
        except Exception as error:  # the library raises no narrower class
            raise InputError(
                f"bpe.pre_tokenizer: {self.pattern!r} is no regular expression"
                f" ({error}{_place(self.pattern)}).\nNames are: {', '.join(PATTERNS)}."
            ) from None


def of(name: str) -> PreTokenizer:
    """By its name, or of a regular expression; InputError for what is neither."""
    if name in PATTERNS:
        pre_tokenizer = PreTokenizer(PATTERNS[name], by_words=name == "words")
    elif re.fullmatch(r"[\w -]*", name):  # no regular expression that cuts any text
        raise InputError(
            f"bpe.pre_tokenizer: {name!r} is no name{check.suggestion(name, PATTERNS)};"
            f" there are: {', '.join(PATTERNS)}.\nAnything else is a regular expression."
        )
    else:
        pre_tokenizer = PreTokenizer(name)
    pre_tokenizer.splitter()
    return pre_tokenizer


def _words(cut: Split, words: Split, text: str) -> list[str]:
    pieces = cut(text)
    return [word for piece in pieces for word in (words(piece) if _is_han(piece[0]) else [piece])]


@functools.cache
def _is_han(character: str) -> bool:
    return not pre_tokenizers.Split(Regex(r"\p{Han}"), "removed").pre_tokenize_str(character)


def _cut(split: pre_tokenizers.PreTokenizer, pattern: str, text: str) -> list[str]:
    try:
        return [piece for piece, _ in split.pre_tokenize_str(text)]
    except BaseException as error:
        # The library panics where the pattern's search gives up; a panic has no class to import.
        if type(error).__name__ != "PanicException" or "Onig" not in str(error):
            raise
        raise InputError(
            f"bpe.pre_tokenizer: {pattern!r} takes too many steps on this text ({error});\n"
            "write it without repetitions inside repetitions."
        ) from None


def _place(pattern: str) -> str:
    """Where it is wrong, by the other regex engine: Oniguruma does not say."""
    try:
        tiktoken.Encoding("", pat_str=pattern, mergeable_ranks={b"a": 0}, special_tokens={})
    except ValueError as error:
        if place := re.search(r"at position \d+", str(error)):
            return f", {place[0]}: {pattern[int(place[0].split()[-1]) :][:20]!r}"
    return ""


def _rjieba():
    try:
        import rjieba
    except ImportError:
        raise InputError('bpe.pre_tokenizer: "words" needs rjieba: pip install rjieba') from None
    return rjieba
