"""What tells a run to leave besides a signal: a file that appears, a command, a limit of time."""

import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from zhgpt import leaving
from zhgpt.errors import InputError
from zhgpt.recipe import PreemptionSection

SECONDS_BETWEEN_LOOKS = 1
SECONDS_BETWEEN_COMMANDS = 60
COMMAND_SECONDS = 30  # a command that takes longer is ended, and asked again the next time
MARGIN_SECONDS = 60  # kept for a save while none has been measured; a tenth of a short limit


def require(section: PreemptionSection) -> None:
    """InputError for a command that is not there and for a stop file that is."""
    if section.stop_file and Path(section.stop_file).exists():
        raise InputError(
            f"preemption.stop_file: {section.stop_file} exists, which means: do not train.\n"
            "Remove it, and the same command goes on."
        )
    program = _words(section)[:1]
    if program and not shutil.which(program[0]):
        raise InputError(
            f"preemption.stop_command: {program[0]} is not a program that can be run here.\n"
            "It is run without a shell: a program and its arguments, no pipe and no variable."
        )


def has_launcher() -> bool:
    """Whether torchrun, or what is made of it, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def orphaned() -> str | None:
    """A process whose launcher was killed would train on, and keep the next start out."""
    return "launcher has ended" if has_launcher() and os.getppid() != leaving.PARENT else None


def _words(section: PreemptionSection) -> list[str]:
    try:
        return shlex.split(section.stop_command or "")
    except ValueError as error:
        raise InputError(
            f"preemption.stop_command: {section.stop_command!r}: {error}; quotes come in pairs."
        ) from None


class Watch:
    """Looks from a thread of its own, so that no step waits for a disk or for a command.

    `step_seconds` and `save_seconds` are the longest so far, as others measured them; a save's are
    those from the copy to its last byte on the disk.
    """

    def __init__(self, section: PreemptionSection, say: Callable[[str], None]):
        self.section, self.say = section, say
        self.save_seconds = self.step_seconds = 0.0
        self.ended = threading.Event()
        self.next_command = 0.0

    def __enter__(self) -> "Watch":
        require(self.section)
        leaving.forget()
        section = self.section
        if section.stop_file or section.stop_command or section.max_minutes or has_launcher():
            threading.Thread(target=self._look, name="watch", daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.ended.set()

    def saved(self, seconds: float) -> None:
        self.save_seconds = max(self.save_seconds, seconds)

    def _look(self) -> None:
        while not self.ended.wait(SECONDS_BETWEEN_LOOKS):
            reason = self._stop_file() or self._time_limit() or self._stop_command() or orphaned()
            if reason:
                leaving.ask(reason)
                return

    def _stop_file(self) -> str | None:
        path = self.section.stop_file
        return f"stop file {path}" if path and Path(path).exists() else None

    def _time_limit(self) -> str | None:
        limit = self.section.max_minutes
        if limit and time.monotonic() - leaving.BEGAN >= 60 * limit - self.margin(60 * limit):
            return f"limit of {limit:g} minutes"
        return None

    def margin(self, limit: float) -> float:
        """Seconds before the limit at which to leave: twice the longest step and save so far."""
        measured = 2 * (self.step_seconds + self.save_seconds)
        return measured if self.save_seconds else max(measured, min(MARGIN_SECONDS, limit / 10))

    def _stop_command(self) -> str | None:
        words = _words(self.section)
        if not words or time.monotonic() < self.next_command:
            return None
        self.next_command = time.monotonic() + SECONDS_BETWEEN_COMMANDS
        return "stop command" if self._succeeds(words) else None

    def _succeeds(self, words: list[str]) -> bool:
        """Its output goes nowhere: it may hold what does not belong into a log."""
        try:
            process = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                start_new_session=True,  # a Ctrl-C at the keyboard is not meant for it
            )
            return process.returncode == 0
        except subprocess.TimeoutExpired:
            self.say(f"stop command: no answer in {COMMAND_SECONDS} s, ended; asked again later")
        except OSError as error:
            self.say(f"stop command: {error.strerror}; asked again later")
        return False
