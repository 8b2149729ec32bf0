"""A copy in main memory of what the next training step will change."""

from typing import Any

import torch


class Memory:
    """Copies nested dictionaries, lists and tuples with all tensors in them.

    Buffers are taken once and used again: fresh pages cost more time than the copy. From a GPU the
    copies run beside one another into pinned memory. Tensors of one storage share a buffer, as
    tied weights have to.
    """

    def __init__(self):
        self._buffers: dict[tuple, torch.Tensor] = {}

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def copy(self, content: Any) -> Any:
        """The copy made before becomes invalid: nobody may be reading it any more."""
        known: dict[tuple, torch.Tensor] = {}
        copied = self._copied(content, (), known)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copied(self, value: Any, place: tuple, known: dict[tuple, torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            same = (value.data_ptr(), value.dtype, value.shape, value.device)
            if not value.numel() or same not in known:
                known[same] = self._filled(value.detach(), place)
            return known[same]
        if isinstance(value, dict):
            return {k: self._copied(item, (*place, k), known) for k, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(
                self._copied(item, (*place, i), known) for i, item in enumerate(value)
            )
        return value

    def _filled(self, value: torch.Tensor, place: tuple) -> torch.Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._buffers[place] = buffer
        return buffer.copy_(value, non_blocking=True)
