"""One thing is written at a time; what the disk refuses is said once and tried again."""

import threading

import pytest
import torch

from zhgpt.memory import Memory
from zhgpt.writer import Writer


def writer(said, retry_seconds=0.001):
    return Writer(said.append, (OSError,), retry_seconds)


def refusing(times, done):
    left = [OSError("no room")] * times

    def write():
        if left:
            raise left.pop()
        done.append(True)

    return write


def test_what_is_refused_is_said_once_and_tried_until_it_succeeds():
    said, done = [], []
    its = writer(said)
    its.start("checkpoint-3", refusing(3, done))
    its._thread.join()
    assert done == [True] and its.finish() is None
    assert len(said) == 2 and "no room" in said[0] and "works again" in said[1]


def test_something_newer_takes_the_place_of_what_waits():
    said, done = [], []
    its = writer(said, retry_seconds=3600)
    its.start("checkpoint-3", refusing(99, done))
    its.start("checkpoint-6", refusing(0, done))
    assert its.finish() is None and done == [True]
    assert "checkpoint-6 is saved" in said[-1]


def test_the_last_one_is_tried_once_more_and_then_given_up():
    done = []
    its = writer([], retry_seconds=3600)
    its.start("checkpoint-3", refusing(1, done))
    assert its.finish() is None and done == [True]
    its.start("checkpoint-6", refusing(99, done))
    assert str(its.finish()) == "no room"


def test_one_at_a_time_and_a_fault_of_the_program_is_raised():
    its, gate, done = writer([]), threading.Event(), []
    its.start("first", lambda: (gate.wait(), done.append("first")))
    threading.Timer(0.05, gate.set).start()
    its.start("second", lambda: done.append("second") or [][0])
    with pytest.raises(IndexError):
        its.free()
    assert done == ["first", "second"]


def test_a_copy_that_failed_is_never_taken_for_one():
    memory = Memory()
    memory.begin({"a": torch.ones(3)})
    memory._due = [(torch.ones(2), torch.ones(3))]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="size"):
            memory.fill()
    memory.wait()
    memory.begin({"a": torch.ones(3)})
    memory.fill()


def test_a_copy_in_memory_stays_as_it_was_and_keeps_ties():
    weight, memory = torch.ones(3, 2), Memory()
    tree = {"a": weight, "b": weight, "c": [torch.zeros(()), (4, None)]}
    first = memory.begin(tree)
    threading.Timer(0.05, memory.fill).start()
    memory.wait()
    weight += 1
    memory.fill()
    assert first["a"].tolist() == [[1, 1]] * 3 and first["a"] is first["b"]
    assert first["c"][1] == (4, None) and memory.nbytes == 28
    again = memory.begin(tree)
    memory.fill()
    assert again["a"].data_ptr() == first["a"].data_ptr() and again["a"][0, 0] == 2
