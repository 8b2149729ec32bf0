"""The order of blocks is fixed by the seed and nothing else."""

import datasets
import numpy as np

from zhgpt.order import block_order, stream


def test_every_pass_is_a_permutation_and_no_two_are_equal():
    order = block_order(blocks=50, length=150, seed=7)
    passes = order.reshape(3, 50)
    assert all(sorted(p) == list(range(50)) for p in passes)
    assert not np.array_equal(passes[0], passes[1])


def test_a_shorter_run_is_a_prefix_of_a_longer_one():
    assert np.array_equal(block_order(50, 70, 7), block_order(50, 150, 7)[:70])


def test_seeds_differ_and_equal_seeds_agree():
    assert np.array_equal(block_order(50, 50, 7), block_order(50, 50, 7))
    assert not np.array_equal(block_order(50, 50, 7), block_order(50, 50, 8))


def test_the_order_is_pinned():
    """Another order would make a continued run repeat and skip text."""
    assert block_order(8, 12, 42).tolist() == PINNED


PINNED = [3, 4, 2, 7, 6, 1, 5, 0, 0, 4, 6, 1]


def test_the_stream_reads_the_blocks_in_that_order():
    blocks = datasets.Dataset.from_dict({"input_ids": [[i, i] for i in range(5)]})
    rows = stream(blocks, 12, seed=1)["input_ids"]
    assert [row[0] for row in rows] == block_order(5, 12, 1).tolist()
