"""Documents to blocks of tokens: nothing lost between them, everything counted.

Every document is followed by one end-of-text token, and the stream of a split is cut into blocks
without regard to documents. Laws, checked at the end of every preparation: bytes read = bytes of
the kept documents + bytes dropped; tokens + end-of-text tokens = tokens in blocks + one remainder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import filelock
import pyarrow as pa
import xxhash
from tokenizers import Tokenizer

from zhgpt import blocks, text
from zhgpt.errors import InputError
from zhgpt.recipe import CorpusSection

Say = Callable[[str], None]

_BYTES_PER_WRITE = 8 << 20


@dataclass(frozen=True)
class Corpus:
    """Memory-mapped blocks, one column `input_ids`.

    Rows of `train` have block_size ids; the last row of `validation` may be shorter, so that the
    whole split is scored. `fingerprint` is of the ids themselves: equal text, tokenizer and block
    size give the same one anywhere.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    ledger: dict[str, Any]
    fingerprint: str


def prepare(section: CorpusSection, tokenizer: Tokenizer, eos_id: int, say: Say = print) -> Corpus:
    """The section's text as blocks; made once per content, then found again at once.

    The result is cached in the folder of `datasets` (HF_HOME, HF_DATASETS_CACHE) under a key of
    all that it depends on; it gets its name when it is complete.
    """
    files = _find(section)
    folder = Path(
        datasets.config.HF_DATASETS_CACHE, "zhgpt", _key(section, files, tokenizer, eos_id)
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder, say):
        if not folder.exists():
            _make(folder, section, files, tokenizer, eos_id, say)
    ledger = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    say(ledger_table(ledger))
    splits = (datasets.Dataset.from_file(str(folder / f"{split}.arrow")) for split in _SPLITS)
    return Corpus(*splits, ledger, ledger["blocks_hash"])


_SPLITS = ("train", "validation")
Files = dict[str, list[Path]]


def _find(section: CorpusSection) -> Files:
    files = {"train": text.find_files(section.train_files, "train_files"), "validation": []}
    if section.validation_files:
        files["validation"] = text.find_files(section.validation_files, "validation_files")
    both = {p.resolve() for p in files["train"]} & {p.resolve() for p in files["validation"]}
    if both:
        raise InputError(
            f"validation_files: {sorted(both)[0]} is one of the train_files too; a model is not"
            " evaluated on what it has learnt. Name each file once."
        )
    return files


