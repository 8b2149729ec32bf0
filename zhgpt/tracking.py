"""Weights & Biases: one run per output folder, offline without asking where there is no account."""

import atexit
import json
import netrc
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback

from zhgpt import leaving, swan
from zhgpt.errors import FINISHED, INTERRUPTED
from zhgpt.session import Session

COLUMNS = ["step", "tokens", "prompt", "text"]
MOST_SAMPLES = 2000  # rows of a table, the newest; all of them are in samples.jsonl
# Where the run lies on this machine is nothing that two runs differ in.
_OF_THIS_PLACE = {"output_dir", "run_name", "logging_dir", "hub_token"}

SECONDS_TO_FINISH = {"finished": 60, "interrupted": 4, "failed": 4}
EXIT_CODES = {"finished": FINISHED, "interrupted": INTERRUPTED, "failed": 1}
_TOKENS = re.compile(r"train/tokens\W+(?:value_json\W+)?(\d+)")
_PLACE = {"tokens", "global_step", "epoch"}
_TOTALS = re.compile("train_(runtime|loss|.*_per_second)|total_flos")


def start(trainer: Trainer, segment: Session, say: Callable[[str], None]) -> None:
    """Starts (or continues) the run in W&B if the recipe reports there, in place of Trainer's own.

    The environment variables of wandb (WANDB_PROJECT, WANDB_MODE, WANDB_RUN_ID ...) have the last
    word. Neither the environment, nor code, nor a diff of the repository is uploaded or stored.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):  # else a folder named after this machine
            callback.logging_dir = callback.logging_dir or str(segment.folder / "tensorboard")
    if "swanlab" in trainer.args.report_to and segment.main_process:
        swan.start(segment, tags(segment.record))
    if "wandb" not in trainer.args.report_to:
        return
    trainer.remove_callback(WandbCallback)
    if segment.main_process:
        known = os.environ.get("WANDB_RUN_ID") or segment.record.get("wandb_id")
        # On disk before W&B hears of it: a process killed in between would begin a second run.
        segment.note(wandb_id=known or secrets.token_hex(4))
        tracker = Tracker(segment, say)
        segment.on_end = tracker.finish
        trainer.add_callback(tracker)
        _trackers[:] = [tracker]


_trackers: list["Tracker"] = []  # of this process, one or none


def samples_table(rows: list[dict[str, Any]]) -> None:
    for tracker in _trackers:
        tracker.samples(rows)


def alert(title: str, text: str) -> None:
    for tracker in _trackers:
        tracker.alert(title, text)


class Tracker(TrainerCallback):
    """Hands everything to a thread: W&B slow, unreachable or failing costs no training step."""

    def __init__(self, segment: Session, say: Callable[[str], None]):
        self.segment, self.say = segment, say
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()
        self.sent = self.evaluated = 0
        self.thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            self.run = begin(self.segment, self.say)
            self.sent, self.evaluated = sent_tokens(self.run, self.segment.folder)
            while job := self.jobs.get():
                job()
        except Exception as error:  # whatever it is: training does not depend on it
            words = str(error).strip().splitlines() or [""]
            self.say(f"W&B: {type(error).__name__}: {words[0][:200]}; going on without it")

    def _do(self, job: Callable[[], None]) -> None:
        if self.thread.is_alive():
            self.jobs.put(job)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        facts = model.config.to_dict() | args.to_dict()
        facts = {key: value for key, value in facts.items() if key not in _OF_THIS_PLACE}
        self._do(lambda: self.run.config.update(facts, allow_val_change=True))
        for entry in state.log_history:  # a killed segment's last lines may have been lost
            self._put(entry["step"], entry)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._put(state.global_step, logs)

    def _put(self, step: int, figures: dict[str, Any]) -> None:
        row = {key: value for key, value in figures.items() if key != "step"}
        self._do(lambda: self._log(row | {"global_step": step}))

    def _log(self, row: dict[str, Any]) -> None:
        """Totals become the run's own figures; what a killed segment has sent is not sent again."""
        self.run.summary.update({k: v for k, v in row.items() if _TOTALS.fullmatch(k)})
        row = {key: value for key, value in row.items() if not _TOTALS.fullmatch(key)}
        again = row["tokens"] < self.sent or (row["tokens"] == self.sent and "loss" in row)
        again |= "eval_loss" in row and row["tokens"] <= self.evaluated
        if not again and row.keys() - _PLACE:
            self.run.log({_charted(key): value for key, value in row.items()})

    def samples(self, rows: list[dict[str, Any]]) -> None:
        """Each evaluation's table has all samples so far, those of former starts too.

        It is made of the run's own file: wandb's growing tables begin anew with each process.
        """
        self._do(lambda: self._samples(rows))

    def _samples(self, rows: list[dict[str, Any]]) -> None:
        if rows[0]["tokens"] < self.sent:
            return
        before = [row for row in self._written() if row["step"] < rows[0]["step"]]
        data = [[row[c] for c in COLUMNS] for row in (before + rows)[-MOST_SAMPLES:]]
        table = wandb.Table(columns=COLUMNS, data=data)
        self.run.log({"samples": table, "train/tokens": rows[0]["tokens"]})

    def _written(self) -> list[dict[str, Any]]:
        """The rows of samples.jsonl; one that is being written at this moment has no end yet."""
        path = self.segment.folder / "samples.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def alert(self, title: str, text: str) -> None:
        """Sent as a mail or to Slack, as its reader has chosen there."""
        self._do(lambda: self.run.alert(title, text, level=wandb.AlertLevel.WARN))

    def finish(self) -> None:
        """Tells W&B how the segment ended; waits a while, less where the machine may be going."""
        status = self.segment.record["status"]
        self._do(lambda: self._finish(status))
        self.jobs.put(None)
        self.thread.join(SECONDS_TO_FINISH[status])
        if self.thread.is_alive():
            self.say("W&B does not answer; what it has not got lies in the run's folder")
            if leaving.listening():
                # The last one registered is the first one called: wandb's own would wait for ever.
                atexit.register(os._exit, EXIT_CODES[status])

    def _finish(self, status: str) -> None:
        segments = {"segments": self.segment.record["segments"]}
        self.run.config.update(segments, allow_val_change=True)
        if status == "interrupted":
            self.run.mark_preempting()
        self.run.finish(exit_code=EXIT_CODES[status])


