"""Documents on disk to blocks of token ids, across all batch boundaries."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from zhgpt.encoder import Encoder

Say = Callable[[str], None]

_DOCUMENTS_PER_BATCH = 64
# Ten novels at once take gigabytes: halves the peak for 40 documents of 3 MB, 2.7 to 1.35 GB.
_BYTES_PER_ENCODING = 4 << 20
_SECONDS_BETWEEN_LINES = 5


class Clock:
    """Lets a line through now and then."""

    def __init__(self, say: Say):
        self.say, self.began = say, time.monotonic()
        self.last = self.began

    def line(self, words: Callable[[float], str]) -> None:
        now = time.monotonic()
        if now - self.last >= _SECONDS_BETWEEN_LINES:
            self.last = now
            self.say(words(now - self.began))


def tokenize(
    folder: Path, split: str, tokenizer: Tokenizer, eos_id: int, total: int, say: Say
) -> datasets.Dataset:
    """Rows of ids, each document with its end-of-text token; 16 bits where all ids fit."""
    encoder = Encoder(tokenizer)
    kind = encoder.dtype.name
    clock, done = Clock(say), 0

    def encode(batch: dict[str, list[str]]) -> dict[str, list[np.ndarray]]:
        nonlocal done
        rows = []
        for texts, size in _portions(batch["text"]):
            rows += [np.append(ids, encoder.dtype.type(eos_id)) for ids in encoder.encode(texts)]
            done += size
        clock.line(lambda seconds: _tokenize_line(split, done, total, seconds))
        return {"input_ids": rows}

    with _no_bars():
        return datasets.Dataset.from_file(str(folder / f"{split}.text.arrow")).map(
            encode,
            batched=True,
            batch_size=_DOCUMENTS_PER_BATCH,
            writer_batch_size=_DOCUMENTS_PER_BATCH,
            remove_columns=["text"],
            features=datasets.Features({"input_ids": datasets.List(datasets.Value(kind))}),
            cache_file_name=str(folder / f"{split}.tokens.arrow"),
            # The folder's name already stands for all that the ids follow from.
            new_fingerprint=f"tokens-{split}",
        )


def _portions(texts: list[str]) -> Iterator[tuple[list[str], int]]:
    """Neighbouring documents and their bytes together, few enough for the encoder's memory."""
    portion, size = [], 0
    for text in texts:
        portion.append(text)
        size += len(text.encode("utf-8"))
        if size >= _BYTES_PER_ENCODING:
            yield portion, size
            portion, size = [], 0
    if portion:
        yield portion, size


def _tokenize_line(split: str, done: int, total: int, seconds: float) -> str:
    rate = done / seconds
    left = (total - done) / rate
    return f"corpus: {split} {done / total:.0%} in tokens, {rate / 1e6:.1f} MB/s, {left:.0f} s left"


@contextmanager
def _no_bars() -> Iterator[None]:
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def cut(folder: Path, split: str, tokens: datasets.Dataset, size: int, digest: Any) -> dict:
    """Writes the split's blocks; tokens that do not fill one are carried to the next batch.

    The last ones are validation's shorter last row, and training's remainder.
    """
    whole = split == "train"
    kind = tokens.features["input_ids"].feature.pa_type
    schema = pa.schema({"input_ids": pa.list_(kind, size) if whole else pa.list_(kind)})
    carried = np.empty(0, dtype=kind.to_pandas_dtype())
    total = blocks = 0
    with pa.ipc.new_stream(folder / f"{split}.arrow", schema) as writer:
        for table in tokens.with_format("arrow").iter(batch_size=_DOCUMENTS_PER_BATCH):
            flat = pa.concat_arrays([c.flatten() for c in table["input_ids"].chunks])
            flat = flat.to_numpy(zero_copy_only=False)
            digest.update(np.ascontiguousarray(flat))
            total += len(flat)
            carried = np.concatenate([carried, flat])
            end = len(carried) // size * size
            writer.write_batch(_batch(carried[:end], size, schema))
            blocks += end // size
            carried = carried[end:]
        if len(carried) and not whole:
            writer.write_batch(_batch(carried, len(carried), schema))
            blocks += 1
    return {
        "tokens": total - len(tokens),
        "eos_tokens": len(tokens),
        "block_size": size,
        "blocks": blocks,
        "remainder_tokens": len(carried),
    }


def _batch(ids: np.ndarray, size: int, schema: pa.Schema) -> pa.RecordBatch:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(ids), size)
    return pa.record_batch([rows.cast(schema.field(0).type)], schema=schema)
