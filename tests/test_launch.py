"""Several processes of one run: how they end, whoever is told, and whoever dies."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import attempts
import pytest
from attempts import STILL, Run
from conftest import history
from forked import Run as Forked
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from zhgpt import launch, leaving


def failing(*codes: int) -> ChildFailedError:
    """The processes ended in this order."""
    ends = {
        n: SimpleNamespace(exitcode=code, timestamp=n, error_file="<N/A>", message="")
        for n, code in enumerate(codes)
    }
    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = ends
    return error


@pytest.mark.parametrize(
    "end, code",
    [
        (None, 0),
        (failing(75, -15), 75),
        (failing(2, 2), 2),
        (failing(-9, 75), 137),
        (failing(1), 1),
        (SignalException("told", signal.SIGTERM), 75),
    ],
)
def test_the_launcher_has_the_runs_exit_codes(monkeypatch, end, code):
    def main(argv):
        assert argv[0].startswith("--signals-to-handle=SIGTERM") and argv[1:] == ["run_clm.py"]
        if end:
            raise end

    monkeypatch.setattr(torchrun, "main", main)
    assert launch.run(["run_clm.py"]) == code


def until(holds, patience=60) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_whose_launcher_was_killed_saves_and_leaves(tiny_recipe, tmp_path):
    path = tiny_recipe(training_arguments__max_steps=100_000, training_arguments__logging_steps=2)
    log, folder = tmp_path / "log", tmp_path / "run"

    def be_a_worker():
        os.environ["TORCHELASTIC_RUN_ID"] = "1"
        leaving.PARENT = os.getppid()

    launcher = os.fork()
    if launcher == 0:
        try:
            words = [path, "--output_dir", folder, "--accept=many-epochs"]
            Forked(log, *words, prepare=be_a_worker)
            while True:
                signal.pause()
        finally:
            os._exit(1)  # whatever happens, this is not the process that runs the tests
    until(lambda: log.exists() and " 2/" in log.read_text())
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    until(lambda: "saved; the same command continues" in log.read_text())
    (segment,) = json.loads((folder / "run.json").read_text())["segments"]
    assert segment["reason"] == "launcher has ended" and list(folder.glob("checkpoint-*"))


@pytest.fixture
def patient(monkeypatch):
    """Four processes make their imports on two cores, which may have other work as well."""
    monkeypatch.setattr(attempts, "PATIENCE", 600)


@pytest.fixture
def whole(patient, tmp_path) -> tuple[Path, list[float]]:
    """A recipe without dropout under a constant rate, and the losses of 12 steps in one process."""
    settings = {"lr_scheduler_type": "constant", "max_steps": 4, "logging_steps": 1}
    settings |= {"per_device_train_batch_size": 2, "eval_steps": 4}
    changes = {f"training_arguments__{key}": value for key, value in settings.items()}
    recipe = attempts.write_recipe(tmp_path, **STILL, **changes)
    run = Run(recipe, tmp_path / "whole", words=["--max_steps=16"])
    assert run.attempt(fresh=True).code == 0
    return recipe, history(run.folder, "loss", "eval_loss")


@pytest.mark.slow
def test_processes_may_be_more_or_fewer_at_each_start(whole, tmp_path):
    """Real commands: 1, then 2, then 4 and 1 again; each goes on where the one before ended."""
    recipe, expected = whole
    run = Run(recipe, tmp_path / "changed")
    for processes, steps in ((1, 4), (2, 8), (4, 12), (1, 16)):
        run.processes, run.words = processes, [f"--max_steps={steps}"]
        end = run.attempt(fresh=True)
        assert end.code == 0, end.output
        assert steps == 4 or f"continues from checkpoint-{steps - 4}" in end.output
    found = history(run.folder, "loss", "eval_loss")
    assert found == pytest.approx(expected, abs=1e-5) and len(found) == 16 + 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGKILL"])
def test_two_processes_leave_when_their_launcher_is_told_or_killed(patient, tmp_path, name):
    """The same command directly after it waits for the last checkpoint, and ends as the twin."""
    often = {"logging_steps": 50, "eval_steps": 500, "save_steps": 500, "max_steps": 1500}
    settings = often | {"per_device_train_batch_size": 2}
    changes = {f"training_arguments__{key}": value for key, value in settings.items()}
    recipe = attempts.write_recipe(tmp_path, **changes)
    twin, run = (Run(recipe, tmp_path / n, processes=2) for n in ("twin", "run"))
    assert twin.attempt(fresh=True).code == 0
    number = getattr(signal, name)
    launcher = run.fork(run.execute, 0)
    until(lambda: run.log.exists() and " 50/1500" in run.log.read_text(), attempts.PATIENCE)
    os.kill(launcher, number)
    _, status = os.waitpid(launcher, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == (-9 if name == "SIGKILL" else 75), run.log.read_text()
    end = run.attempt(fresh=True)
    assert end.code == 0, end.output
    attempts.require_equal(run.folder, attempts.result(twin.folder))
    left, finished = json.loads((run.folder / "run.json").read_text())["segments"]
    told = "launcher has ended" if name == "SIGKILL" else name
    # The first process writes the record, and the second may have heard of it before.
    assert left["reason"] in (told, "told to another process")
    assert finished["reason"] == "finished"
