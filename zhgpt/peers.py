"""What the processes of one run tell one another; of one process alone, what it knows itself."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist


def agreed(*flags: bool) -> list[bool]:
    """Each flag true everywhere if it is true anywhere; every process asks at the same places.

    Processes that stop at different steps would wait for one another for ever.
    """
    if not dist.is_initialized():
        return list(flags)
    values = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(values, op=dist.ReduceOp.MAX, group=_cpu_group())
    return values.bool().tolist()


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """Flags go between the processors: to fetch them from a GPU would wait for its queue."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def gathered(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """What the first process knows, told to all."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0
