"""SwanLab: one run per output folder, begun before Trainer's callback looks for one.

The callback of transformers 5.23 asks for a run in a way that swanlab 0.10 answers with an error.
"""

import os
import secrets
from pathlib import Path

from zhgpt.session import Session


def start(segment: Session, tags: list[str]) -> None:
    """Starts or continues the run; offline without asking where there is no account.

    SWANLAB_PROJECT, SWANLAB_MODE, SWANLAB_LOG_DIR and SWANLAB_RUN_ID have the last word.
    """
    import swanlab  # only who reports there has it

    known = os.environ.get("SWANLAB_RUN_ID") or segment.record.get("swanlab_id")
    segment.note(swanlab_id=known or secrets.token_hex(10))
    swanlab.init(
        project=os.environ.get("SWANLAB_PROJECT", "zhgpt"),
        name=segment.record["name"],
        group=segment.record["recipe"]["name"],
        tags=tags,
        id=segment.record["swanlab_id"],
        resume="allow",
        mode=os.environ.get("SWANLAB_MODE", "online" if has_account() else "offline"),
        log_dir=os.environ.get("SWANLAB_LOG_DIR", str(segment.folder / "swanlog")),
    )
    for curves in ("train/*", "eval/*"):
        swanlab.define_metric(curves, x_axis="train/tokens")


def has_account() -> bool:
    home = os.environ.get("SWANLAB_SAVE_DIR", Path.home() / ".swanlab")
    return bool(os.environ.get("SWANLAB_API_KEY")) or Path(home, ".netrc").exists()
