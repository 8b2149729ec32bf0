"""Documents to blocks of tokens: nothing lost between them, everything counted.

Every document is followed by one end-of-text token, and the stream of a split is cut into blocks
without regard to documents.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import datasets
import filelock
import pyarrow as pa
import xxhash
from tokenizers import Tokenizer

from zhgpt import blocks, encodings, files, tables, text, unpack
from zhgpt.errors import InputError
from zhgpt.ledger import SPLITS, Ledger, check_laws, ledger_table, require_block, require_documents
from zhgpt.recipe import CorpusSection

Say = Callable[[str], None]

_BYTES_PER_WRITE = 8 << 20
_READING = (text, files, encodings, tables, unpack)


@dataclass(frozen=True)
class Corpus:
    """Memory-mapped blocks, one column `input_ids`.

    Rows of `train` have block_size ids; the last row of `validation` may be shorter, so that the
    whole split is scored. `fingerprint` is of the blocks themselves: equal text in equal splits,
    tokenizer and block size give the same one anywhere.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    ledger: Ledger
    fingerprint: str


def prepare(section: CorpusSection, tokenizer: Tokenizer, eos_id: int, say: Say = print) -> Corpus:
    """The section's text as blocks; made once per content, then found again at once.

    The result is cached in the folder of `datasets` (HF_HOME, HF_DATASETS_CACHE) under a key of
    all that it depends on; it gets its name when it is complete. InputError for text that cannot
    be read or does not fill a block, for splits that share text, and for a full disk.
    """
    paths = _find(section, say)
    folder = _cache() / _key(section, paths, tokenizer, eos_id)
    with _alone(folder, say):
        if not folder.exists():
            _make(folder, section, paths, _plain(tokenizer), eos_id, say)
    ledger = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    say(ledger_table(ledger))
    splits = (datasets.Dataset.from_file(str(folder / f"{split}.arrow")) for split in SPLITS)
    return Corpus(*splits, ledger, ledger["blocks_hash"])


Paths = dict[str, list[Path]]


def require_files(section: CorpusSection) -> None:
    """InputError unless the named text is there: said before anything that takes time."""
    _find(section, lambda line: None)


def _find(section: CorpusSection, say: Say) -> Paths:
    paths = {
        "train": files.find_files(section.train_files, "train_files", say),
        "validation": [],
    }
    if section.validation_files:
        paths["validation"] = files.find_files(section.validation_files, "validation_files", say)
    both = {p.resolve() for p in paths["train"]} & {p.resolve() for p in paths["validation"]}
    if both:
        raise InputError(
            f"validation_files: {min(both)} is one of the train_files too; a model is not"
            " evaluated on what it has learnt. Name each file once."
        )
    return paths


def _cache() -> Path:
    folder = Path(datasets.config.HF_DATASETS_CACHE, "zhgpt")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        reason = "no permission to write"
    except OSError as error:
        reason = error.strerror
    raise InputError(
        f"corpus: the cache {folder} cannot be written ({reason}).\n"
        "Name a folder that can, with some 3 bytes of room per byte of text: HF_HOME=FOLDER"
    )


