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
twice.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

import numpy as np
import opencc

from zhgpt.duplicates import Deduplicator, code_points, hashed_grams, utf8_size
from zhgpt.frequent import LineCounts
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
                removed[name] = utf8_size(text) - utf8_size(changed)
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
    changed = np.count_nonzero(code_points(text) != code_points(converted))
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
    hashes = hashed_grams(text, _REPEATED_GRAM)
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
    effect["bytes"] += sum(removed.values()) + (utf8_size(text) if reason else 0)


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
