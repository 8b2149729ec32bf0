"""What a run will be and cost, before it starts: run_clm.py RECIPE --plan."""

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
from transformers import GPT2Config, PreTrainedTokenizerFast

from zhgpt import (
    cards,
    corpus,
    disk,
    facts,
    kills,
    lint,
    machine,
    micro_batch,
    plan,
    plan_screen,
    probe,
    report,
    rules_machine,
    sample,
    scaling,
    session,
    step_memory,
    storage,
)
from zhgpt.command import Command
from zhgpt.errors import FINISHED, InputError
from zhgpt.probe import Probe
from zhgpt.recipe import ClmRecipe
from zhgpt.rule import Facts, argument, interval


def show(
    asked: Command,
    output_dir: Path,
    tokenizer: PreTrainedTokenizerFast,
    config: GPT2Config,
    say: report.Say,
) -> int:
    """One screen, and plan.json in the run's folder; nothing else of the folder is touched.

    Where the folder has a run of this recipe, in progress or finished, it stays as it is. Gives the
    exit code.
    InputError as before a training start, but for what only this machine cannot do.
    """
    first = machine.rank() == 0
    record = session.new(asked)
    there = session.claim(output_dir, record)
    accepted = lint.accepted(asked.flags["accept"], there)
    asked = replace(asked, recipe=_settled(asked.recipe, config, there))
    known = facts.of_recipe(asked.recipe, config, tokenizer)
    aside = _aside if first else lambda line: None
    ledger, median = _text(asked, tokenizer, aside)
    steps = plan.make(asked.recipe, config, machine.processes(), ledger["train"]["blocks"])
    known = facts.of_text(known, steps, ledger, median)
    probed = probe.measure(asked.recipe, config, tokenizer, steps, known, output_dir, aside)
    made = _figures(asked, config, steps, known, ledger, probed, output_dir)
    room = {"disk_bytes": made["disk"]["run"], "free_bytes": made["disk"]["free"]}
    known = replace(known, hours=made["here"].get("hours"), **room)
    found = lint.record(lint.check(asked.recipe, known), accepted)
    kept = ("name", "recipe_file", "recipe_hash", "recipe", "overrides", "versions", "source")
    about = {key: record[key] for key in kept} | {"made": session.now()}
    content = about | {"machine": machine.describe()} | made | {"lint": found}
    if first:
        _write(output_dir, content)
        say(plan_screen.screen(content, output_dir))
    return FINISHED


def _settled(pins: ClmRecipe, config: GPT2Config, record: Mapping[str, Any]) -> ClmRecipe:
    """With a number for "auto": the fastest, or where its step cannot be made here, the largest."""
    asked = pins.training_arguments
    if asked.get(micro_batch.KEY) != "auto" or not machine.lacks_bf16(asked):
        return micro_batch.settled(pins, config, record, _aside)
    largest = max(micro_batch.fitting(pins, config))
    return replace(pins, training_arguments={**asked, micro_batch.KEY: largest})


def _aside(line: str) -> None:
    """Standard output is the plan alone."""
    print(report.printable(line), file=sys.stderr, flush=True)


def _text(
    asked: Command, tokenizer: PreTrainedTokenizerFast, say: report.Say
) -> tuple[dict[str, Any], float | None]:
    """The ledger, or a sample's in its form, and the median of the documents' tokens."""
    pins, backend = asked.recipe, tokenizer.backend_tokenizer
    if asked.flags["plan"] == "quick":
        ledger = sample.take(pins.corpus, pins.cleaning, backend, say)
        if not ledger["train"]["blocks"]:
            raise InputError("corpus: the training text does not fill one block; give more.")
        return ledger, ledger["sample"]["median_document_tokens"]
    blocks = corpus.prepare(pins.corpus, pins.cleaning, backend, tokenizer.eos_token_id, say)
    return blocks.ledger, facts.median_tokens(blocks.train, tokenizer.eos_token_id)


def _figures(
    asked: Command,
    config: GPT2Config,
    steps: plan.Plan,
    known: Facts,
    ledger: Mapping[str, Any],
    probed: Probe | str,
    output_dir: Path,
) -> dict[str, Any]:
    pins, price = asked.recipe, asked.flags["price_per_hour"]
    here = _here(pins, steps, known, probed)
    known = replace(known, hours=here.get("hours"))
    saves = _saves(pins, known)
    tokens = sum(ledger[s]["tokens"] + ledger[s]["eos_tokens"] for s in ("train", "validation"))
    kill_hours = asked.flags["kills_every_hours"]
    return {
        "corpus": {"mode": asked.flags["plan"], "claimed_bytes": pins.corpus.claimed_bytes}
        | {key: ledger[key] for key in ("train", "validation", "sample") if key in ledger},
        "plan": asdict(steps),
        "scaling": _scaling(steps),
        "here": here,
        "price_per_hour": price,
        "cards": [_card(pins, config, steps, card) for card in cards.CARDS],
        "memory": _memory(pins, config, steps, known, probed),
        "disk": _disk(pins, config, steps, tokens, saves, output_dir),
        "preemption": _preemption(pins, config, known, probed, kill_hours),
    }


def _scaling(steps: plan.Plan) -> dict[str, float]:
    """Tokens and parameters that are best for the same compute: 6 N 20 N operations."""
    best = math.sqrt(steps.flops / (6 * scaling.OPTIMAL_RATIO))
    return {
        "worth_in_epochs": scaling.worth_in_epochs(steps.epochs),
        "last_epoch": scaling.last_epoch(steps.epochs),
        "optimal_ratio": scaling.OPTIMAL_RATIO,
        "optimal_parameters": best,
        "optimal_tokens": scaling.OPTIMAL_RATIO * best,
    }


