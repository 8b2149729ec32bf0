"""Documents to rows of token ids on disk, in sealed parts: what is sealed is never made again.

A part is some 32 MB of text, less where documents are short. Its rows, one a document, lie in
part-N.arrow; its seal, part-N.json, is written last and says where the next part begins. While one
part becomes tokens, the next one is read.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash

from zhgpt.clock import Clock
from zhgpt.disk import sync, write_whole
from zhgpt.encoder import Encoder, portions
from zhgpt.sources import Source
from zhgpt.text import Tally

Say = Callable[[str], None]

BYTES_PER_PART = 32 << 20
_BYTES_PER_DOCUMENT = 256  # what one takes in memory beside its text
_CHARACTERS_PER_ENCODING = 1 << 20  # ten novels at once take gigabytes
_DOCUMENTS_CHECKED, _CHARACTERS_CHECKED = 32, 1024  # of a part: 0.3 % of the work

TRAIN, VALIDATION = 0, 1
_FACTS = {
    "split": pa.uint8(),
    "source": pa.int32(),
    "hash": pa.uint64(),  # of the document's UTF-8
    "bytes": pa.int64(),
    "characters": pa.int64(),
}


@dataclass
class Batch:
    """The documents of one part, and what was dropped and removed on the way to them.

    `next` is where the following part begins: number of the source, documents of it already taken;
    `reached` is how many bytes of the sources on disk lie before it.
    """

    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _FACTS})
    texts: list[bytes] = field(default_factory=list)
    size: int = 0
    tallies: dict[int, Tally] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    removed: Counter = field(default_factory=Counter)
    next: tuple[int, int] = (0, 0)
    reached: int = 0

    def add(self, split: int, source: int, document: str, held_out: float) -> None:
        raw = document.encode("utf-8")
        hashed = xxhash.xxh3_64_intdigest(raw)
        split = VALIDATION if hashed < held_out * 2**64 else split
        facts = (split, source, hashed, len(raw), len(document))
        for column, fact in zip(self.rows.values(), facts, strict=True):
            column.append(fact)
        self.texts.append(raw)
        self.size += len(raw)

    @property
    def full(self) -> bool:
        return self.size + _BYTES_PER_DOCUMENT * len(self.texts) >= BYTES_PER_PART

    def drop(self, reason: str, document: str) -> None:
        documents, size = self.dropped.get(reason, (0, 0))
        self.dropped[reason] = [documents + 1, size + len(document.encode("utf-8"))]


@dataclass(frozen=True)
class Maker:
    """Makes the parts of a corpus in `folder`.

    `sources` are in order, each with its split; `held_out` is the share of the documents of train
    that their hash gives to validation. `clean` maps a document to (text, reason of its drop or
    None, bytes removed by each step), and can `save` and `restore` what it remembers of documents.
    `signature` of a text is kept with its row where near duplicates are looked for.
    """

    folder: Path
    sources: Sequence[tuple[int, Source]]
    held_out: float
    clean: Any | None
    signature: Callable[[str], np.ndarray] | None
    encoder: Encoder
    eos_id: int
    say: Say

    def make(self) -> None:
        """All parts; those that an earlier process sealed are kept."""
        done, start = seals(self.folder), (0, 0)
        if done:
            start = tuple(done[-1]["next"])
            self.say(f"corpus: {len(done)} finished part(s) found, going on behind them")
        self._forget_all_but(len(done))
        if done and self.clean:
            self.clean.restore(_path(self.folder, len(done) - 1, "state.npz"))
        pending: Future | None = None
        # One thread, so parts are sealed in their order; it waits in the encoder, not in Python.
        with ThreadPoolExecutor(1) as pool:
            for number, batch in enumerate(self._batches(start), len(done)):
                if self.clean:
                    self.clean.save(_path(self.folder, number, "state.npz"))
                if pending:
                    pending.result()
                pending = pool.submit(self._seal, number, batch)
            if pending:
                pending.result()

    def _forget_all_but(self, parts: int) -> None:
        """Removes what a killed process left behind the last seal."""
        kept = {_path(self.folder, n, kind) for n in range(parts) for kind in KINDS}
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in kept and path.name != LINES:
                path.unlink()

    def _batches(self, start: tuple[int, int]) -> Iterator[Batch]:
        """The rest of the corpus behind `start`; the last one may be without documents."""
        batch, clock = Batch(), _Progress(self.sources, self.say)
        first, taken = start
        for number in range(first, len(self.sources)):
            split, source = self.sources[number]
            tally = Tally()
            documents = source.documents(tally)
            # Read again up to there, so that this source's tally is of all of it.
            skipped = sum(1 for _ in islice(documents, taken))
            for taken, document in enumerate(documents, skipped + 1):
                before = batch.size
                self._take(batch, split, number, document)
                clock.line(number, batch.size - before)
                if batch.full:
                    batch.next, batch.reached = (number, taken), clock.done(number)
                    yield batch
                    batch = Batch()
            batch.tallies[number] = tally
            taken = 0
        batch.next, batch.reached = (len(self.sources), 0), clock.total
        if start != batch.next:
            yield batch

    def _take(self, batch: Batch, split: int, source: int, document: str) -> None:
        if self.clean:
            document, reason, removed = self.clean(document)
            batch.removed.update(removed)
            if reason:
                batch.drop(reason, document)
                return
        batch.add(split, source, document, self.held_out)

    def _seal(self, number: int, batch: Batch) -> None:
        if batch.texts:
            self._write_rows(_path(self.folder, number, "arrow"), batch)
        facts = {
            "next": batch.next,
            "reached": batch.reached,
            "tallies": {n: vars(tally) for n, tally in batch.tallies.items()},
            "dropped": batch.dropped,
            "removed": batch.removed,
        }
        write_whole(_path(self.folder, number, "json"), json.dumps(facts, default=str))
        _path(self.folder, number - 1, "state.npz").unlink(missing_ok=True)

    def _write_rows(self, path: Path, batch: Batch) -> None:
        columns = {name: pa.array(values, _FACTS[name]) for name, values in batch.rows.items()}
        texts = pa.array(batch.texts, pa.large_binary()).cast(pa.large_string())
        columns["text"], batch.texts = texts, []
        self.encoder.check(_sample(texts))
        # Without a fingerprint given, `datasets` copies and hashes all of the text for one.
        rows = datasets.Dataset(pa.table(columns), fingerprint=path.stem)
        with no_bars():
            rows.with_format("arrow").map(
                self._to_ids,
                batched=True,
                batch_size=None,
                remove_columns=["text"],
                cache_file_name=str(path),
                # The folder's name already stands for all that the rows follow from.
                new_fingerprint=path.stem,
            )
        sync(path)

    def _to_ids(self, table: pa.Table) -> pa.Table:
        """Ids of each document with its end of text, in the place of the text."""
        texts = table["text"].to_pylist()
        ids, lengths = [], np.zeros(len(texts) + 1, np.int32)
        end = np.array([self.eos_id], self.encoder.dtype)
        for portion in portions(texts, _CHARACTERS_PER_ENCODING):
            for document in self.encoder.encode(portion):
                ids += [document, end]
        lengths[1:] = [len(document) + 1 for document in ids[::2]]
        rows = pa.ListArray.from_arrays(np.cumsum(lengths, dtype=np.int32), np.concatenate(ids))
        table = table.drop_columns("text").append_column("input_ids", rows)
        if self.signature:
            marks = np.concatenate([self.signature(text) for text in texts])
            marks = pa.FixedSizeListArray.from_arrays(marks, len(marks) // len(texts))
            table = table.append_column("signature", marks)
        return table


def seals(folder: Path) -> list[dict[str, Any]]:
    """What the seals say, from the first part to the last that has one."""
    found = []
    while (path := _path(folder, len(found), "json")).exists():
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def tables(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The named columns of each part that has documents, memory-mapped."""
    for number in range(len(seals(folder))):
        path = _path(folder, number, "arrow")
        if path.exists():
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_stream(file).read_all().select(columns)


