"""What this machine is, and whether it can do what the recipe asks."""

import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from zhgpt import allocator, disk
from zhgpt.errors import InputError, Left
from zhgpt.plan import Plan
from zhgpt.recipe import ClmRecipe, thawed


def prepare() -> None:
    """For all that follows in this process: memory is kept, libraries are quiet."""
    allocator.keep_freed()
    _quiet_libraries()


def _quiet_libraries() -> None:
    """No bar for writing a file of weights: it would be control characters in a log.

    Nor the warning that other intervals than the checkpoint's have no effect: here they have one.
    """
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers.trainer_utils").addFilter(_is_not_of_intervals)


def _is_not_of_intervals(record: logging.LogRecord) -> bool:
    return "do not match the ones in the `trainer_state.json`" not in record.getMessage()


def rank() -> int:
    """This process's number under torchrun, 0 without."""
    return int(os.environ.get("RANK", "0"))


def has_gpu() -> bool:
    return torch.cuda.is_available()


def has_bf16() -> bool:
    return has_gpu() and torch.cuda.is_bf16_supported()


def memory_bytes(training_arguments: Mapping[str, Any]) -> int:
    """What one process may take: the card's memory, or its share of the main memory."""
    if not use_cpu(training_arguments):
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return main_memory_bytes() // processes()


def main_memory_bytes() -> int:
    """Of the machine, or of the container where that is given less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(whole, int(limit.read_text()))
    except (OSError, ValueError):  # no such control group, or "max"
        return whole


def processes() -> int:
    """Training processes under torchrun, 1 without; several visible GPUs want one process each."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    if world == 1 and gpus > 1:
        raise InputError(
            f"{gpus} GPUs are visible and one process was started.\n"
            f"Start one per GPU: torchrun --nproc_per_node {gpus} run_clm.py ...\n"
            "or choose one: CUDA_VISIBLE_DEVICES=0 python run_clm.py ..."
        )
    return world


def describe() -> dict[str, Any]:
    """Device and cores, for the record; no host name, no user, no environment."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"CPU {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "platform": platform.system(),
        "python": platform.python_version(),
    }


def use_cpu(training_arguments: Mapping[str, Any]) -> bool:
    """Without a GPU the library has to be told: else each process would train on its own."""
    return training_arguments.get("use_cpu", False) or not torch.accelerator.is_available()


def fixed_arguments(training_arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in every run, and therefore not for a recipe to say."""
    return {
        "train_sampling_strategy": "sequential",  # the stream is in its order already,
        "ignore_data_skip": True,  # and begins where a run goes on
        "logging_nan_inf_filter": False,  # it writes a NaN loss as the mean of earlier ones
        "dataloader_pin_memory": has_gpu(),
        "ddp_find_unused_parameters": False,  # the search walks the graph at each step
        "disable_tqdm": True,
        "use_cpu": use_cpu(training_arguments),
    }


def arguments(pins: ClmRecipe, steps: Plan, folder: Path, run_name: str) -> dict[str, Any]:
    """For TrainingArguments: the recipe's own, and those that follow from it and from here."""
    own = thawed(pins.training_arguments)
    return (
        own
        | fixed_arguments(pins.training_arguments)
        | {
            "output_dir": str(folder),
            "run_name": run_name,
            "max_steps": steps.max_steps,
            "gradient_accumulation_steps": steps.gradient_accumulation_steps,
            # One process has nobody to share with, and the library refuses it.
            "fsdp": (own.get("fsdp") and processes() > 1) or None,
        }
    )


def try_parts(trainer: transformers.Trainer) -> None:
    """Builds what the library builds in the first step, so that a wrong value of it is said now."""
    trainer.get_train_dataloader()
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    trainer.optimizer = trainer.lr_scheduler = None


# What the back ends say where another process has ended, or does not answer for too long.
_LOST = re.compile("gloo|NCCL|by peer|[Tt]imed out|Broken pipe|Connection refused")


@contextmanager
def together(trainer: transformers.Trainer) -> Iterator[None]:
    """As `among_peers`, and ends the trainer after it."""
    try:
        with among_peers():
            yield
    except Left:
        trainer.end()
        raise
    trainer.end()


@contextmanager
def among_peers() -> Iterator[None]:
    """Inside, the end of another process is `Left`.

    The group itself is kept to the process's end: torch destroys one while it holds Python's lock
    and waits for a thread that may want this lock (seen with gloo, torch 2.13: a hang at exit).
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_group(error):
            raise
        told = f"another process of this run has ended ({str(error).splitlines()[0][:120]})"
        raise Left("another process has ended", told) from None
    finally:
        if torch.distributed.is_initialized():
            _KEPT.append(torch.distributed.group.WORLD)


_KEPT: list[Any] = []


def _is_of_group(error: RuntimeError) -> bool:
    if not torch.distributed.is_initialized():
        return False
    return isinstance(error, torch.distributed.DistError) or bool(_LOST.search(str(error)))


def require_all_processes(world_size: int) -> None:
    """`world_size` is what the library found; the steps were planned for `processes()`."""
    if world_size != processes():
        raise InputError(
            f"{processes()} processes were started and {world_size} train(s) together; each would"
            " train a model of its own into one folder.\n"
            "Start them with torchrun, one per GPU, or with --use_cpu true."
        )


def require(training_arguments: Mapping[str, Any], folder: Path, checkpoint_bytes: int) -> None:
    """InputError where this machine cannot compute, report or keep what is asked."""
    require_precision(training_arguments)
    require_reporters(training_arguments)
    require_disk(folder, checkpoint_bytes)


def lacks_bf16(training_arguments: Mapping[str, Any]) -> bool:
    """Whether bf16 is asked for and no GPU here computes in it; a CPU that is asked for does."""
    asked = training_arguments.get("bf16") and not training_arguments.get("use_cpu")
    return bool(asked) and not has_bf16()


def require_precision(training_arguments: Mapping[str, Any]) -> None:
    """Refuses bf16 where it would not be used; a run in another precision is another run."""
    if lacks_bf16(training_arguments):
        raise InputError(
            "training_arguments.bf16: true, but this machine has no GPU that computes in bf16.\n"
            "Add --bf16 false to train in 32 bits; that is another run, and its name says so."
        )


def require_reporters(training_arguments: Mapping[str, Any]) -> None:
    """Refuses a tracker that the library does not know, or whose package is not here."""
    asked = training_arguments.get("report_to", "none")
    for name in [asked] if isinstance(asked, str) else asked:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            raise InputError(
                f"training_arguments.report_to: {name} is not known; there are: {known}, none."
            )
        if name in _PACKAGES and find_spec(name) is None:
            raise InputError(
                f"training_arguments.report_to: {name} is not installed.\n"
                f"pip install {name}, or add --report_to none."
            )


_PACKAGES = ("wandb", "tensorboard", "trackio", "swanlab")  # called as their tracker


def require_disk(folder: Path, checkpoint_bytes: int) -> None:
    """Refuses to start where not even one checkpoint fits; `folder` need not exist yet."""
    free = disk.free(folder)
    if free < checkpoint_bytes:
        raise InputError(
            f"{folder}: {free / 1e9:.1f} GB are free, and one checkpoint takes"
            f" {checkpoint_bytes / 1e9:.1f} GB (weights and optimizer).\n"
            "Free some space, or choose another disk with --output_dir."
        )
