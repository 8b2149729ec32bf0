"""The one exception that means: the input is at fault, not the program; and the exit codes."""

import os
import sys
from collections.abc import Callable, Sequence

FINISHED = 0
INPUT_ERROR = 2
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues


class InputError(Exception):
    """Says what is wrong, where, which value, and what to do; a command prints it, exit code 2."""


def exit_code(run: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Runs a command; the user's mistake is one message without traceback, said by one process."""
    try:
        return run(argv)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command starts here again", file=sys.stderr)
        return INTERRUPTED
