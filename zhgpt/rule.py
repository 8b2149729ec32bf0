"""What a rule of zhgpt.lint is, and what it may know: recipe, corpus, tokenizer, machine."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from zhgpt.recipe import ClmRecipe

OUR_LOG = "docs/LOG.md"
STOP, WARN, NOTE = "stop", "warn", "note"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known beside the recipe; None is unknown.

    Tokens and bytes are of one epoch, `tokens` of the whole run. `card_bytes` is the memory of the
    device that trains, `memory_bytes` what the run would take of it; `free_bytes` are those of the
    disk, `disk_bytes` what the run's folder would take of them.
    """

    parameters: int | None = None
    vocab_size: int | None = None
    has_end_of_text: bool | None = None
    pads_or_truncates: bool | None = None
    train_bytes: int | None = None
    train_tokens: int | None = None
    documents: int | None = None
    median_document_tokens: float | None = None
    validation_tokens: int | None = None
    max_steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    hours: float | None = None
    memory_bytes: float | None = None
    card_bytes: float | None = None
    largest_micro_batch: int | None = None
    disk_bytes: float | None = None
    free_bytes: float | None = None
    has_gpu: bool | None = None
    card_has_bf16: bool | None = None


class Verdict(NamedTuple):
    """What a rule found: the value, what it would do, what to write in its place."""

    severity: str
    value: str
    effect: str
    instead: str


Judge = Callable[[ClmRecipe, Facts], Verdict | None]


@dataclass(frozen=True)
class Rule:
    """`key` is the recipe's key that it is about, `when` its condition, for docs/lint.md."""

    id: str
    key: str
    when: str
    source: str
    judge: Judge


# Defaults of the installed TrainingArguments and GPT2Config; a test compares them.
DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta2": 0.999,
    "warmup_steps": 0,
    "lr_scheduler_type": "linear",
    "eval_strategy": "no",
    "eval_steps": None,
    "logging_steps": 500,
    "save_strategy": "steps",
    "save_steps": 500,
    "optim": "adamw_torch_fused",
    "fp16": False,
    "bf16": False,
    "use_cpu": False,
}
MODEL_DEFAULTS = {
    "n_layer": 12,
    "n_embd": 768,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
}


def argument(recipe: ClmRecipe, key: str) -> Any:
    return recipe.training_arguments.get(key, DEFAULTS[key])


def model_value(recipe: ClmRecipe, key: str) -> Any:
    return recipe.model.get(key, MODEL_DEFAULTS[key])


def interval(recipe: ClmRecipe, key: str, max_steps: int) -> float:
    """Steps between two evaluations, saves, ...; below 1 it is a share of the run."""
    steps = argument(recipe, key)
    steps = argument(recipe, "logging_steps") if steps is None else steps
    return max(1, math.ceil(steps * max_steps)) if steps < 1 else steps


def power_of_two(number: float) -> int:
    return 2 ** max(3, round(math.log2(max(number, 1))))