def _key(section: CorpusSection, files: Files, tokenizer: Tokenizer, eos_id: int) -> str:
    """Hash of everything that the blocks follow from, this code included."""
    facts = {
        "files": {split: [text.file_hash(p) for p in paths] for split, paths in files.items()},
        "kinds": [p.suffixes for paths in files.values() for p in paths],
        "settings": [section.text_column, section.validation_fraction, section.block_size, eos_id],
        "tokenizer": tokenizer.to_str(),
        "versions": [version(name) for name in ("datasets", "tokenizers", "pyarrow")],
        "code": [
            text.file_hash(Path(module)) for module in (__file__, text.__file__, blocks.__file__)
        ],
    }
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()[:24]


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
    folder: Path, section: CorpusSection, files: Files, tokenizer: Tokenizer, eos_id: int, say: Say
) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
    partial.mkdir()
    tally = text.Tally()
    with _texts(partial) as writers:
        split = _read(section, files, writers, tally, say)
    ledger: dict[str, Any] = {w.split: w.facts(len(files[w.split])) for w in writers}
    digest = xxhash.xxh3_128()
    for name in _SPLITS:
        tokens = blocks.tokenize(partial, name, tokenizer, eos_id, ledger[name]["bytes"], say)
        ledger[name] |= blocks.cut(partial, name, tokens, section.block_size, digest)
        ledger[name]["bytes_per_token"] = ledger[name]["bytes"] / max(1, ledger[name]["tokens"])
    ledger |= {
        "read": {"documents": tally.documents, "bytes": tally.bytes},
        "dropped": {
            reason: {"documents": count, "bytes": tally.dropped_bytes[reason]}
            for reason, count in sorted(tally.dropped_documents.items())
        },
        "validation_split": split,
        "blocks_hash": digest.hexdigest(),
    }
    _check_laws(ledger)
    _require_blocks(ledger, section.block_size)
    _remove_intermediates(partial)
    (partial / "ledger.json").write_text(json.dumps(ledger, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, folder)


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
def _texts(folder: Path) -> Iterator[list[_TextWriter]]:
    writers = [_TextWriter(folder, split) for split in _SPLITS]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _read(
    section: CorpusSection, files: Files, writers: list[_TextWriter], tally: text.Tally, say: Say
) -> str:
    """Distributes all documents; says how the validation split came about."""
    train, validation = writers
    held_out: set[bytes] = set()
    for raw, document, _ in _documents(files["validation"], section, tally, say):
        held_out.add(_content_hash(raw))
        validation.add(document, len(raw))
    shared, first = 0, ""
    for raw, document, path in _documents(files["train"], section, tally, say):
        hashed = _content_hash(raw)
        if files["validation"]:
            if hashed in held_out:
                shared, first = shared + 1, first or f"{path}: {document[:40]!r}"
            train.add(document, len(raw))
        else:
            chosen = int.from_bytes(hashed) < section.validation_fraction * 2 ** (8 * len(hashed))
            (validation if chosen else train).add(document, len(raw))
    if shared:
        raise InputError(
            f"validation_files: {shared:,} document(s) of the training files are in validation too,"
            f" the first in {first}.\n"
            "A model is not evaluated on what it has learnt: remove them from one side."
        )
    if files["validation"]:
        return "validation_files"
    return f"{section.validation_fraction:.2%} of documents, by a hash of their content"


def _documents(
    paths: list[Path], section: CorpusSection, tally: text.Tally, say: Say
) -> Iterator[tuple[bytes, str, Path]]:
    clock = blocks.Clock(say)
    for path in paths:
        for document in text.documents(path, section.text_column, tally):
            yield document.encode("utf-8"), document, path
            clock.line(lambda seconds: f"corpus: read {tally.bytes / 1e6:,.0f} MB")


def _content_hash(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=8).digest()


def _check_laws(ledger: dict[str, Any]) -> None:
    dropped = sum(d["bytes"] for d in ledger["dropped"].values())
    kept = sum(ledger[split]["bytes"] for split in _SPLITS)
    assert ledger["read"]["bytes"] == kept + dropped, ledger
    train, validation = (ledger[split] for split in _SPLITS)
    in_blocks = train["blocks"] * train["block_size"] + train["remainder_tokens"]
    assert train["tokens"] + train["eos_tokens"] == in_blocks, ledger
    short = validation["remainder_tokens"] > 0
    in_blocks = (validation["blocks"] - short) * validation["block_size"]
    in_blocks += validation["remainder_tokens"]
    assert validation["tokens"] + validation["eos_tokens"] == in_blocks, ledger


def _require_blocks(ledger: dict[str, Any], size: int) -> None:
    train, validation = (ledger[split] for split in _SPLITS)
    if not ledger["read"]["documents"] or not (train["documents"] or validation["documents"]):
        raise InputError(f"train_files: no document with text in them ({_drops(ledger)}).")
    if not train["blocks"]:
        raise InputError(
            f"corpus: the training text has {train['remainder_tokens']:,} tokens, less than one"
            f" block of {size:,}. Give more text, or a smaller corpus.block_size."
        )
    if not validation["documents"]:
        raise InputError(
            f"corpus: no document is left for validation ({train['documents']:,} for training).\n"
            "Name validation_files, or raise corpus.validation_fraction. A .txt file is one"
            " document."
        )


def _remove_intermediates(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in {f"{split}.arrow" for split in _SPLITS}:
            path.unlink()


def _drops(ledger: dict[str, Any]) -> str:
    parts = [f"{d['documents']:,} {reason}" for reason, d in ledger["dropped"].items()]
    return ", ".join(parts) or "nothing dropped"


def ledger_table(ledger: dict[str, Any]) -> str:
    """What was read, kept and dropped, for people."""
    heads = ["documents", "bytes", "characters", "tokens", "blocks", "remainder_tokens"]
    rows = [["corpus", *(h.replace("_tokens", "") for h in heads), "bytes/token"]]
    for split in _SPLITS:
        facts = ledger[split]
        cells = [f"{facts[h]:,}" for h in heads]
        rows.append([split, *cells, f"{facts['bytes_per_token']:.2f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    read = f"read {ledger['read']['documents']:,} documents, {ledger['read']['bytes']:,} bytes"
    return "\n".join(
        [*lines, f"{read}; dropped: {_drops(ledger)}", f"validation: {ledger['validation_split']}"]
    )
