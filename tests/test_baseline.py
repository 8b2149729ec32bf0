"""The trigram table against a computation with dictionaries."""

import math
from collections import Counter

import pytest
from conftest import tiny_stories

from zhgpt import baseline


def slow_bits(train: list[bytes], text: bytes) -> float:
    def p(byte: int, history: bytes) -> float:
        shorter = p(byte, history[1:]) if history else 1 / 256
        after = Counter(
            t[i + len(history)]
            for t in train
            for i in range(len(t) - len(history))
            if t[i : i + len(history)] == history
        )
        if not after:
            return shorter
        return (after[byte] + len(after) * shorter) / (after.total() + len(after))

    return sum(-math.log2(p(text[i], text[max(0, i - 2) : i])) for i in range(len(text)))


def test_equals_a_slow_computation():
    train = [text.encode() for text in tiny_stories(4, seed=1)]
    for text in ["村口", "a", "第2卷。李木匠在河边", "\u2028"]:
        fast = baseline.Trigrams(train).bits(text.encode())
        assert fast == pytest.approx(slow_bits(train, text.encode()), rel=1e-9)


def test_the_command_prints_one_figure(tiny_files, capsys):
    files = ["--train_files", str(tiny_files["train"])]
    files += ["--validation_files", str(tiny_files["validation"])]
    assert baseline.run(files) == 0
    assert 0.1 < float(capsys.readouterr().out.split()[2]) < 4
