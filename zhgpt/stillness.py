"""Notices that training stands still, from a thread: a hung step looks at no clock."""

import threading
import time
from collections.abc import Callable

_SECONDS_BETWEEN_LOOKS = 5
_STEPS = 10  # the longest step so far, that often, is no standstill


class Stillness:
    """Calls `act(minutes)` once, when nothing was marked for `minutes`, between start and end.

    Time in which the process itself did not run (a suspended machine, SIGSTOP) does not count.
    """

    def __init__(self, minutes: float, act: Callable[[float], None]):
        self.seconds, self.act = 60 * minutes, act
        self.between = min(_SECONDS_BETWEEN_LOOKS, self.seconds / 10)
        self.still = self.longest_step = 0.0
        self.marked = time.monotonic()
        self.ended = threading.Event()

    def start(self) -> None:
        self.mark()
        threading.Thread(target=self._look, name="stillness", daemon=True).start()

    def end(self) -> None:
        self.ended.set()

    def mark(self, step: bool = False) -> None:
        """Something was done; the whole of a step, or less."""
        now = time.monotonic()
        if step:
            self.longest_step = max(self.longest_step, now - self.marked)
        self.marked, self.still = now, 0.0

    def _look(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(self.between):
            now = time.monotonic()
            self.still += min(now - last, 2 * self.between)
            last = now
            if self.still > max(self.seconds, _STEPS * self.longest_step):
                self.act(self.still / 60)
                return