def _charted(key: str) -> str:
    return f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}"


def begin(segment: Session, say: Callable[[str], None]):
    """The run in W&B, new or continued."""
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
        id=record["wandb_id"],
        resume="allow",
        mode="offline" if offline else None,
        settings=wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, finish_timeout=50
        ),
    )
    define_axes(run)
    say(where(run, offline))
    return run


def sent_tokens(run, folder: Path) -> tuple[int, int]:
    """The tokens of the last line that W&B has of former segments, and of the last evaluation.

    Online W&B says the first itself, and not the second: there an evaluation that was left in its
    samples comes twice.
    """
    if run.resumed:
        return run.summary.get("train/tokens", 0), 0
    pieces = sorted(folder.glob(f"wandb/offline-run-*-{run.id}/*.wandb"))
    former = [_records(piece) for piece in pieces if piece.parent != Path(run.dir).parent]
    lines = [line for records in former for line in records]
    return _last_tokens(lines), _last_tokens([line for line in lines if "eval/loss" in line])


def _records(piece: Path) -> list[str]:
    """Of an offline file, also of one whose end is missing, by wandb's own reader."""
    program = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(piece)]
    found = subprocess.run(program, capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if '"type":"history"' in line]


def _last_tokens(lines: list[str]) -> int:
    return max(map(int, _TOKENS.findall("\n".join(lines))), default=0)


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


def define_axes(run) -> None:
    """Charts may open over tokens: two runs with other step sizes compare by tokens only."""
    run.define_metric("train/tokens")
    run.define_metric("train/*", step_metric="train/tokens")
    run.define_metric("eval/*", step_metric="train/tokens")


def where(run, offline: bool) -> str:
    if run.settings.mode == "online":
        return f"W&B: {run.url}"
    if run.disabled:
        return "W&B: disabled by WANDB_MODE"
    # Each start makes a piece of its own; all together they are one run. One by one: after a piece
    # that a kill left without its end, `wandb sync` sends none of those that follow (wandb 0.31).
    pieces = Path(run.dir).parent.parent / f"offline-run-*-{run.id}"
    reason = "no account configured" if offline else "WANDB_MODE"
    send = f'for piece in {pieces}; do wandb sync "$piece"; done'
    return f"W&B: offline ({reason}); to send it: {send}"


def has_account() -> bool:
    """Whether wandb would find credentials: its variables, or its host in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
