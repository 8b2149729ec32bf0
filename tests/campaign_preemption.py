"""Ends runs again and again, at random moments, and compares what they come to with a twin.

    python tests/campaign_preemption.py --kills 100 --signals 100 --seed 0 --record FILE

In a life the same command is given until the run is finished; most attempts are struck: by SIGKILL
or by one of the five signals, the process alone or all that belong to it, at a random time, in a
random phase or before a random change that a save makes to the disk. In the end all losses,
evaluations, samples, totals and weights must be, bit for bit, those of a run that nobody disturbed,
and every signal must have been answered with exit code 75 (0 if it came after the end). Prints the
blows by phase, writes them as JSON; exit code 1 if anything differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="campaign-home-"))
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from attempts import SAVING, SIGNALS, Blow, Moment, Outcome, Run, differences, result, warm_up
from attempts import write_recipe

import run_clm  # noqa: F401  its imports are what a fork saves


@dataclass(frozen=True)
class Setting:
    """How the runs of some lives are made."""

    changes: dict[str, Any]
    processes: int = 1


def training(**arguments: Any) -> dict[str, Any]:
    return {f"training_arguments__{key}": value for key, value in arguments.items()}


STILL = {f"model__{key}": 0.0 for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
COSINE = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
WSD = {
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 6},
    "warmup_steps": 2,
}
CONSTANT = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}
SETTINGS = {
    "cosine, no dropout": Setting(STILL | training(**COSINE)),
    "constant, dropout, accumulation 4": Setting(
        training(per_device_train_batch_size=2, **CONSTANT)
    ),
    "WSD, dropout, workers 2": Setting(training(dataloader_num_workers=2, **WSD)),
    "cosine, no dropout, accumulation 4, workers 2": Setting(
        STILL | training(per_device_train_batch_size=2, dataloader_num_workers=2, **COSINE)
    ),
    "WSD, dropout, two processes": Setting(
        training(per_device_train_batch_size=2, **WSD), processes=2
    ),
}


@dataclass
class Lives:
    """Runs of one setting, and what the blows came to."""

    name: str
    setting: Setting
    work: Path
    draw: random.Random
    fresh: bool = False
    blows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    count: int = 0
    restarts: int = 0

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True)
        self.recipe = write_recipe(self.work, **self.setting.changes)
        twin = self.run("twin")
        began = time.monotonic()
        end = twin.attempt(fresh=self.fresh)
        self.seconds = time.monotonic() - began
        if end.code:
            raise SystemExit(f"{self.name}: the undisturbed run fails\n{end.output}")
        self.twin, self.board = result(twin.folder), end.board

    def run(self, name: str) -> Run:
        return Run(self.recipe, self.work / name, self.setting.processes)

    def live(self, signals: list[signal.Signals]) -> list[signal.Signals]:
        """One life, to its end; takes blows of the `signals` and returns what it did not take."""
        self.count += 1
        run = self.run(f"life-{self.count}")
        planned = self.draw.randint(1, 5)
        while signals and planned:
            planned -= 1
            end = self.strike(run, signals[-1])
            if end.where:
                signals = signals[:-1]
            elif end.code == 0:
                break
        self.finish(run)
        self.compare(run)
        return signals

    def strike(self, run: Run, number: signal.Signals) -> Outcome:
        blow = Blow(number, self.moment(), group=self.draw.random() < 0.5)
        end = run.attempt(blow, self.fresh)
        self.restarts += 1
        if end.where:
            facts = {"signal": number.name, "where": end.where, "group": blow.group}
            moment = {k: v for k, v in vars(blow.moment).items() if v is not None}
            self.blows.append({"setting": self.name, **facts, "codes": end.codes} | moment)
        self.judge(end, number if end.where else None, f"{run.log.name} {blow}")
        return end

    def judge(self, end: Outcome, number: signal.Signals | None, what: str) -> None:
        """A kill is not answered; anything else must be, and never with a traceback."""
        if number == signal.SIGKILL:
            return
        right = {0} if number is None else {0, 75}
        if self.fresh and number and self.setting.processes > 1:
            right |= {1}  # torchrun's own, whatever its processes say
        if set(end.codes) - right or "Traceback" in end.output:
            lines = "\n    ".join(end.output.splitlines()[-12:])
            self.faults.append(f"{self.name}: {what}: codes {end.codes}\n    {lines}")

    def moment(self) -> Moment:
        if self.fresh:
            return Moment(seconds=self.draw.random() * self.seconds)
        saves, draw = self.board.began(SAVING), self.draw
        kind = draw.choice(["change", "save", "phase", "phase", "time"])
        if kind == "change" and saves:
            return Moment(change=draw.randint(1, round(2 * self.board.changes / saves)))
        if kind == "time":
            return Moment(seconds=draw.random() * self.seconds)
        phase = SAVING if kind == "save" else draw.choice(self.board.phases())
        entries = int(self.board.began(phase))
        last = self.board.seconds(phase) / entries if entries else 0.0
        number = draw.randint(1, min(3, max(1, entries)))
        return Moment(phase, number, draw.random() * 1.2 * last)

    def finish(self, run: Run) -> None:
        """Nobody strikes any more: the next attempt comes to the end."""
        end = run.attempt(fresh=self.fresh)
        self.restarts += 1
        self.judge(end, None, f"{run.log.name} undisturbed")

    def compare(self, run: Run) -> None:
        found = differences(run.folder, self.twin)
        self.faults += [f"{self.name}: {run.folder.name}: {line}" for line in found]
        if not found:
            shutil.rmtree(run.folder)


def blows(kills: int, signals: int, share: float, draw: random.Random) -> list[signal.Signals]:
    """A setting's share, in random order."""
    several = [SIGNALS[n % len(SIGNALS)] for n in range(round(signals * share))]
    mixed = [signal.SIGKILL] * round(kills * share) + several
    draw.shuffle(mixed)
    return mixed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--work", type=Path, help="is kept; a temporary folder unless given")
    parser.add_argument("--record", type=Path, help="JSON of all blows")
    args = parser.parse_args()
    warm_up()
    work = args.work or Path(tempfile.mkdtemp(prefix="campaign-"))
    taken, faults, restarts, lives = [], [], 0, 0
    for number, name in enumerate(args.settings):
        began, draw = time.monotonic(), random.Random(f"{args.seed} {name}")
        some = Lives(name, SETTINGS[name], work / str(number), draw)
        waiting = blows(args.kills, args.signals, 1 / len(args.settings), draw)
        while waiting:
            waiting = some.live(waiting)
        print(f"{name}: {some.count} lives, {len(some.blows)} blows, {some.restarts} attempts,"
              f" {len(some.faults)} faults, {time.monotonic() - began:.0f} s", flush=True)
        for fault in some.faults:
            print(f"FAULT {fault}", flush=True)
        taken, faults = taken + some.blows, faults + some.faults
        lives, restarts = lives + some.count, restarts + some.restarts
    print(Counter((b["where"], b["signal"] == "SIGKILL") for b in taken))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
