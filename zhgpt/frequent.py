"""Lines that recur, counted in bounded memory.

Misra and Gries 1982, in the form of Agarwal et al. 2012, Mergeable Summaries, section 2: when there
are too many counters, a count is taken from all of them, and those that are used up go.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_LINES = 1 << 19  # 100 MB in memory, 300 MB if all are of the longest
_LINE_CHARACTERS = 200
_WORD = re.compile(r"[^\W_]")


def reduced(counts: Counter[str], keep: int) -> tuple[Counter[str], int]:
    """At most `keep` counters, each less by the (keep + 1)-th largest count; and that count.

    There have to be more than `keep`.
    """
    values = np.fromiter(counts.values(), np.int64, len(counts))
    cut = int(np.partition(values, -keep - 1)[-keep - 1])
    return Counter({line: count - cut for line, count in counts.items() if count > cut}), cut


class FrequentLines:
    """Counts of the most frequent lines in bounded memory.

    A line that came n times has a count from n - error to n, and error
    is at most counted / (capacity + 1).
    """

    def __init__(self, capacity: int = 1 << 16):
        self.capacity = capacity
        self.counts: Counter[str] = Counter()
        self.counted = self.error = 0

    def add(self, lines: Sequence[str]) -> None:
        self.counts.update(lines)
        self.counted += len(lines)
        if len(self.counts) > 2 * self.capacity:  # not at every line: a reduction passes over all
            self.counts, cut = reduced(self.counts, self.capacity)
            self.error += cut

    def most_common(self, number: int) -> list[tuple[str, int]]:
        """Lines that came at least twice, with counts that are too low by `error` at most."""
        return [(line, n) for line, n in self.counts.most_common(number) if n > 1]


class LineCounts:
    """In how many documents each line stands; the first pass of `repeated_lines`.

    Lines are compared without whitespace around them, and counted up to 200 characters. Memory is
    bounded as in Misra and Gries 1982: a full table loses its rarest lines, and all others as much
    of their count. So no line is ever counted too high, and one is counted too low by at most
    `missed` documents: below 524,288 different lines by none, for 10 million documents of 50
    different lines by 0.02 % of them.
    """

    def __init__(self) -> None:
        self.documents = 0
        self.missed = 0
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        self.documents += 1
        lines = set(map(str.strip, text.split("\n")))
        self._counts.update(line for line in lines if 0 < len(line) <= _LINE_CHARACTERS)
        self._trim()

    def merge(self, other: "LineCounts") -> None:
        """Adds the counts of other documents."""
        self.documents += other.documents
        self.missed += other.missed
        self._counts.update(other._counts)
        self._trim()

    def _trim(self) -> None:
        if len(self._counts) <= _LINES:
            return
        self._counts, loss = reduced(self._counts, _LINES // 2 - 1)
        self.missed += loss

    def repeated(self, share: float) -> frozenset[str]:
        """The lines in more than this share of the documents, two of them at least.

        A line without a letter or digit is structure (a rule, a bracket), and not among them.
        """
        least = max(1, share * self.documents)
        often = (line for line, count in self._counts.items() if count > least)
        return frozenset(line for line in often if _WORD.search(line))
