"""Which documents a micro-batch was made of, by the hash that the corpus knows them by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import xxhash
from tokenizers import Tokenizer

from zhgpt.order import block_order

_FARTHEST = 4096  # blocks to either side; a longer document is named by the part that was found
_SHOWN = 40  # characters


@dataclass(frozen=True)
class Shape:
    """How a step is cut: `accumulation` micro-batches of so many blocks in each process.

    Places are of the stream (zhgpt.order). Steps count from 1, micro-batches and processes from 0;
    each process takes every `processes`-th batch (accelerate's BatchSamplerShard).
    """

    micro_batch: int
    accumulation: int
    processes: int

    def of_step(self, step: int) -> range:
        blocks = self.micro_batch * self.accumulation * self.processes
        return range((step - 1) * blocks, step * blocks)

    def of_micro_batch(self, step: int, micro_batch: int, process: int) -> range:
        begin = self.micro_batch * (micro_batch * self.processes + process)
        return self.of_step(step)[begin : begin + self.micro_batch]


def trace(
    blocks: datasets.Dataset, at: Sequence[int], seed: int, tokenizer: Tokenizer, eos_id: int
) -> dict[str, Any]:
    """The block numbers at places of the stream, and the documents that lie in them.

    A document has `hash` (xxh3_64 of its UTF-8, as in the corpus), `bytes`, `begins` and the blocks
    `from` and `to` (past the last) that it lies in; `cut` where an end of it was not found.
    """
    numbers = sorted({int(n) for n in block_order(len(blocks), at, seed)})
    found: dict[str, dict[str, Any]] = {}
    for number in numbers:
        for document in _documents(blocks, number, tokenizer, eos_id):
            found.setdefault(document["hash"], document)
    return {"blocks": numbers, "documents": list(found.values())}


def _documents(
    blocks: datasets.Dataset, number: int, tokenizer: Tokenizer, eos_id: int
) -> Iterator[dict[str, Any]]:
    first, last = _begin(blocks, number, eos_id), _end(blocks, number, eos_id)
    rows = [np.asarray(blocks[n]["input_ids"]) for n in range(first, last)]
    size = len(rows[0])
    ids = np.concatenate(rows)
    ends = [*np.flatnonzero(ids == eos_id).tolist(), len(ids)]
    begin = 0
    for end in ends:
        touches = end >= (number - first) * size and begin < (number - first + 1) * size
        if touches and end > begin:
            cut = (begin == 0 and first > 0) or end == len(ids)
            yield _document(tokenizer, ids[begin:end], cut) | {
                "from": first + begin // size,
                "to": first + (end - 1) // size + 1,
            }
        begin = end + 1


def _begin(blocks: datasets.Dataset, number: int, eos_id: int) -> int:
    """The block in which the document begins that `number` begins inside of."""
    for before in range(number - 1, max(-1, number - 1 - _FARTHEST), -1):
        if eos_id in blocks[before]["input_ids"]:
            return before
    return max(0, number - _FARTHEST)


def _end(blocks: datasets.Dataset, number: int, eos_id: int) -> int:
    """Past the block in which the document ends that `number` ends inside of."""
    for after in range(number, min(len(blocks), number + _FARTHEST)):
        row = blocks[after]["input_ids"]
        if (after > number and eos_id in row) or row[-1] == eos_id:
            return after + 1
    return min(len(blocks), number + _FARTHEST)


def _document(tokenizer: Tokenizer, ids: np.ndarray, cut: bool) -> dict[str, Any]:
    raw = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    content = raw.encode()
    facts = {"hash": f"{xxhash.xxh3_64_intdigest(content):016x}", "bytes": len(content)}
    return facts | {"begins": raw[:_SHOWN], **({"cut": True} if cut else {})}
