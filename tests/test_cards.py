"""Peaks of cards: known for the very card, and for no other of a similar name."""

import pytest

from zhgpt import cards


@pytest.mark.parametrize(
    "called, tflops",
    [
        ("NVIDIA L20", 119.5),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla T4", 65),
    ],
)
def test_the_peak_of_a_card(called, tflops):
    assert cards.peak(called) == tflops * 1e12


@pytest.mark.parametrize(
    "called",
    [
        "NVIDIA L20-8Q",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100 PCIe",
        "Tesla V100-PCIE-32GB",
        "CPU x86_64",
    ],
)
def test_none_rather_than_a_wrong_one(called):
    assert cards.peak(called) is None
