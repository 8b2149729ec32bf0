"""How fast training steps are: ours beside other ways to make the same ones, taking turns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhgpt import command, lint, options, plan, recipe, steppers
from zhgpt.errors import InputError

Record = dict[str, Any]
_WARM_UP = 4  # steps before the first turn that counts: compilation, buffers, caches
# Of the losses of the first steps. nanoGPT's GELU is another one, its weights are the same.
_TOLERANCE = {False: 2e-3, True: 5e-2}  # in 32 bits, in bf16
# The rate is constant, so that all ways have the same one.
_SETTINGS = {
    "training_arguments.lr_scheduler_type": "constant",
    "training_arguments.lr_scheduler_kwargs": "{}",
    "training_arguments.warmup_steps": "0",
    "corpus.validation_files": "[]",
}
# Of the step alone: what is beside it is off.
_ALONE = {
    "training_arguments.eval_strategy": "no",
    "training_arguments.save_strategy": "no",
    "training_arguments.report_to": "none",
    "samples.prompts": "[]",
}
_VALIDATION = "0.05"  # of the text, so that an evaluation is long enough to be timed


class UnequalWork(Exception):
    """Two ways have other losses: their times say nothing about each other."""


@dataclass(frozen=True)
class Steps:
    """`recipe` with `overrides` (options of run_clm.py) on the text of `files`.

    Each of the `ways` of zhgpt.steppers, `bare` and `matmul` among them, makes `steps` steps a
    turn, `repeats` turns; `nanogpt` is a checkout or None, `scratch` is empty. If `whole`, ours is
    with all that the recipe has beside the steps, an evaluation and a save after each turn.
    """

    recipe: Path
    overrides: Sequence[str]
    files: Sequence[Path]
    steps: int
    repeats: int
    ways: Sequence[str]
    nanogpt: Path | None
    scratch: Path
    say: Callable[[str], None]
    whole: bool = False

    def measure(self) -> Record:
        """Seconds of every turn of every way. InputError for a recipe that cannot be read, or no
        checkout; UnequalWork.
        """
        self._require_input()
        given = steppers.Given(self._job("bare"))  # and its blocks are ready for all ways
        ways = [way for way in self.ways if way != "nanogpt" or self.nanogpt]
        turns: dict[str, list[Record]] = {way: [] for way in ways}
        with ExitStack() as stack:
            workers = {way: stack.enter_context(_Worker(self._job(way))) for way in ways}
            warm = {way: self._warm_up(way, workers[way]) for way in ways}
            require_equal(warm, _TOLERANCE[given.half])
            for number in range(self.repeats):
                first = number % len(ways)
                for way in (*ways[first:], *ways[:first]):
                    turns[way].append(workers[way].make(self.steps))
                self.say(f"repeat {number + 1}: {_line(turns, self.steps)}")
        return self._facts(given) | {"losses": warm, "turns": turns}

    def _require_input(self) -> None:
        if self.nanogpt and not (self.nanogpt / "model.py").is_file():
            raise InputError(f"--nanogpt: {self.nanogpt} has no model.py; name a checkout of it.")
        run_clm = steppers.script()
        asked = command.read(self._command(), recipe.ClmRecipe, run_clm.SECTIONS, options.FLAGS)
        drops = [key for key in _DROPOUT if asked.recipe.model.get(key, 0.1)]
        if drops:
            off = " ".join(f"--{key} 0" for key in drops)
            raise InputError(f"model.{drops[0]}: every way would drop other values; add {off}.")

    def _command(self) -> list[str]:
        files = [str(path.resolve()) for path in self.files]
        chosen = _SETTINGS | (self._beside() if self.whole else _ALONE)
        settings = [word for key, value in chosen.items() for word in (f"--{key}", value)]
        steps = ["--training_arguments.max_steps", str(self._max_steps)]
        text = ["--corpus.train_files", *files]
        # What would be said of so short a run does not matter here.
        accepted = ["--accept", *(rule.id for rule in lint.RULES)]
        return [str(self.recipe), *text, *settings, *steps, *accepted, *self.overrides]

    def _beside(self) -> dict[str, str]:
        often = {f"training_arguments.{k}": str(self.steps) for k in ("eval_steps", "save_steps")}
        strategies = {"training_arguments.eval_strategy": "steps"}
        strategies |= {"training_arguments.save_strategy": "steps"}
        reports = {"training_arguments.report_to": "wandb"}
        return often | strategies | reports | {"corpus.validation_fraction": _VALIDATION}

    @property
    def _max_steps(self) -> int:
        """One more than is made: none of the ways comes to what it does at its end."""
        return self.warm_up + self.steps * self.repeats + 1

    @property
    def warm_up(self) -> int:
        """A turn of an evaluated run, so that its first evaluation and save come behind it."""
        return self.steps if self.whole else _WARM_UP

    def _job(self, way: str) -> Record:
        folder = self.scratch / way
        return {
            "way": way,
            "command": [*self._command(), "--output_dir", str(folder)],
            "folder": str(folder),
            "max_steps": self._max_steps,
            "nanogpt": str(self.nanogpt) if self.nanogpt else None,
        }

    def _warm_up(self, way: str, worker: "_Worker") -> list[float]:
        answer = worker.make(self.warm_up)
        self.say(f"{way}: start and first {self.warm_up} steps {answer['seconds']:.1f} s")
        return answer["losses"]

    def _facts(self, given: steppers.Given) -> Record:
        config, size = given.config, plan.count_parameters(given.config)
        tokens = given.pins.tokens_per_step
        return {
            "recipe": given.pins.name,
            "overrides": list(self.overrides),
            "steps": self.steps,
            "repeats": self.repeats,
            "n_layer": config.n_layer,
            "n_embd": config.n_embd,
            "block_size": config.n_positions,
            "vocab_size": config.vocab_size,
            "parameters": size,
            "tokens_per_step": tokens,
            "micro_batch": given.batches.micro_batch,
            "precision": "bfloat16" if given.half else "float32",
            "flops_per_step": tokens * plan.flops_per_token(size, config),
            "matmul_flops": steppers.MATMUL_FLOPS,
            "events": self._events(),
        }

    def _events(self) -> Record:
        """The recipe's own intervals in steps, None where it has no such event."""
        run_clm = steppers.script()
        argv = [str(self.recipe), *self.overrides]
        pins = command.read(argv, recipe.ClmRecipe, run_clm.SECTIONS, options.FLAGS).recipe
        asked = pins.training_arguments
        evaluates = asked.get("eval_strategy", "no") != "no"
        saves = asked.get("save_strategy", "steps") != "no"
        return {
            "evaluations": asked.get("eval_steps", 500) if evaluates else None,
            "saves": asked.get("save_steps", 500) if saves else None,
            "logging": asked.get("logging_steps", 500),
        }


_DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def require_equal(losses: Mapping[str, Sequence[float]], tolerance: float) -> None:
    """UnequalWork unless the losses of all ways are those of the first, a bare loop."""
    first = next(iter(losses.values()))
    for way, found in losses.items():
        pairs = zip(first, found, strict=True) if way != "matmul" else ()
        off = max((abs(a - b) for a, b in pairs), default=0.0)
        if not off <= tolerance:
            raise UnequalWork(
                f"{way}: losses of the first steps are {off:.4f} away from the bare loop's,"
                f" more than {tolerance}"
            )


def _line(turns: Mapping[str, Sequence[Record]], steps: int) -> str:
    return ", ".join(f"{way} {runs[-1]['seconds'] / steps:.3f} s" for way, runs in turns.items())


class _Worker:
    """A process that makes steps when it is asked to."""

    def __init__(self, job: Record):
        answers, theirs = os.pipe()
        text = json.dumps(job | {"answers": theirs})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zhgpt.steppers", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs],
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"},
        )
        os.close(theirs)
        self._answers = os.fdopen(answers)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *error) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._answers.close()

    def make(self, steps: int) -> Record:
        """CalledProcessError where the process ends instead."""
        print(steps, file=self._process.stdin, flush=True)
        line = self._answers.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        return json.loads(line)
