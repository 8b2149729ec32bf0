"""How often each pre-token comes, in little memory, and one in so many of them for a trainer.

A trainer keeps every different pre-token it is given, some 80 bytes for each of its bytes. Most of
Chinese are clauses that come once, so memory grows with the text. Given one in n occurrences of
each pre-token, a trainer sees every pair of neighbours 1/n as often as it is, with equal chances:
a count c of a pair comes out as c/n with a standard deviation of at most sqrt(c/n), times the
largest number of that pair in one pre-token; frequent pre-tokens add nothing to it but a rounding.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import xxhash

from zhgpt.errors import InputError

_BATCH = 200_000  # different pre-tokens that Python has at once, some 200 bytes each
_TOGETHER = 4096  # occurrences that a trainer is handed at once

Split = Callable[[str], list[str]]


class PreTokens:
    """Counts of pre-tokens by their 64-bit hash (XXH3 with a seed), 20 bytes for each.

    Two pre-tokens of one hash would be counted as one: among 30 million there is one such pair in
    40,000 texts.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.hashes = np.empty(0, np.uint64)
        self.counts = np.empty(0, np.uint64)
        self.sizes = np.empty(0, np.uint32)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._number = 0

    def count(self, texts: Iterable[str], split: Split) -> None:
        for batch in _batches(texts, split):
            pieces = [piece.encode("utf-8") for piece in batch]
            hashes = _hashes(pieces, self.seed)
            counts = np.fromiter(batch.values(), np.uint64, len(pieces))
            sizes = np.fromiter(map(len, pieces), np.uint32, len(pieces))
            self._waiting.append((hashes, counts, sizes))
            self._number += len(pieces)
            if self._number > max(len(self.hashes) // 2, 1 << 20):
                self._merge()
        self._merge()

    def _merge(self) -> None:
        columns = zip((self.hashes, self.counts, self.sizes), *self._waiting, strict=True)
        hashes, counts, sizes = map(np.concatenate, columns)
        order = np.argsort(hashes)
        hashes, counts, sizes = hashes[order], counts[order], sizes[order]
        first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        self.hashes, self.sizes = hashes[first], sizes[first]
        self.counts = np.add.reduceat(counts, first) if len(first) else counts
        self._waiting, self._number = [], 0

    def rate(self, cost: Callable[[np.ndarray], np.ndarray], budget: float) -> int:
        """The smallest n for which one in n occurrences of each costs no more than the budget.

        `cost` is of pre-tokens of these sizes in bytes. What costs at all at n are the different
        pre-tokens left, on the average min(1, count / n) of each.
        """
        counts, place = np.unique(self.counts, return_inverse=True)
        costs = np.bincount(place, weights=cost(self.sizes))
        rate = 1
        while (costs * np.minimum(1, counts / rate)).sum() > budget:
            rate += 1 + rate // 50
        return rate

    def occurrences(self, rate: int) -> np.ndarray:
        """(pre-tokens,) uint64: how many of `counts` are one in `rate` of them.

        count / rate, up or down as the hash says, so that it is right on the average and the same
        in any order of the text.
        """
        return (self.counts + self.hashes % np.uint64(rate)) // np.uint64(rate)

    def facts(self, rate: int) -> dict[str, int]:
        """Occurrences and different pre-tokens, how many of these are left, and the rate."""
        return {
            "pre_tokens": int(self.counts.sum()),
            "different": len(self.counts),
            "trained_on": int(np.count_nonzero(self.occurrences(rate))),
            "one_in": rate,
        }

    def one_in(self, rate: int, texts: Iterable[str], split: Split) -> Iterator[list[str]]:
        """Of the same texts once more, every pre-token that often; InputError if they changed."""
        left = self.occurrences(rate)
        for batch in _batches(texts, split):
            pieces = list(batch)
            hashes = _hashes([piece.encode("utf-8") for piece in pieces], self.seed)
            places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            if not np.array_equal(self.hashes[places], hashes):
                raise InputError("train_files: changed while they were read; start again.")
            numbers = left[places]
            left[places] = 0  # each pre-token once, wherever it comes again
            for place in np.flatnonzero(numbers).tolist():
                yield from _repeated(pieces[place], int(numbers[place]))


def _repeated(piece: str, number: int) -> Iterator[list[str]]:
    for _ in range(number // _TOGETHER):
        yield [piece] * _TOGETHER
    if number % _TOGETHER:
        yield [piece] * (number % _TOGETHER)


def _batches(texts: Iterable[str], split: Split) -> Iterator[Counter[str]]:
    batch: Counter[str] = Counter()
    for text in texts:
        batch.update(split(text))
        if len(batch) >= _BATCH:
            yield batch
            batch = Counter()
    if batch:
        yield batch


def _hashes(pieces: list[bytes], seed: int) -> np.ndarray:
    """(pieces,) uint64"""
    digests = (xxhash.xxh3_64_intdigest(piece, seed) for piece in pieces)
    return np.fromiter(digests, np.uint64, len(pieces))
