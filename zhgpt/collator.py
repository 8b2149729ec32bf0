"""Rows of blocks to batches; with corpus.document_mask, each document by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zhgpt.recipe import ClmRecipe

Batch = Mapping[str, torch.Tensor]
Collator = Callable[[Sequence[Mapping[str, Any]]], Batch]


def of(recipe: ClmRecipe, plain: Collator) -> Collator:
    """`plain`, a DataCollatorForLanguageModeling, as the recipe's corpus.document_mask has it."""
    if not recipe.corpus.document_mask:
        return plain
    return DocumentMask(plain, plain.tokenizer.eos_token_id)


@dataclass(frozen=True)
class DocumentMask:
    """Batches from which the model keeps attention and positions within a document.

    `attention_mask` is replaced by (batch, length) `position_ids` that restart after every
    end-of-text token. From restarts alone, without an attention mask and without a cache, the
    library builds its block-diagonal causal mask; with either of them it attends to everything
    and says nothing, so command.read refuses the recipes that would have them.

    Padding becomes end-of-text tokens, each a document of one token: on whichever side it stands,
    no text attends to it, and no padding id is left about which the library would warn.

    Labels stay as they are, so the first token of a document is still scored. It is predicted from
    the end-of-text token before it, which has seen the document before. eval_bits_per_byte is then
    over the same tokens and bytes with and without the mask (leaving these out moved it from 3.052
    to 3.069 for one model, docs/recipes.md), and a model learns how documents begin.
    """

    plain: Collator
    eos_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        batch = self.plain(rows)
        padding = batch.pop("attention_mask") == 0
        batch["input_ids"] = batch["input_ids"].masked_fill(padding, self.eos_id)
        batch["position_ids"] = positions(batch["input_ids"], self.eos_id)
        return batch


def positions(input_ids: torch.Tensor, eos_id: int) -> torch.Tensor:
    """(batch, length) places of tokens in their documents: 0 at a row's start and after each EOS.

    What a row begins with counts from 0 also where it is the rest of a document.
    """
    places = torch.arange(input_ids.shape[1])
    starts = torch.zeros_like(input_ids)
    starts[:, 1:] = torch.where(input_ids[:, :-1] == eos_id, places[1:], 0)
    return places - starts.cummax(1).values
