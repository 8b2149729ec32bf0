"""Cleaning a corpus, by request: each step is named in the recipe, does one thing, and is counted.

What a step does to a document, in this order:

    repeated_lines      lines that recur in more than this share of all documents are removed
    control_characters  line ends become \\n, invisible characters are removed (see below)
    nfc                 Unicode normal form C; never NFKC, which would make ， , and ② 2
    simplified          Traditional to Simplified, a whole document or none of it
    mask_contacts       e-mail addresses become 【邮箱】, Chinese telephone numbers 【电话】
    min_characters, max_characters, min_han_share, max_repetition    drop a document
    near_duplicates, duplicates    drop what was there before, in the order of the corpus

Repeated lines come first, so that they are counted on the text as it is read, without cleaning it
twice. Near duplicates are found by MinHash (Broder 1997) over character 5-grams, 128 values. The
values are rensa's, from 5-grams hashed here: 80 MB of Chinese text per second on one core. The
same in numpy took 2.6 times as long, rensa from Python strings 3.6 times, datasketch 16 times.
The table of bands is our own, because a library's is made of Python objects that take some 2 kB
per document and cannot be saved as plain arrays.
"""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict

import numpy as np
import opencc
import rensa
import xxhash

from zhgpt.recipe import CleaningSection

# What a report says of a corpus that nobody has asked to clean. The limits are wide: 172 MB of
# healthy text (novels, poems, laws, manuals, encyclopedia) lose 0.3 % by them, 0.2 % of it as near
# duplicates. With 0.01 for lines the names of poets and tunes would go.
SUGGESTED = CleaningSection(
    repeated_lines=0.1,
    control_characters=True,
    nfc=True,
    simplified=True,
    mask_contacts=True,
    min_characters=20,
    min_han_share=0.3,
    max_repetition=0.6,
    duplicates="documents",
    near_duplicates=0.8,
)

Effects = dict[str, dict[str, int]]
State = Mapping[str, np.ndarray]


class Cleaner:
    """What a section does to a document, whatever the other documents are.

    `repeated_lines` are those that LineCounts found. Called with a text, it gives the cleaned one,
    the reason for which it is dropped (None if it is kept), and step to UTF-8 bytes removed, for
    every step that changed the text. So bytes given = bytes returned + the sum of those removed;
    a step may remove 0 bytes, or less where the text becomes longer. With every step asked for,
    20 MB per second on one core, and up to 10 bytes of memory per byte of the document.
    """

    def __init__(self, section: CleaningSection, repeated_lines: frozenset[str] = frozenset()):
        self.section = section
        steps: dict[str, Callable[[str], str]] = {
            "repeated_lines": functools.partial(_without_lines, lines=repeated_lines),
            "control_characters": without_controls,
            "nfc": functools.partial(unicodedata.normalize, "NFC"),
            "simplified": to_simplified,
            "mask_contacts": mask_contacts,
        }
        self._steps = [(name, step) for name, step in steps.items() if getattr(section, name)]

    def __call__(self, text: str) -> tuple[str, str | None, dict[str, int]]:
        removed = {}
        for name, step in self._steps:
            changed = step(text)
            if changed != text:
                removed[name] = _size(text) - _size(changed)
                text = changed
        if removed and not text.strip():
            return text, "empty after cleaning", removed
        return text, self._fault(text), removed

    def _fault(self, text: str) -> str | None:
        asked = self.section
        if asked.min_characters is not None and len(text) < asked.min_characters:
            return "below min_characters"
        if asked.max_characters is not None and len(text) > asked.max_characters:
            return "above max_characters"
        if asked.min_han_share is not None and han_share(text) < asked.min_han_share:
            return "below min_han_share"
        if asked.max_repetition is not None and repetition(text) > asked.max_repetition:
            return "above max_repetition"
        return None


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


# Vertical tab, form feed and NEL end a line as CR does (Unicode Standard, section 5.8).
_LINE_ENDS = re.compile("[\r\x0b\x0c\x85]")
# All of C0, C1 and DEL but \t and \n; soft hyphen, zero-width space, word joiner, byte order mark;
# marks of direction. Joiners (U+200C, U+200D) stay: they hold emoji and Indic letters together.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)


def without_controls(text: str) -> str:
    """\\r\\n, \\r, U+000B, U+000C and U+0085 become \\n; what is invisible in Chinese is removed.

    Removed: U+0000-0008, 000E-001F, 007F-0084, 0086-009F, 00AD, 061C, 200B, 200E, 200F, 202A-202E,
    2060, 2066-2069, FEFF. Untouched: tabs, every space, U+2028 and U+2029, U+FFFD.
    """
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text.replace("\r\n", "\n")))


