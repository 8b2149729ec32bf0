"""A few seconds of the real training step, timed: nothing is learnt and nothing is kept."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from zhgpt import callbacks, collator, disk, initial, machine, plan, recipe, sampling, step_memory
from zhgpt.memory import Memory
from zhgpt.recipe import ClmRecipe
from zhgpt.rule import Facts
from zhgpt.stopping import agreed

Say = Callable[[str], None]

SECONDS, FEWEST, MOST = 6.0, 3, 200  # of timed steps
_WARM_UP = 2  # steps: compilation, first allocations
# Of a micro-batch on a CPU: some seconds on two cores. Above, it is timed in smaller ones.
_CPU_FLOPS = 2e11
_ROWS = 64  # blocks of random tokens, taken again and again
_DRAWN = 8  # tokens of a sample
_WRITTEN = 32 << 20


@dataclass
class Probe:
    """Seconds: of each timed step as the recipe has it, of the copy of a save (the most that
    training waits for it), of a token that is drawn. `peak_bytes` is of the GPU.
    """

    micro_batch: int
    steps: list[float] = field(default_factory=list)
    save_seconds: float = 0.0
    token_seconds: float = 0.0
    written_bytes_per_second: float = 0.0
    peak_bytes: int | None = None


def measure(
    pins: ClmRecipe,
    config: GPT2Config,
    tokenizer: PreTrainedTokenizerFast,
    steps: plan.Plan,
    known: Facts,
    folder: Path,
    say: Say,
) -> Probe | str:
    """A Probe, or why this machine cannot make the recipe's step."""
    if machine.lacks_bf16(pins.training_arguments):
        return "no GPU that computes in bf16 is here; --bf16 false times it in 32 bits"
    micro_batch = _micro_batch(pins, config, steps, known)
    if micro_batch is None:
        return "not even one block at a time fits into its memory"
    say(f"plan: timing steps of {micro_batch} block(s) at a time, some seconds")
    try:
        return _timed(pins, config, tokenizer, steps, micro_batch, folder)
    except torch.OutOfMemoryError:
        return f"{micro_batch} block(s) at a time did not fit into its memory"


def _micro_batch(pins: ClmRecipe, config: GPT2Config, steps: plan.Plan, known: Facts) -> int | None:
    """The recipe's, or the largest divisor of it that fits and, on a CPU, does not take minutes."""
    flops = plan.flops_per_token(steps.parameters, config) * config.n_positions
    for size in range(steps.micro_batch, 0, -1):
        needed = step_memory.estimate(pins, config, size, machine.processes(), known.has_gpu).total
        quick = known.has_gpu or size == 1 or size * flops <= _CPU_FLOPS
        if (
            steps.micro_batch % size == 0
            and quick
            and needed <= step_memory.ROOM * known.card_bytes
        ):
            return size
    return None


class _Timer(TrainerCallback):
    """Notes how long micro-batches and the optimizer took, and ends training after a while."""

    def __init__(self):
        self.timed: list[tuple[float, float]] = []  # all micro-batches of a step, the optimizer
        self.skip = _WARM_UP

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = self.last = _now()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.accumulated = _now()

    def on_step_end(self, args, state, control, **kwargs):
        now = _now()
        if self.skip and now - self.last < SECONDS:  # beside a longer one a warm-up is nothing
            self.skip -= 1
            self.began = now
        else:
            self.timed.append((self.accumulated - self.last, now - self.accumulated))
        self.last = _now()
        number, seconds = len(self.timed), now - self.began
        enough = number >= FEWEST and seconds >= SECONDS
        (end,) = agreed(enough or number >= MOST or (number > 0 and seconds >= 3 * SECONDS))
        control.should_training_stop |= end


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class _Random:
    """Blocks of random tokens, with an end of text for each `length` tokens."""

    def __init__(self, config: GPT2Config, length: int):
        draw = np.random.default_rng(0)
        self.rows = draw.integers(0, config.vocab_size, (_ROWS, config.n_positions))
        self.rows[self.rows == config.pad_token_id] = 0
        self.rows[draw.random(self.rows.shape) < 1 / length] = config.eos_token_id

    def __len__(self) -> int:
        return 1 << 24

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"input_ids": self.rows[number % _ROWS].tolist()}


def _timed(
    pins: ClmRecipe,
    config: GPT2Config,
    tokenizer: PreTrainedTokenizerFast,
    steps: plan.Plan,
    micro_batch: int,
    folder: Path,
) -> Probe:
    accumulation = steps.gradient_accumulation_steps * steps.micro_batch // micro_batch
    # Two micro-batches, so that gradients add up as in the run; one where they are made smaller.
    few = min(2, accumulation) if micro_batch == steps.micro_batch else 1
    timer = _Timer()
    with tempfile.TemporaryDirectory(prefix="zhgpt-probe-") as scratch:
        with recipe.judged("training_arguments"):
            short = _arguments(pins, steps, scratch, micro_batch, few)
            args = TrainingArguments(**short)
        with recipe.judged("model"):
            model = initial.ready(GPT2LMHeadModel(config), pins)
        with recipe.judged("training_arguments"):
            trainer = Trainer(
                model=model,
                args=args,
                data_collator=collator.of(
                    pins, DataCollatorForLanguageModeling(tokenizer, mlm=False)
                ),
                train_dataset=_Random(config, length=200),
                callbacks=[timer],
            )
            callbacks.arrange(trainer)
        trainer.train()
    probe = Probe(micro_batch, [s / few * accumulation + o for s, o in timer.timed])
    if torch.cuda.is_available() and not args.use_cpu:
        probe.peak_bytes = torch.cuda.max_memory_allocated()
    probe.save_seconds = _copied(trainer)
    probe.token_seconds = _drawn(model, tokenizer, pins.samples)
    probe.written_bytes_per_second = _written(folder)
    return probe


def _arguments(
    pins: ClmRecipe, steps: plan.Plan, folder: str, micro_batch: int, accumulation: int
) -> dict[str, Any]:
    """The recipe's, but for what ends, keeps, shows or evaluates."""
    return machine.arguments(pins, steps, Path(folder), "probe") | {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 1 << 20,
        "eval_strategy": "no",
        "eval_on_start": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "load_best_model_at_end": False,
        "push_to_hub": False,
        "report_to": "none",
    }


def _copied(trainer: Trainer) -> float:
    """Seconds of the copy that a save makes: so long at most the optimizer waits for it."""
    memory = Memory()
    for _ in range(2):  # buffers are taken in the first, and used again
        began = _now()
        memory.begin([trainer.model.state_dict(), trainer.optimizer.state_dict()])
        memory.fill()
    return _now() - began


def _drawn(model: GPT2LMHeadModel, tokenizer: Any, section: recipe.SamplesSection) -> float:
    """Seconds of a token that is drawn; 0 where none will be."""
    if not section.prompts:
        return 0.0
    short = replace(section, prompts=section.prompts[:1], max_new_tokens=_DRAWN)
    began = _now()
    sampling.continuations(model, tokenizer, short)
    return (_now() - began) / _DRAWN


def _written(folder: Path) -> float:
    """Bytes that the run's disk takes each second; the file has no name, and is gone at once."""
    content = os.urandom(1 << 20)
    began = time.perf_counter()
    with tempfile.TemporaryFile(dir=disk.existing(folder)) as file:
        for _ in range(_WRITTEN >> 20):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return _WRITTEN / (time.perf_counter() - began)
