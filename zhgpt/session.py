"""run.json: what a run is, what became of it, and whom its folder belongs to.

The record lies in the output folder, is written in one rename, and is the only thing that a second
start, a model card, a results table or a comparison needs.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zhgpt import disk, leaving, report
from zhgpt.command import Command
from zhgpt.errors import FINISHED, INTERRUPTED, InputError, Left, exit_code
from zhgpt.recipe import (
    as_dict,
    changes,
    content,
    content_hash,
    differences,
    without_length,
)

LOCK = "run.lock"
PLAN = "plan.json"
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "evaluate",
    "wandb",
    "numpy",
)


def new(command: Command) -> dict[str, Any]:
    """The record of a run that has not begun: everything that is known from the recipe alone."""
    return {
        "name": command.run_name,
        "status": "new",
        "recipe_file": Path(command.path).as_posix(),
        "recipe": as_dict(command.recipe),
        "recipe_hash": content_hash(command.recipe),
        "content": content(command.recipe),
        "overrides": command.overrides,
        "versions": versions(),
        "source": source(),
        "segments": [],
        "metrics": {},
    }


def versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def source() -> dict[str, Any]:
    """The code's git commit and whether files differ from it; None where there is no repository."""
    root = Path(__file__).resolve().parent.parent
    commit = _git(root, "rev-parse", "HEAD")
    return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain"))}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def read(folder: Path) -> dict[str, Any]:
    """The record of a run's folder; InputError where there is none or it is damaged."""
    path = folder / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no run.json, so this is not the folder of a run.") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); restore it or move the folder.") from None


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all, also when the process is killed here."""
    disk.write_whole(folder / "run.json", json.dumps(record, ensure_ascii=False, indent=1))


def claim(folder: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The folder's own record if it is this run's, `fresh` if it is free; nothing is written.

    InputError names what differs where the folder belongs to another run. How long the run is
    may differ here; zhgpt.schedule judges that.
    """
    require_place(folder)
    if not folder.exists() or all(_is_ours(path) for path in folder.iterdir()):
        return fresh
    if not (folder / "run.json").exists():
        raise InputError(
            f"{folder} holds files and no run.json: it is not the folder of a run.\n"
            "Nothing in it was touched. Choose another place with --output_dir."
        )
    there = read(folder)
    require_same(folder, without_length(there["content"]), without_length(fresh["content"]))
    return there


def require_same(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """InputError with the differing values, unless both describe the same run."""
    lines = differences(there, here)
    if lines:
        raise InputError(
            f"{folder} belongs to another run:\n  " + "\n  ".join(lines) + "\n" + elsewhere(folder)
        )


def elsewhere(folder: Path) -> str:
    """What to do where a folder's run is not the one that is asked for."""
    return (
        "Nothing in it was touched. Choose another place with --output_dir;"
        f" with --init_from {folder} too, the new run begins with the weights of this one."
    )


def renew(record: dict[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that goes on, with what is asked for now, and with what that changes."""
    changed = changes(record["recipe"], fresh["recipe"])
    if changed:
        segment = len(record["segments"]) + 1
        record.setdefault("changes", []).append({"segment": segment, "changed": changed})
    asked = ("recipe", "recipe_file", "recipe_hash", "content", "overrides")
    record.update({key: fresh[key] for key in asked})
    return record


def _is_ours(path: Path) -> bool:
    """Whether a process left it that was killed before it could write the record, or works now, or
    only planned.
    """
    return path.name.lstrip(".").startswith((LOCK, "run.json.partial", PLAN))


def require_place(folder: Path) -> None:
    """InputError unless `folder` is, or can become, a folder that can be written to."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another place with --output_dir.")
    existing = disk.existing(folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(f"{folder}: {existing} is not a folder that can be written to.")


def is_repeated(record: Mapping[str, Any], command: Command) -> bool:
    """Whether a finished run is asked for in the very words that made it; no file is read."""
    same = as_dict(command.recipe)
    return (
        record["status"] == "finished"
        and record["content"] == content(command.recipe)
        and all(record["recipe"][section] == same[section] for section in ("corpus", "tokenizer"))
    )


def is_finished(record: Mapping[str, Any], steps: int) -> bool:
    """Whether the run has ended and is not asked to be of more or fewer steps."""
    return record["status"] == "finished" and record["plan"]["max_steps"] == steps


class Session:
    """One start of the command, as a segment of its run's record; only `main_process` writes."""

    def __init__(self, folder: Path, record: dict[str, Any], main_process: bool):
        self.folder, self.record, self.main_process = folder, record, main_process
        self.step = 0
        self.on_end: Callable[[], None] = lambda: None
        self.writing = threading.RLock()  # a departure writes from a thread of its own

    @property
    def segment(self) -> dict[str, Any]:
        return self.record["segments"][-1]

    @contextmanager
    def open(
        self, step: int, reached: int, machine: dict[str, Any], **facts: Any
    ) -> Iterator[None]:
        """Notes the start at `step`, and the end however it comes about.

        A segment that never ended was killed; `reached` is the last step that any completed.
        """
        self.record.update(facts, machine=machine, status="running")
        for segment in self.record["segments"]:
            if "reason" not in segment:
                segment.update(reason="killed (found at the next start)", to_step=reached)
        self.began, self.step = time.monotonic(), step
        about = {"started": now(), "from_step": step, "repeated_steps": max(0, reached - step)}
        about |= {"machine": machine, "versions": versions()}
        self.record["segments"].append(about)
        self._write()
        with leaving.last_act(self._leave):
            try:
                yield
            except Left as left:
                self.end("interrupted", left.reason)
                raise
            except BaseException as error:
                self.end("failed", f"error: {type(error).__name__}: {error}"[:300])
                raise

    def finish(self, metrics: dict[str, float]) -> None:
        """Notes the figures of the finished run, and writes its card."""
        self.record["metrics"] = metrics
        if self.main_process:
            report.write_model_card(self.record, self.folder)
        self.end("finished", "finished")

    def end(self, status: str, reason: str, **facts: Any) -> None:
        """Notes how the command ended; `status` is finished, interrupted or failed."""
        steps = self.step - self.segment["from_step"]
        with self.writing:
            self.record.update(facts, status=status)
            self.segment.update(ended=now(), reason=reason, to_step=self.step)
            self.segment["tokens"] = steps * self.record["recipe"]["tokens_per_step"]
            self.segment["seconds"] = round(time.monotonic() - self.began, 1)
            self._write()
        self.on_end()

    def _leave(self, reason: str) -> None:
        """A departure after the end, while W&B is waited for, changes nothing of it."""
        if "reason" not in self.segment:
            self.end("interrupted", reason)

    def note(self, **facts: Any) -> None:
        """Keeps facts that came to be known after the start."""
        self.record.update(facts)
        self._write()

    def _write(self) -> None:
        if self.main_process:
            with self.writing:
                self.folder.mkdir(parents=True, exist_ok=True)
                write(self.folder, self.record)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def ending(folder: Path) -> int:
    """Says how a run's last segment ended; its exit code, which a launcher may not have passed on.

    One that was killed has none, and is to be continued like one that left.
    """
    record = read(folder)
    last = record["segments"][-1] if record["segments"] else {}
    print(f"{folder}: {record['status']}; last segment: {last.get('reason', 'killed or running')}")
    return {"finished": FINISHED, "failed": 1}.get(record["status"], INTERRUPTED)


if __name__ == "__main__":
    sys.exit(exit_code(lambda _: ending(Path(sys.argv[1])), None))
