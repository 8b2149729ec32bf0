"""What every log line holds beside Trainer's own: tokens, speed, time, update, memory."""

import math
import resource
import sys
import time

import torch
from torch.nn.utils import get_total_norm
from transformers import Trainer, TrainerCallback

from zhgpt.cards import peak
from zhgpt.plan import count_parameters, flops_per_token

VALUES = 4_000_000  # of the weights, from all of them, whose change is measured; 16 MB


class Figures(TrainerCallback):
    """Completes each log line before others show it.

    tokens: trained on in the run. tokens_per_second: since the line before, data and steps counted,
    evaluation, samples and saves not. seconds: wall clock of the training so far, over all starts.
    memory_gb: the largest so far, on a GPU what torch has reserved there, else of the process.
    share_of_peak: of the card's arithmetic (zhgpt.plan.flops_per_token), if known. update_ratio:
    see Update. Trainer sees a run as one epoch (zhgpt.order); `epoch` is put right here.
    """

    def __init__(self, tokens_per_step: int, tokens_per_epoch: int):
        self.tokens_per_step = tokens_per_step
        self.tokens_per_epoch = tokens_per_epoch
        self.update = Update()
        self.busy, self.steps, self.paused = 0.0, 0, True

    def attach(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        size = count_parameters(model.config)
        self.flops_per_token = flops_per_token(size, model.config)
        self.peak = _peak(args)

    def on_step_begin(self, args, state, control, **kwargs):
        if self.paused:
            self.marked, self.paused = time.perf_counter(), False

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if _line_is_due(args, state):
            self.update.before(model)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.update.after(model)

    def on_step_end(self, args, state, control, **kwargs):
        self._count()
        self.steps += 1
        state.epoch = state.global_step * self.tokens_per_step / self.tokens_per_epoch

    def on_evaluate(self, args, state, control, **kwargs):
        self.paused = True

    def on_save(self, args, state, control, **kwargs):
        self.paused = True

    def _count(self) -> None:
        now = time.perf_counter()
        self.busy, self.marked = self.busy + now - self.marked, now

    def on_log(self, args, state, control, logs=None, **kwargs):
        extra = {"tokens": state.global_step * self.tokens_per_step}
        extra["seconds"] = round(self.trainer.seconds, 1)
        if "loss" in logs and self.steps:
            self._count()  # Trainer has waited for the device between the step's end and here
            extra |= self._of_training()
        logs.update(extra)
        state.log_history[-1].update(extra)

    def _of_training(self) -> dict[str, float]:
        rate = self.steps * self.tokens_per_step / self.busy
        self.busy, self.steps = 0.0, 0
        found = {
            "tokens_per_second": round(rate),
            "memory_gb": round(memory_bytes() / 1e9, 3),
            "update_ratio": self.update.ratio(),
            "share_of_peak": rate * self.flops_per_token / self.peak if self.peak else None,
        }
        return {key: value for key, value in found.items() if value is not None}


def _line_is_due(args, state) -> bool:
    """Whether Trainer will log after the step that is being made (its DefaultFlowCallback)."""
    step = state.global_step + 1
    every = args.logging_strategy == "steps" and step % state.logging_steps == 0
    return every or (step == 1 and args.logging_first_step)


def memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak(args) -> float | None:
    """Floating-point operations per second of all cards; None where that is not known.

    The tables are of 16-bit arithmetic without sparsity, so a run in 32 bits has no share of it.
    """
    if args.device.type != "cuda" or not (args.bf16 or args.fp16):
        return None
    known = peak(torch.cuda.get_device_name(args.device))
    return known and known * args.world_size


class Update:
    """How far one optimizer step moves the weights, as a share of their size.

    |w after - w before| / |w before|, Euclidean, over evenly spaced rows of every parameter, 4
    million values at the most. About 1e-3 is a usual rule (Karpathy, CS231n notes, 2015).
    The rows are copied before a step that will be logged, and the norms stay on the device.
    """

    def __init__(self):
        self.rows: list[torch.Tensor] = []
        self.found: torch.Tensor | None = None

    def before(self, model: torch.nn.Module) -> None:
        self.rows = [rows.clone() for rows in self._rows(model)]

    @torch.no_grad()
    def after(self, model: torch.nn.Module) -> None:
        if self.rows:
            size = get_total_norm(self.rows)
            torch._foreach_sub_(self.rows, self._rows(model))
            self.found, self.rows = get_total_norm(self.rows) / size, []

    @staticmethod
    def _rows(model: torch.nn.Module) -> list[torch.Tensor]:
        weights = [p.detach() for p in model.parameters()]
        every = max(1, math.ceil(sum(p.numel() for p in weights) / VALUES))
        return [p[::every] for p in weights]

    def ratio(self) -> float | None:
        """Of the step that is logged; waits for the device, which a log line does anyhow."""
        found, self.found = self.found, None
        return None if found is None else found.item()
