"""Where in training a process that is told to leave does so, and all others with it."""

import time

from transformers import TrainerCallback

from zhgpt import leaving
from zhgpt.errors import Left
from zhgpt.peers import agreed
from zhgpt.recipe import PreemptionSection
from zhgpt.session import Session
from zhgpt.watch import Watch


class LeaveInTime(TrainerCallback):
    """Ends training after the current step, with a checkpoint, when the process is told to go.

    An evaluation is left in its middle (`Left`), and made again at the next start. Until the first
    step is done there is nothing new to save, and the process has left already. `save_minutes` is
    how often to save whatever the steps take. `left` says whether training ended before its time.
    """

    def __init__(self, section: PreemptionSection, segment: Session, watch: Watch):
        self.save_minutes, self.segment, self.watch = section.save_minutes, segment, watch
        self.left = False
        self.saved = self.step_began = self.step_ended = time.monotonic()

    @property
    def reason(self) -> str:
        return leaving.asked() or "told to another process"

    def on_train_begin(self, args, state, control, **kwargs):
        self.saved = time.monotonic()

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_began = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        self.segment.step = state.global_step
        leaving.defer()
        self.step_ended = time.monotonic()
        self.watch.step_seconds = max(self.watch.step_seconds, self.step_ended - self.step_began)
        leave, save = agreed(leaving.asked() is not None, self._is_due())
        control.should_save |= save
        self._stop(leave, control)

    def _is_due(self) -> bool:
        return bool(self.save_minutes) and self.step_ended - self.saved >= 60 * self.save_minutes

    def _stop(self, leave: bool, control) -> None:
        if leave:
            self.left = control.should_save = control.should_training_stop = True

    def on_prediction_step(self, args, state, control, **kwargs):
        (leave,) = agreed(leaving.asked() is not None)
        self._stop(leave, control)
        if leave:
            raise Left(self.reason)

    def on_evaluate(self, args, state, control, **kwargs):
        self._stop(*agreed(leaving.asked() is not None), control)

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        (self.left,) = agreed(self.left or leaving.asked() is not None)

    def require_stayed(self) -> None:
        """After training: `Left` where it was left; from here on there is nothing to wait for."""
        if self.left:
            raise Left(self.reason, f"stopped at step {self.segment.step}, saved")
        leaving.at_once()
