"""The order of blocks is fixed by the seed and nothing else."""

import datasets
import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from zhgpt.order import Stream, block_order


@pytest.fixture(scope="module")
def blocks():
    return datasets.Dataset.from_dict({"input_ids": [[i, i] for i in range(5)]})


def numbers(stream, items):
    return [row["input_ids"][0] for row in stream.__getitems__(items)]


def test_every_pass_is_a_permutation_and_no_two_are_equal():
    passes = block_order(50, range(150), seed=7).reshape(3, 50)
    assert all(sorted(p) == list(range(50)) for p in passes)
    assert not np.array_equal(passes[0], passes[1])


def test_places_are_read_in_any_portion():
    whole = block_order(50, range(150), 7)
    assert np.array_equal(block_order(50, range(40, 60), 7), whole[40:60])
    assert np.array_equal(block_order(50, [149, 3, 60], 7), whole[[149, 3, 60]])


def test_seeds_differ_and_equal_seeds_agree():
    assert np.array_equal(block_order(50, range(50), 7), block_order(50, range(50), 7))
    assert not np.array_equal(block_order(50, range(50), 7), block_order(50, range(50), 8))


def test_the_order_is_pinned():
    """Another order would make a continued run repeat and skip text."""
    assert block_order(8, range(12), 42).tolist() == PINNED


PINNED = [3, 4, 2, 7, 6, 1, 5, 0, 0, 4, 6, 1]


def test_the_stream_reads_the_blocks_in_that_order(blocks):
    assert numbers(Stream(blocks, 12, seed=1), range(12)) == block_order(5, range(12), 1).tolist()


def test_a_later_start_gives_the_same_rest_at_the_same_length(blocks):
    whole, rest = Stream(blocks, 12, seed=1), Stream(blocks, 12, seed=1, start=4)
    assert numbers(rest, range(8)) == numbers(whole, range(12))[4:]
    assert len(rest) == len(whole) == 12
    assert rest[0] == whole[4]


def test_what_a_loader_fetches_ahead_of_the_end_exists(blocks):
    assert len(numbers(Stream(blocks, 12, seed=1, start=10), range(12))) == 12


def test_a_place_far_on_needs_no_list_of_the_run(blocks):
    """10^15 blocks: an array over the run could not be made at all."""
    length = 10**15
    assert sorted(numbers(Stream(blocks, length, seed=1, start=length - 5), range(5))) == [
        *range(5)
    ]


@pytest.mark.parametrize("processes", [2, 4])
def test_a_process_reads_the_blocks_of_its_share_and_no_other(blocks, processes):
    """As Trainer has accelerate deal micro-batches out; a run of two was counted the same way."""
    read = []

    class Noted(Stream):
        def __getitems__(self, items):
            read[-1].extend(items)
            return super().__getitems__(items)

    for rank in range(processes):
        read.append([])
        loader = DataLoader(Noted(blocks, 24, seed=1), batch_size=2, collate_fn=list)
        shares = {"num_processes": processes, "process_index": rank, "put_on_device": False}
        assert len(list(prepare_data_loader(loader, **shares))) == 12 // processes
    assert [len(share) for share in read] == [24 // processes] * processes
    assert sorted(sum(read, [])) == [*range(24)]
