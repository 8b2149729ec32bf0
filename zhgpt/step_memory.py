"""Memory of a training step, from the shape of the model and of the micro-batch.

Activations are what autograd keeps of GPT-2 as the library writes it, tensor by tensor; a test
counts them. torch_compile fuses some of them away, so a compiled step takes less.
"""

from dataclasses import dataclass
from typing import Any

from zhgpt.plan import count_parameters, spared_by_muon

# Python, torch and its kernels on a CPU; on a GPU the context and what the allocator leaves unused.
PROCESS_BYTES = {False: 0.5e9, True: 1.0e9}
# Of activations on a CPU, where tensors below 32 MB come from the heap (glibc), which keeps holes:
# measured, docs/plan.md.
_HEAP, _HEAP_BYTES = 0.35, 32 << 20
# Of the memory: what an estimate that is 15 % too low would fill.
ROOM = 0.85
# Bytes per parameter of what an optimizer remembers; two moments in 32 bits unless named here.
_OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a training step, by what they are for.

    `attention` is what grows with the square of block_size, `layers` all other activations, and
    `logits` has the scores of every entry for every position, three times in 32 bits: what the loss
    keeps and two gradients. Gradients come to be while activations go, so without accumulation only
    the larger of both counts. `heap` is what a CPU's allocator keeps between them.
    """

    process: float
    weights: float
    optimizer: float
    gradients: float
    layers: float
    attention: float
    logits: float
    heap: float
    accumulates: bool

    @property
    def total(self) -> float:
        activations = self.layers + self.attention + self.logits + self.heap
        kept = self.process + self.weights + self.optimizer
        if self.accumulates:
            return kept + self.gradients + activations
        return kept + max(self.gradients, activations)


def estimate(pins: Any, config: Any, micro_batch: int, processes: int, gpu: bool) -> Memory:
    """Of a ClmRecipe and its GPT2Config, for `micro_batch` blocks at a time."""
    asked, size = pins.training_arguments, count_parameters(config)
    half = bool(asked.get("bf16") or asked.get("fp16"))
    positions = micro_batch * config.n_positions
    layer = positions * _layer_bytes(config, half, gpu)
    square = _attention_bytes(pins, config, micro_batch, half, gpu)
    logits = 12 * positions * config.vocab_size
    # With checkpointing a layer keeps its input alone; one at a time is computed again, when the
    # logits are gone.
    again = bool(asked.get("activation_checkpointing"))
    kept = config.n_layer * positions * 4 * config.n_embd + max(0, layer + square - logits)
    ends = positions * config.n_embd * (6 if half else 8)  # the last norm's input and output
    copies = 2 * size if half else 0  # the weights as the half-precision kernels take them
    steps = pins.tokens_per_step // (positions * processes)
    shares = processes if asked.get("fsdp") else 1
    # Beside its share, what a sharded process has gathered: the embeddings and two layers.
    gathered = 4 * (config.vocab_size + 24 * config.n_embd) * config.n_embd if shares > 1 else 0
    small = 4 * positions * (config.n_inner or 4 * config.n_embd) < _HEAP_BYTES
    return Memory(
        process=PROCESS_BYTES[gpu],
        weights=4 * size / shares + gathered,
        optimizer=_optimizer_bytes(pins, config, size) / shares,
        # Several processes exchange gradients from buckets of their own; sharded ones add up whole
        # gradients over their micro-batches, and share them out in the last.
        gradients=4 * size * (2 if processes > shares else 1),
        layers=(kept if again else config.n_layer * layer) + ends + copies,
        attention=0 if again else config.n_layer * square,
        logits=logits,
        heap=_HEAP * config.n_layer * layer if small and not gpu else 0,
        accumulates=steps > 1 or processes > 1,
    )


def _optimizer_bytes(pins: Any, config: Any, size: int) -> int:
    kind = pins.training_arguments.get("optim", "adamw_torch_fused")
    return _OPTIMIZER_BYTES.get(kind, 8) * size - spared_by_muon(pins, config)


def _layer_bytes(config: Any, half: bool, gpu: bool) -> float:
    """Of a layer and a position: what backward needs, without what is of the square of a block."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    norms_and_scores = 16 + 4 * config.n_head
    # Dropout keeps which values it let through: a byte each on a GPU, a number on a CPU.
    dropped = 2 * width * (1 if gpu else 2 if half else 4) if config.resid_pdrop else 0
    if not half:
        # Inputs of both norms, their outputs, query, key, value and mixed values; gelu_new keeps
        # its input, tanh, two factors and its output.
        return 4 * (8 * width + 5 * inner) + norms_and_scores + dropped
    # The inputs of the norms stay in 32 bits. On a GPU autocast takes powers in 32 bits, so three
    # of the tensors of gelu_new are.
    return 8 * width + 2 * 6 * width + (16 if gpu else 10) * inner + norms_and_scores + dropped


def _attention_bytes(pins: Any, config: Any, micro_batch: int, half: bool, gpu: bool) -> float:
    """Of a layer: what grows with block_size squared. Fused attention keeps none of it."""
    square = micro_batch * config.n_positions**2
    number = 2 if half else 4
    kind = pins.model.get("attn_implementation", "sdpa")
    if kind == "eager" or (kind == "sdpa" and config.attn_pdrop and not gpu):
        weights = 4 + number * (2 if config.attn_pdrop else half)
        return square * config.n_head * weights
    return square * number if pins.corpus.document_mask else 0


def largest_micro_batch(
    pins: Any, config: Any, processes: int, gpu: bool, available: float
) -> int | None:
    """Blocks of the largest micro-batch that divides the step and fits `available` bytes."""
    blocks = pins.tokens_per_step // (config.n_positions * processes)
    sizes = [size for size in range(1, blocks + 1) if blocks % size == 0]
    fits = [s for s in sizes if estimate(pins, config, s, processes, gpu).total <= available]
    return max(fits, default=None)
