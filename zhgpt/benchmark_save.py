"""What saving costs a training run: Trainer's way and ours, taking turns in one process."""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from zhgpt import checkpoint, disk, keeping, machine, plan
from zhgpt.recipe import PreemptionSection
from zhgpt.watch import Watch

Record = dict[str, Any]
WAYS = ("trainer", "trainer_on_disk", "ours")
_BLOCK_SIZE = 64
_WARM_UP = 3  # steps before the first save: the optimizer has its state, the allocator its memory


@dataclass(frozen=True)
class Saves:
    """Of a model of `config`, `repeats` saves of each way, each followed by `steps` steps.

    `tokenizer` is a folder; its files are part of every save.
    """

    config: GPT2Config
    tokenizer: Path
    repeats: int
    scratch: Path
    say: Callable[[str], None]
    steps: int = 8

    def measure(self) -> Record:
        """Seconds of every turn of every way. A turn before the first is told apart: ours has to
        take its memory then.
        """
        ways = [WAYS[(number + shift) % 3] for number in range(self.repeats) for shift in range(3)]
        first, *turns = self.turns(["ours", *ways])
        quiet = statistics.median(s for t in turns if t["way"] != "ours" for s in t["steps"])
        record = {way: [t for t in turns if t["way"] == way] for way in WAYS}
        return {
            "parameters": plan.count_parameters(self.config),
            "bytes": first["bytes"],
            "tokens_per_step": _BLOCK_SIZE,
            "quiet_step": quiet,
            "first": first,
            "repeats": self.repeats,
            "ways": record,
        }

    def turns(self, ways: list[str]) -> list[Record]:
        """Of saves in these ways, one after the other: what each took."""
        trainer = self._trainer(ways)
        trainer.train()
        return trainer.turns

    def _trainer(self, ways: list[str]) -> "_InTurn":
        model = GPT2LMHeadModel(self.config)
        ids = torch.randint(self.config.vocab_size, (_BLOCK_SIZE,))
        settings = machine.fixed_arguments({}) | {
            "output_dir": str(self.scratch),
            "max_steps": _WARM_UP + len(ways) * self.steps,
            "per_device_train_batch_size": 1,
            "save_strategy": "no",
            "report_to": "none",
        }
        rows = [{"input_ids": ids, "labels": ids}] * settings["max_steps"]
        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
        args = TrainingArguments(**settings)
        trainer = _InTurn(model, args, train_dataset=rows, processing_class=tokenizer)
        trainer.begin(ways, self.steps, self.say)
        return trainer


class _InTurn(keeping.Sealed, Trainer):
    """Saves in the way whose turn it is, and notes the seconds."""

    def begin(self, ways: list[str], steps: int, say: Callable[[str], None]) -> None:
        self.waiting, self.turns = ways, []
        self.keep(checkpoint.origin("benchmark"), _BLOCK_SIZE, _Noting(self), say)
        self.add_callback(_Turns(self, steps, say))

    @property
    def turn(self) -> Record:
        return self.turns[-1]

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.turn[what] = self.turn.get(what, 0.0) + time.perf_counter() - began

    def _save_checkpoint(self, model, trial) -> None:
        with self.noted("call"):
            if self.turn["way"] == "ours":
                super()._save_checkpoint(model, trial)
            else:
                Trainer._save_checkpoint(self, model, trial)
            if self.turn["way"] == "trainer_on_disk":
                for path in (*self.folder.iterdir(), self.folder):
                    disk.sync(path)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.turn["way"] == "ours":
            super()._save(output_dir, state_dict)
        else:
            Trainer._save(self, output_dir, state_dict)

    def wait_for_copy(self) -> None:
        if self.turns:
            with self.noted("wait"):
                super().wait_for_copy()

    @property
    def folder(self) -> Path:
        return Path(self.args.output_dir, f"checkpoint-{self.turn['step']}")

    def end_turn(self) -> None:
        """Outside of all times: the next turn finds an empty disk, and nobody writing."""
        self._writer.free()
        self.turn["stall"] = self.turn["call"] + self.turn["wait"]
        self.turn["bytes"] = sum(path.stat().st_size for path in self.folder.iterdir())
        shutil.rmtree(self.folder)
        os.sync()


class _Noting(Watch):
    """Is told how long a save took to its last byte."""

    def __init__(self, trainer: _InTurn):
        super().__init__(PreemptionSection(), lambda line: None)
        self.trainer = trainer

    def saved(self, seconds: float) -> None:
        self.trainer.turn["sealed"] = seconds


@dataclass
class _Turns(TrainerCallback):
    """A save, then some steps, each timed; then the next turn."""

    trainer: _InTurn
    steps: int
    say: Callable[[str], None]
    began: float = field(default=0.0)

    def on_step_end(self, args, state, control, **kwargs):
        now, turns = time.perf_counter(), self.trainer.turns
        if turns:
            turns[-1]["steps"].append(now - self.began)
        if state.global_step >= _WARM_UP and (not turns or len(turns[-1]["steps"]) == self.steps):
            self._next(state.global_step, control)
        self.began = time.perf_counter()

    def _next(self, step: int, control) -> None:
        if self.trainer.turns:
            self.trainer.end_turn()
            turn = self.trainer.turn
            self.say(f"{turn['way']}: the loop waited {turn['stall']:.2f} s")
        if self.trainer.waiting:
            way = self.trainer.waiting.pop(0)
            self.trainer.turns.append({"way": way, "step": step, "steps": []})
            control.should_save = True