_TRADITIONAL = 0.1  # above it, a text is taken for a Traditional one


@functools.cache
def _converter() -> opencc.OpenCC:
    return opencc.OpenCC("t2s")


def to_simplified(text: str) -> str:
    """OpenCC's t2s, if more than 10 % of the Han characters would change; else the text itself.

    A Simplified text has characters of its own that t2s takes for Traditional ones, 乾 in 乾坤 or
    a 瞭 in 瞭望: there it would do damage. Of Traditional text about a third changes.
    """
    converted = _converter().convert(text)
    if converted == text or len(converted) != len(text):  # t2s has no entry of two lengths
        return text
    changed = np.count_nonzero(_code_points(text) != _code_points(converted))
    return converted if changed > _TRADITIONAL * _kinds(text)[_HAN] else text


_EMAIL = re.compile(
    r"(?<![\w.%+-])(?!git@)[\w.%+-]{1,64}[@＠]"
    r"(?![23]x\.)"  # picture@2x.png
    r"(?:[a-z\d-]{1,63}\.){1,8}[a-z]{2,24}(?![\w-])",
    re.ASCII | re.IGNORECASE,
)
_LONG_NUMBER = re.compile("[0-9][0-9 )）-]{7}")  # without one there is no telephone number
# Prefixes of mobile numbers as the ministry (MIIT) has assigned them; area codes are 10, two
# digits with 2, or three; local numbers begin with 2 to 8. Digits right before or behind, and
# those beyond a hyphen or point, make it a part of something else.
_MOBILE = r"1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])"
_AREA = r"(?:10|2\d|[3-9]\d\d)"
_PHONE = re.compile(
    r"(?<!\w)(?<!\d[-.–])(?<![a-z]/)"
    r"(?:(?:\+?86[- ]?)?"
    rf"(?:(?!\d{{5}}0{{6}}){_MOBILE}\d{{8}}|(?<!\d\ ){_MOBILE}([- ])\d{{4}}\1\d{{4}}(?!\ \d))"
    rf"|(?:[(（]0{_AREA}[)）][ ]?|(?:\+86[- ]|0){_AREA}[- ])[2-8]\d{{2,3}}[- ]?\d{{4}}"
    r"(?:-\d{1,5})?)"
    r"(?!\w)(?![-.–]\d)",
    re.ASCII | re.IGNORECASE,
)


def mask_contacts(text: str) -> str:
    """E-mail addresses as 【邮箱】, mobile and landline numbers of mainland China as 【电话】.

    A landline number needs its area code, set off by a hyphen, a space or brackets: 8 digits alone
    are a date as often. git@host, dates, ISBNs and longer numbers are left alone; an 11-digit
    number of another meaning that begins like a mobile one cannot be told from it.
    """
    if "@" in text or "＠" in text:
        text = _EMAIL.sub("【邮箱】", text)
    if _LONG_NUMBER.search(text):
        text = _PHONE.sub("【电话】", text)
    return text


_OTHER, _HAN, _UNCOUNTED = range(3)


def _table() -> np.ndarray:
    """(65536,) uint8: of each UTF-16 unit, what kind of character it stands for.

    A character above U+FFFF is two units: the first says whether it is in planes 2 and 3, which
    are Han alone, the second is not counted.
    """
    kinds = np.full(1 << 16, _OTHER, dtype=np.uint8)
    kinds[[code for code in range(1 << 16) if chr(code).isspace()]] = _UNCOUNTED
    blocks = [(0x2E80, 0x2FDF), (0x3005, 0x3005), (0x3007, 0x3007)]  # radicals, 々, 〇
    blocks += [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xD840, 0xD8BF)]
    for first, last in blocks:
        kinds[first : last + 1] = _HAN
    kinds[0xDC00:0xE000] = _UNCOUNTED
    return kinds


_KINDS = _table()


def _kinds(text: str) -> list[int]:
    """How many characters are of no Han script, how many of it; whitespace is neither."""
    kinds = _KINDS[np.frombuffer(text.encode("utf-16-le"), dtype="<u2")]
    return [int(np.count_nonzero(kinds == kind)) for kind in (_OTHER, _HAN)]


def han_share(text: str) -> float:
    """The share of Han characters in all characters but whitespace; 0 without any."""
    other, han = _kinds(text)
    return han / max(1, other + han)


def _code_points(text: str) -> np.ndarray:
    """(characters,) uint32"""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd


