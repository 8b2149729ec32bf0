"""Attention that stays fast when the step is compiled."""

from transformers import AttentionInterface, GPT2LMHeadModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zhgpt.recipe import ClmRecipe

# The library has no mask for a name that it does not know, and sdpa without one is causal.
CAUSAL = "sdpa_causal"
AttentionInterface.register(CAUSAL, sdpa_attention_forward)


def keep_causal(model: GPT2LMHeadModel, pins: ClmRecipe) -> None:
    """For a compiled step with sdpa: torch's causal kernel, which needs no mask.

    While torch (below 2.14) compiles, the library builds a mask of block_size squared and takes a
    kernel that reads it (transformers 5.23, masking_utils). Without document_mask and with padding
    on the right alone, a causal kernel computes the same for all that is scored. The name is not
    saved: a model that is loaded again has the library's own attention.
    """
    asked = pins.training_arguments
    compiled = any(asked.get(f"torch_compile{end}") for end in ("", "_backend", "_mode"))
    plain = model.config._attn_implementation == "sdpa" and not pins.corpus.document_mask
    if compiled and plain:
        model.set_attn_implementation(CAUSAL)
