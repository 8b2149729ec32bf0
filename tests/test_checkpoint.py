"""A damaged checkpoint is never continued from, and never deleted."""

import json

import pytest
import torch
from safetensors.torch import save_file

from zhgpt import checkpoint


def make(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    save_file({"a": torch.ones(4), "b": torch.ones(2, 3)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


FILES = (
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)


def test_the_highest_complete_step_is_taken(tmp_path):
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    assert checkpoint.newest(tmp_path) == newest
    assert checkpoint.step(newest) == 10


def test_no_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "absent") is None
    assert checkpoint.step(None) == 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [truncate, empty, remove])
def test_a_damaged_one_is_set_aside_and_the_older_one_taken(tmp_path, name, harm):
    good, bad = make(tmp_path, 9), make(tmp_path, 10)
    harm(bad / name)
    said = []
    assert checkpoint.newest(tmp_path, said.append) == good
    assert not bad.exists() and (tmp_path / "broken-checkpoint-10").is_dir()
    assert len(said) == 1 and name in said[0]


def test_a_second_damaged_one_of_the_same_step_loses_nothing(tmp_path):
    for _ in range(2):
        remove(make(tmp_path, 10) / "optimizer.pt")
        assert checkpoint.newest(tmp_path, lambda line: None) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "broken-checkpoint-10",
        "broken-checkpoint-10-2",
    ]


def test_a_state_of_another_step_is_not_complete(tmp_path):
    path = make(tmp_path, 10)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 9}))
    assert checkpoint.newest(tmp_path, lambda line: None) is None


def test_other_folders_are_left_alone(tmp_path):
    for name in ("checkpoint-x", "tmp-checkpoint-3", "broken-checkpoint-5"):
        (tmp_path / name).mkdir()
    assert checkpoint.newest(tmp_path) is None
    assert len(list(tmp_path.iterdir())) == 3