def _grams(text: str, size: int) -> np.ndarray:
    """(n,) uint64: a hash of each run of `size` characters, whitespace left out; of a shorter
    text, padded with zeros, one.

    A polynomial in _MIX, its length doubled or raised by one as the bits of `size` say.
    """
    codes = _code_points("".join(text.split())).astype(np.uint64)
    codes = np.pad(codes, (0, size - len(codes))) if len(codes) < size else codes
    hashes, length = codes, 1
    for bit in f"{size:b}"[1:]:
        power = np.uint64(pow(int(_MIX), length, 1 << 64))
        hashes, length = hashes[:-length] * power + hashes[length:], 2 * length
        if bit == "1":
            hashes, length = hashes[:-1] * _MIX + codes[length:], length + 1
    return (hashes ^ hashes >> np.uint64(32)) * _MIX


_REPEATED_GRAM = 10


def repetition(text: str) -> float:
    """The share of characters that lie in a run of 10 which stood in the document before.

    Gopher's measure of duplicate n-grams (Rae et al. 2021, section A1.1), every character counted
    once, with characters in place of words, without whitespace, and without a run's first
    occurrence: it is what could be cut out, 0.5 for a text written twice, near 1 for a loop.
    Gopher's own limits, 0.15 for runs of five words to 0.10 for runs of ten, are for English: of
    12 MB of sound Chinese laws two thirds lie above 0.2, a third above 0.3 and none above 0.5; of
    73 MB of software manuals a tenth lies above 0.3 and one part in 400 above 0.6.
    """
    hashes = _grams(text, _REPEATED_GRAM)
    # Sorted with the position in the low bits, equal hashes lie side by side, the first one first.
    low = np.uint64(len(hashes).bit_length())
    keys = hashes >> low << low | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    again = keys[1:][keys[1:] >> low == keys[:-1] >> low]
    if not len(again):
        return 0.0
    starts = np.sort(again & (np.uint64(1) << low) - np.uint64(1))
    covered = _REPEATED_GRAM + int(np.minimum(np.diff(starts), _REPEATED_GRAM).sum())
    return covered / (len(hashes) + _REPEATED_GRAM - 1)


def _without_lines(text: str, lines: frozenset[str]) -> str:
    parts = text.split("\n")
    if lines.isdisjoint(map(str.strip, parts)):
        return text
    return "\n".join(part for part in parts if part.strip() not in lines)


_LINES = 1 << 19  # 100 MB in memory, 300 MB if all are of the longest
_LINE_CHARACTERS = 200
_WORD = re.compile(r"[^\W_]")


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
        counts = np.fromiter(self._counts.values(), dtype=np.int64, count=len(self._counts))
        loss = int(np.partition(counts, -_LINES // 2)[-_LINES // 2])
        self._counts = Counter({k: n - loss for k, n in self._counts.items() if n > loss})
        self.missed += loss

    def repeated(self, share: float) -> frozenset[str]:
        """The lines in more than this share of the documents, two of them at least.

        A line without a letter or digit is structure (a rule, a bracket), and not among them.
        """
        least = max(1, share * self.documents)
        often = (line for line, count in self._counts.items() if count > least)
        return frozenset(line for line in often if _WORD.search(line))


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
    grams = _grams(text, _GRAM)
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
        return kept, None, {"duplicates": _size(text) - _size(kept)}

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


def would_remove(texts: Iterable[str], section: CleaningSection = SUGGESTED) -> Effects:
    """What each step of the section would do to the texts as they are, each on its own.

    Step to documents it would drop, documents it would change, and UTF-8 bytes it would remove in
    all, those of dropped documents among them. The texts are gone through twice if lines are to be
    counted; an iterator is held in memory for it.
    """
    asked = asdict(section).items()
    steps = {step: value for step, value in asked if value is not None and value is not False}
    repeated = frozenset()
    if "repeated_lines" in steps:
        texts = list(texts) if isinstance(texts, Iterator) else texts
        counts = LineCounts()
        for text in texts:
            counts.add(text)
        repeated = counts.repeated(section.repeated_lines)
    alone = {step: CleaningSection(**{step: value}) for step, value in steps.items()}
    calls = {
        step: Deduplicator(own) if "duplicates" in step else Cleaner(own, repeated)
        for step, own in alone.items()
    }
    effects = {step: {"documents": 0, "changed": 0, "bytes": 0} for step in steps}
    for text in texts:
        for step, call in calls.items():
            _count(effects[step], *call(text))
    return effects


def _count(effect: dict[str, int], text: str, reason: str | None, removed: dict[str, int]) -> None:
    effect["documents"] += reason is not None
    effect["changed"] += reason is None and bool(removed)
    effect["bytes"] += sum(removed.values()) + (_size(text) if reason else 0)


def effects_table(effects: Effects) -> str:
    """A line for each step, for people."""
    heads = ("documents", "changed", "bytes")
    rows = [["cleaning would", *("drop documents", "change others", "remove bytes")]]
    rows += [[step, *(f"{effect[head]:,}" for head in heads)] for step, effect in effects.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )
