"""Whether a text repeats itself: figures of samples, beside those of real text of their length."""

import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

LONGEST_UNIT = 32  # characters; a longer loop is seen in the other figures
PIECES = 200  # of real text, for a range
FEWEST_CHARACTERS = 20  # of a sample: of fewer, no figure says anything

# The side of real text's range on which a model repeats itself.
WORSE = {"distinct_4": "below", "longest_run": "above", "punctuation": "above", "zip": "below"}
_ENOUGH = 2  # figures out of range: one alone was so in 3 of 44 good samples, two in 1

Figures = dict[str, float]
Range = tuple[float, float]


def figures(text: str) -> Figures:
    """distinct_4, longest_run (characters), punctuation (share) and zip of a text.

    distinct_4 is the share of different ones among its character 4-grams (Li et al. 2016, there of
    words); zip is the size of its UTF-8 after zlib's compression, as a share of that before.
    """
    raw = text.encode()
    return {
        "distinct_4": 1 - repetition(text),
        "longest_run": longest_run(text),
        "punctuation": sum(unicodedata.category(c)[0] in "PS" for c in text) / max(1, len(text)),
        "zip": len(zlib.compress(raw, 9)) / max(1, len(raw)),
    }


def repetition(text: str, n: int = 4) -> float:
    """Share of the character n-grams of `text` that have occurred in it before; 0 if none can."""
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def longest_run(text: str) -> int:
    """Characters of the longest stretch that is one unit over and over, at least twice."""
    longest = 0
    for unit in range(1, min(LONGEST_UNIT, len(text) // 2) + 1):
        run = 0
        for here, before in zip(text[unit:], text, strict=False):
            run = run + 1 if here == before else 0
            if run >= unit:
                longest = max(longest, run + unit)
    return longest


def mean(rows: Sequence[Figures]) -> Figures:
    return {key: sum(row[key] for row in rows) / len(rows) for key in WORSE}


@dataclass(frozen=True)
class Verdict:
    """Of the samples of one evaluation: `scored` are long enough, `repeating` of them repeat.

    `samples` and `text` are mean figures; `usual` is the range of real text in pieces as long as
    the samples are in the middle.
    """

    scored: int
    repeating: int
    samples: Figures
    text: Figures
    usual: Mapping[str, Range]


class Usual:
    """Real text, as the measure of what a sample of any length may look like."""

    def __init__(self, text: str):
        self.text = text
        self.of_pieces = lru_cache(maxsize=None)(self._of_pieces)

    def _of_pieces(self, length: int) -> tuple[Figures, ...]:
        """Of pieces of `length` characters, from all of the text."""
        ends = max(1, len(self.text) - length + 1)
        starts = range(0, ends, max(1, length // 2, len(self.text) // PIECES))
        return tuple(figures(self.text[start : start + length]) for start in starts)

    def range(self, length: int) -> dict[str, Range]:
        """Lowest and highest figure."""
        rows = self.of_pieces(length)
        return {key: (min(r[key] for r in rows), max(r[key] for r in rows)) for key in WORSE}

    def judge(self, samples: Sequence[str]) -> Verdict | None:
        """None where less than half of the samples are long enough to be judged."""
        scored = [text for text in samples if len(text) >= FEWEST_CHARACTERS]
        if not scored or len(scored) < len(samples) / 2:
            return None
        middle = sorted(map(len, scored))[len(scored) // 2]
        return Verdict(
            scored=len(scored),
            repeating=sum(self.repeats(text) for text in scored),
            samples=mean([figures(text) for text in scored]),
            text=mean(self.of_pieces(middle)),
            usual=self.range(middle),
        )

    def repeats(self, sample: str) -> bool:
        """Whether two figures are worse than those of any piece of the text of that length."""
        found, usual = figures(sample), self.range(len(sample))
        worse = [
            found[key] < usual[key][0] if side == "below" else found[key] > usual[key][1]
            for key, side in WORSE.items()
        ]
        return sum(worse) >= _ENOUGH


def line(verdict: Verdict) -> str:
    """For the terminal; in brackets the end of the text's range that the samples should keep to."""
    found, usual = verdict.samples, verdict.usual
    return (
        f"distinct-4 {found['distinct_4']:.2f} (> {usual['distinct_4'][0]:.2f})"
        f"  run {found['longest_run']:.0f} (< {usual['longest_run'][1]:.0f})"
        f"  punctuation {found['punctuation']:.0%} (< {usual['punctuation'][1]:.0%})"
        f"  zip {found['zip']:.2f} (> {usual['zip'][0]:.2f})"
    )
