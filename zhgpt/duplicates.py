"""Documents and paragraphs that were there before: the same by hash, near ones by MinHash.

Near duplicates are found by MinHash (Broder 1997) over character 5-grams, 128 values. The
values are rensa's, from 5-grams hashed here: 80 MB of Chinese text per second on one core. The
same in numpy took 2.6 times as long, rensa from Python strings 3.6 times, datasketch 16 times.
The table of bands is our own, because a library's is made of Python objects that take some 2 kB
per document and cannot be saved as plain arrays.
"""

import math
from collections.abc import Mapping

import numpy as np
import rensa
import xxhash

from zhgpt.recipe import CleaningSection

State = Mapping[str, np.ndarray]


def utf8_size(text: str) -> int:
    return len(text.encode("utf-8"))


def code_points(text: str) -> np.ndarray:
    """(characters,) uint32"""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd


def hashed_grams(text: str, size: int) -> np.ndarray:
    """(n,) uint64: a hash of each run of `size` characters, whitespace left out; of a shorter
    text, padded with zeros, one.

    A polynomial in _MIX, its length doubled or raised by one as the bits of `size` say.
    """
    codes = code_points("".join(text.split())).astype(np.uint64)
    codes = np.pad(codes, (0, size - len(codes))) if len(codes) < size else codes
    hashes, length = codes, 1
    for bit in f"{size:b}"[1:]:
        power = np.uint64(pow(int(_MIX), length, 1 << 64))
        hashes, length = hashes[:-length] * power + hashes[length:], 2 * length
        if bit == "1":
            hashes, length = hashes[:-1] * _MIX + codes[length:], length + 1
    return (hashes ^ hashes >> np.uint64(32)) * _MIX


