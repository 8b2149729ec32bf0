"""A run as its own files tell it: record, curve and samples, finished or not.

Only JSON is read, so nothing of a run is ever executed. A damaged part is noted, the rest is used.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhgpt import session
from zhgpt.errors import InputError

Note = dict[str, Any]  # "key" names a phrase of web/words.json, the rest are its values

# What a comparison cannot do without.
_NEEDED = {
    "name": str,
    "status": str,
    "recipe": dict,
    "recipe.tokens_per_step": int,
    "content": dict,
    "overrides": dict,
    "inputs.tokenizer": str,
    "ledger.train": dict,
    "ledger.validation": dict,
    "plan.tokens": int,
    "plan.flops": int | float,
    "plan.max_steps": int,
    "machine": dict,
    "segments": list,
}


@dataclass(frozen=True)
class Run:
    """`name` is the folder's, with the way to it where two are called the same.

    `entries` are the log lines up to `step`, only their numbers, each with its step and hours;
    `samples` have step, prompt and text; `alarms` have guard, step and text.

    `hours` are those of the clock over all segments where log lines have `seconds`. Else they are
    those inside steps and evaluations: saves, samples, starts and repeated steps are in no such
    line. None where no line has a rate either.
    """

    name: str
    folder: Path
    record: Mapping[str, Any]
    step: int = 0
    entries: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    alarms: Sequence[Mapping[str, Any]] = ()
    notes: list[Note] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.record["status"] == "finished"

    @property
    def evaluation(self) -> Mapping[str, float]:
        """The metrics of the end, or of the last evaluation in the log."""
        if self.finished and "eval_bits_per_byte" in self.record["metrics"]:
            return self.record["metrics"]
        return next((e for e in reversed(self.entries) if "eval_bits_per_byte" in e), {})

    @property
    def tokens(self) -> int:
        return self.step * self.record["recipe"]["tokens_per_step"]

    @property
    def flops(self) -> float:
        """As the plan counts them (zhgpt.plan.flops_per_token)."""
        return self.tokens * self.record["plan"]["flops"] / self.record["plan"]["tokens"]

    @property
    def hours(self) -> float | None:
        return self.entries[-1]["hours"] if self.entries else None

    @property
    def clocked(self) -> bool:
        """Whether hours are those of the clock."""
        return any("seconds" in entry for entry in self.entries)


def read(folders: Sequence[Path]) -> list[Run]:
    """InputError for a folder that is no run's, has not begun, or has no evaluation yet."""
    found = {folder.resolve(): folder for folder in folders}  # a folder that is named twice is one
    records = {folder: _record(folder) for folder in found.values()}
    names = [folder.resolve().name for folder in records]
    return [
        _read(folder, record, name if names.count(name) == 1 else folder.as_posix())
        for (folder, record), name in zip(records.items(), names, strict=True)
    ]


def _record(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the output folder of a run.")
    if (folder / "training.json").exists() and not (folder / "run.json").exists():
        raise InputError(
            f"{folder} is a tokenizer, and here runs are compared.\n"
            "Compare tokenizers with python run_bpe.py --compare."
        )
    try:
        record = session.read(folder)
    except OSError as error:
        raise InputError(f"{folder}/run.json: cannot be read ({error.strerror}).") from None
    if isinstance(record, dict) and not record.get("plan"):
        raise InputError(f"{folder}: the run has not begun to train; there is nothing to compare.")
    for path, kind in _NEEDED.items():
        if not isinstance(_at(record, path), kind):
            raise InputError(f"{folder}/run.json: damaged, {path} is missing or of a wrong type.")
    for number, segment in enumerate(record["segments"]):
        if not isinstance(_at(segment, "from_step"), int):
            raise InputError(f"{folder}/run.json: damaged, segments.{number} has no from_step.")
    metrics = _numbers(record.get("metrics") or {})
    return {"versions": {}, "source": {}} | record | {"metrics": metrics}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if type(value) in (int, float)}


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _read(folder: Path, record: dict[str, Any], name: str) -> Run:
    notes: list[Note] = []
    state, path = _state(folder, record["status"] == "finished", name, notes)
    entries = list(_entries(state["log_history"], path, name, notes))
    run = Run(
        name=name,
        folder=folder,
        record=record,
        step=state["global_step"],
        entries=_timed(entries, record["recipe"]["tokens_per_step"]),
        samples=list(_samples(folder / "samples.jsonl", name, notes)),
        alarms=list(_alarms(record.get("alarms", []), name, notes)),
        notes=notes,
    )
    notes += _not_finite(entries, name)
    if run.entries and run.hours is None:
        notes.append({"key": "no_hours", "run": name})
    if not run.evaluation:
        raise InputError(
            f"{folder}: {name} has no evaluation yet, or none that was saved with a checkpoint"
            f" (step {run.step:,}).\nLeave it out, or wait for its next checkpoint."
        )
    return run


