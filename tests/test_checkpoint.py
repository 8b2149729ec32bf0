"""A folder that is not sealed, or not as it was sealed, is never continued from nor deleted."""

import json
import os
import shutil

import pytest

from zhgpt import checkpoint, disk
from zhgpt.errors import InputError

HERE = checkpoint.Origin("0123456789abcdef", {"torch": "2.13.0"})


def make(root, step, origin=HERE):
    folder = checkpoint.begin(root, step)
    for name in FILES:
        (folder / name).write_bytes(f"{name} of step {step} ".encode() * 99)
    return checkpoint.publish(folder, origin, 256 * step)


FILES = ("model.safetensors", "optimizer.pt", "trainer_state.json")


def newest(root, said=None, origin=HERE):
    return checkpoint.newest(root, origin, [].append if said is None else said.append)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def zero_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def replace(path):
    """By a file of the same name and, but for the seal, of the same size."""
    path.write_bytes((path.parent.parent / "checkpoint-11" / path.name).read_bytes())


HARMS = (truncate, empty, remove, zero_half, flip_a_bit, replace)


def test_what_is_published_is_found(tmp_path):
    made = [make(tmp_path, step) for step in (9, 10)]
    said = []
    assert newest(tmp_path, said) == made[1]
    assert checkpoint.step(made[1]) == 10 and checkpoint.tokens(made[1]) == 2560
    assert said == ["continues from checkpoint-10"]
    assert {p.stat().st_mode & 0o777 for p in made[1].iterdir()} == {0o644}


def test_no_checkpoint(tmp_path):
    said = []
    assert newest(tmp_path, said) is None and newest(tmp_path / "absent", said) is None
    assert checkpoint.step(None) == checkpoint.tokens(None) == 0 and said == []


@pytest.mark.parametrize("name", [*FILES, checkpoint.SEAL])
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_one_is_set_aside_and_the_older_one_taken(tmp_path, name, harm):
    good, bad = make(tmp_path, 9), make(tmp_path, 10)
    other = make(tmp_path, 11)
    harm(bad / name)
    shutil.rmtree(other)
    said = []
    assert newest(tmp_path, said) == good
    assert not bad.exists() and (tmp_path / "broken-checkpoint-10").is_dir()
    assert len(said) == 1 and (name in said[0] or "seal is of step 11" in said[0])


def test_a_second_damaged_one_of_the_same_step_loses_nothing(tmp_path):
    for _ in range(2):
        remove(make(tmp_path, 10) / "optimizer.pt")
        assert newest(tmp_path) is None
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["broken-checkpoint-10", "broken-checkpoint-10-2"]


def test_an_empty_folder_and_an_unsealed_one_are_none(tmp_path):
    good = make(tmp_path, 3)
    remove(make(tmp_path, 4) / checkpoint.SEAL)
    (tmp_path / "checkpoint-99").mkdir()
    said = []
    assert newest(tmp_path, said) == good
    assert "checkpoint-99 as broken-checkpoint-99 (it has no seal.json" in said[0]
    assert "checkpoint-4 as broken-checkpoint-4" in said[0]


def test_another_runs_is_none(tmp_path):
    theirs = checkpoint.Origin("f" * 16, HERE.versions)
    make(tmp_path, 4, theirs)
    said = []
    assert newest(tmp_path, said) is None
    assert "of another run" in said[0] and "f" * 16 in said[0] and HERE.recipe_hash in said[0]


def test_a_renamed_one_is_none(tmp_path):
    make(tmp_path, 4).rename(tmp_path / "checkpoint-8")
    assert newest(tmp_path) is None


def test_other_versions_are_named(tmp_path):
    make(tmp_path, 4, checkpoint.Origin(HERE.recipe_hash, {"torch": "2.12.1"}))
    said = []
    assert checkpoint.step(newest(tmp_path, said)) == 4
    assert "torch 2.12.1 there, 2.13.0 here" in said[0]


def test_what_was_being_written_is_removed_and_said(tmp_path):
    good, partial = make(tmp_path, 4), checkpoint.begin(tmp_path, 5)
    (partial / "optimizer.pt").write_bytes(b"half")
    said = []
    assert newest(tmp_path, said) == good and not partial.exists()
    assert ".checkpoint-5.partial" in said[0]


