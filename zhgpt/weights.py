"""Which trained weights lie in a folder, and how they become a model: reads only, executes nothing.

A folder is a run's, finished or not, one of its checkpoints, or any with a GPT-2 of Hugging Face.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from zhgpt import checkpoint, session
from zhgpt.errors import InputError
from zhgpt.recipe import SamplesSection
from zhgpt.report import count

Say = Callable[[str], None]

_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


@dataclass(frozen=True)
class Weights:
    """`folder` has model and tokenizer; `settings` are the recipe's own for samples.

    `step` and `tokens` (trained on) are None where no record tells.
    """

    folder: Path
    settings: SamplesSection
    step: int | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        if self.step is None or self.tokens is None:
            return f"{self.folder}"
        return f"{self.folder} (step {self.step:,}, {count(self.tokens)} tokens)"


def find(folder: Path, number: int | None, say: Say) -> Weights:
    """Checkpoint `number` of a run, else its finished model, else its newest whole checkpoint.

    Damaged checkpoints are passed over, which is said; nothing is renamed, and no lock is taken, so
    the run may go on meanwhile. InputError where there is nothing to speak with.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; name the output folder of a run, or a model's."
        )
    of_a_run = (folder.parent / "run.json").exists() and folder in checkpoint.numbered(
        folder.parent
    )
    if of_a_run and number is None:
        return _sealed(folder, _record(folder.parent, say))
    record, saved = _record(folder, say), sorted(checkpoint.numbered(folder), key=checkpoint.step)
    if number is not None:
        return _asked_for(folder, number, saved, record)
    if record and record["status"] != "finished":
        for place in reversed(saved):
            fault = checkpoint.damage(place)
            if fault is None:
                return _of(place, record)
            say(f"{place} is passed over: {fault}")
    return _model(folder, record, saved)


def _record(folder: Path, say: Say) -> dict[str, Any]:
    """What run.json tells, {} where it tells nothing; one that is damaged is said."""
    if not (folder / "run.json").exists():
        return {}
    try:
        record = session.read(folder)
        if isinstance(record, dict) and isinstance(record.get("status"), str):
            return record
        fault = f"{folder}/run.json: damaged (no status)."
    except (InputError, OSError) as error:
        fault = f"{error}"
    say(f"{fault} The newest whole checkpoint speaks, with default settings.")
    return {"status": "unknown"}


def _asked_for(
    folder: Path, number: int, saved: Sequence[Path], record: Mapping[str, Any]
) -> Weights:
    place = folder / f"checkpoint-{number}"
    if place not in saved:
        there = ", ".join(str(checkpoint.step(path)) for path in saved) or "none"
        raise InputError(f"{folder} has no checkpoint {number}; there are: {there}.")
    return _sealed(place, record)


def _sealed(place: Path, record: Mapping[str, Any]) -> Weights:
    fault = checkpoint.damage(place)
    if fault:
        raise InputError(f"{place}: {fault}; name another checkpoint.")
    return _of(place, record)


def _of(place: Path, record: Mapping[str, Any]) -> Weights:
    return Weights(place, _settings(record), checkpoint.step(place), checkpoint.tokens(place))


def _model(folder: Path, record: Mapping[str, Any], saved: Sequence[Path]) -> Weights:
    """The model that lies in the folder itself: a finished run's, or anybody's."""
    if not (folder / "config.json").exists():
        if record or saved:
            raise InputError(
                f"{folder}: this run has no whole checkpoint yet, and no finished model.\n"
                "Wait for its next save, or name another run."
            )
        raise InputError(
            f"{folder} has neither run.json nor config.json: it is no run, and no model's folder."
        )
    return Weights(folder, _settings(record), *_end(record))


def _end(record: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Steps and tokens behind a finished model; the best is kept of a step that no record names."""
    best = (_at(record, "recipe", "training_arguments") or {}).get("load_best_model_at_end")
    known = record.get("status") == "finished" and not best
    plan = _at(record, "plan") or {} if known else {}
    return plan.get("max_steps"), plan.get("tokens")


def _at(record: Any, *keys: str) -> dict[str, Any] | None:
    """A section of a record; None where it is missing or no section."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record if isinstance(record, dict) else None


def _settings(record: Mapping[str, Any]) -> SamplesSection:
    """How the recipe has samples drawn; without a recipe, the defaults."""
    known = _at(record, "recipe", "samples") or {}
    names = {field.name for field in fields(SamplesSection)} - {"prompts"}
    numbers = {k: v for k, v in known.items() if k in names and type(v) in (int, float)}
    return SamplesSection(prompts=(), **numbers)


def load(folder: Path) -> tuple[GPT2LMHeadModel, Any]:
    """Model, in evaluation mode and 32 bits on the GPU if there is one, and tokenizer.

    InputError unless both are whole, belong together, and are a GPT-2's; a file that is more than
    data is refused unread.
    """
    kind = _kind(folder)
    if kind != "gpt2":
        raise InputError(f"{folder}/config.json: a GPT-2 is expected, and this is {kind!r}.")
    if not any((folder / name).exists() for name in _TOKENIZERS):
        raise InputError(f"{folder} has no tokenizer: none of {', '.join(_TOKENIZERS)}.")
    here = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **here)
        model, found = GPT2LMHeadModel.from_pretrained(
            folder,
            config=GPT2Config.from_pretrained(folder),
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            **here,
        )
    except Exception as error:  # what tokenizers raises is of no narrower type
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{folder}: model or tokenizer cannot be loaded ({reason}).") from None
    _require_whole(folder, model, tokenizer, found)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _kind(folder: Path) -> Any:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/config.json: missing or damaged ({error}).") from None


def _require_whole(folder: Path, model: GPT2LMHeadModel, tokenizer, found: Mapping) -> None:
    """The library fills what is missing with random numbers, and only warns."""
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} weights are missing, {missing[0]} among them; the model"
            " would speak with random numbers in their place."
        )
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer):,} entries and the model"
            f" {model.config.vocab_size:,}: they do not belong together."
        )
