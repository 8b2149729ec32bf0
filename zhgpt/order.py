"""In which order the blocks are trained on.

A run is one stream of blocks over all its epochs, cut into steps of equal size. The order depends
on the seed and the number of blocks alone, so it is the same for any micro-batch, number of
processes and machine, and a step names its blocks without replaying the ones before it.
"""

import datasets
import numpy as np


def block_order(blocks: int, length: int, seed: int) -> np.ndarray:
    """(length,) int64 block numbers: a fresh permutation for every pass over the `blocks`."""
    passes = -(-length // blocks)
    orders = [np.random.default_rng([seed, epoch]).permutation(blocks) for epoch in range(passes)]
    return np.concatenate(orders)[:length]


def stream(blocks: datasets.Dataset, length: int, seed: int) -> datasets.Dataset:
    """The blocks of the whole run in the order of training, still memory-mapped."""
    order = block_order(len(blocks), length, seed)
    return blocks.select(order, keep_in_memory=True)
