"""Progress in lines: what takes longer than a few seconds says how far it is."""

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 5


class Clock:
    """Lets a line through now and then; `words` are made only for those."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.began = say, time.monotonic()
        self.last = self.began

    def line(self, words: Callable[[float], str]) -> None:
        """`words` of the seconds since the beginning."""
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            self.say(words(now - self.began))
