"""Runs that are killed, told to go, or harmed between two starts come to what nothing befell.

tests/campaign_preemption.py does the same at random moments, on more settings, by the hundred.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import attempts
import damages
import pytest
from attempts import SAVING, Blow, Moment, Run
from conftest import ROOT
from damages import Damage

import run_clm  # noqa: F401  what the attempts are forked with
from zhgpt import checkpoint, session


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> damages.Patient:
    attempts.warm_up()
    return damages.patient(tmp_path_factory.mktemp("preemption") / "runs")


def run_of(patient: damages.Patient, folder: Path) -> Run:
    return Run(patient.run.recipe, folder / "run")


KILLS = [
    [
        Moment("preparing"),
        Moment("building"),
        Moment(change=1),
        Moment("evaluating"),
        Moment(change=20),
    ],
    [
        Moment("sampling"),
        Moment(SAVING, seconds=0.005),
        Moment("training", seconds=0.03),
        Moment(change=40),
        Moment("last files"),
    ],
]
SIGNALS = [
    [
        (signal.SIGTERM, Moment("preparing")),
        (signal.SIGINT, Moment("building")),
        (signal.SIGUSR1, Moment("sampling")),
        (signal.SIGUSR2, Moment(SAVING)),
        (signal.SIGHUP, Moment("evaluating")),
    ],
    [
        (signal.SIGHUP, Moment("training", seconds=0.03)),
        (signal.SIGTERM, Moment("evaluating", seconds=0.01)),
        (signal.SIGINT, Moment(change=5)),
        (signal.SIGUSR2, Moment("evaluating")),
        (signal.SIGUSR1, Moment("last files")),
    ],
]


@pytest.mark.parametrize("moments", KILLS)
def test_killed_runs_come_to_the_twins_result(patient, tmp_path, moments):
    run = run_of(patient, tmp_path)
    for moment in moments:
        end = run.attempt(Blow(signal.SIGKILL, moment))
        assert (end.code, end.where) == (-signal.SIGKILL, end.where or "not reached"), end.output
    assert run.attempt().code == 0
    attempts.require_equal(run.folder, patient.twin)


@pytest.mark.parametrize("blows", SIGNALS)
def test_runs_that_are_told_to_go_come_to_the_twins_result(patient, tmp_path, blows):
    run = run_of(patient, tmp_path)
    for number, (name, moment) in enumerate(blows):
        end = run.attempt(Blow(name, moment, group=number % 2 == 0))
        if moment.phase == "last files" and end.code == 0:
            continue  # the last of them was written before the signal came
        assert (end.code, end.where is None) == (75, False), end.output
        assert name.name in end.output and "Traceback" not in end.output
    assert run.attempt().code == 0
    attempts.require_equal(run.folder, patient.twin)


FILES = [
    ("model.safetensors", "half zeroed"),
    ("model.safetensors", "truncated"),
    ("optimizer.pt", "one bit flipped"),
    ("scheduler.pt", "removed"),
    ("rng_state.pth", "another run's"),
    ("trainer_state.json", "emptied"),
    ("seal.json", "one bit flipped"),
]
HARM = [damages.of_file(name, way, damages.WAYS[way]) for name, way in FILES] + damages.FOLDERS


@pytest.mark.parametrize("damage", HARM, ids=lambda damage: damage.name)
def test_damage_is_set_aside_or_refused(patient, damage: Damage):
    assert patient.suffer(damage, damage.name.replace("/", "_")) == []


def test_a_disk_without_room_for_the_record(patient):
    def refuse() -> None:
        def write(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        session.write = write

    run = patient.copy("full")
    run.prepare = refuse
    end = run.attempt()
    assert (end.code, "Traceback" in end.output) == (75, False), end.output
    assert "make room" in end.output
    run.prepare = damages.nothing
    assert run.attempt().code == 0
    attempts.require_equal(run.folder, patient.twin)


def test_what_is_wrong_is_found(patient):
    """The comparison itself: a run that continues from damage is not taken for its twin."""

    def trust() -> None:
        checkpoint.damage = lambda *_: None

    blind = damages.of_file("model.safetensors", "half zeroed", damages.zero_half)
    faults = patient.suffer(damages.replace(blind, prepare=trust), "blind")
    assert any("weights" in fault for fault in faults)
    folder = patient.run.folder.with_name("blind")
    state = json.loads((folder / "trainer_state.json").read_text())
    (folder / "unfinished.tmp").touch()
    assert state["global_step"] == 12
    assert "left behind: unfinished.tmp" in attempts.differences(folder, patient.twin)


@pytest.mark.slow
def test_the_campaign_in_small(tmp_path):
    script, record = ROOT / "tests" / "campaign_preemption.py", tmp_path / "record.json"
    some = ["--kills", "5", "--signals", "5", "--fresh", "0", "--damages", "--record", str(record)]
    end = subprocess.run([sys.executable, script, *some], capture_output=True, text=True)
    assert end.returncode == 0, end.stdout + end.stderr
    assert len(json.loads(record.read_text())["blows"]) == 10
