"""Evaluation figures against independent computations."""

import math

import evaluate
import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from zhgpt import metrics

# Entry 0 is special; 1 is an ASCII letter, 2 a whole character, 3 and 4 the parts of one.
TOKEN_BYTES = [b"", b"a", "村".encode(), "民".encode()[:1], "民".encode()[1:]]


def random_evaluation(rows=7, length=9, pad=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, len(TOKEN_BYTES), generator=generator)
    labels = torch.randint(0, len(TOKEN_BYTES), (rows, length), generator=generator)
    labels[-1, -pad:] = metrics.IGNORED
    return logits, labels


def evaluate_in_batches(logits, labels, batch):
    parts = [
        metrics.keep_scores(logits[i : i + batch], labels[i : i + batch])
        for i in range(0, len(logits), batch)
    ]
    predictions = tuple(np.concatenate([p[k].numpy() for p in parts]) for k in (0, 1))
    return metrics.computer(TOKEN_BYTES)(EvalPrediction(predictions, labels.numpy()))


def independent(logits, labels):
    """One token after the other, in plain Python."""
    sums = dict(nats=0.0, ordinary=0.0, tokens=0, hits=0, bytes=b"")
    for row in range(len(labels)):
        for t in range(labels.shape[1] - 1):
            target = int(labels[row, t + 1])
            if target == -100:
                continue
            nats = -float(torch.log_softmax(logits[row, t].double(), -1)[target])
            sums["nats"] += nats
            sums["tokens"] += 1
            sums["hits"] += int(logits[row, t].argmax()) == target
            if target != 0:
                sums["ordinary"] += nats
                sums["bytes"] += TOKEN_BYTES[target]
    characters = sum(b & 0b11000000 != 0b10000000 for b in sums["bytes"])
    return {
        "loss": sums["nats"] / sums["tokens"],
        "perplexity": math.exp(sums["nats"] / sums["tokens"]),
        "accuracy": sums["hits"] / sums["tokens"],
        "bits_per_byte": sums["ordinary"] / math.log(2) / len(sums["bytes"]),
        "nats_per_character": sums["ordinary"] / characters,
    }


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_figures_equal_an_independent_computation_for_any_batch_size(batch):
    logits, labels = random_evaluation()
    assert evaluate_in_batches(logits, labels, batch) == pytest.approx(
        independent(logits, labels), rel=1e-6
    )


def test_padding_does_not_change_a_figure():
    logits, labels = random_evaluation()
    wider = torch.nn.functional.pad(labels, (0, 5), value=metrics.IGNORED)
    noise = torch.nn.functional.pad(logits, (0, 0, 0, 5), value=3.0)
    assert evaluate_in_batches(noise, wider, 2) == pytest.approx(
        evaluate_in_batches(logits, labels, 2), rel=1e-12
    )


def test_the_module_loads_by_its_path_as_any_metric_of_evaluate():
    logits, labels = random_evaluation()
    loaded = evaluate.load(metrics.__file__)
    nats, hits = metrics.keep_scores(logits, labels)
    one = dict(tokens=[6], hits=[2], ordinary_nats=[4.0], bytes=[8], characters=[3])
    assert loaded.compute(nats=[5.0], **one)["bits_per_byte"] == pytest.approx(0.5 / math.log(2))
    assert nats.shape == hits.shape == (7, 8)


def test_a_diverged_model_has_an_infinite_perplexity():
    one = dict(tokens=[1], hits=[0], ordinary_nats=[1e4], bytes=[3], characters=[1])
    metric = metrics.LanguageModeling(keep_in_memory=True)
    assert metric.compute(nats=[1e4], **one)["perplexity"] == math.inf
