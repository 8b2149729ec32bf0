"""The pieces of an interrupted offline run, sent with `wandb sync`, are one run without a seam."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import attempts
import pytest
import wandb_server
from attempts import SAVING, Blow, Moment, Run

import run_clm  # noqa: F401  what the attempts are forked with

BLOWS = {
    "left in an evaluation": Blow(signal.SIGTERM, Moment("evaluating", number=1)),
    "left in the samples": Blow(signal.SIGTERM, Moment("sampling", number=2)),
    "killed in a save": Blow(signal.SIGKILL, Moment(SAVING, number=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOWS)
@pytest.mark.parametrize("lost", [0, 0.4], ids=["whole", "without its end"])
def test_all_pieces_are_one_run(tmp_path, name, lost):
    attempts.warm_up()
    changes = {"report_to": "wandb", "logging_steps": 1}
    settings = {f"training_arguments__{key}": value for key, value in changes.items()}
    run = Run(attempts.write_recipe(tmp_path, **settings), tmp_path / "run")
    end = run.attempt(BLOWS[name])
    assert end.where and end.code in (75, -signal.SIGKILL), end.output
    for first in run.folder.glob("wandb/offline-run-*/*.wandb"):  # none where it was killed so soon
        os.truncate(first, int((1 - lost) * first.stat().st_size))
    time.sleep(1.1)  # pieces are named by the second; a start that imports takes several
    end = run.attempt()
    assert end.code == 0
    with wandb_server.serving() as server:
        mine = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "x" * 40, "WANDB_MODE": "online"}
        mine["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = re.search("to send it: (.*)", end.output)[1]
        sent = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,  # it leaves a log where it is called
            env=os.environ | mine,
            capture_output=True,
            text=True,
        )
    assert sent.returncode == 0 and len(server.runs) == 1, sent.stdout + sent.stderr
    (name,) = server.runs
    lines = server.lines(name, "wandb-history.jsonl")
    assert [line["_step"] for line in lines] == list(range(len(lines)))
    assert all(a["train/tokens"] <= b["train/tokens"] for a, b in pairwise(lines))
    of = {key: [line["train/tokens"] // 256 for line in lines if key in line] for key in KEYS}
    tables = of.pop("samples")
    assert of == {"train/loss": list(range(1, 13)), "eval/loss": [6, 12]}
    # A table is in no log from which it could be sent again, as lines are.
    assert tables == sorted(set(tables)) and set(tables) <= {0, 6, 12} and 12 in tables


KEYS = ("train/loss", "eval/loss", "samples")