def content_hash(text: str) -> int:
    """64 bits, XXH3 of the UTF-8 bytes."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8"))


VALUES = 128
_GRAM = 5
_SEED = 20_061_125  # another seed makes other signatures, which cannot be compared


def signature(text: str) -> np.ndarray:
    """(128,) uint16: the share of equal values in two of them estimates the Jaccard similarity of
    the two texts' sets of character 5-grams, whitespace left out; the error has a standard
    deviation of at most 0.044.

    Only 16 bits of each value are kept: two different ones are equal once in 65,536 (Li and König
    2010).
    """
    grams = hashed_grams(text, _GRAM)
    rows = np.array([0, len(grams)], dtype=np.uint64)
    make = rensa.RMinHash.digest_matrix_from_flat_token_hashes
    values = make(grams, rows, VALUES, _SEED).to_rows()[0]  # in one row, one text
    return np.array(values, dtype=np.uint32).astype(np.uint16)


_NEWEST = 1 << 16


class _Hashes:
    """A set of 64-bit hashes that takes some 8 bytes for each: a sorted array, and a small set of
    those that were added since."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)
        self._new: set[int] = set()

    def add(self, hashes: list[int]) -> list[bool]:
        """Of each in its turn: whether it was there before."""
        known = []
        for value, old in zip(hashes, self._among_sorted(hashes), strict=True):
            known.append(bool(old) or value in self._new)
            if not known[-1]:
                self._new.add(value)
        if len(self._new) > max(_NEWEST, len(self._sorted) // 8):
            self.all()
        return known

    def _among_sorted(self, hashes: list[int]) -> np.ndarray:
        keys = np.array(hashes, dtype=np.uint64)
        if not len(self._sorted):
            return np.zeros(len(keys), dtype=bool)
        places = np.searchsorted(self._sorted, keys)
        return self._sorted[np.minimum(places, len(self._sorted) - 1)] == keys

    def all(self) -> np.ndarray:
        """(n,) uint64, sorted."""
        new = np.fromiter(self._new, dtype=np.uint64, count=len(self._new))
        self._sorted = np.sort(np.concatenate([self._sorted, new]))
        self._new = set()
        return self._sorted

    def restore(self, hashes: np.ndarray) -> None:
        self._sorted, self._new = np.array(hashes, dtype=np.uint64), set()


_FOUND = 0.95  # of pairs with a similarity of just the threshold, so many meet in a band
_DEPTH = 256  # longest chain that is followed; only many texts of one mould make a longer one


class NearDuplicates:
    """Signatures, and which earlier one is a near duplicate of another.

    Locality-sensitive hashing (Indyk and Motwani 1998; Leskovec et al. 2020, section 3.4): a
    signature is cut into bands; signatures with an equal band are compared in full, and are near
    duplicates if at least `threshold` of their values agree. A band is as long as it may be for
    95 % of pairs with that similarity to meet in one. Memory: 264 bytes for a signature and 8 for
    each band (18 of them at 0.8), and up to twice as much before the tables double.

    Signatures have the number of their call of `add`, from 0. A near duplicate is not stored, so
    what is compared with is always a text that was kept.
    """

    def __init__(self, threshold: float):
        self._needed = math.ceil(threshold * VALUES - 1e-9)
        self._rows = _band_rows(threshold)
        self._band = np.arange(VALUES // self._rows)
        powers = [pow(int(_MIX), row + 1, 1 << 64) for row in range(self._rows)]
        self._weights = np.array(powers, dtype=np.uint64)
        self._calls = 0
        self._fill(np.empty((0, VALUES), dtype=np.uint16), np.empty(0, dtype=np.int64))

    def add(self, signature: np.ndarray) -> int | None:
        """The number of an earlier near duplicate, the first of them, or None: it is stored."""
        places = self._places(signature)
        found = self._near(signature, places)
        if found is None:
            self._store(signature, places)
        self._calls += 1
        return found

    def find(self, signature: np.ndarray) -> int | None:
        """The number of an earlier near duplicate, the first of them; nothing is stored."""
        return self._near(signature, self._places(signature))

    def _places(self, signature: np.ndarray) -> np.ndarray:
        """(bands,) where the chain of each band begins in the flat table of chains."""
        return self._slots(signature[None])[0] + self._first

    def _near(self, signature: np.ndarray, places: np.ndarray) -> int | None:
        links = self._heads[places]
        chains = []
        for _ in range(_DEPTH):
            links = links[links >= 0]
            if not len(links):
                break
            chains.append(links)
            links = self._next[links]
        if not chains:
            return None
        candidates = np.concatenate(chains) // len(self._first)
        equal = np.count_nonzero(self._signatures[candidates] == signature, axis=1)
        close = candidates[equal >= self._needed]
        return int(self._numbers[close.min()]) if len(close) else None

    def _store(self, signature: np.ndarray, places: np.ndarray) -> None:
        if self._stored == len(self._signatures):
            self._fill(self._signatures, self._numbers)
            places = self._places(signature)
        self._signatures[self._stored], self._numbers[self._stored] = signature, self._calls
        links = self._stored * len(self._first) + self._band
        self._next[links] = self._heads[places]
        self._heads[places] = links
        self._stored += 1

    def _slots(self, signatures: np.ndarray) -> np.ndarray:
        """(n, bands) int64: the place of each band among those of its table."""
        used = signatures[:, : len(self._band) * self._rows]
        bands = used.reshape(len(signatures), -1, self._rows).astype(np.uint64)
        hashes = bands @ self._weights
        hashes = (hashes ^ hashes >> np.uint64(32)) * _MIX
        return (hashes >> np.uint64(64 - self._bits)).astype(np.int64)

    def _fill(self, signatures: np.ndarray, numbers: np.ndarray) -> None:
        """Tables of twice the size, with these signatures in them.

        A chain goes from the newest to the oldest signature with an equal band; a link in it is
        signature * bands + band, so that both tables can be flat.
        """
        self._stored = len(signatures)
        self._bits = max(10, self._stored.bit_length())
        size, bands = 1 << self._bits, len(self._band)
        self._first = self._band << self._bits
        self._signatures = np.empty((size, VALUES), dtype=np.uint16)
        self._numbers = np.empty(size, dtype=np.int64)
        self._signatures[: self._stored], self._numbers[: self._stored] = signatures, numbers
        links = np.int32 if bands << self._bits < 1 << 31 else np.int64
        self._heads = np.full(bands << self._bits, -1, dtype=links)
        self._next = np.full(bands << self._bits, -1, dtype=links)
        for start in range(0, self._stored, 1 << 16):
            self._link(start, min(self._stored, start + (1 << 16)))

    def _link(self, start: int, stop: int) -> None:
        """Puts stored signatures, in their order, before those that are in the chains."""
        for band, slots in enumerate(self._slots(self._signatures[start:stop]).T):
            order = np.argsort(slots, kind="stable")
            places = slots[order] + self._first[band]
            links = (start + order) * len(self._band) + band
            same = places[1:] == places[:-1]
            before = self._heads[places]
            before[1:][same] = links[:-1][same]
            self._next[links] = before
            last = np.append(~same, True)[: len(places)]
            self._heads[places[last]] = links[last]

    @property
    def state(self) -> State:
        """Plain arrays, all that is needed to go on; set it to go on from there."""
        return {
            "signatures": self._signatures[: self._stored],
            "numbers": self._numbers[: self._stored],
            "calls": np.array(self._calls),
        }

    @state.setter
    def state(self, state: State) -> None:
        self._fill(state["signatures"], state["numbers"])
        self._calls = int(state["calls"])


def _band_rows(threshold: float) -> int:
    """The most values per band with which 95 % of pairs at the threshold agree in a band."""
    fits = (1 - (1 - threshold**r) ** (VALUES // r) >= _FOUND for r in range(1, VALUES + 1))
    return max(rows for rows, fit in enumerate(fits, 1) if fit)


_PARAGRAPH = 50


class Deduplicator:
    """Drops what was there before; called with every text in the order of the corpus.

    Gives the text, the reason for which it is dropped (None if it is kept), and step to UTF-8
    bytes removed, with the same law as Cleaner. The first occurrence is kept. Texts are compared
    byte for byte, by a hash of 64 bits: among 10 million one in 370,000 runs errs once. With
    `duplicates: "paragraphs"` also each line of 50 characters or more, whitespace around it apart,
    is removed wherever it stands again, and a document that has nothing else is dropped.
    """

    def __init__(self, section: CleaningSection):
        wanted = {"documents": section.duplicates, "paragraphs": section.duplicates == "paragraphs"}
        self._hashes = {kind: _Hashes() for kind, asked in wanted.items() if asked}
        near = section.near_duplicates
        self._near = None if near is None else NearDuplicates(near)

    def __call__(self, text: str) -> tuple[str, str | None, dict[str, int]]:
        if "documents" in self._hashes and self._hashes["documents"].add([content_hash(text)])[0]:
            return text, "duplicate", {}
        if self._near and self._near.add(signature(text)) is not None:
            return text, "near-duplicate", {}
        if "paragraphs" not in self._hashes:
            return text, None, {}
        kept = self._without_known(text)
        if kept == text:
            return text, None, {}
        if not kept.strip():
            return text, "duplicate", {}
        return kept, None, {"duplicates": utf8_size(text) - utf8_size(kept)}

    def _without_known(self, text: str) -> str:
        lines = text.split("\n")
        stripped = [(number, line.strip()) for number, line in enumerate(lines)]
        long = [(number, line) for number, line in stripped if len(line) >= _PARAGRAPH]
        if not long:
            return text
        known = self._hashes["paragraphs"].add([content_hash(line) for _, line in long])
        gone = {number for (number, _), old in zip(long, known, strict=True) if old}
        return "\n".join(line for number, line in enumerate(lines) if number not in gone)

    @property
    def state(self) -> State:
        """Plain arrays for np.savez: 8 bytes for a hash, 264 for a signature. Set it, to what
        np.load(path, allow_pickle=False) gives, to go on as if there had been no break."""
        state = {kind: hashes.all() for kind, hashes in self._hashes.items()}
        return state | (dict(self._near.state) if self._near else {})

    @state.setter
    def state(self, state: State) -> None:
        for kind, hashes in self._hashes.items():
            hashes.restore(state[kind])
        if self._near:
            self._near.state = state