def test_the_repeated_steps_are_told(tmp_path):
    make(tmp_path, 4)
    checkpoint.LastStep(tmp_path).note(7)
    said = []
    newest(tmp_path, said)
    assert said == ["continues from checkpoint-4; steps 5 to 7 are repeated"]
    assert checkpoint.last_step(tmp_path) == 7 and checkpoint.last_step(tmp_path / "absent") == 0


def test_a_folder_that_cannot_be_renamed_is_the_users_to_mend(tmp_path, monkeypatch):
    remove(make(tmp_path, 4) / "optimizer.pt")

    def refuse(self, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(tmp_path), "rename", refuse)
    with pytest.raises(InputError, match="optimizer.pt is missing.*Read-only file system"):
        newest(tmp_path)


def test_a_seal_of_an_unknown_format_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    make(tmp_path, 4)
    monkeypatch.setattr(checkpoint, "_FORMAT", 1)
    said = []
    assert newest(tmp_path, said) is None and "format 2" in said[0]


def steps(root):
    return sorted(checkpoint.step(p) for p in root.glob("checkpoint-*"))


def test_rotation_is_by_step_also_with_equal_times(tmp_path):
    made = {step: make(tmp_path, step) for step in (5, 100, 20, 9)}
    for folder in made.values():
        os.utime(folder, (0, 0))
    checkpoint.rotate(made[100], 2, None)
    assert steps(tmp_path) == [20, 100]


@pytest.mark.parametrize(
    "limit, best, left", [(None, None, [1, 2, 3, 4]), (1, None, [3, 4]), (2, 1, [1, 3, 4])]
)
def test_two_and_the_best_stay(tmp_path, limit, best, left):
    made = [make(tmp_path, step) for step in (1, 2, 3, 4)]
    checkpoint.rotate(made[-1], limit, best)
    assert steps(tmp_path) == left


def test_an_unsealed_folder_does_not_cost_a_good_one_its_place(tmp_path):
    made = [make(tmp_path, step) for step in (1, 2)]
    (tmp_path / "checkpoint-99").mkdir()
    checkpoint.rotate(made[-1], 2, None)
    assert steps(tmp_path) == [1, 2, 99]


def test_the_same_step_again_takes_its_place(tmp_path):
    make(tmp_path, 4)
    again = make(tmp_path, 4)
    assert newest(tmp_path) == again and steps(tmp_path) == [4]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-4"]


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Each file, the folder, then the rename, then the folder above: a power cut finds it whole."""
    done = []
    real = disk.sync
    monkeypatch.setattr(disk, "sync", lambda path: (done.append(path.name), real(path)))
    rename = type(tmp_path).rename
    monkeypatch.setattr(
        type(tmp_path), "rename", lambda self, to: (done.append("rename"), rename(self, to))[1]
    )
    make(tmp_path, 4)
    partial = ".checkpoint-4.partial"
    assert done == [*FILES, checkpoint.SEAL, partial, "rename", tmp_path.name]


def test_other_folders_are_left_alone(tmp_path):
    for name in ("checkpoint-x", "tmp-checkpoint-3", "broken-checkpoint-5"):
        (tmp_path / name).mkdir()
    assert newest(tmp_path) is None
    assert len(list(tmp_path.iterdir())) == 3


def test_the_seal_tells_what_it_seals(tmp_path):
    seal = json.loads((make(tmp_path, 4) / checkpoint.SEAL).read_text())
    assert set(seal["files"]) == set(FILES)
    assert (seal["step"], seal["tokens"], seal["recipe_hash"]) == (4, 1024, HERE.recipe_hash)
    assert seal["versions"] == HERE.versions


def test_the_result_is_whole_or_beside_its_place(tmp_path):
    """A kill in the middle leaves the former files, and what is half written is removed later."""
    (tmp_path / "model.safetensors").write_bytes(b"former")
    partial = checkpoint.begin_result(tmp_path)
    (partial / ".tmpAbC123").write_bytes(b"half")
    said = []
    assert newest(tmp_path, said) is None and ".model.partial" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    partial = checkpoint.begin_result(tmp_path)
    (partial / "model.safetensors").write_bytes(b"new")
    checkpoint.publish_result(partial)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == b"new"


def test_a_full_disk_keeps_no_step_from_being_made(tmp_path):
    steps = checkpoint.LastStep(tmp_path / "absent")
    steps.note(3)
    assert checkpoint.last_step(tmp_path / "absent") == 0
