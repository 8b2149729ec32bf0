"""A copy in main memory of what the optimizer's next step will change."""

import threading
from typing import Any

import torch


class Memory:
    """Copies nested dictionaries, lists and tuples with all tensors in them.

    The tensors are copied beside the next forward and backward pass, which only read them. Buffers
    are taken once and used again: fresh pages cost more time than the copy. From a GPU the copies
    run beside one another into pinned memory, on a stream of their own. Tensors of one storage
    share a buffer, as tied weights have to.
    """

    def __init__(self):
        self._buffers: dict[tuple, torch.Tensor] = {}
        self._due: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._written: torch.cuda.Event | None = None
        self._failure: Exception | None = None
        self._filled = threading.Event()
        self._filled.set()

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def begin(self, content: Any) -> Any:
        """The copy, whose tensors hold nothing until `fill` has run; all else is copied now.

        The copy made before becomes invalid: nobody may be reading it any more. No tensor of
        `content` may change before `wait` returns.
        """
        self._due, self._failure, self._filled = [], None, threading.Event()
        copied = self._copied(content, (), {})
        self._written = _mark_of_gpu()
        return copied

    def fill(self) -> None:
        """In any thread; called again, it does nothing, or fails again."""
        try:
            if self._failure:
                raise self._failure
            if self._written:
                self._fill_from_gpu()
            for buffer, value in self._due:
                buffer.copy_(value)
        except Exception as failure:
            self._failure = failure
            raise
        finally:
            self._due = []
            self._filled.set()

    def wait(self) -> None:
        self._filled.wait()

    def _fill_from_gpu(self) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            stream.wait_event(self._written)
            for buffer, value in self._due:
                buffer.copy_(value, non_blocking=True)
        stream.synchronize()
        self._due = []

    def _copied(self, value: Any, place: tuple, known: dict[tuple, torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            same = (value.data_ptr(), value.dtype, value.shape, value.device)
            if not value.numel() or same not in known:
                known[same] = self._buffer(value.detach(), place)
            return known[same]
        if isinstance(value, dict):
            return {k: self._copied(item, (*place, k), known) for k, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(
                self._copied(item, (*place, i), known) for i, item in enumerate(value)
            )
        return value

    def _buffer(self, value: torch.Tensor, place: tuple) -> torch.Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._buffers[place] = buffer
        self._due.append((buffer, value))
        return buffer


def _mark_of_gpu() -> torch.cuda.Event | None:
    """After all that this thread has given the GPU to do; None without one."""
    if not torch.cuda.is_available():
        return None
    mark = torch.cuda.Event()
    mark.record()
    return mark
