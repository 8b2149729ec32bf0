"""Rows of token ids to blocks: documents in an order of their own, cut wherever they end.

The order follows from the seed and each document's content alone, so it is the same whatever the
files are called and wherever they lie, and neighbours in a file are no neighbours in a batch. It is
an external sort: rows are dealt into buckets of about 8 MB by their place in the order, and each
bucket is sorted in memory, while the one before it is cut.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from zhgpt import disk, parts
from zhgpt.recipe import CorpusSection

_BYTES_PER_BUCKET = 8 << 20  # some six copies of one are in memory while it is sorted and cut
_BUCKETS = 400  # open at once; where more bytes lie, the buckets are larger


def place(hashes: np.ndarray, seed: int) -> np.ndarray:
    """(documents,) uint64, evenly spread: where in the order a document of that hash stands.

    Steele, Lea and Flood 2014 (SplitMix64), their mixing function of hash + seed.
    """
    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def write(
    folder: Path,
    ready: Path,
    split: str,
    left_out: Sequence[np.ndarray],
    section: CorpusSection,
    kind: np.dtype,
    digest: Any,
) -> dict[str, Any]:
    """Writes the blocks of a split to `ready`; what they amount to.

    `left_out` has a mask (documents,) for each part. Tokens that do not fill a block are carried
    on; the last ones are validation's shorter last row, and training's remainder.
    """
    facts = _deal(folder, split, left_out, section.seed)
    streams = _sorted_ids(sorted(folder.glob(f"bucket-{split}-*.arrow")))
    facts |= _cut(ready / f"{split}.arrow", streams, section.block_size, split, kind, digest)
    facts |= {"tokens": facts["tokens"] - facts["documents"], "eos_tokens": facts["documents"]}
    facts["bytes_per_token"] = facts["bytes"] / max(1, facts["tokens"])
    return facts


def _rows(folder: Path, split: str, left_out: Sequence[np.ndarray], seed: int) -> Iterator:
    """Tables of input_ids, bytes, characters and place: the split's documents, part by part."""
    code = {"train": parts.TRAIN, "validation": parts.VALIDATION}[split]
    columns = ["split", "hash", "input_ids", "bytes", "characters"]
    for table, out in zip(parts.tables(folder, columns), left_out, strict=True):
        kept = (table["split"].to_numpy() == code) & ~out
        table = table.filter(pa.array(kept))
        yield table.append_column("place", pa.array(place(table["hash"].to_numpy(), seed)))


def _deal(folder: Path, split: str, left_out: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """Deals rows into buckets, in the order of the buckets; what the rows amount to."""
    total = sum(table["input_ids"].nbytes for table in parts.tables(folder, ["input_ids"]))
    buckets = min(_BUCKETS, total // _BYTES_PER_BUCKET + 1)
    facts, hashes = {"documents": 0, "bytes": 0, "characters": 0}, 0
    writers: dict[int, pa.RecordBatchWriter] = {}
    with ExitStack() as stack:
        for table in _rows(folder, split, left_out, seed):
            facts["documents"] += len(table)
            hashes += int(table["hash"].to_numpy().sum(dtype=np.uint64))  # in any order the same
            for key in ("bytes", "characters"):
                facts[key] += int(table[key].to_numpy().sum())
            for bucket, rows in _by_bucket(table.select(["place", "input_ids"]), buckets):
                if bucket not in writers:
                    path = folder / f"bucket-{split}-{bucket:04d}.arrow"
                    writers[bucket] = stack.enter_context(pa.ipc.new_stream(path, rows.schema))
                writers[bucket].write_table(rows)
    return facts | {"text_hash": f"{hashes % 2**64:016x}"}


def _by_bucket(rows: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each bucket that has any; evenly filled, and never falling with the place."""
    places = rows["place"].to_numpy()
    number = (places >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
    order = np.argsort(number, kind="stable")
    found, sizes = np.unique(number, return_counts=True)
    rows = rows.take(pa.array(order))
    for bucket, end, size in zip(found, np.cumsum(sizes), sizes, strict=True):
        yield int(bucket), rows.slice(end - size, size)


def _sorted_ids(buckets: Sequence[Path]) -> Iterator[np.ndarray]:
    """The ids of each bucket, its documents sorted by their place; one bucket is sorted ahead."""
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(_sorted, path) for path in buckets[:1]]
        for path in buckets[1:]:
            ahead.append(pool.submit(_sorted, path))
            yield ahead.pop(0).result()
        for last in ahead:
            yield last.result()


def _sorted(bucket: Path) -> np.ndarray:
    with pa.memory_map(str(bucket)) as file:
        table = pa.ipc.open_stream(file).read_all().combine_chunks()
    order = np.argsort(table["place"].to_numpy(), kind="stable")
    ids = table["input_ids"].combine_chunks().take(pa.array(order))
    bucket.unlink()
    return ids.flatten().to_numpy()


def _cut(
    path: Path, streams: Iterator[np.ndarray], size: int, split: str, kind: np.dtype, digest: Any
) -> dict[str, int]:
    whole = split == "train"  # the last row of validation may be short, so that all is scored
    ids = pa.from_numpy_dtype(kind)
    schema = pa.schema({"input_ids": pa.list_(ids, size) if whole else pa.list_(ids)})
    carried, tokens, blocks = np.empty(0, kind), 0, 0
    with pa.ipc.new_stream(path, schema) as writer:
        for stream in streams:
            digest.update(np.ascontiguousarray(stream))
            tokens += len(stream)
            carried = np.concatenate([carried, stream])
            end = len(carried) // size * size
            writer.write_batch(_batch(carried[:end], size, schema))
            blocks += end // size
            carried = carried[end:].copy()
        if len(carried) and not whole:
            writer.write_batch(_batch(carried, len(carried), schema))
            blocks += 1
    disk.sync(path)
    return {
        "tokens": tokens,
        "block_size": size,
        "blocks": blocks,
        "remainder_tokens": len(carried),
    }


def _batch(ids: np.ndarray, size: int, schema: pa.Schema) -> pa.RecordBatch:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(ids), size)
    return pa.record_batch([rows.cast(schema.field(0).type)], schema=schema)
