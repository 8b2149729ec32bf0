"""The fastest number of blocks at a time that fits: per_device_train_batch_size "auto"."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from zhgpt import halving, initial, machine, plan, recipe, step_memory
from zhgpt.peers import gathered
from zhgpt.recipe import ClmRecipe

Say = Callable[[str], None]

KEY = "per_device_train_batch_size"
_SECONDS = 8.0  # after so many, no further size is tried
_SLOW = 2.0  # seconds of a trial that is not repeated: its start weighs little
_WORTH = 1.03  # how many times as fast more memory has to make it


def settled(pins: ClmRecipe, config: GPT2Config, record: Mapping[str, Any], say: Say) -> ClmRecipe:
    """The recipe with a number in the place of "auto"; `record` is the run's, or that of a new one.

    The curve is the same for every number (law 4), up to rounding; so a run that goes on where it
    was keeps its own. Otherwise forward and backward are timed for some seconds on random tokens,
    uncompiled also where the run compiles, beside AdamW's buffers, which have to fit as well.
    """
    if pins.training_arguments.get(KEY) != "auto":
        return pins
    return _with(pins, _of_run(record) or _fastest(pins, config, say))


def _with(pins: ClmRecipe, size: int) -> ClmRecipe:
    return replace(pins, training_arguments={**pins.training_arguments, KEY: size})


def _of_run(record: Mapping[str, Any]) -> int | None:
    if "plan" not in record or record["machine"] != machine.describe():
        return None
    planned = record["plan"]["micro_batch"]
    return min(planned, record.get("halved", {"to": planned})["to"])


def _fastest(pins: ClmRecipe, config: GPT2Config, say: Say) -> int:
    sizes = fitting(pins, config)
    trial, speeds = Trial(pins, config), {}
    for size in sizes:
        seconds, spent = trial.seconds(size)
        speeds[size] = size * config.n_positions / seconds  # 0 where it does not fit
        if spent > _SECONDS or not is_promising(speeds):
            break
    size = best(speeds)
    told = ", ".join(f"{size}: {speed:,.0f}" for size, speed in speeds.items())
    say(f'{KEY} "auto": {size}; tokens/s of blocks at a time {told}')
    return size


def fitting(pins: ClmRecipe, config: GPT2Config) -> list[int]:
    """Divisors of a process's blocks of a step whose estimate fits the memory; at least 1.

    InputError where a step is no whole number of blocks for each process.
    """
    asked, processes = pins.training_arguments, machine.processes()
    blocks = plan.split_step(_with(pins, 1), processes).accumulation
    room = step_memory.ROOM * machine.memory_bytes(asked)
    gpu = not machine.use_cpu(asked)

    def fits(size: int) -> bool:
        return step_memory.estimate(pins, config, size, processes, gpu).total <= room

    divisors = (size for size in range(1, blocks + 1) if blocks % size == 0)
    return [size for size in divisors if size == 1 or fits(size)]


def is_promising(speeds: Mapping[int, float]) -> bool:
    """Whether a larger one may be faster: the last fitted, and one of the last two was the best."""
    *_, last = speeds.values()
    fastest = max(speeds.values())
    return last > 0 and fastest in list(speeds.values())[-2:]


def best(speeds: Mapping[int, float]) -> int:
    """The smallest of those that are about as fast as the fastest; the first if none fitted."""
    fastest = max(speeds.values())
    return next(size for size, speed in speeds.items() if speed * _WORTH >= fastest)


class Trial:
    """Forward and backward of a model of the recipe's shape, with the buffers of a training."""

    def __init__(self, pins: ClmRecipe, config: GPT2Config):
        asked = pins.training_arguments
        kept = {k: asked[k] for k in ("ddp_timeout", "ddp_backend") if k in asked}
        # To build it joins several processes; the run's own, built later, find them joined.
        with recipe.judged("training_arguments"):
            args = TrainingArguments("", use_cpu=machine.use_cpu(asked), **kept)
        self.device, self.spent = args.device, 0.0
        self.half = next((k for k in ("bf16", "fp16") if asked.get(k)), None)
        with recipe.judged("model"):
            self.model = initial.ready(GPT2LMHeadModel(config), pins).to(self.device).train()
        self.config, self.moments = config, []

    def seconds(self, size: int) -> tuple[float, float]:
        """Of `size` blocks, infinite where they do not fit; and of all trials so far.

        The slowest process's: all of them go on, or stop, together.
        """
        seconds, spent = map(max, zip(*gathered(self._shortest(size)), strict=True))
        self.spent += spent
        return seconds, self.spent

    def _shortest(self, size: int) -> tuple[float, float]:
        try:
            once = self._once(size)
            again = [self._once(size) for _ in range(2 if once < _SLOW else 0)]
        except RuntimeError as error:
            if not halving.is_refusal(error):
                raise
            return math.inf, 0.0
        return min([once, *again]), sum([once, *again])

    def _once(self, size: int) -> float:
        ids = torch.randint(self.config.vocab_size, (size, self.config.n_positions))
        ids = ids.to(self.device)
        began = time.perf_counter()
        with self._precision():
            loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        loss.item()  # waits for the device
        seconds = time.perf_counter() - began
        self._take_buffers()
        return seconds

    def _take_buffers(self) -> None:
        """Gradients are there; AdamW's two moments, as large as they, are held beside them."""
        if not self.moments:
            self.moments = [torch.zeros_like(p) for p in self.model.parameters() for _ in range(2)]

    def _precision(self) -> Any:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast(self.device.type, kinds[self.half]) if self.half else nullcontext()
