"""Arithmetic of a run: what follows from the recipe, the corpus and the machine."""

from collections.abc import Mapping
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

    @property
    def blocks(self) -> int:
        """Of all steps, each as often as it is trained on."""
        return self.max_steps * self.blocks_per_step


def make(pins: Any, config: Any, processes: int, blocks: int) -> Plan:
    """`pins` is a ClmRecipe, `config` a GPT2Config, `blocks` those of the training split.

    max_steps goes before num_train_epochs, as in TrainingArguments; a recipe states one of them.
    """
    asked, batches = pins.training_arguments, split_step(pins, processes)
    blocks_per_step = pins.tokens_per_step // config.n_positions
    available = int(blocks * _stated(asked, "num_train_epochs")) if "max_steps" not in asked else 0
    made = asked.get("max_steps") or whole_steps(available, blocks_per_step)
    tokens, size = made * pins.tokens_per_step, count_parameters(config)
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
        unused_blocks=max(0, available - made * blocks_per_step),
        tokens_per_parameter=tokens / size,
        flops=tokens * flops_per_token(size, config),
    )


def count_parameters(config: Any) -> int:
    """Parameters of a GPT2LMHeadModel, embeddings counted, a tied output matrix once."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    biases_and_norms = 9 * width + inner
    embeddings = (config.vocab_size + config.n_positions) * width
    head = 0 if config.tie_word_embeddings else config.vocab_size * width
    vectors = config.n_layer * biases_and_norms + 2 * width
    return matrix_parameters(config) + vectors + embeddings + head


def matrix_parameters(config: Any) -> int:
    """Of all layers: the attention's four and the two of the MLP, which are what Muon takes."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    return config.n_layer * (4 * width * width + 2 * width * inner)


def spared_by_muon(pins: Any, config: Any) -> int:
    """Bytes: Muon keeps one moment of a matrix where AdamW keeps two."""
    return 4 * matrix_parameters(config) if pins.muon.matrix_learning_rate is not None else 0


def checkpoint_bytes(pins: Any, config: Any) -> int:
    """The weights and the optimizer's moments, two as a rule, each in 32 bits."""
    return 12 * count_parameters(config) - spared_by_muon(pins, config)


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


def split_step(pins: Any, processes: int) -> Batches:
    """InputError with the nearest values unless tokens_per_step divides exactly."""
    micro_batch = _stated(pins.training_arguments, "per_device_train_batch_size")
    block_size, tokens_per_step = pins.corpus.block_size, pins.tokens_per_step
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


def whole_steps(blocks: int, blocks_per_step: int) -> int:
    """Optimizer steps that `blocks` (of all epochs) fill; a last partial step is not made."""
    if blocks >= blocks_per_step:
        return blocks // blocks_per_step
    raise InputError(
        f"the corpus is too small for one step: {blocks:,} blocks in all epochs, and a step takes"
        f" {blocks_per_step:,} blocks.\nGive more text, more epochs or fewer tokens_per_step."
    )


def _stated(training_arguments: Mapping[str, Any], key: str) -> Any:
    """The library's defaults, 8 blocks and 3 epochs, are for fine-tuning: a recipe says its own."""
    if key not in training_arguments:
        raise InputError(f"training_arguments.{key}: missing; a recipe has to state it.")
    return training_arguments[key]
