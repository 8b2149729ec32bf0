"""The one exception that means: the input is at fault, not the program; and the exit codes."""

import errno
import os
import select
import sys
from collections.abc import Callable, Sequence

FINISHED = 0
INPUT_ERROR = 2
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues


class InputError(Exception):
    """Says what is wrong, where, which value, and what to do; a command prints it, exit code 2."""


class Stopped(InputError):
    """A guard has ended a run: saved, and the same command would come to the same. Exit code 2."""


class Left(Exception):
    """A run is left before its end: `reason` is for the record, `told` for people. Exit code 75."""

    def __init__(self, reason: str, told: str | None = None):
        super().__init__(told or reason)
        self.reason = reason


def exit_code(run: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Runs a command; the user's mistake is one message without traceback, said by one process."""
    try:
        code = run(argv)
        sys.stdout.flush()
        return code
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except Left as left:
        if os.environ.get("RANK", "0") == "0":
            print(f"{left}; the same command continues", flush=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted; the same command starts here again", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{error}: make room; the same command continues", file=sys.stderr)
        return INTERRUPTED


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more, as after `| head`; what is left is dropped."""
    stdout, asked = sys.stdout.fileno(), select.poll()
    asked.register(stdout, 0)  # errors are told unasked
    if not asked.poll(0):
        return False  # another pipe broke, which is a fault
    # At its end the interpreter flushes once more, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True
