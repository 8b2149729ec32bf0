"""What the rules of zhgpt.lint may know of a run, as it comes to be known."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
from transformers import GPT2Config, PreTrainedTokenizerFast

from zhgpt import machine, plan, step_memory
from zhgpt.corpus import Corpus
from zhgpt.recipe import ClmRecipe
from zhgpt.rule import Facts

_SAMPLE_TOKENS = 1 << 20


def of_recipe(pins: ClmRecipe, config: GPT2Config, tokenizer: PreTrainedTokenizerFast) -> Facts:
    """What is known before the text is read: nothing of it costs time."""
    asked, processes = pins.training_arguments, machine.processes()
    gpu, available = not machine.use_cpu(asked), machine.memory_bytes(asked)
    micro_batch = plan.split_step(pins, processes).micro_batch
    backend = tokenizer.backend_tokenizer
    return Facts(
        parameters=plan.count_parameters(config),
        vocab_size=config.vocab_size,
        has_end_of_text=tokenizer.eos_token_id not in (None, tokenizer.pad_token_id),
        pads_or_truncates=bool(backend.padding or backend.truncation),
        memory_bytes=step_memory.estimate(pins, config, micro_batch, processes, gpu).total,
        card_bytes=available,
        largest_micro_batch=step_memory.largest_micro_batch(
            pins, config, processes, gpu, available
        ),
        has_gpu=gpu,
        card_has_bf16=machine.has_bf16(),
    )


def with_text(known: Facts, steps: plan.Plan, blocks: Corpus, tokenizer: Any) -> Facts:
    """Those of the prepared text too."""
    median = median_tokens(blocks.train, tokenizer.eos_token_id)
    return of_text(known, steps, blocks.ledger, median)


def of_text(
    known: Facts, steps: plan.Plan, ledger: Mapping[str, Any], median: float | None
) -> Facts:
    """`ledger` has the sizes of both splits, `median` is of the tokens of a document."""
    train, validation = ledger["train"], ledger["validation"]
    return replace(
        known,
        train_bytes=train["bytes"],
        train_tokens=train["tokens"] + train["eos_tokens"],
        documents=train["documents"],
        median_document_tokens=median,
        validation_tokens=validation["tokens"] + validation["eos_tokens"],
        max_steps=steps.max_steps,
        tokens=steps.tokens,
        epochs=steps.epochs,
    )


def median_tokens(train: datasets.Dataset, eos_id: int) -> float | None:
    """Of the documents in the first million tokens: their order is random (zhgpt.blocks)."""
    blocks = max(1, _SAMPLE_TOKENS // len(train[0]["input_ids"]))
    rows = train.with_format("numpy")[:blocks]["input_ids"]
    lengths = np.diff(np.flatnonzero(np.concatenate(list(rows)) == eos_id))
    return float(np.median(lengths)) if len(lengths) else None
