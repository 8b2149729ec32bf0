"""Times the real training step on this machine, with Trainer itself, for a few seconds.

Shapes, precision, attention, optimizer and compilation are the recipe's; the tokens are random,
which costs the same.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from zhgpt import collator, machine, recipe
from zhgpt.plan import Batches

SECONDS = 6.0  # of timed steps
MOST_STEPS = 20
# What a run does beside its steps, and how long it is.
_BESIDE = ("eval_", "save_", "logging_", "log_", "hub_", "push_", "load_best", "metric_for")
_BESIDE += ("greater_", "report_to", "num_train_epochs", "max_steps", "per_device_", "project")


@dataclass(frozen=True)
class Timing:
    """Seconds of an optimizer step of tokens_per_step, the middle and the ends of those timed.

    `blocks` are those of the micro-batch that was timed; `start_seconds` is the first step, with
    what is compiled or laid out in it.
    """

    step_seconds: float
    fastest: float
    slowest: float
    steps: int
    blocks: int
    start_seconds: float
    peak_bytes: int | None


def step(pins: Any, config: Any, batches: Batches, tokenizer: Any, largest: int) -> Timing:
    """`largest` is the micro-batch that fits; a smaller one is timed where the real one takes long.

    On a CPU the time of a block hardly depends on how many go together, so one block comes first.
    """
    size = min(batches.micro_batch, largest)
    if machine.use_cpu(pins.training_arguments) and size > 1:
        clock = _timed(pins, config, tokenizer, 1)
        size = max(1, min(size, int(SECONDS / 3 / median(clock.batches))))
        if size == 1:
            return _timing(clock, 1, batches)
    return _timing(_timed(pins, config, tokenizer, size), size, batches)


def _timing(clock: "_Clock", blocks: int, batches: Batches) -> Timing:
    parts = batches.accumulation * batches.micro_batch / blocks
    pairs = zip(clock.batches, clock.updates, strict=True)
    steps = [parts * batch + update for batch, update in pairs]
    peak = torch.cuda.max_memory_allocated() if machine.has_gpu() else None
    return Timing(
        median(steps), min(steps), max(steps), len(steps), blocks, clock.start_seconds, peak
    )


def _timed(pins: Any, config: Any, tokenizer: Any, blocks: int) -> "_Clock":
    kept = {k: v for k, v in pins.training_arguments.items() if not k.startswith(_BESIDE)}
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (blocks, config.n_positions))
    # Padding is not learnt from; random text has none.
    rows = datasets.Dataset.from_dict({"input_ids": np.where(ids == config.pad_token_id, 0, ids)})
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=_model(config),
            args=TrainingArguments(**recipe.thawed(kept) | _derived(pins, blocks, folder)),
            data_collator=collator.of(pins, DataCollatorForLanguageModeling(tokenizer, mlm=False)),
            train_dataset=rows,
            callbacks=[clock],
        )
        for printer in list(trainer.callback_handler.callbacks):
            if "Print" in type(printer).__name__:
                trainer.remove_callback(printer)
        trainer.train()
    return clock


def _model(config: Any) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"
    return model


def _derived(pins: Any, blocks: int, folder: str) -> Mapping[str, Any]:
    never = {f"{what}_strategy": "no" for what in ("eval", "save", "logging")}
    return never | {
        "output_dir": folder,
        "max_steps": 10**6,
        "per_device_train_batch_size": blocks,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": machine.has_gpu(),
        "ddp_find_unused_parameters": False,
        "use_cpu": machine.use_cpu(pins.training_arguments),
    }


class _Clock(TrainerCallback):
    """Seconds of each micro-batch and of each update.

    The first step, in which memory is laid out and code compiled, counts only if it alone takes the
    whole time.
    """

    def __init__(self) -> None:
        self.batches: list[float] = []
        self.updates: list[float] = []
        self.start_seconds = self.began = self.middle = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = _now()

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = _now()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.middle = _now()

    def on_step_end(self, args, state, control, **kwargs):
        end = _now()
        first = state.global_step == 1
        if first:
            self.start_seconds = end - self.start
        if not first or self.start_seconds > SECONDS:
            self.batches.append(self.middle - self.began)
            self.updates.append(end - self.middle)
        spent = end - self.start - (0 if self.start_seconds > SECONDS else self.start_seconds)
        control.should_training_stop = spent > SECONDS or len(self.batches) >= MOST_STEPS


def _now() -> float:
    if machine.has_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


def write_rate(folder: Path) -> float:
    """Bytes per second that reach the disk of `folder`, which need not exist yet."""
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    piece = bytes(1 << 25)
    began = time.perf_counter()
    with tempfile.TemporaryFile(dir=existing) as file:
        file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return len(piece) / (time.perf_counter() - began)
