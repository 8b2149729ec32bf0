"""A model before its first step: what is set on it, and the weights of an earlier run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from zhgpt import attention, bpe, files
from zhgpt.errors import InputError
from zhgpt.recipe import ClmRecipe

_WEIGHTS = "model.safetensors"
# What the function that the weights make depends on; dropout may differ, for example.
_SHAPE = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
)


def inputs(folder: str | None, record: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of the weights in `folder`, for the record of a run that begins with them.

    A run that goes on needs them no more, so they may have been deleted; what they were is kept.
    """
    there = record.get("inputs", {})
    if not folder or "init_from" in there:
        return {key: value for key, value in there.items() if key == "init_from"}
    return {"init_from": fingerprint(folder)}


def ready(model: GPT2LMHeadModel, pins: ClmRecipe) -> GPT2LMHeadModel:
    """The model with what its constructor has no argument for: its kind of loss, its attention.

    The loss is unset for GPT-2, and Trainer then divides by one token per block too many.
    """
    model.loss_type = "ForCausalLM"
    attention.keep_causal(model, pins)
    return model


def load(
    model: GPT2LMHeadModel, folder: str | None, tokenizer: Tokenizer, resume: Path | None
) -> None:
    """Gives a model the weights that lie in `folder`, unless there is none or a run goes on.

    InputError where its shape or its tokenizer is another.
    """
    if not folder or resume:
        return
    where = Path(folder)
    try:
        theirs = json.loads((where / "config.json").read_text(encoding="utf-8"))
        tokens = Tokenizer.from_file(str(where / "tokenizer.json"))
    except Exception as error:  # what tokenizers raises is of no narrower type
        raise InputError(f"init_from: {folder}: no model with its tokenizer ({error}).") from None
    ours = model.config.to_dict()
    other = [
        f"{key}: {theirs.get(key)} there, {ours[key]} here"
        for key in _SHAPE
        if theirs.get(key) != ours[key]
    ]
    if bpe.fingerprint(tokens) != bpe.fingerprint(tokenizer):
        other.append("tokenizer: its tokens have other numbers there")
    if other:
        raise InputError(f"init_from: {folder} holds another model:\n  " + "\n  ".join(other))
    load_model(model, where / _WEIGHTS)


def fingerprint(folder: str) -> str:
    """Of the weights; InputError where there are none."""
    try:
        return files.content_hash(Path(folder, _WEIGHTS))
    except OSError as error:
        raise InputError(f"init_from: {folder}/{_WEIGHTS}: {error.strerror}.") from None
