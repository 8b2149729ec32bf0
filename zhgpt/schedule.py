"""Whether a run may be made longer: its learning rate must not jump where it goes on."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, get_scheduler

from zhgpt.errors import InputError
from zhgpt.session import elsewhere


def require_length(
    record: Mapping[str, Any], args: TrainingArguments, step: int, folder: Path
) -> None:
    """InputError if the run of `record`, at `step`, cannot go on as one of args.max_steps steps.

    It can if both lengths give the same rate at `step`: always under a constant schedule, before
    the decay under warmup_stable_decay, during the warm-up under many others.
    """
    there, here = record.get("plan", {}).get("max_steps", args.max_steps), args.max_steps
    if there == here or (step == 0 and record["status"] != "finished"):
        return
    rates = [rate(args, length, step) for length in (there, here)]
    if here < there:
        reason = "a run can be made longer, not shorter"
    elif step == 0:
        reason = "it has no checkpoint to go on from"
    elif not math.isclose(*rates):
        name = args.lr_scheduler_type.value
        reason = (
            f"{name} gives {rates[0]:.3g} at step {step:,} of the one, {rates[1]:.3g} of the other"
        )
    else:
        return
    raise InputError(
        f"{folder} is a run of {there:,} steps; asked for are {here:,}: {reason}.\n"
        + elsewhere(folder)
    )


def rate(args: TrainingArguments, length: int, step: int) -> float:
    """The learning rate at a step of a run of `length` steps, as Trainer would make it."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(length),
        num_training_steps=length,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    shares = getattr(scheduler, "lr_lambdas", [lambda step: 1.0])
    return args.learning_rate * shares[0](step)
