"""What a corpus holds, counted before anything is paid: python -m zhgpt.corpus PATH...

All of it is counted in one pass. Memory is that of the largest document, some 9 bytes a document
for finding repeated ones, and tables of bounded size.
"""

import argparse
import json
import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tokenizers import Tokenizer

from zhgpt import bpe, cleaning, survey_table
from zhgpt.clock import Clock
from zhgpt.encoder import Encoder
from zhgpt.errors import FINISHED, InputError
from zhgpt.files import find_files, position
from zhgpt.frequent import FrequentLines
from zhgpt.recipe import TextSection
from zhgpt.report import printable
from zhgpt.text import Tally, documents

Say = Callable[[str], None]

PERCENTS = (0, 1, 5, 25, 50, 75, 95, 99, 100)
FIXED_LENGTH = 1024  # GPT-2's positions, a usual max_length
LINES_SHOWN, LINE = 20, 200  # LINE: characters of a line that are compared
BEGINNINGS, BEGINNING = 10, 100
SEED = 0
# What the encoder takes at once, see parts.py; numpy needs some 16 bytes for each character.
_BYTES_PER_BATCH = 4 << 20
_CHARACTERS_PER_COUNT = 1 << 20
_CODE_POINTS = 0x110000


class Seen:
    """Which 64-bit hashes came before, in 8 bytes each.

    Sorted arrays, each at least twice as long as the next, so that a hash is moved log2(n) times.
    They are divided by the first four bits: merging needs room for a sixteenth only.
    """

    _STARTS = np.arange(1, 16, dtype=np.uint64) << np.uint64(60)

    def __init__(self) -> None:
        self.parts: list[list[np.ndarray]] = [[] for _ in range(16)]

    def repeated(self, hashes: np.ndarray) -> np.ndarray:
        """For each of (n,) uint64 whether it came before, here or in an earlier call."""
        kinds, first = np.unique(hashes, return_index=True)
        cuts = [0, *np.searchsorted(kinds, self._STARTS), len(kinds)]
        parts = zip(self.parts, cuts, cuts[1:], strict=False)
        new = np.concatenate([_added(part, kinds[start:end]) for part, start, end in parts])
        repeated = np.ones(len(hashes), dtype=bool)
        repeated[first[new]] = False
        return repeated


def _added(arrays: list[np.ndarray], hashes: np.ndarray) -> np.ndarray:
    """Puts sorted, different hashes among the arrays; which of them were new."""
    new = np.ones(len(hashes), dtype=bool)
    for array in arrays:
        places = np.minimum(np.searchsorted(array, hashes), len(array) - 1)
        new &= array[places] != hashes
    if new.any():
        arrays.append(hashes[new])
    while len(arrays) > 1 and len(arrays[-2]) < 2 * len(arrays[-1]):
        merged = np.concatenate([arrays.pop(), arrays.pop()])
        merged.sort()
        arrays.append(merged)
    return new