def _key(section: CorpusSection, paths: Paths, tokenizer: Tokenizer, eos_id: int) -> str:
    """Hash of everything that the blocks follow from, this code included."""
    every = [path for split in SPLITS for path in paths[split]]
    facts = {
        "files": {split: [text.file_hash(p) for p in paths[split]] for split in SPLITS},
        "kinds": [(files.ending(p), p.suffix.lower()) for p in every],
        "settings": [section.text_column, section.validation_fraction, section.block_size, eos_id],
        "reading": [
            section.text_columns,
            section.document,
            section.encoding,
            section.undecodable_share,
        ],
        "tokenizer": tokenizer.to_str(),
        "versions": [version(name) for name in ("datasets", "tokenizers", "pyarrow")],
        "code": [
            text.file_hash(Path(module))
            for module in (__file__, *(m.__file__ for m in _READING), blocks.__file__)
        ],
    }
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()[:24]


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy without the truncation and padding that a tokenizer may have been saved with."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """One process prepares; others of the same corpus wait and find it done."""
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say("corpus: another process prepares the same text; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(
    folder: Path, section: CorpusSection, paths: Paths, tokenizer: Tokenizer, eos_id: int, say: Say
) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
    partial.mkdir()
    tally = text.Tally()
    try:
        ledger = _texts_ledger(partial, section, paths, tally, say)
        require_documents(ledger)
        _add_blocks(partial, ledger, section.block_size, tokenizer, eos_id, say)
        check_laws(ledger)
        require_block(ledger)
        _write(partial / "ledger.json", ledger)
        os.replace(partial, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(partial)  # so that the room left is counted without it
        raise InputError(_disk_full(folder.parent, tally.bytes)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _texts_ledger(
    folder: Path, section: CorpusSection, paths: Paths, tally: text.Tally, say: Say
) -> Ledger:
    """Writes the documents of both splits to disk; the ledger as far as it is known then."""
    with _writers(folder) as writers:
        source = _read(section, paths, writers, tally, say)
    for line in tally.lines():
        say(f"corpus: {line}")
    return {w.split: w.facts(len(paths[w.split])) for w in writers} | {
        "read": {
            "files": sum(map(len, paths.values())),
            "documents": tally.documents,
            "bytes": tally.bytes,
        },
        "dropped": {
            reason: {"documents": count, "bytes": tally.dropped_bytes[reason]}
            for reason, count in sorted(tally.dropped_documents.items())
        },
        "validation_split": source,
    }


def _add_blocks(
    folder: Path, ledger: Ledger, size: int, tokenizer: Tokenizer, eos_id: int, say: Say
) -> None:
    """Writes the blocks of both splits, completes their ledger, removes what led to them."""
    hashes = []
    for name in SPLITS:
        facts, digest = ledger[name], xxhash.xxh3_128()
        tokens = blocks.tokenize(folder, name, tokenizer, eos_id, facts["bytes"], say)
        facts |= blocks.cut(folder, name, tokens, size, digest)
        facts["bytes_per_token"] = facts["bytes"] / facts["tokens"]
        hashes.append(digest.hexdigest())
        for path in folder.glob(f"{name}.*.arrow"):
            path.unlink()
    # Of each split on its own: a document that moves from one to the other is another corpus.
    ledger["blocks_hash"] = xxhash.xxh3_128_hexdigest(f"{hashes} {size}".encode())


def _write(path: Path, ledger: Ledger) -> None:
    path.write_text(json.dumps(ledger, ensure_ascii=False), encoding="utf-8")


def _disk_full(folder: Path, read: int) -> str:
    free = shutil.disk_usage(folder).free
    return (
        f"corpus: the disk of the cache {folder} is full.\n"
        f"Preparing takes up to 3 bytes per byte of text; {read / 1e6:,.0f} MB of text were read so"
        f" far, {free / 1e6:,.0f} MB are free.\n"
        "Free some space, or name a folder on another disk: HF_HOME=FOLDER"
    )


class _TextWriter:
    """The documents of one split, written to disk in batches, and what they amount to."""

    SCHEMA = pa.schema({"text": pa.large_string()})

    def __init__(self, folder: Path, split: str):
        self.split = split
        self.writer = pa.ipc.new_stream(folder / f"{split}.text.arrow", self.SCHEMA)
        self.batch: list[str] = []
        self.pending = self.documents = self.bytes = self.characters = 0

    def add(self, document: str, size: int) -> None:
        self.batch.append(document)
        self.documents += 1
        self.bytes += size
        self.characters += len(document)
        self.pending += size
        if self.pending >= _BYTES_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        self.writer.write_batch(
            pa.record_batch([pa.array(self.batch, pa.large_string())], ["text"])
        )
        self.batch, self.pending = [], 0

    def close(self) -> None:
        self.flush()
        self.writer.close()

    def facts(self, files: int) -> dict[str, int]:
        sizes = {"documents": self.documents, "bytes": self.bytes, "characters": self.characters}
        return {"files": files} | sizes


@contextmanager
def _writers(folder: Path) -> Iterator[list[_TextWriter]]:
    writers = [_TextWriter(folder, split) for split in SPLITS]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _read(
    section: CorpusSection, paths: Paths, writers: list[_TextWriter], tally: text.Tally, say: Say
) -> str:
    """Distributes all documents; says how the validation split came about."""
    train, validation = writers
    held_out: set[bytes] = set()
    for raw, document, _ in _documents(paths["validation"], section, tally, say):
        held_out.add(_content_hash(raw))
        validation.add(document, len(raw))
    shared, first = 0, ""
    for raw, document, path in _documents(paths["train"], section, tally, say):
        hashed = _content_hash(raw)
        if paths["validation"]:
            if hashed in held_out:
                shared, first = shared + 1, first or f"{path}: {document[:40]!r}"
            train.add(document, len(raw))
        else:
            chosen = int.from_bytes(hashed, "big") < section.validation_fraction * 2**64
            (validation if chosen else train).add(document, len(raw))
    if shared:
        raise InputError(
            f"validation_files: {shared:,} document(s) of the training files are in validation too,"
            f" the first in {first}.\n"
            "A model is not evaluated on what it has learnt: remove them from one side."
        )
    if paths["validation"]:
        return "validation_files"
    return f"{section.validation_fraction:.2%} of documents, by a hash of their content"


def _documents(
    paths: list[Path], section: CorpusSection, tally: text.Tally, say: Say
) -> Iterator[tuple[bytes, str, Path]]:
    clock = blocks.Clock(say)
    for path in paths:
        for document in text.documents(path, section, tally):
            yield document.encode("utf-8"), document, path
            clock.line(
                lambda _: f"corpus: read {tally.documents:,} documents, {tally.bytes / 1e6:,.0f} MB"
            )


def _content_hash(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=8).digest()
