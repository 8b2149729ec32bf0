"""The states of a process's random numbers: Python's, numpy's, torch's, the GPU's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments, set_seed


def states(args: TrainingArguments) -> dict[str, Any]:
    """In the form of Trainer._save_rng_state, which Trainer loads."""
    found = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        cuda = torch.cuda.random
        found["cuda"] = cuda.get_rng_state_all() if args.world_size > 1 else cuda.get_rng_state()
    return found


def file_name(args: TrainingArguments, rank: int | None = None) -> str:
    """Trainer's name for the file of a process, of this one unless another `rank` is given."""
    if args.world_size == 1:
        return "rng_state.pth"
    return f"rng_state_{args.process_index if rank is None else rank}.pth"


def begin_anew(args: TrainingArguments, step: int) -> None:
    """Numbers of seed, step and rank, where a process has no state to go on with."""
    place = [args.seed, step, args.process_index]
    set_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))


@contextmanager
def kept() -> Iterator[None]:
    """After it, numbers go on as if nothing had drawn any inside."""
    python, of_numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
