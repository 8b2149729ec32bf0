"""Leaving when told to, from the first import on: exit code 75, and nothing that counts is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from forked import Run
from transformers import Trainer

import run_clm
from zhgpt import corpus, leaving, watch
from zhgpt.errors import InputError
from zhgpt.recipe import PreemptionSection

LONG = {"training_arguments__max_steps": 100_000, "training_arguments__eval_steps": 50_000}
LONG |= {"training_arguments__save_steps": 50_000, "training_arguments__logging_steps": 2}


@pytest.fixture
def start(tiny_recipe, tmp_path):
    """Starts a run that does not end by itself, unless it is told to; keywords as in a recipe."""
    started = []

    def begin(*argv, prepare=lambda: None, **changes) -> Run:
        path = tiny_recipe(**(LONG | changes))
        log = tmp_path / f"log-{len(started)}"
        started.append(Run(log, path, "--output_dir", tmp_path / "run", *argv, prepare=prepare))
        return started[-1]

    yield begin
    for run in started:
        try:
            os.killpg(run.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def segments(tmp_path) -> list[dict]:
    return json.loads((tmp_path / "run" / "run.json").read_text())["segments"]


def checkpoints(tmp_path) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in (tmp_path / "run").glob("checkpoint-*"))


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, as the kernel knows it."""
    with open(f"/proc/{pid}/status") as file:
        (mask,) = (line.split()[1] for line in file if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", leaving.SIGNALS)
def test_in_training_the_step_is_finished_and_saved(start, tmp_path, number):
    run = start().wait_for(" 2/")
    assert run.signal(number).ended() == 75
    (step,) = checkpoints(tmp_path)
    (segment,) = segments(tmp_path)
    assert segment["reason"] == number.name and segment["to_step"] == step > 0
    assert segment["tokens"] == step * 256 and segment["seconds"] > 0
    assert f"stopped at step {step}, saved; the same command continues" in run.said
    assert ("Ctrl-C" in run.said) == (number == signal.SIGINT)


def test_during_the_imports_it_ends_at_once(tiny_recipe, tmp_path):
    words = [
        sys.executable,
        "run_clm.py",
        str(tiny_recipe()),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not catches(process.pid, signal.SIGTERM):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "SIGTERM received: leaving" in said
    assert not (tmp_path / "run").exists()


def test_in_preparation_it_ends_at_once_and_its_children_too(start, tmp_path):
    def prepare_for_ever(*_):
        import multiprocessing

        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        print(f"child {child.pid}.", flush=True)
        held = threading.Lock()
        held.acquire()
        held.acquire()  # as a wait for workers or for another process

    run = start(prepare=lambda: setattr(corpus, "prepare", prepare_for_ever)).wait_for("child ")
    child = int(run.said.split("child ")[1].split(".")[0])
    assert run.signal(signal.SIGTERM, group=True).ended() == 75
    assert not (tmp_path / "run").exists()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child}")


def test_what_is_ignored_stays_so(start, tmp_path):
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    run = start(prepare=ignore, training_arguments__max_steps=40).wait_for(" 2/")
    assert run.signal(signal.SIGHUP).ended() == 0


def test_data_workers_do_not_take_the_step_with_them(start, tmp_path):
    """Ctrl-C, systemd and containers signal the whole group."""
    run = start(training_arguments__dataloader_num_workers=2).wait_for(" 2/")
    assert run.signal(signal.SIGTERM, group=True).ended() == 75
    assert len(checkpoints(tmp_path)) == 1


def test_a_process_ends_though_its_workers_wait_for_more():
    """Persistent data workers are there until the end, and deaf to what multiprocessing sends."""
    program = (
        "import multiprocessing, time; from zhgpt import leaving; leaving.listen()\n"
        "multiprocessing.Process(target=time.sleep, args=(600,), daemon=True).start()"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60)
    assert ended.returncode == 0


def test_a_second_signal_is_heard_and_a_third_ends_at_once(start, tmp_path):
    def slow_step():
        step = Trainer.training_step
        replace = lambda *a, **k: (time.sleep(0.3), step(*a, **k))[1]  # noqa: E731
        Trainer.training_step = replace

    run = start(prepare=slow_step).wait_for(" 2/")
    run.signal(signal.SIGTERM).wait_for("SIGTERM received")
    assert run.signal(signal.SIGTERM).ended() == 75 and len(checkpoints(tmp_path)) == 1
    run = start(prepare=slow_step).wait_for("/100000")
    run.signal(signal.SIGINT).wait_for("SIGINT").signal(signal.SIGINT)
    time.sleep(0.05)
    assert run.signal(signal.SIGINT).ended() == 75 and "third time" in run.said
    assert [s.get("reason") for s in segments(tmp_path)] == ["SIGTERM", None]


def test_a_reader_that_is_gone_ends_the_run_in_good_order(start, tmp_path):
    reading, writing = os.pipe()

    def to_the_pipe():
        os.dup2(writing, 1)
        os.close(reading)

    run = start(prepare=to_the_pipe)
    os.close(writing)
    heard = b""
    while b" 4/" not in heard:
        heard += os.read(reading, 4096)
    os.close(reading)
    assert run.ended() == 75 and len(checkpoints(tmp_path)) == 1
    assert segments(tmp_path)[0]["reason"] == "nobody reads its output"


@pytest.mark.parametrize("kind", ["stop_file", "stop_command"])
def test_what_announces_the_end_out_of_band(start, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_COMMANDS", 0.1)
    sign = tmp_path / "the sign"
    value = {"stop_file": str(sign), "stop_command": f"test -e '{sign}'"}[kind]
    run = start(f"--{kind}", value).wait_for(" 2/")
    sign.touch()
    assert run.ended() == 75 and len(checkpoints(tmp_path)) == 1
    assert segments(tmp_path)[0]["reason"].startswith(kind.replace("_", " "))


def test_a_stop_file_that_is_there_already_is_no_start(tiny_recipe, tmp_path):
    (tmp_path / "stop").touch()
    with pytest.raises(InputError, match="Remove it"):
        run_clm.run([str(tiny_recipe()), "--stop_file", str(tmp_path / "stop")])


@pytest.mark.parametrize(
    "command, said", [("no_such_program_here -x", "no_such_program_here"), ("a 'b", "quotes")]
)
def test_a_stop_command_that_cannot_run_is_refused(tiny_recipe, command, said):
    with pytest.raises(InputError, match=said):
        run_clm.run([str(tiny_recipe()), "--stop_command", command])


def test_a_stop_command_that_hangs_is_ended_and_said(monkeypatch):
    monkeypatch.setattr(watch, "COMMAND_SECONDS", 0.05)
    said = []
    watcher = watch.Watch(PreemptionSection(stop_command="sleep 60"), said.append)
    assert watcher._stop_command() is None and "no answer" in said[0]
    assert watcher._stop_command() is None and len(said) == 1  # not before the minute is over


def test_a_limit_of_time_leaves_room_for_the_save(monkeypatch):
    watcher = watch.Watch(PreemptionSection(max_minutes=60), print)
    assert watcher.margin(3600) == 60 and watcher.margin(100) == 10
    watcher.step_seconds, watcher.save_seconds = 4, 11
    assert watcher.margin(3600) == 30
    monkeypatch.setattr(leaving, "BEGAN", time.monotonic() - 3600 + 31)
    assert watcher._time_limit() is None
    watcher.save_seconds = 12
    assert watcher._time_limit() == "limit of 60 minutes"


def test_saves_by_the_minute(tiny_recipe, tmp_path):
    words = [str(tiny_recipe()), "--output_dir", str(tmp_path / "run"), "--max_steps=4"]
    assert run_clm.run([*words, "--save_minutes=1e-9"]) == 0
    assert checkpoints(tmp_path) == [1, 2, 3, 4]


def test_a_fault_is_the_end_of_a_segment_too(tiny_recipe, tmp_path, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(Trainer, "training_step", fault)
    with pytest.raises(ZeroDivisionError):
        run_clm.run([str(tiny_recipe()), "--output_dir", str(tmp_path / "run")])
    (segment,) = segments(tmp_path)
    assert segment["reason"] == "error: ZeroDivisionError: on purpose"
