"""In which order the blocks are trained on.

A run is one stream of blocks over all its epochs, cut into steps of equal size. The order depends
on the seed and the number of blocks alone, so it is the same for any micro-batch, number of
processes and machine, and a step names its blocks without replaying the ones before it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import datasets
import numpy as np

from zhgpt.plan import Plan
from zhgpt.recipe import ClmRecipe, ShortBlocksSection


def block_order(blocks: int, places: Sequence[int], seed: int) -> np.ndarray:
    """(n,) int64 block numbers at n places of the stream: every pass over the `blocks` is a fresh
    permutation.
    """
    passes, within = np.divmod(np.asarray(places), blocks)
    numbers = np.empty_like(within)
    for epoch in np.unique(passes):
        here = passes == epoch
        numbers[here] = _permutation(blocks, seed, int(epoch))[within[here]]
    return numbers


@lru_cache(maxsize=1)  # read from front to back, so the passes before are not needed again
def _permutation(blocks: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def stream(pins: ClmRecipe, steps: Plan, blocks: datasets.Dataset, seed: int, tokens: int):
    """The Stream of a recipe's run, from where it has been trained on `tokens`."""
    start = tokens // pins.corpus.block_size
    if pins.trial.padded:
        blocks = _padded(blocks, pins.corpus.block_size)
    made = Stream(blocks, steps.blocks, seed, start, pins.short_blocks)
    made.doubled = pins.trial.doubled_from * steps.blocks  # from there on twice as many a step
    return made


_WHOLE = ShortBlocksSection()


class Stream:
    """The blocks of a run in the order of training, from place `start` on; still memory-mapped.

    Item i is the block at place start + i. The length is that of the whole run wherever it starts:
    so Trainer's arithmetic of epochs and steps stays that of the whole run, and it needs to skip
    nothing. It ends at max_steps; what a loader fetches ahead of that is further blocks.

    At places below the share that `short` names, a block comes as several rows of its length.
    """

    def __init__(
        self,
        blocks: datasets.Dataset,
        length: int,
        seed: int,
        start: int = 0,
        short: ShortBlocksSection = _WHOLE,
    ):
        self.blocks, self.length, self.seed, self.start = blocks, length, seed, start
        self.short, self.grown = short.length, short.share * length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self._blocks(np.asarray([item]) + self.start)[0]

    def __getitems__(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """All rows of a micro-batch in one read, as torch's loader asks for them."""
        places = np.asarray(items) + self.start
        if places[0] >= getattr(self, "doubled", places[0] + 1):
            later = places + (places - int(self.doubled))
            places = np.concatenate([later, later + 1])
        rows = self._blocks(places)
        if not self.short or places[0] >= self.grown:
            return rows
        return [piece for row in rows for piece in _pieces(row["input_ids"], self.short)]

    def _blocks(self, places: np.ndarray) -> list[dict[str, Any]]:
        return self.blocks.__getitems__(block_order(len(self.blocks), places, self.seed).tolist())


def _pieces(ids: Sequence[int], size: int) -> list[dict[str, Any]]:
    return [{"input_ids": ids[at : at + size]} for at in range(0, len(ids), size)]


def _padded(blocks: datasets.Dataset, size: int, documents: int = 4000) -> datasets.Dataset:
    """A row per document, cut off at the block's size and filled up with padding (ids 0 and 1)."""
    few = blocks.with_format("numpy")[: min(len(blocks), 20_000)]["input_ids"]
    ids = np.concatenate(list(few))
    ends = np.flatnonzero(ids == 0)[: documents + 1]
    lengths = np.diff(ends)
    print(f"padded: {np.minimum(lengths, size).mean() / size:.4f} of all places are text;", end=" ")
    print(f"{np.maximum(lengths - size, 0).sum() / lengths.sum():.4f} of the text is cut off")
    rows = (ids[a + 1 : min(b + 1, a + 1 + size)] for a, b in zip(ends, ends[1:], strict=False))
    return datasets.Dataset.from_dict(
        {"input_ids": [np.pad(row, (0, size - len(row)), constant_values=1) for row in rows]}
    )
