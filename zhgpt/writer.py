"""Writes one thing at a time beside the training, and tries again what the disk refused."""

import threading
from collections.abc import Callable

Say = Callable[[str], None]


class Writer:
    """One write at a time in a thread of its own.

    A write that fails with one of `refusals` is said once, and tried again every `retry_seconds`
    until it succeeds or something newer is to be written. Any other exception is a fault of the
    program and raised from the next call.
    """

    def __init__(self, say: Say, refusals: tuple[type[Exception], ...], retry_seconds: float = 60):
        self.say, self.refusals, self.retry_seconds = say, refusals, retry_seconds
        self.refusal: Exception | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._no_more = threading.Event()
        self._last: tuple[str, Callable[[], None]] | None = None

    def free(self) -> None:
        """Waits for a write that is under way, and gives up one that waits for its next try."""
        if self._thread:
            self._no_more.set()
            self._thread.join()
            self._no_more.clear()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def start(self, name: str, write: Callable[[], None]) -> None:
        """Writes in the background; `name` is what messages call it."""
        self.free()
        self._last = (name, write)
        self._thread = threading.Thread(target=self._run, args=self._last, daemon=True)
        self._thread.start()

    def finish(self) -> Exception | None:
        """Waits for the last write, tried once more if need be; None, or why it is not done."""
        self.free()
        if self.refusal:
            self._try(*self._last)
        return self.refusal

    def _run(self, name: str, write: Callable[[], None]) -> None:
        try:
            while not self._try(name, write) and not self._no_more.wait(self.retry_seconds):
                pass
        except BaseException as error:
            self._error = error

    def _try(self, name: str, write: Callable[[], None]) -> bool:
        try:
            write()
        except self.refusals as refusal:
            if not self.refusal:
                self.say(
                    f"{name} could not be saved: {refusal}; training goes on, and saving is tried"
                    f" again every {self.retry_seconds:.0f} seconds"
                )
            self.refusal = refusal
            return False
        if self.refusal:
            self.say(f"{name} is saved; saving works again")
        self.refusal = None
        return True
