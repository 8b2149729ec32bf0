"""Weights & Biases: one run per output folder, offline without asking where there is no account."""

import netrc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb

from zhgpt.session import Session

COLUMNS = ["step", "tokens", "prompt", "text"]


def start(segment: Session, report_to: Sequence[str], say: Callable[[str], None]) -> None:
    """Starts (or continues) the run in W&B if the recipe reports there.

    The environment variables of wandb (WANDB_PROJECT, WANDB_MODE, WANDB_RUN_ID ...) have the last
    word. Neither the environment, nor code, nor a diff of the repository is uploaded or stored.
    """
    if not segment.main_process or "wandb" not in report_to:
        return
    record = segment.record
    offline = "WANDB_MODE" not in os.environ and not has_account()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "zhgpt"),
        group=record["recipe"]["name"],
        job_type="train",
        name=record["name"],
        tags=tags(record),
        config={key: record[key] for key in _CONFIG},
        dir=segment.folder,
        id=os.environ.get("WANDB_RUN_ID", record.get("wandb_id")),
        resume="allow",
        mode="offline" if offline else None,
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )
    segment.note(wandb_id=run.id)
    define_axes()
    say(where(run, offline))


_CONFIG = (
    "recipe",
    "recipe_hash",
    "overrides",
    "ledger",
    "inputs",
    "plan",
    "versions",
    "machine",
    "source",
)


def tags(record: dict[str, Any]) -> list[str]:
    """The recipe's name and one tag per override, 64 characters at most each."""
    overrides = [f"{key}={value}"[:64] for key, value in record["overrides"].items()]
    return [record["recipe"]["name"][:64], *overrides]


def define_axes() -> None:
    """Charts may open over tokens: two runs with other step sizes compare by tokens only."""
    wandb.define_metric("train/tokens")
    wandb.define_metric("train/*", step_metric="train/tokens")
    wandb.define_metric("eval/*", step_metric="train/tokens")


def where(run, offline: bool) -> str:
    if run.settings.mode == "online":
        return f"W&B: {run.url}"
    if run.disabled:
        return "W&B: disabled by WANDB_MODE"
    reason = "no account configured" if offline else "WANDB_MODE"
    return f"W&B: offline ({reason}); to send it: wandb sync {Path(run.dir).parent}"


def has_account() -> bool:
    """Whether wandb would find credentials: its variables, or its host in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def samples_table(rows: list[dict[str, Any]]) -> None:
    """One table per evaluation: a table that grows would be lost with the process."""
    table = wandb.Table(columns=COLUMNS, data=[[row[c] for c in COLUMNS] for row in rows])
    wandb.log({"samples": table, "train/tokens": rows[0]["tokens"]})
