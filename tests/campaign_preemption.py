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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import conftest  # noqa: F401  first: the libraries read the environment once

# isort: split
import damages
from attempts import (
    SAVING,
    SIGNALS,
    STILL,
    Blow,
    Moment,
    Outcome,
    Run,
    differences,
    result,
    warm_up,
    write_recipe,
)

import run_clm  # noqa: F401  its imports are what a fork saves
from zhgpt import machine, session


@dataclass(frozen=True)
class Setting:
    """How the runs of some lives are made."""

    changes: dict[str, Any]
    processes: int = 1


def training(**arguments: Any) -> dict[str, Any]:
    return {f"training_arguments__{key}": value for key, value in arguments.items()}


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

FRESH = ["cosine, no dropout", "WSD, dropout, two processes"]
DAMAGED = ["constant, dropout, accumulation 4", "WSD, dropout, two processes"]


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
        blow = self.blow(number)
        end = run.attempt(blow, self.fresh)
        self.restarts += 1
        if end.where:
            facts = {"signal": number.name, "where": end.where, "codes": end.codes}
            self.blows.append({"setting": self.name} | facts | vars(blow.moment) | aim(blow))
        self.judge(end, number if end.where else None, f"{run.log.name} {blow}")
        return end

    def blow(self, number: signal.Signals) -> Blow:
        alone = self.draw.random() < 0.5 and not (self.fresh and self.setting.processes > 1)
        again = self.draw.random() * 0.1 if self.draw.random() < 0.2 else None
        return Blow(number, self.moment(), not alone, again if number != signal.SIGKILL else None)

    def judge(self, end: Outcome, number: signal.Signals | None, what: str) -> None:
        """A kill is not answered; anything else must be, and never with a traceback."""
        if number == signal.SIGKILL:
            return
        right = {0} if number is None else {0, 75}
        if self.fresh and number and self.setting.processes > 1:
            return  # torchrun's code and traceback are its own, whatever its processes say
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


def aim(blow: Blow) -> dict[str, Any]:
    return {"group": blow.group, "again": blow.again}


def mixture(kills: int, signals: int, draw: random.Random) -> list[signal.Signals]:
    """That many blows, the five signals equally often, in random order."""
    mixed = [signal.SIGKILL] * kills + [SIGNALS[n % len(SIGNALS)] for n in range(signals)]
    draw.shuffle(mixed)
    return mixed


def shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


@dataclass
class Campaign:
    """All that befell runs, and what was not as it has to be."""

    work: Path
    seed: int
    blows: list[dict[str, Any]] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def strike(self, names: list[str], kills: int, signals: int, fresh: bool) -> None:
        """Lives of these settings until there were so many kills and signals."""
        many = zip(names, shares(kills, len(names)), shares(signals, len(names)), strict=True)
        for name, some_kills, some_signals in many:
            title, began = f"{name}{', fresh processes' if fresh else ''}", time.monotonic()
            draw = random.Random(f"{self.seed} {title}")
            lives = Lives(title, SETTINGS[name], self.place(), draw, fresh)
            waiting = mixture(some_kills, some_signals, draw)
            while waiting:
                waiting = lives.live(waiting)
            self.blows += lives.blows
            counts = {"lives": lives.count, "blows": len(lives.blows), "starts": lives.restarts}
            self.note(title, counts, lives.faults, began)

    def damage(self, name: str) -> None:
        """Every damage to a run of this setting."""
        began, setting = time.monotonic(), SETTINGS[name]
        patient = damages.patient(self.place(), setting.processes, **setting.changes)
        every = patient.damages()
        faults = [x for n, one in enumerate(every) for x in patient.suffer(one, f"damage-{n}")]
        self.damages += [one.name for one in every]
        self.note(f"damages, {name}", {"damages": len(every)}, faults, began)

    def fill_disk(self) -> None:
        """A disk that is full at every file in turn; told if this user cannot mount one."""
        began, place = time.monotonic(), self.place()
        place.mkdir()
        twin = Run(write_recipe(place), place / "twin")
        twin.attempt()
        full = damages.FullDisk(twin.recipe, place, twin.cache, result(twin.folder))
        sizes = full.sizes(twin.folder)
        try:
            several = [full.suffer(*of, number) for number, of in enumerate(sizes.items())]
        except PermissionError:
            print("disk full: not tried, as this user cannot mount a small disk", flush=True)
            return
        self.damages += [f"disk full at {name}" for name in sizes]
        self.note("full disk", {"sizes": len(sizes)}, sum(several, []), began)

    def place(self) -> Path:
        return self.work / str(len(self.parts))

    def note(self, title: str, counts: dict[str, int], faults: list[str], began: float) -> None:
        self.parts[title] = counts | {"faults": len(faults)}
        self.parts[title]["seconds"] = round(time.monotonic() - began)
        self.faults += faults
        print(f"{title}: {self.parts[title]}", *faults, sep="\n  FAULT ", flush=True)

    def record(self) -> dict[str, Any]:
        phases: dict[str, Counter] = {}
        for blow in self.blows:
            phases.setdefault(blow["where"], Counter())[blow["signal"]] += 1
        return {
            "seed": self.seed,
            "source": session.source(),
            "machine": machine.describe(),
            "phases": phases,
            "parts": self.parts,
            "damages": self.damages,
            "faults": self.faults,
            "blows": self.blows,
        }


def table(phases: dict[str, Counter]) -> str:
    """Kills and signals by what the run was at."""
    columns = ("SIGKILL", *(number.name for number in SIGNALS))
    rows = [("", *columns), *((name, *map(n.get, columns)) for name, n in sorted(phases.items()))]
    rows.append(("together", *(sum(n[c] for n in phases.values()) for c in columns)))
    return "\n".join(f"{r[0]:>25}" + "".join(f"{c or 0!s:>9}" for c in r[1:]) for r in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--fresh", type=int, default=10, help="kills, signals to whole commands")
    parser.add_argument("--damages", nargs="*", default=DAMAGED, choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--work", type=Path, help="is kept; a temporary folder unless given")
    parser.add_argument("--record", type=Path, help="JSON of all that befell the runs")
    args = parser.parse_args()
    warm_up()
    with tempfile.TemporaryDirectory(prefix="campaign-") as temporary:
        campaign = Campaign(args.work or Path(temporary), args.seed)
        campaign.strike(args.settings, args.kills, args.signals, fresh=False)
        for name in args.damages:
            campaign.damage(name)
        if args.damages:
            campaign.fill_disk()
        if args.fresh:
            kills, signals = min(args.fresh, args.kills), min(args.fresh, args.signals)
            campaign.strike(FRESH, kills, signals, fresh=True)
    record = campaign.record()
    print(table(record["phases"]), f"{len(campaign.faults)} fault(s)", sep="\n")
    if args.record:
        args.record.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return int(bool(campaign.faults))


if __name__ == "__main__":
    sys.exit(main())
