"""What tokenizers make of a text, counted: by source and over all of it."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zhgpt.candidate import Candidate, Cut
from zhgpt.survey import HAN

# A longer document is compared in parts, cut at line ends where there are any: an encoding takes
# some hundred bytes of memory for each token until it is counted.
_PART = 1 << 17  # characters
LONGEST = 8
AROUND = 12  # characters on both sides of the place where a text comes back changed

_IS_HAN = np.zeros(0x110000, dtype=bool)
for _first, _last in HAN:
    _IS_HAN[_first : _last + 1] = True


@dataclass(frozen=True)
class Part:
    """Some or all of a document, which has a number."""

    document: int
    source: str
    text: str

    @cached_property
    def size(self) -> int:
        """In bytes of UTF-8."""
        return len(self.text.encode("utf-8"))

    @cached_property
    def han_before(self) -> np.ndarray:
        """(characters + 1,): how many Han characters stand before each character."""
        points = np.frombuffer(self.text.encode("utf-32-le"), dtype="<u4")
        return np.concatenate([[0], np.cumsum(_IS_HAN[points])])


def parts(document: int, source: str, text: str) -> Iterator[Part]:
    start = 0
    while start < len(text):
        end = start + _PART
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield Part(document, source, text[start:end])
        start = end


class Amount:
    """How much text there was, by source."""

    def __init__(self) -> None:
        self.sums: dict[str, Counter[str]] = defaultdict(Counter)
        self.document = -1

    def add(self, part: Part) -> None:
        self.sums[part.source] += Counter(
            documents=int(part.document != self.document),
            bytes=part.size,
            characters=len(part.text),
            han_characters=int(part.han_before[-1]),
        )
        self.document = part.document

    def of(self, source: str | None) -> Counter[str]:
        """None for all of it."""
        return self.sums[source] if source else sum(self.sums.values(), Counter())


class Counts:
    """What one tokenizer made of the text."""

    def __init__(self, candidate: Candidate):
        self.candidate = candidate
        self.sums: dict[str, Counter[str]] = defaultdict(Counter)
        self.used: set[int] = set()
        self.seconds = 0.0
        self.changed = -1
        self.example: dict[str, str] | None = None
        entries = candidate.entries.items()
        self._bytes = np.array([i for i, raw in entries if len(raw) == 1 and raw[0] >= 0x80])

    def add(self, parts: Sequence[Part]) -> None:
        texts = [part.text for part in parts]
        self.seconds += self.candidate.seconds(texts)
        cuts = self.candidate.cut(texts)
        for part, cut, again in zip(parts, cuts, self.candidate.joined(cuts), strict=True):
            self._count(part, cut)
            if again != part.text and part.document != self.changed:
                self.changed = part.document
                self.sums[part.source]["changed"] += 1
                self.example = self.example or _difference(part, again)

    def _count(self, part: Part, cut: Cut) -> None:
        sums = self.sums[part.source]
        sums["tokens"] += len(cut.ids)
        sums["unknown"] += int(np.count_nonzero(cut.ids == self.candidate.unknown))
        sums["single_bytes"] += int(np.count_nonzero(np.isin(cut.ids, self._bytes)))
        sums["han_tokens"] += 0 if cut.spans is None else _han_tokens(part, cut.spans)
        self.used.update(np.unique(cut.ids).tolist())

    def figures(self, amount: Amount, source: str | None = None) -> dict[str, Any]:
        """Of one source, or over all; None for what a tokenizer does not tell or the text lacks.

        Tokens per Han character: a token counts by the share of its characters that are Han, and
        fully where it is a part of one.
        """
        text, located = amount.of(source), self.candidate.located
        sums = self.sums[source] if source else sum(self.sums.values(), Counter())
        return {
            "tokens": sums["tokens"],
            "bytes_per_token": _ratio(text["bytes"], sums["tokens"]),
            "characters_per_token": _ratio(text["characters"], sums["tokens"]),
            "tokens_per_han_character": _ratio(sums["han_tokens"], text["han_characters"])
            if located
            else None,
            "unknown_tokens": sums["unknown"],
            "single_byte_tokens": sums["single_bytes"] if located else None,
            "changed_documents": sums["changed"],
        }

    def as_dict(self, amount: Amount) -> dict[str, Any]:
        entries = self.candidate.entries
        return {
            "folder": self.candidate.name,
            "class": self.candidate.kind,
            "entries": self.candidate.size,
            "unused_entries": len(entries.keys() - self.used),
            "encoder": self.candidate.encoder,
            "encoded_bytes_per_second": _ratio(amount.of(None)["bytes"], self.seconds),
            "longest_entries": _longest(entries),
            "changed_example": self.example,
            "all": self.figures(amount),
            "sources": {source: self.figures(amount, source) for source in sorted(amount.sums)},
        }


def _ratio(number: float, by: float) -> float | None:
    return number / by if by else None


def _han_tokens(part: Part, spans: np.ndarray) -> float:
    starts, ends = spans.T
    han = part.han_before[ends] - part.han_before[starts]
    return float(np.sum(han / np.maximum(ends - starts, 1)))


def _difference(part: Part, again: str) -> dict[str, str]:
    """Where a text first differs from what came back."""
    pairs = enumerate(zip(part.text, again, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(part.text), len(again)))
    around = slice(max(0, same - AROUND), same + AROUND)
    return {"source": part.source, "text": part.text[around], "again": again[around]}


def _longest(entries: Mapping[int, bytes]) -> list[str]:
    """Long entries are where boilerplate of the training text shows; whole characters only."""
    texts = {" ".join(raw.decode("utf-8", "replace").split()) for raw in entries.values()}
    whole = [text for text in texts if text and "\ufffd" not in text]
    return sorted(whole, key=lambda text: (-len(text.encode("utf-8")), text))[:LONGEST]


def overlap(candidates: Sequence[Candidate]) -> list[list[int]]:
    """How many different entries of the row's tokenizer, by their bytes, the column's has too."""
    kinds = [set(candidate.entries.values()) - {b""} for candidate in candidates]
    return [[len(row & column) for column in kinds] for row in kinds]
