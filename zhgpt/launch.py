"""torchrun with a run's own exit codes: python -m zhgpt.launch --nproc_per_node 2 run_clm.py ...

All options are torchrun's, which itself ends with 1 whatever its processes answered, and which
tells them of fewer signals. 75 where it was told to leave; else the code of the process that ended
first, 128 and the signal's number where one was killed.
"""

import os
import signal
import sys
from collections.abc import Sequence

from zhgpt.errors import FINISHED, INTERRUPTED
from zhgpt.leaving import SIGNALS


def run(argv: Sequence[str]) -> int:
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    told = ",".join(number.name for number in SIGNALS)
    try:
        torchrun.main([f"--signals-to-handle={told}", *argv])
    except SignalException:
        return INTERRUPTED
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
    return FINISHED


def _leave_at_once() -> None:
    """While torchrun is imported there is no process yet that a signal could be handed to."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))


if __name__ == "__main__":
    _leave_at_once()
    sys.exit(run(sys.argv[1:]))
