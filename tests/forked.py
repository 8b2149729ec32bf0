"""A run in a process of its own, without the seconds that a fresh one takes for its imports."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import run_clm
from zhgpt import leaving
from zhgpt.errors import exit_code

DEADLINE = 60


class Run:
    """`python run_clm.py ...` as a forked child; `prepare` runs in it first."""

    def __init__(self, log: Path, *argv: object, prepare: Callable[[], None] = lambda: None):
        self.log = log
        log.write_text("")
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_run([str(word) for word in argv], prepare)

    def _be_the_run(self, argv: list[str], prepare: Callable[[], None]) -> None:
        code = 1
        try:
            os.setsid()
            out = os.open(self.log, os.O_WRONLY | os.O_APPEND)
            for number in (1, 2):
                os.dup2(out, number)
            sys.stdout = sys.stderr = os.fdopen(1, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
            prepare()
            leaving.listen()
            # Most are to be ended from outside: their text is a page, and their steps are endless.
            code = exit_code(run_clm.run, [*argv, "--accept", "many-epochs"])
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
            finally:
                os._exit(code)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str) -> "Run":
        self._until(lambda: words in self.said, words)
        return self

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, f"no {what!r} in {self.said[-3000:]}"
            time.sleep(0.005)

    def signal(self, number: int, group: bool = False) -> "Run":
        (os.killpg if group else os.kill)(self.pid, number)
        return self

    def ended(self) -> int:
        """The exit code, or minus the number of the signal that killed it."""
        found = []

        def reaped() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            found.append(status)
            return pid != 0

        self._until(reaped, "end")
        return os.waitstatus_to_exitcode(found[-1])
