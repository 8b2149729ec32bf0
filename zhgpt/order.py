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
from zhgpt.recipe import ClmRecipe


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


def stream(
    pins: ClmRecipe, steps: Plan, blocks: datasets.Dataset, seed: int, tokens: int
) -> "Stream":
    """The Stream of a recipe's run, from where it has been trained on `tokens`."""
    return Stream(blocks, steps.blocks, seed, start=tokens // pins.corpus.block_size)


class Stream:
    """The blocks of a run in the order of training, from place `start` on; still memory-mapped.

    Item i is the block at place start + i. The length is that of the whole run wherever it starts:
    so Trainer's arithmetic of epochs and steps stays that of the whole run, and it needs to skip
    nothing. It ends at max_steps; what a loader fetches ahead of that is further blocks.
    """

    def __init__(self, blocks: datasets.Dataset, length: int, seed: int, start: int = 0):
        self.blocks, self.length, self.seed, self.start = blocks, length, seed, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """All rows of a micro-batch in one read, as torch's loader asks for them."""
        places = np.asarray(items) + self.start
        return self.blocks.__getitems__(block_order(len(self.blocks), places, self.seed).tolist())
