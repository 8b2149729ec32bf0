"""The progress that a tokenizer's trainer writes, as lines with the time left."""

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zhgpt.clock import Clock

Say = Callable[[str], None]

MERGING = "Compute merges"  # tokenizers 0.23, BpeTrainer(progress_format="json")


@contextmanager
def told(say: Say) -> Iterator[None]:
    """While this lasts, what the trainer writes to file descriptor 2 comes out as lines by `say`.

    Everything else that is written there goes on to where it would have gone.
    """
    sys.stderr.flush()
    terminal, (reading, writing) = os.dup(2), os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    reader = threading.Thread(target=_pass_on, args=(reading, terminal, say))
    reader.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # closes the pipe's last writing end: the reader comes to its end
        reader.join()
        os.close(terminal)


def _pass_on(reading: int, terminal: int, say: Say) -> None:
    clock = None
    with open(reading, "rb") as lines:
        for line in lines:
            progress = _progress(line)
            if progress is None:
                os.write(terminal, line)
            elif progress["stage"] == MERGING:
                clock = clock or Clock(say)
                clock.line(lambda seconds, done=progress: _words(done, seconds))


def _progress(line: bytes) -> dict | None:
    """What the trainer says; None for a line that is not the trainer's."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and {"stage", "current", "total"} <= said.keys() else None


def _words(progress: dict, seconds: float) -> str:
    """Later merges are of rarer pairs and take less time: of 32,000 on 172 MB, the first 5 % took
    three fifths of it, and the square of a logarithm told the time left within its half.
    """
    merged, total = progress["current"], progress["total"]
    share = (math.log1p(merged) / math.log1p(total)) ** 2
    left = seconds * (1 - share) / share if share else 0
    return f"merging: {merged:,} of {total:,} entries, some {left:,.0f} s left"
