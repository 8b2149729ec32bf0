"""How large a corpus is, from a sample of it: seconds instead of its preparation; nothing is kept.

The bytes that all files have on disk are cut into POINTS equal parts, with a place drawn in each
(seeded). There whole lines are read until they are SLICE bytes. Packed files cannot be entered: one
with m places is unpacked from its front, m MB of it, and the places are spread over that. Tables,
.json and archives are read whole where a place is in them.

The error is twice the standard error of the mean over places, from differences between neighbours
(Wolter 2007, section 8.2: files differ more from one another than neighbours do). It knows neither
what lies behind the front of a packed file, nor what steps that compare documents would remove.
"""

import io
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from zhgpt import sources, unpack
from zhgpt.cleaning import Cleaner
from zhgpt.clock import Clock
from zhgpt.encoder import Encoder
from zhgpt.errors import InputError
from zhgpt.files import PACKINGS, ending
from zhgpt.recipe import CleaningSection, CorpusSection
from zhgpt.text import Tally, documents

Say = Callable[[str], None]

POINTS, SLICE = 48, 1 << 17
WHOLE = 8 << 20  # bytes of all files, up to which all of it is read
_FRONT = 1 << 20  # bytes of a packed file for each place in it
_ENCODED = 1 << 17  # characters of a slice that become tokens; a novel may stand in one line
_LINES = (".txt", ".md", ".jsonl", ".ndjson")
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # UTF-16: half a character may look like a line end
SEED = 0


@dataclass
class Slice:
    """What `read` bytes of a file, unpacked, gave; `per_disk_byte` of them lie in one on disk.

    Of a file that is one document, a slice is the part of a document that it is of the file.
    """

    read: int
    per_disk_byte: float
    bytes: int = 0
    documents: float = 0
    encoded_bytes: int = 0
    tokens: int = 0
    lengths: list[int] = field(default_factory=list)

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / self.encoded_bytes if self.encoded_bytes else 0.0

    def on_disk(self, amount: float) -> float:
        """`amount` of this slice, for each byte on disk."""
        return amount / self.read * self.per_disk_byte if self.read else 0.0


