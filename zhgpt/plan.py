"""Arithmetic of a run: what follows from the recipe, the corpus and the machine."""

from dataclasses import dataclass
from typing import Any

from zhgpt.errors import InputError

@dataclass(frozen=True)
class Plan:
    """What the run will be; `tokens` counts the positions trained on, over all epochs."""

    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    vocab_size: int
    parameters: int
    micro_batch: int
    gradient_accumulation_steps: int
    blocks_per_step: int
    max_steps: int
    tokens: int
    epochs: float
    unused_blocks: int
    tokens_per_parameter: float
    flops: float


def make(
    config: Any, tokens_per_step: int, batches: "Batches", blocks: int, epochs: float, max_steps: int
) -> Plan:
    """`config` is a GPT2Config, `blocks` those of the training split; `max_steps` > 0 goes before
    `epochs`, as in TrainingArguments."""
    blocks_per_step = tokens_per_step // config.n_positions
    made = max_steps if max_steps > 0 else steps(blocks, epochs, blocks_per_step)
    tokens, size = made * tokens_per_step, count_parameters(config)
    return Plan(
        n_layer=config.n_layer,
        n_embd=config.n_embd,
        n_head=config.n_head,
        block_size=config.n_positions,
        vocab_size=config.vocab_size,
        parameters=size,
        micro_batch=batches.micro_batch,
        gradient_accumulation_steps=batches.accumulation,
        blocks_per_step=blocks_per_step,
        max_steps=made,
        tokens=tokens,
        epochs=made * blocks_per_step / blocks,
        unused_blocks=0 if max_steps > 0 else int(blocks * epochs) - made * blocks_per_step,
        tokens_per_parameter=tokens / size,
        flops=tokens * flops_per_token(size, config),
    )


def count_parameters(config: Any) -> int:
    """Parameters of a GPT2LMHeadModel, embeddings counted, a tied output matrix once."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * inner + inner + width
    norms = 4 * width
    embeddings = (config.vocab_size + config.n_positions) * width
    head = 0 if config.tie_word_embeddings else config.vocab_size * width
    return config.n_layer * (attention + mlp + norms) + 2 * width + embeddings + head


def checkpoint_bytes(config: Any) -> int:
    """The weights and AdamW's two moments, each in 32 bits."""
    return 12 * count_parameters(config)


def flops_per_token(parameters: int, config: Any) -> int:
    """Forward and backward, 6 N + 12 L d T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the embedding as well: the tied output matrix multiplies every position by it.
    """
    return 6 * parameters + 12 * config.n_layer * config.n_embd * config.n_positions


@dataclass(frozen=True)
class Batches:
    """How one process makes its share of a step: `accumulation` micro-batches of blocks."""

    micro_batch: int
    accumulation: int


def split_step(tokens_per_step: int, block_size: int, micro_batch: int, processes: int) -> Batches:
    """InputError with the nearest values unless the division is exact."""
    unit = block_size * micro_batch * processes
    if tokens_per_step % unit == 0:
        return Batches(micro_batch, tokens_per_step // unit)
    below = tokens_per_step // unit * unit
    nearest = " or ".join(str(value) for value in (below, below + unit) if value)
    raise InputError(
        f"tokens_per_step: {tokens_per_step} is not a multiple of {unit} = block_size {block_size}"
        f" x per_device_train_batch_size {micro_batch} x {processes} process(es).\n"
        f"Write {nearest}, or change per_device_train_batch_size."
    )


def steps(blocks: int, epochs: float, blocks_per_step: int) -> int:
    """Whole optimizer steps in `epochs` passes over `blocks`; a last partial step is not made."""
    total = int(blocks * epochs) // blocks_per_step
    if total:
        return total
    raise InputError(
        f"the corpus is too small for one step: {blocks:,} blocks x {epochs:g} epochs, and a step"
        f" takes {blocks_per_step:,} blocks.\nGive more text, more epochs or fewer tokens_per_step."
    )