def _here(pins: ClmRecipe, steps: plan.Plan, known: Facts, probed: Probe | str) -> dict[str, Any]:
    """Hours on this machine; a reason where there are none. `low` and `high` are quartiles."""
    if isinstance(probed, str):
        return {"reason": probed}
    low, middle, high = _quartiles(probed.steps)
    number = _evaluations(pins, steps.max_steps)
    drawn = len(pins.samples.prompts) * pins.samples.max_new_tokens
    evaluation = number * known.validation_tokens * middle / pins.tokens_per_step / 3
    samples = (number + 1) * drawn * probed.token_seconds
    training = middle * steps.max_steps
    hours = (training + evaluation + samples) / 3600
    saves = _saves(pins, replace(known, hours=hours)) * probed.save_seconds
    whole = training + evaluation + samples + saves
    return {
        "hours": whole / 3600,
        "low_hours": (whole + (low - middle) * steps.max_steps) / 3600,
        "high_hours": (whole + (high - middle) * steps.max_steps) / 3600,
        "shares": {
            "training": training / whole,
            "evaluation": evaluation / whole,
            "samples": samples / whole,
            "saves": saves / whole,
        },
        "tokens_per_second": pins.tokens_per_step / middle,
        "flops_per_second": steps.flops / training,
        "probe": asdict(probed),
    }


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 4:
        return min(values), statistics.median(values), max(values)
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def _evaluations(pins: ClmRecipe, max_steps: int) -> int:
    """The last one is made at the end in any case."""
    if argument(pins, "eval_strategy") == "no":
        return 1
    return max(1, math.ceil(max_steps / interval(pins, "eval_steps", max_steps)))


def _saves(pins: ClmRecipe, known: Facts) -> float:
    """Checkpoints of the whole run, the last one among them; by steps where hours are unknown."""
    if known.hours:
        minutes = rules_machine.save_minutes(pins, known)
        return 1 + (60 * known.hours / minutes if minutes else 0)
    if argument(pins, "save_strategy") == "no":
        return 1
    return 1 + known.max_steps / interval(pins, "save_steps", known.max_steps)


def _card(
    pins: ClmRecipe, config: GPT2Config, steps: plan.Plan, card: cards.Card
) -> dict[str, Any]:
    halved = _in_16_bits(pins, card)
    needed = step_memory.estimate(halved, config, steps.micro_batch, 1, gpu=True).total
    return asdict(card) | {
        "hours": cards.hours(steps.flops, card),
        "memory_gb": needed / 1e9,
        "largest_micro_batch": step_memory.largest_micro_batch(
            halved, config, 1, True, card.gb * 1e9
        ),
    }


def _in_16_bits(pins: ClmRecipe, card: cards.Card) -> ClmRecipe:
    """As the table's rates have it, whatever the recipe computes in here."""
    kind = {"bf16": True} if card.bf16 else {"bf16": False, "fp16": True}
    return replace(pins, training_arguments=dict(pins.training_arguments) | kind)


def _memory(
    pins: ClmRecipe, config: GPT2Config, steps: plan.Plan, known: Facts, probed: Probe | str
) -> dict[str, Any]:
    made = step_memory.estimate(pins, config, steps.micro_batch, machine.processes(), known.has_gpu)
    return asdict(made) | {
        "total": made.total,
        "available": known.card_bytes,
        "micro_batch": steps.micro_batch,
        "largest_micro_batch": known.largest_micro_batch,
        "attention_kind": pins.model.get("attn_implementation", "sdpa"),
        "is_gpu": known.has_gpu,
        "peak_bytes": None if isinstance(probed, str) else probed.peak_bytes,
    }


def _disk(
    pins: ClmRecipe,
    config: GPT2Config,
    steps: plan.Plan,
    tokens: int,
    saves: float,
    output_dir: Path,
) -> dict[str, Any]:
    logs = steps.max_steps / interval(pins, "logging_steps", steps.max_steps)
    lines = logs + _evaluations(pins, steps.max_steps)
    made = storage.estimate(pins, config, tokens, saves, lines)
    return asdict(made) | {
        "run": made.run,
        "free": disk.free(output_dir) + _saved(output_dir),
        "cache_free": disk.free(Path(datasets.config.HF_DATASETS_CACHE)),
    }


def _saved(folder: Path) -> int:
    """Bytes of checkpoints that a run in progress has there: they make room for its next ones."""
    return sum(p.stat().st_size for p in folder.glob("checkpoint-*/*") if p.is_file())


def _preemption(
    pins: ClmRecipe,
    config: GPT2Config,
    known: Facts,
    probed: Probe | str,
    asked_hours: float | None,
) -> dict[str, Any]:
    kill_hours = asked_hours or kills.ASSUMED_HOURS
    made = {"kills_every_hours": kill_hours, "assumed": asked_hours is None}
    if isinstance(probed, str) or not known.hours:
        return made
    stall = probed.save_seconds
    writing = plan.checkpoint_bytes(pins, config) / probed.written_bytes_per_second
    minutes = {
        "own": rules_machine.save_minutes(pins, known),
        "best": kills.best_minutes(stall, writing, kill_hours),
    }
    lost = {
        name: kills.expected_hours(known.hours, value, stall, kill_hours) - known.hours
        for name, value in minutes.items()
    }
    return made | {
        "save_seconds": stall,
        "write_seconds": writing,
        "save_minutes": minutes["own"],
        "best_save_minutes": minutes["best"],
        "lost_hours": lost["own"],
        "best_lost_hours": lost["best"],
    }


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, and no infinity, which JSON does not know."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(content), ensure_ascii=False, indent=1, allow_nan=False)
    disk.write_whole(folder / session.PLAN, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
