"""The tokenizer that a recipe names, as the library loads it, and what the model takes from it."""

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from zhgpt import bpe
from zhgpt.recipe import ClmRecipe


def load(pins: ClmRecipe) -> PreTrainedTokenizerFast:
    """InputError for a folder without one, or one that this recipe cannot be trained with."""
    bpe.require_folder(pins.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(pins.tokenizer)
    tokenizer.padding_side = "right"  # nothing that is scored may come after padding
    backend = tokenizer.backend_tokenizer
    bpe.check(backend, tokenizer.eos_token_id, tokenizer.pad_token_id, pins.tokenizer)
    bpe.check_prompts(backend, pins.samples.prompts, pins.corpus.block_size)
    return tokenizer


def model_arguments(tokenizer: PreTrainedTokenizerFast, pins: ClmRecipe) -> dict[str, Any]:
    """What follows from the tokenizer and from block_size, as GPT2Config names it."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    derived = {"vocab_size": len(tokenizer), "n_positions": pins.corpus.block_size}
    return derived | {key: getattr(tokenizer, key) for key in keys}
