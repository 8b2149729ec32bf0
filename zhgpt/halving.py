"""What a step does that does not fit into the memory: it is made again of smaller micro-batches."""

import re
from collections.abc import Callable
from typing import Any

import torch

from zhgpt import leaving
from zhgpt.errors import InputError

# Steps after a start in which the memory fills up: buffers of gradients, of AdamW, of a save.
FIRST_STEPS = 10
_CPU_REFUSAL = re.compile("can't allocate memory")  # torch has no class of its own for it


class Halving:
    """A mixin for Trainer, overriding its public `training_step`.

    A micro-batch that does not fit is cut into halves as often as it needs; the step stays the same
    blocks and the same tokens, the losses of the parts add up to the loss of the whole. In the
    first steps the run goes on so; later the step is made, saved, and the run left (75), because
    something else has taken the memory. With several processes the others wait in the exchange of
    gradients and cannot be told, so there the run ends, with what to write instead.
    """

    def keep(self, origin, tokens_per_step: int, watch, say: Callable, note: Callable) -> None:
        """As keeping.Sealed's; `note` puts facts into the run's record."""
        super().keep(origin, tokens_per_step, watch, say)
        self._say, self._note = say, note
        self._limit = self.args.per_device_train_batch_size  # blocks that fit at a time
        self._first_step: int | None = None
        self._step, self._made = -1, []

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As Trainer's: the loss of a micro-batch, whose gradients are added."""
        if self._step != self.state.global_step:
            self._step, self._made = self.state.global_step, []
        self._first_step = self._step if self._first_step is None else self._first_step
        self._made.append((inputs, num_items_in_batch))
        todo = self._made[-1:]
        while True:
            try:
                return [self._in_parts(model, *batch) for batch in todo][-1]
            except RuntimeError as error:
                if not is_refusal(error):
                    raise
                self._halve(str(error).splitlines()[0])
            # Out of the except clause: the error holds on to the step's tensors. What the micro-
            # batches of this step have added is not known, so all of them are made again.
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            todo = self._made

    def _in_parts(self, model, inputs: dict[str, Any], number) -> torch.Tensor:
        rows = len(inputs["input_ids"])
        starts = range(0, rows, self._limit)
        parts = [{k: v[at : at + self._limit] for k, v in inputs.items()} for at in starts]
        return sum(super(Halving, self).training_step(model, part, number) for part in parts)

    def _halve(self, refusal: str) -> None:
        """InputError where there is nothing to halve, or nobody to tell."""
        step, failed = self._step + 1, self._limit
        what = f"out of memory in step {step} with {failed} block(s) at a time"
        if failed == 1 or self.args.world_size > 1:
            smaller = f"--per_device_train_batch_size {max(1, failed // 2)}"
            advice = (
                smaller if failed > 1 else "--activation_checkpointing true, or a smaller model"
            )
            raise InputError(f"{what}: {refusal}\nTry {advice}; the last checkpoint counts.")
        self._limit = failed // 2
        tokens = f"{self.tokens_per_step:,} tokens"
        self._say(f"{what}: {self._limit} from now on; a step stays {tokens}")
        self._note(halved={"step": step, "from": failed, "to": self._limit})
        if self._step - self._first_step >= FIRST_STEPS:
            leaving.ask("out of memory", f"{what}, and not in the first steps")


def is_refusal(error: RuntimeError) -> bool:
    """Whether an allocator had nothing left to give."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_CPU_REFUSAL.search(str(error)))