class Lengths:
    """Lengths of documents, exactly: different ones are at most the root of twice their sum."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def quantiles(self, percents: Sequence[int]) -> dict[str, int]:
        """The smallest length that p per cent of the documents do not exceed; {} without any."""
        ordered = sorted(self.counts)
        reached = np.cumsum([self.counts[length] for length in ordered])
        total = self.counts.total()
        ranks = {f"{p}%": max(1, -(-total * p // 100)) for p in percents} if total else {}
        return {name: ordered[np.searchsorted(reached, rank)] for name, rank in ranks.items()}

    def histogram(self) -> list[dict[str, int]]:
        """Bins from 1, 2, 4, 8...; those before the first and after the last document are left."""
        documents, sums = Counter(), Counter()
        for length, count in self.counts.items():
            documents[length.bit_length() - 1] += count
            sums[length.bit_length() - 1] += length * count
        return [
            {"from": 2**b, "to": 2 ** (b + 1) - 1, "documents": documents[b], "characters": sums[b]}
            for b in range(min(documents, default=0), max(documents, default=-1) + 1)
        ]

    def sum(self) -> int:
        return sum(length * count for length, count in self.counts.items())

    def mean(self) -> float | None:
        return self.sum() / self.counts.total() if self.counts else None

    def fixed(self, length: int) -> dict[str, Any]:
        """One document per row of so many tokens: the shares of padding and of what is cut off.

        padding / positions and lost / tokens, without an end of text.
        """
        padding = sum(max(0, length - n) * count for n, count in self.counts.items())
        lost = sum(max(0, n - length) * count for n, count in self.counts.items())
        tokens, positions = self.sum(), length * self.counts.total()
        return {
            "length": length,
            "padding_share": padding / positions if positions else None,
            "truncation_share": lost / tokens if tokens else None,
        }


class Beginnings:
    """A uniform sample of documents: Vitter 1985, algorithm R, seeded."""

    def __init__(self, number: int = BEGINNINGS, seed: int = SEED):
        self.number, self.draw, self.seen = number, random.Random(seed), 0
        self.rows: list[tuple[Path, str]] = []

    def add(self, path: Path, text: str) -> None:
        self.seen += 1
        if len(self.rows) < self.number:
            self.rows.append((path, text[:BEGINNING]))
            return
        place = int(self.draw.random() * self.seen)
        if place < self.number:
            self.rows[place] = (path, text[:BEGINNING])


# Script=Han of Unicode, Scripts.txt; planes 2 and 3 are set apart for ideographs.
HAN = (
    *((0x2E80, 0x2E99), (0x2E9B, 0x2EF3), (0x2F00, 0x2FD5), (0x3005, 0x3005), (0x3007, 0x3007)),
    *((0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFA6D)),
    *((0xFA70, 0xFAD9), (0x16FE2, 0x16FE3), (0x16FF0, 0x16FF1), (0x20000, 0x3FFFD)),
)
CLASSES = ("han", "latin", "punctuation", "digits", "other")


def character_class(character: str) -> str:
    """One of CLASSES: han by script, latin letters by name, the others by general category (digits
    are the decimal ones of any script).
    """
    if any(first <= ord(character) <= last for first, last in HAN):
        return "han"
    category = unicodedata.category(character)
    if category[0] == "L" and "LATIN" in unicodedata.name(character, ""):
        return "latin"
    return "punctuation" if category[0] == "P" else "digits" if category == "Nd" else "other"


@dataclass(slots=True)
class File:
    """What one file gave; `tokens` without ends of text, None without a tokenizer.

    `passed_over` is what of an archive was not read, members by reason.
    """

    path: Path
    size_on_disk: int
    tokens: int | None
    encoding: str | None = None
    documents: int = 0
    bytes: int = 0
    characters: int = 0
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    repeated_documents: int = 0
    repeated_bytes: int = 0

    def take(self, tally: Tally) -> None:
        """What the reading says at its end; read = kept + dropped, or the fault is ours."""
        names = sorted(set(tally.encodings.values()))
        self.encoding = ", ".join(names) or None
        self.dropped = {
            reason: {"documents": count, "bytes": tally.dropped_bytes[reason]}
            for reason, count in sorted(tally.dropped_documents.items())
        }
        for reasons in tally.passed_over.values():
            self.passed_over.update(reasons)
        assert tally.documents == self.documents + tally.dropped_documents.total(), self
        assert tally.bytes == self.bytes + tally.dropped_bytes.total(), self

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "size_on_disk": self.size_on_disk,
            "encoding": self.encoding,
            "documents": self.documents,
            "bytes": self.bytes,
            "characters": self.characters,
            "tokens": self.tokens,
            "bytes_per_token": self.bytes / self.tokens if self.tokens else None,
            "dropped": self.dropped,
            "passed_over": dict(self.passed_over),
            "duplicates": {"documents": self.repeated_documents, "bytes": self.repeated_bytes},
        }


class Survey:
    """Counts documents as they come; `as_dict` and `table` when all have come."""

    def __init__(self, tokenizer: Tokenizer | None = None):
        self.encoder = tokenizer and Encoder(tokenizer)
        self.files: list[File] = []
        self.encodings: Counter[str] = Counter()
        self.code_points = np.zeros(_CODE_POINTS, dtype=np.int64)
        self.characters, self.tokens = Lengths(), Lengths()
        self.seen, self.lines, self.beginnings = Seen(), FrequentLines(), Beginnings()
        self._batch: list[tuple[File, str, int, int]] = []
        self._pending = 0

    def read(self, path: Path, section: TextSection) -> Iterator[None]:
        """Counts the documents of a file, one at every step."""
        tokens = None if self.encoder is None else 0
        file, tally = File(path, _size_on_disk(path), tokens), Tally()
        self.files.append(file)
        for text in documents(path, section, tally):
            self._add(file, text)
            yield
        file.take(tally)
        self.encodings.update(tally.encodings.values())

    def _add(self, file: File, text: str) -> None:
        raw = text.encode("utf-8")
        file.documents += 1
        file.bytes += len(raw)
        file.characters += len(text)
        self.beginnings.add(file.path, text)
        self._batch.append((file, text, len(raw), xxhash.xxh3_64_intdigest(raw)))
        self._pending += len(raw)
        if self._pending >= _BYTES_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        """Counts what has been put by; batches go across files, of which there may be millions."""
        if not self._batch:
            return
        files, texts, sizes, hashes = zip(*self._batch, strict=True)
        self._batch, self._pending = [], 0
        repeated = self.seen.repeated(np.array(hashes, dtype=np.uint64))
        for place in np.flatnonzero(repeated):
            files[place].repeated_documents += 1
            files[place].repeated_bytes += sizes[place]
        self.characters.counts.update(map(len, texts))
        self._count_characters("".join(texts))
        lines = map(str.strip, "\n".join(texts).split("\n"))
        self.lines.add([line[:LINE] for line in lines if line])
        if self.encoder is not None:
            self._count_tokens(files, texts)

    def _count_characters(self, text: str) -> None:
        for start in range(0, len(text), _CHARACTERS_PER_COUNT):
            part = text[start : start + _CHARACTERS_PER_COUNT].encode("utf-32-le")
            counts = np.bincount(np.frombuffer(part, dtype="<u4"))
            self.code_points[: len(counts)] += counts

    def _count_tokens(self, files: Sequence[File], texts: Sequence[str]) -> None:
        counts = list(map(len, self.encoder.encode(texts)))
        self.tokens.counts.update(counts)
        for file, count in zip(files, counts, strict=True):
            file.tokens += count

    def as_dict(self) -> dict[str, Any]:
        """One JSON object. Lengths, sizes and counts are exact, but for repeated_lines (see
        FrequentLines) and duplicates: two of n documents share a hash with p < n**2 / 2**65.
        """
        self.flush()
        files = [file.as_dict() for file in self.files]
        sums = {key: sum(file[key] for file in files) for key in _SUMMED}
        tokens = self.tokens.sum() if self.encoder else None
        again = {unit: sum(f["duplicates"][unit] for f in files) for unit in ("documents", "bytes")}
        return {
            "files": files,
            **sums,
            "usable_bytes": sums["bytes"] - again["bytes"],
            "tokens": tokens,
            "bytes_per_token": sums["bytes"] / tokens if tokens else None,
            "dropped": self._dropped(),
            "passed_over": dict(sum((file.passed_over for file in self.files), Counter())),
            "encodings": dict(sorted(self.encodings.items())),
            "duplicates": again,
            "classes": self._classes(),
            "lengths": {
                "characters": _lengths(self.characters),
                "tokens": _lengths(self.tokens) if self.encoder else None,
            },
            "fixed_length": self.tokens.fixed(FIXED_LENGTH) if self.encoder else None,
            "repeated_lines": self._lines(),
            "beginnings": [{"path": str(p), "text": text} for p, text in self.beginnings.rows],
        }

    def table(self) -> str:
        """The same for people, with a chart of lengths."""
        return survey_table.table(self.as_dict())

    def _dropped(self) -> dict[str, dict[str, int]]:
        total: dict[str, Counter[str]] = {}
        for file in self.files:
            for reason, drop in file.dropped.items():
                total.setdefault(reason, Counter(documents=0, bytes=0)).update(drop)
        return {reason: dict(drop) for reason, drop in sorted(total.items())}

    def _classes(self) -> dict[str, dict[str, Any]]:
        counts = dict.fromkeys(CLASSES, 0)
        for code in np.flatnonzero(self.code_points):
            counts[character_class(chr(code))] += int(self.code_points[code])
        total = sum(counts.values())
        return {
            name: {"characters": count, "share": count / total if total else None}
            for name, count in counts.items()
        }

    def _lines(self) -> dict[str, Any]:
        found = self.lines.most_common(LINES_SHOWN)
        return {
            "lines": [{"line": line, "count": count} for line, count in found],
            "counted": self.lines.counted,
            "compared": LINE,
            "error": self.lines.error,
        }


_SUMMED = ("size_on_disk", "documents", "bytes", "characters")


def _lengths(lengths: Lengths) -> dict[str, Any]:
    return {
        "quantiles": lengths.quantiles(PERCENTS),
        "mean": lengths.mean(),
        "histogram": lengths.histogram(),
    }


def survey(
    paths: Sequence[Path], section: TextSection, tokenizer: Tokenizer | None, say: Say
) -> Survey:
    """Reads all documents once; says now and then how much is left. InputError as `documents`."""
    found, clock = Survey(tokenizer), Clock(say)
    total, before = sum(map(_size_on_disk, paths)), 0
    for path in paths:
        within = partial(_progress, total, before, path)
        for _ in found.read(path, section):
            clock.line(within)
        before += found.files[-1].size_on_disk
        clock.line(partial(_progress, total, before, None))
    return found


def _size_on_disk(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None


def _progress(total: int, before: int, path: Path | None, seconds: float) -> str:
    """`before` bytes of earlier files are read, and a part of the one at `path`."""
    done = before + (position(path) if path else 0)
    left = f", {(total - done) * seconds / done:,.0f} s left" if done else ""
    return f"survey: read {survey_table.size(done)} of {survey_table.size(total)} on disk{left}"


class Again:
    """The documents of the files, from the beginning whenever they are iterated over."""

    def __init__(self, paths: Sequence[Path], section: TextSection, say: Say):
        self.paths, self.section, self.say = paths, section, say

    def __iter__(self) -> Iterator[str]:
        clock, before = Clock(self.say), 0
        total = sum(map(_size_on_disk, self.paths))
        for path in self.paths:
            within = partial(_progress, total, before, path)
            for text in documents(path, self.section, Tally()):
                yield text
                clock.line(within)
            before += _size_on_disk(path)


def _tokenizer(folder: str) -> Tokenizer:
    bpe.require_folder(folder)
    return Tokenizer.from_file(str(Path(folder, "tokenizer.json")))


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # standard output is the survey alone


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m zhgpt.corpus",
        description="What a corpus holds: sizes, drops, duplicates, lengths, repeated lines.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, folder or glob")
    parser.add_argument("--tokenizer", metavar="DIR", help="counts tokens too (slower)")
    parser.add_argument("--json", action="store_true", help="one JSON object, all files")
    help = "what each suggested cleaning step would remove (reads all twice more)"
    parser.add_argument("--cleaning", action="store_true", help=help)
    choices = ("file", "paragraph", "line")
    parser.add_argument("--document", choices=choices, default="file", help="of .txt and .md")
    parser.add_argument("--encoding", metavar="NAME", help="found for every file without it")
    parser.add_argument("--undecodable_share", metavar="SHARE", type=float, default=0.01)
    parser.add_argument("--text_column", metavar="NAME", default="text")
    parser.add_argument("--text_columns", metavar="NAME", nargs="+", default=(), help="joined")
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None) -> int:
    options = _options(argv)
    section = TextSection(
        train_files=tuple(options.paths),
        text_column=options.text_column,
        text_columns=tuple(options.text_columns),
        document=options.document,
        encoding=options.encoding,
        undecodable_share=options.undecodable_share,
    )
    tokenizer = None if options.tokenizer is None else _tokenizer(options.tokenizer)
    paths = find_files(options.paths, "PATH", _say)
    found = survey(paths, section, tokenizer, _say)
    facts = found.as_dict()
    if options.cleaning:
        facts["cleaning"] = cleaning.would_remove(Again(paths, section, _say))
    print(json.dumps(facts, indent=1) if options.json else _shown(facts))
    return FINISHED


def _shown(facts: dict[str, Any]) -> str:
    if "cleaning" not in facts:
        return survey_table.table(facts)
    asked = {step: getattr(cleaning.SUGGESTED, step) for step in facts["cleaning"]}
    recipe = f'for a recipe: "cleaning": {json.dumps(asked)}'
    effects = cleaning.effects_table(facts["cleaning"])
    return f"{survey_table.table(facts)}\n\n{effects}\n{recipe}"