class Reader:
    """Reads slices as the preparation reads files: the same kinds, drops and cleaning."""

    def __init__(self, section: CorpusSection, clean: CleaningSection, tokenizer: Tokenizer):
        self.section, self.encoder = section, Encoder(tokenizer)
        self.cleaner = None if clean == CleaningSection() else Cleaner(clean)

    def slices(self, path: Path, places: Sequence[float]) -> Iterator[Slice]:
        """One for each place, from 0 to 1 of the file; a single one where all of it is read."""
        size, packed = path.stat().st_size, path.suffix.lower() in PACKINGS
        if not places or ending(path) not in _LINES or (not packed and self._is_wide(path)):
            yield self._taken(path, size, 1.0, path)
            return
        if packed:
            front = min(size, len(places) * _FRONT)
            with unpack.named(path):
                content = unpack.front(path, front)
            ratio, size = len(content) / front, content.rfind(b"\n") + 1 or len(content)
            file = io.BytesIO(content[:size])
        else:
            ratio, file = 1.0, path.open("rb")
        with file, tempfile.TemporaryDirectory(prefix="zhgpt-sample-") as folder:
            for place in places:
                cut = Path(folder, f"slice{ending(path)}")
                cut.write_bytes(raw := _lines(file, int(place * size)))
                found = self._taken(cut, len(raw), ratio, path)
                if self.section.document == "file" and ending(path) in (".txt", ".md"):
                    found.documents = len(raw) / size
                    found.lengths = [round(found.bytes * size / max(1, len(raw)))]
                yield found

    def _is_wide(self, path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(2) in _WIDE

    def _taken(self, path: Path, read: int, ratio: float, of: Path) -> Slice:
        found, texts, left = Slice(read, ratio), [], _ENCODED
        try:
            for text in documents(path, self.section, Tally()):
                text, reason = self._cleaned(text)
                if reason:
                    continue
                found.documents += 1
                found.lengths.append(len(text.encode("utf-8")))
                if left > 0:
                    texts.append(text[:left])
                    left -= len(text)
        except InputError as error:
            raise InputError(str(error).replace(str(path), f"{of} (a part of it)")) from None
        found.bytes = sum(found.lengths)
        found.encoded_bytes = sum(len(text.encode("utf-8")) for text in texts)
        found.tokens = sum(map(len, self.encoder.encode(texts))) if texts else 0
        return found

    def _cleaned(self, text: str) -> tuple[str, str | None]:
        return self.cleaner(text)[:2] if self.cleaner else (text, None)


def _lines(file: Any, start: int) -> bytes:
    """Whole lines from the first that begins at `start` or later; around the end, from the front.

    A line that is longer than a slice is taken whole: else long documents would be left out.
    """
    file.seek(max(0, start - 1))
    if start and not file.readline().endswith(b"\n"):
        file.seek(0)
    lines, size = [], 0
    while size < SLICE and (line := file.readline()):
        lines.append(line)
        size += len(line)
    if not lines and start:
        return _lines(file, 0)
    return b"".join(lines)


def _places(sizes: Sequence[int]) -> list[list[float]]:
    """For each file the places in it, from 0 to 1."""
    total, draw = sum(sizes), random.Random(SEED)
    points = [(k + draw.random()) * total / POINTS for k in range(POINTS)]
    before, found = 0, []
    for size in sizes:
        found.append([(p - before) / size for p in points if before <= p < before + size])
        before += size
    return found


def _split(paths: Sequence[Path], reader: Reader, say: Say) -> dict[str, Any]:
    """A split's sizes; `error` is relative, of tokens."""
    sizes = [path.stat().st_size for path in paths]
    total, clock = sum(sizes), Clock(say)
    places = _places(sizes) if total > WHOLE else [[] for _ in sizes]
    everywhere = total <= WHOLE or all(places)
    slices: list[Slice] = []
    weights: list[float] = []
    for path, size, here in zip(paths, sizes, places, strict=True):
        if everywhere or here:
            found = list(reader.slices(path, here))
            share = size / total if everywhere else len(here) / POINTS
            slices += found
            weights += [share / len(found)] * len(found)
        clock.line(partial(_progress, len(slices)))
    return _extrapolated(paths, total, slices, weights)


def _progress(places: int, seconds: float) -> str:
    return f"plan: sampled at {places} places in {seconds:.0f} s"


def _extrapolated(
    paths: Sequence[Path], total: int, slices: Sequence[Slice], weights: Sequence[float]
) -> dict[str, Any]:
    def sum_of(amount: Callable[[Slice], float]) -> float:
        return total * sum(w * s.on_disk(amount(s)) for s, w in zip(slices, weights, strict=True))

    size = sum_of(lambda s: s.bytes)
    tokens = [s.on_disk(s.bytes * s.tokens_per_byte) for s in slices]
    lengths = sorted(length * s.tokens_per_byte for s in slices for length in s.lengths)
    each = sum(s.documents for s in slices) / max(1, sum(s.bytes for s in slices))
    return {
        "files": len(paths),
        "documents": round(size * each),
        "bytes": round(size),
        "tokens": round(sum_of(lambda s: s.bytes * s.tokens_per_byte)),
        "median": statistics.median(lengths) if lengths else None,
        "error": 0.0 if total <= WHOLE else _error(tokens),
        "read": sum(s.read for s in slices),
    }


def _error(values: Sequence[float]) -> float:
    """Twice the standard error of the mean, relative to it; infinite for a single value."""
    mean = statistics.fmean(values) if values else 0.0
    if len(values) < 2 or not mean:
        return math.inf
    squares = sum((b - a) ** 2 for a, b in zip(values, values[1:], strict=False))
    variance = squares / (2 * (len(values) - 1) * len(values))
    return 2 * math.sqrt(variance) / mean


def take(
    section: CorpusSection, clean: CleaningSection, tokenizer: Tokenizer, say: Say
) -> dict[str, Any]:
    """Both splits as a ledger has them, and `sample`: bytes read, relative error, median tokens.

    InputError as the preparation, and for a corpus that is not of files.
    """
    if section.dataset:
        raise InputError(
            "--plan quick: samples files, and corpus.dataset is none. Leave out quick: the plan is"
            " then made\nfrom the whole data set, once prepared."
        )
    paths, reader = sources.find(section, say), Reader(section, clean, tokenizer)
    train = _split(paths["train"], reader, say)
    if paths["validation"]:
        validation = _split(paths["validation"], reader, say)
    else:
        share = section.validation_fraction
        counts = ("documents", "bytes", "tokens")
        validation = {key: round(train[key] * share) for key in counts} | {"files": 0, "read": 0}
        train |= {key: train[key] - validation[key] for key in counts}
    sample = {
        "bytes": train["read"] + validation["read"],
        "error": train["error"],
        "median_document_tokens": train["median"],
    }
    splits = {"train": train, "validation": validation}
    return {name: _as_ledger(s, section.block_size) for name, s in splits.items()} | {
        "sample": sample
    }


def _as_ledger(split: dict[str, Any], block_size: int) -> dict[str, Any]:
    blocks = (split["tokens"] + split["documents"]) // block_size
    if not split["tokens"]:
        raise InputError("corpus: there is no text in the sample of a split; prepare all of it.")
    kept = {key: split[key] for key in ("files", "documents", "bytes", "tokens")}
    return kept | {
        "eos_tokens": split["documents"],
        "block_size": block_size,
        "blocks": blocks,
        "bytes_per_token": split["bytes"] / split["tokens"],
    }