KINDS = ("arrow", "json", "state.npz")
LINES = "lines.json"


def _path(folder: Path, number: int, kind: str) -> Path:
    return folder / f"part-{number:06d}.{kind}"


def _sample(texts: pa.Array) -> list[str]:
    """Documents from all of the part, a few kilobytes of each, which alone are copied."""
    step = max(1, len(texts) // _DOCUMENTS_CHECKED)
    size = 4 * _CHARACTERS_CHECKED  # bytes of UTF-8 at the most; the last character may be cut
    beginnings = (text.as_buffer()[:size].to_pybytes() for text in texts[::step])
    return [raw.decode("utf-8", "ignore")[:_CHARACTERS_CHECKED] for raw in beginnings]


@contextmanager
def no_bars() -> Iterator[None]:
    """`datasets` without its progress bars, which are control characters in a log."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


class _Progress:
    """How far the reading is, by the sources' sizes, and how long the rest takes."""

    def __init__(self, sources: Sequence[tuple[int, Source]], say: Say):
        self.sources = [source for _, source in sources]
        self.total = sum(source.size for source in self.sources) or 1
        self.clock, self.skipped, self.bytes = Clock(say), None, 0

    def line(self, number: int, size: int) -> None:
        """After a document of `size` bytes of text, of source `number`."""
        self.bytes += size
        if self.skipped is None:
            self.skipped = self.done(number)
        self.clock.line(lambda seconds: self._words(self.done(number), seconds))

    def done(self, number: int) -> int:
        """Bytes on disk that have been read."""
        before = sum(source.size for source in self.sources[:number])
        return before + self.sources[number].position()

    def _words(self, done: int, seconds: float) -> str:
        rate = (done - self.skipped) / seconds
        left = f", {(self.total - done) / rate:,.0f} s left" if rate > 0 else ""
        speed = f"{self.bytes / 1e6:,.0f} MB of text, {self.bytes / seconds / 1e6:.1f} MB/s"
        return f"corpus: {done / self.total:.0%} in tokens, {speed}{left}"