def _state(folder: Path, finished: bool, name: str, notes: list[Note]) -> tuple[dict, Path]:
    """The newest trainer_state.json that can be read: the end's, else the newest checkpoint's."""
    saved = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal()]
    saved.sort(key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    places = [folder, *saved] if finished else [*saved, folder]
    for path in (place / "trainer_state.json" for place in places):
        if not path.exists() and path.parent == folder and not finished:
            continue  # only the end writes it
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if type(state["global_step"]) is int and isinstance(state["log_history"], list):
                return state, path
            why = "no global_step or log_history"
        except OSError as error:
            why = error.strerror
        except (ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
        notes.append(_damaged(name, path.relative_to(folder), why))
    return {"global_step": 0, "log_history": []}, folder


def _damaged(name: str, place: Any, why: str) -> Note:
    return {"key": "damaged", "run": name, "place": str(place), "why": why}


def _entries(history: list, path: Path, name: str, notes: list[Note]) -> Iterator[dict[str, Any]]:
    for number, entry in enumerate(history):
        if isinstance(entry, dict) and type(entry.get("step")) is int:
            yield _numbers(entry)
        else:
            place = f"{path.name}, log_history[{number}]"
            notes.append(_damaged(name, place, "not a log line with a step"))


def _not_finite(entries: Sequence[Mapping[str, Any]], name: str) -> list[Note]:
    """Where a figure was first NaN or infinite; a curve has a gap there."""
    first: dict[str, int] = {}
    for entry in entries:
        for key, value in entry.items():
            if not math.isfinite(value):
                first.setdefault(key, entry["step"])
    return [{"key": "not_finite", "run": name, "metric": m, "step": s} for m, s in first.items()]


def _timed(entries: list[dict[str, Any]], tokens_per_step: int) -> list[dict[str, Any]]:
    """With the hours that had passed at each line's step."""
    known = {0: 0.0} | {e["step"]: e["seconds"] for e in entries if "seconds" in e}
    if len(known) == 1:
        return _estimated(entries, tokens_per_step)
    steps = sorted(known)
    seconds = [known[step] for step in steps]
    between = (e.get("seconds", _between(steps, seconds, e["step"])) for e in entries)
    return [e | {"hours": s / 3600} for e, s in zip(entries, between, strict=True)]


def _estimated(entries: list[dict[str, Any]], tokens_per_step: int) -> list[dict[str, Any]]:
    """With the hours inside steps and evaluations, for a log that has no clock.

    A log line tells the rate of the steps since the line before it; in between time is linear.
    """
    steps, seconds = [0], [0.0]
    for entry in entries:
        rate = entry.get("tokens_per_second", 0)
        if rate > 0 and entry["step"] > steps[-1]:
            seconds.append(seconds[-1] + (entry["step"] - steps[-1]) * tokens_per_step / rate)
            steps.append(entry["step"])
    evaluating, timed = 0.0, []
    for entry in entries:
        evaluating += entry.get("eval_runtime", 0.0)
        total = evaluating + _between(steps, seconds, entry["step"]) if len(steps) > 1 else None
        timed.append(entry | {"hours": None if total is None else total / 3600})
    return timed


def _between(steps: Sequence[int], seconds: Sequence[float], step: int) -> float:
    """Seconds at `step`, linear between the known ones, and on past the last of them."""
    after = min(max(bisect_left(steps, step), 1), len(steps) - 1)
    slope = (seconds[after] - seconds[after - 1]) / (steps[after] - steps[after - 1])
    return seconds[after] + (step - steps[after]) * slope


def _samples(path: Path, name: str, notes: list[Note]) -> Iterator[dict[str, Any]]:
    """The rows of samples.jsonl; a run without prompts has none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            yield {"step": int(row["step"]), "prompt": str(row["prompt"]), "text": str(row["text"])}
        except (ValueError, KeyError, TypeError) as error:
            place = f"{path.name}:{number}"
            notes.append(_damaged(name, place, f"{type(error).__name__}: {error}"))


def _alarms(found: Any, name: str, notes: list[Note]) -> Iterator[dict[str, Any]]:
    for number, alarm in enumerate(found if isinstance(found, list) else []):
        if isinstance(alarm, dict) and type(alarm.get("step")) is int:
            yield {"step": alarm["step"]} | {k: str(alarm.get(k)) for k in ("guard", "text")}
        else:
            notes.append(_damaged(name, f"run.json, alarms.{number}", "not an alarm with a step"))


def vocabulary(run: Run) -> frozenset[str] | None:
    """The entries of the tokenizer that lies with the run; None where there is none to read."""
    for path in (run.folder / "tokenizer.json", *run.folder.glob("checkpoint-*/tokenizer.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
            return frozenset(entry if isinstance(entry, str) else entry[0] for entry in entries)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
