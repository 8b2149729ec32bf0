"""What an evaluation says of a model, in units that do not depend on the tokenizer.

Every figure is taken over all scored positions of the validation split at once, so neither the
batch size, nor the number of processes, nor padding can change it.
"""

import math
from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
import torch
from transformers import EvalPrediction

IGNORED = -100  # the label that DataCollatorForLanguageModeling gives to padding

_FEATURES = {
    "nats": "float64",  # sum of -ln p over the scored tokens
    "tokens": "int64",  # scored tokens
    "hits": "int64",  # scored tokens that the model ranked first
    "ordinary_nats": "float64",  # the same sum without special tokens
    "bytes": "int64",  # UTF-8 bytes of the scored ordinary tokens
    "characters": "int64",  # characters that begin in those tokens
}


class LanguageModeling(evaluate.Metric):
    """Loss, perplexity, accuracy, bits per byte and nats per character from sums per block.

    bits_per_byte is the sum of -log2 p over the scored ordinary tokens divided by the UTF-8 bytes
    of those same tokens: special tokens stand for no byte of text and are left out of both.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            features=datasets.Features({k: datasets.Value(v) for k, v in _FEATURES.items()}),
        )

    def _compute(self, nats, tokens, hits, ordinary_nats, bytes, characters) -> dict[str, float]:
        loss = math.fsum(nats) / sum(tokens)
        ordinary = math.fsum(ordinary_nats)
        return {
            "loss": loss,
            "perplexity": _exp(loss),
            "accuracy": sum(hits) / sum(tokens),
            "bits_per_byte": ordinary / math.log(2) / sum(bytes),
            "nats_per_character": ordinary / sum(characters),
        }


def _exp(loss: float) -> float:
    """A diverged model has an infinite perplexity, not an OverflowError."""
    return math.exp(loss) if loss < 700 else math.inf


def keep_scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrinks (batch, length, vocabulary) logits to two (batch, length - 1) arrays: nats and hits.

    Position t holds the score of the token at t + 1. Trainer would otherwise keep all logits.
    """
    logits, targets = logits[:, :-1], labels[:, 1:]
    # One row a token: with the vocabulary in the middle it takes a CPU two to three times as long.
    nats = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nats.view_as(targets), logits.argmax(-1) == targets


def arguments(token_bytes: Sequence[bytes]) -> dict[str, Callable]:
    """Trainer's two, `compute_metrics` and what shrinks the logits for it."""
    return {
        "compute_metrics": computer(token_bytes),
        "preprocess_logits_for_metrics": keep_scores,
    }


def computer(token_bytes: Sequence[bytes]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Trainer's `compute_metrics` for a tokenizer whose entry i stands for `token_bytes[i]`.

    The key `loss` replaces Trainer's own eval_loss, a mean over batches that weighs a short last
    block like a full one.
    """
    metric = LanguageModeling(keep_in_memory=True)
    byte_count = np.array([len(b) for b in token_bytes])
    # A character begins at every byte that is not a UTF-8 continuation byte (10xxxxxx).
    characters = np.array([sum(byte & 0xC0 != 0x80 for byte in b) for b in token_bytes])

    def compute(evaluation: EvalPrediction) -> dict[str, float]:
        (nats, hits), targets = evaluation.predictions, evaluation.label_ids[:, 1:]
        scored = targets != IGNORED
        nats = np.where(scored, nats, 0.0).astype(np.float64)
        token = np.where(scored, targets, 0)
        bytes_ = np.where(scored, byte_count[token], 0)
        metric.add_batch(
            nats=nats.sum(1),
            tokens=scored.sum(1),
            hits=(scored & (hits == 1)).sum(1),
            ordinary_nats=np.where(bytes_ > 0, nats, 0.0).sum(1),
            bytes=bytes_.sum(1),
            characters=np.where(scored, characters[token], 0).sum(1),
        )
        return metric.compute()

    return compute
