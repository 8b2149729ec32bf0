"""From the command to the end of the first step: a new run, one at step 10, one at a millionth.

As a command, python -m zhgpt.benchmark_startup JOB, it is one such start: run_clm.py itself, which
ends after its first step or a few more; a line that it prints says when it got how far.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from zhgpt import callbacks, checkpoint, keeping, machine
from zhgpt.errors import InputError

Record = dict[str, Any]
Marks = list[list[float]]  # (wall's clock, processor seconds) at the start and behind every part
# The rate is constant, so that any number of steps is one and the same run; nothing is reported.
_SETTINGS = {
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": "{}",
    "eval_steps": "1e6",
    "logging_steps": "10",
    "save_steps": "1e6",
    "report_to": "none",
    "accept": "many-epochs",
}
_NEW, _EARLY, _LATE = "new", "at step 10", "at step 1,000,000"
_STEPS = {_NEW: 0, _EARLY: 10, _LATE: 1_000_000}
_LINES_BETWEEN = 100  # steps from one line of the log to the next
PARTS = [
    "interpreter, imports",
    "recipe, tokenizer, prepared corpus",
    "checkpoint found and verified",
    "model and trainer built",
    "checkpoint loaded, samples of a new run",
    "first step",
]
_IMPORT = re.compile(r"import time: +(\d+) \| +(\d+) \| ( *)(\S+)")
_PACKAGES = ["torch", "transformers", "datasets", "evaluate", "wandb", "zhgpt"]


@dataclass(frozen=True)
class Starts:
    """`repeats` starts of each kind with `recipe`, in `scratch`.

    `changed` are further options of run_clm.py; `processes` make `steps` steps of a timed start.
    """

    recipe: Path
    repeats: int
    scratch: Path
    say: Callable[[str], None]
    changed: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    steps: int = 1

    def measure(self) -> Record:
        """Seconds of each part of each start, and of the imports by package."""
        self.run("seed", _STEPS[_EARLY])
        record = json.loads((self.scratch / "seed" / "run.json").read_text(encoding="utf-8"))
        shutil.copytree(self.scratch / "seed", self.scratch / "aged")
        age(self.scratch / "aged", _STEPS[_LATE])
        starts: dict[str, list[Record]] = {kind: [] for kind in _STEPS}
        for _ in range(self.repeats):
            for kind, found in starts.items():
                found.append(self._start(kind))
                whole = sum(part["seconds"] for part in found[-1]["parts"].values())
                self.say(f"{kind}: {whole:.1f} s")
        return {
            "recipe": self.recipe.name,
            "repeats": self.repeats,
            "corpus_bytes": record["ledger"]["train"]["bytes"],
            "starts": starts,
            "imports": imports(),
        }

    def timed(self, folder: str) -> list[Marks]:
        """Of every process; the run goes on with what lies in the folder."""
        lines = self.run(folder).splitlines()
        return [json.loads(line) for line in lines if line.startswith("[[")]

    def run(self, folder: str, upto: int = 0) -> str:
        """A run of `upto` steps in a folder, or a start that is timed; what it printed.

        InputError if it fails.
        """
        settings = _SETTINGS | {"output_dir": str(self.scratch / folder), "max_steps": upto}
        if not upto:
            settings["max_steps"] = 2 * _STEPS[_LATE]
        words = [f"--{key}={value}" for key, value in (settings | self.changed).items()]
        job = {"argv": [str(self.recipe), *words], "steps": 0 if upto else self.steps}
        job["began"] = time.time()
        program = [*self._launcher(), "-m", "zhgpt.benchmark_startup", json.dumps(job)]
        changed = {"HF_DATASETS_CACHE": str(self.scratch / "cache")} | self.environment
        end = subprocess.run(program, env=os.environ | changed, capture_output=True, text=True)
        if end.returncode:
            raise InputError(f"--recipe: {self.recipe} does not start:\n{end.stdout}{end.stderr}")
        return end.stdout

    def _launcher(self) -> list[str]:
        if self.processes == 1:
            return [sys.executable]
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        return [sys.executable, *torchrun, f"--nproc_per_node={self.processes}"]

    def _start(self, kind: str) -> Record:
        template = {_NEW: None, _EARLY: "seed", _LATE: "aged"}[kind]
        if template:
            shutil.copytree(self.scratch / template, self.scratch / "start")
        (marks,) = self.timed("start")
        shutil.rmtree(self.scratch / "start")
        found = {part: _between(marks[n], marks[n + 1]) for n, part in enumerate(PARTS)}
        return {"load": os.getloadavg()[0], "parts": found}


def _between(earlier: list[float], later: list[float]) -> Record:
    """Of the wall's clock, and of the processors' own: what others do to them is not in it."""
    wall, busy = (b - a for a, b in zip(earlier, later, strict=True))
    return {"seconds": wall, "processor_seconds": busy}


def age(folder: Path, step: int) -> None:
    """Makes of a run's checkpoint one of a later step, with the log that it would have by then."""
    (young,) = folder.glob("checkpoint-*")
    seal, partial = checkpoint.read(young), checkpoint.begin(folder, step)
    for path in young.iterdir():
        if path.name != checkpoint.SEAL:
            path.rename(partial / path.name)
    shutil.rmtree(young)
    tokens = seal["tokens"] // seal["step"] * step
    _change(partial / keeping.CONTINUATION, tokens=tokens, last_logged_step=step)
    state = json.loads((partial / "trainer_state.json").read_text(encoding="utf-8"))
    line = next(line for line in state["log_history"] if "loss" in line)
    lines = [line | {"step": number} for number in range(_LINES_BETWEEN, step, _LINES_BETWEEN)]
    _change(partial / "trainer_state.json", global_step=step, log_history=lines)
    schedule = torch.load(partial / "scheduler.pt", weights_only=True)
    save_schedule(partial, schedule | {"last_epoch": step, "_step_count": step + 1})
    checkpoint.publish(partial, checkpoint.Origin(seal["recipe_hash"], seal["versions"]), tokens)
    checkpoint.LastStep(folder).note(step)


