"""run_clm.py that waits: two processes at step 6 until FOLDER/go is there, one alone at step 9.

The latter until it is told to leave. Who waits notes its process in FOLDER/held-WORLD-RANK.
Called as: held.py FOLDER RECIPE OPTIONS
"""

import os
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zhgpt import leaving, stopping  # noqa: E402  the path comes first

FOLDER = Path(sys.argv.pop(1))
WORLD, RANK = os.environ["WORLD_SIZE"], os.environ["RANK"]
begin = stopping.LeaveInTime.on_step_begin


def may_go() -> bool:
    return leaving.asked() is not None or (WORLD == "2" and (FOLDER / "go").exists())


def wait(self, args, state, control, **kwargs):
    begin(self, args, state, control, **kwargs)
    if state.global_step >= (6 if WORLD == "2" else 9):
        (FOLDER / f"held-{WORLD}-{RANK}").write_text(str(os.getpid()))
        while not may_go():
            time.sleep(0.1)


stopping.LeaveInTime.on_step_begin = wait
sys.argv[0] = str(ROOT / "run_clm.py")
runpy.run_path(sys.argv[0], run_name="__main__")
