"""One command per output folder, and no lock that outlives its holder."""

import os
import signal
import socket
import time
from contextlib import suppress

import pytest
from forked import Run

import run_clm
from zhgpt import checkpoint, lock
from zhgpt.errors import InputError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.1)


def test_a_second_command_says_so_and_touches_nothing(quick, tiny_recipe, tmp_path, capsys):
    path = tiny_recipe(training_arguments__max_steps=100_000, training_arguments__logging_steps=2)
    words = [path, "--output_dir", tmp_path / "run", "--accept=many-epochs"]
    first = Run(tmp_path / "log", *words).wait_for(" 2/")
    try:
        before = (tmp_path / "run" / "run.json").read_bytes()
        with pytest.raises(InputError, match=f"in use: process {first.pid} trains there"):
            run_clm.run([str(word) for word in words])
        assert (tmp_path / "run" / "run.json").read_bytes() == before
        first.signal(signal.SIGKILL).ended()
        # A killed process's lock stands in nobody's way, and neither does its own late data worker.
        with lock.alone(tmp_path / "run", 0, print):
            assert (tmp_path / "run" / "run.lock").exists()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    assert not (tmp_path / "run" / "run.lock").exists()
    assert "is gone" not in capsys.readouterr().out  # at once, with nothing to wait for


def lock_of_another_machine(folder):
    """Such as a killed process there leaves on a shared disk."""
    pid = os.fork()
    if pid == 0:
        try:
            held = lock._lease(folder)
            held.acquire()
        finally:
            os._exit(0)  # whatever happens, this is not the process that runs the tests
    os.waitpid(pid, 0)
    path = folder / "run.lock"
    path.write_text(path.read_text().replace(socket.gethostname(), "another-machine"))


def test_the_lock_of_a_lost_machine_ends_with_its_lease(quick, tmp_path, capsys):
    lock_of_another_machine(tmp_path)
    began = time.monotonic()
    with lock.alone(tmp_path, 0, print):
        assert time.monotonic() - began >= 0.5
    assert "is gone; its lock is taken over" in capsys.readouterr().out


def test_a_machine_that_lives_keeps_its_lock(quick, tmp_path):
    lock_of_another_machine(tmp_path)
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                os.utime(tmp_path / "run.lock")
                time.sleep(0.1)
        finally:
            os._exit(0)  # whatever happens, this is not the process that runs the tests
    try:
        with pytest.raises(InputError, match="in use"), lock.alone(tmp_path, 0, print):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with lock.alone(tmp_path / "runs" / "new", 0, print):
        assert (tmp_path / "runs" / "new").is_dir()
    assert not (tmp_path / "runs" / "new").exists()


@pytest.mark.parametrize("left", ["run.lock", "run.json.partial"])
def test_what_a_killed_start_leaves_is_no_other_run(quick, tiny_recipe, tmp_path, left):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).touch()
    old = time.time() - 3600
    os.utime(tmp_path / "run" / left, (old, old))
    words = [str(tiny_recipe()), "--output_dir", str(tmp_path / "run"), "--max_steps=1"]
    assert run_clm.run(words) == 0


def test_a_run_that_saves_to_leave_is_waited_for(quick, tiny_recipe, tmp_path):
    """A platform may start the next one before the last one's checkpoint is on the disk."""

    def slowly():
        publish = checkpoint.publish
        checkpoint.publish = lambda *args: (time.sleep(1.5), publish(*args))[1]

    path = tiny_recipe(training_arguments__max_steps=100_000, training_arguments__logging_steps=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock.leaving").touch()  # of one that was killed meanwhile
    words = [path, "--output_dir", tmp_path / "run", "--accept=many-epochs"]
    first = Run(tmp_path / "log", *words, prepare=slowly)
    first.wait_for(" 2/").signal(signal.SIGTERM).wait_for("saving after this step")
    said = []
    with lock.alone(tmp_path / "run", 0, said.append):
        assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
        assert not (tmp_path / "run" / "run.lock.leaving").exists()
    assert first.ended() == 75
    assert any("waiting for its end" in line for line in said)