def save_schedule(folder: Path, content: Record) -> None:
    torch.save(content, folder / "scheduler.pt")


def _change(path: Path, **facts: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | facts), encoding="utf-8")


def imports() -> dict[str, float]:
    """Seconds of run_clm.py's imports, each module's own, by package; told by the interpreter."""
    program = [sys.executable, "-X", "importtime", "-c", "import run_clm"]
    told = subprocess.run(program, capture_output=True, text=True, check=True).stderr
    found = dict.fromkeys([*_PACKAGES, "others"], 0.0)
    for match in _IMPORT.finditer(told):
        package = match[4].partition(".")[0]
        found[package if package in found else "others"] += int(match[1]) / 1e6
    return found


def start(job: Record) -> None:
    """The command itself, with marks set at what it calls; if timed, it ends at the last mark."""
    sys.argv = ["run_clm.py", *job["argv"]]
    if job["steps"]:
        _mark(job["began"], job["steps"])
    runpy.run_path("run_clm.py", run_name="__main__")


def _mark(began: float, steps: int) -> None:
    marks = [(began, 0.0)]

    def note(*_: Any, **__: Any) -> None:
        marks.append((time.time(), time.process_time()))

    def begin_step(*_: Any, **__: Any) -> None:
        if len(marks) < len(PARTS):  # of further steps, the end alone
            note()

    def end_step(*_: Any, **__: Any) -> None:
        note()
        if len(marks) == len(PARTS) + steps:
            # One write: several processes share the pipe.
            sys.stdout.write(json.dumps(marks) + "\n")
            sys.stdout.flush()
            _end()

    def noting(function: Callable, after: bool = False) -> Callable:
        def noted(*args: Any) -> Any:
            note()
            value = function(*args)
            if after:
                note()
            return value

        return noted

    machine.prepare = noting(machine.prepare)
    keeping.newest = noting(keeping.newest, after=True)
    methods = {"on_step_begin": begin_step, "on_step_end": end_step}
    last = type("Last", (TrainerCallback,), methods)()
    arrange = callbacks.arrange

    def arranged(trainer: Any) -> Any:
        arrange(trainer).add_callback(last)
        return trainer

    callbacks.arrange = arranged
    train = keeping.Sealed.train
    keeping.Sealed.train = lambda self, **kwargs: (note(), train(self, **kwargs))[1]


def _end() -> None:
    """At once; a process of several lets the others have what it may still be sending them."""
    if torch.distributed.is_initialized():
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    start(json.loads(sys.argv[1]))
