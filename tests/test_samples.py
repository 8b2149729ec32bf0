"""samples.jsonl has every sample once, also after a kill, and on a disk that refuses it."""

import json
import resource
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from zhgpt import callbacks
from zhgpt.recipe import SamplesSection


def line(step: int) -> bytes:
    return json.dumps({"step": step, "text": "村" * step}).encode() + b"\n"


@contextmanager
def room_for(size: int):
    """Files may have so many bytes: as on a full disk, some are written before it refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("tail", [b"", b'{"step": 3, "te', bytes(40), b"\0\0\n"])
def test_what_is_made_again_is_cut_off_and_so_is_a_damaged_end(tmp_path, tail):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(line(0) + line(3) + line(6) + tail)
    callbacks.forget_samples_from(path, 7)
    assert path.read_bytes() == line(0) + line(3) + line(6)
    callbacks.forget_samples_from(path, 4)
    assert path.read_bytes() == line(0) + line(3)
    callbacks.forget_samples_from(tmp_path / "absent", 4)
    assert [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]


def test_lines_are_appended_all_or_none(tmp_path):
    path = tmp_path / "samples.jsonl"
    callbacks.append(path, line(0))
    with room_for(len(line(0)) + 5), pytest.raises(OSError):
        callbacks.append(path, line(3))
    assert path.read_bytes() == line(0)


def test_a_disk_that_refuses_samples_stops_no_training(tmp_path):
    said = []
    samples = callbacks.Samples(SamplesSection(prompts=("村",)), tmp_path, said.append)
    with room_for(5):
        samples._write(line(3))
        samples._write(line(6))
    assert len(said) == 1 and "could not be written" in said[0]
    samples._write(line(9))
    assert (tmp_path / "samples.jsonl").read_bytes() == line(3) + line(6) + line(9)
    with room_for(5):
        samples._write(line(12))
        samples.on_train_end(None, SimpleNamespace(), None)
    assert "lacks 1 samples" in said[-1]
