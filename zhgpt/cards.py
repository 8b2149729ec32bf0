"""Hours and room on GPUs that are not here, from their data sheets and an assumption."""

import re
from dataclasses import dataclass

# Of the peak, what a training step reaches: assumed, not measured. PaLM reports 46 % for 540B
# parameters and 21 % for GPT-3 (Chowdhery et al. 2022, table 3); models of a hundred million reach
# less than large ones, above all in small micro-batches.
EFFICIENCY = 0.35


@dataclass(frozen=True)
class Card:
    """`tflops`: dense peak of the tensor cores in 16 bits, sums in 32 (1e12 per second); `gb`:
    memory (1e9 bytes). `bf16`: else the rate is of fp16, and bf16 is refused there. `called`: the
    driver's name of this very card, whole, as a pattern.
    """

    name: str
    tflops: float
    gb: float
    called: str
    bf16: bool = True


# NVIDIA's data sheets. Those that state rates with sparsity (L40S 733, H100 SXM 1,979) are halved;
# consumer cards sum in 32 bits at half their rate (4090: 165 of 330, 3090: 71 of 142).
CARDS = (
    Card("L20", 119.5, 48, r"NVIDIA L20"),
    Card("L40S", 362, 48, r"NVIDIA L40S"),
    Card("3090", 71, 24, r"NVIDIA GeForce RTX 3090"),
    Card("4090", 165, 24, r"NVIDIA GeForce RTX 4090"),
    Card("A10", 125, 24, r"NVIDIA A10"),
    Card("A100", 312, 80, r"NVIDIA A100(-SXM4|-PCIE)?-[48]0GB|NVIDIA A100 80GB PCIe"),
    Card("H20", 148, 96, r"NVIDIA H20"),
    Card("H100", 989, 80, r"NVIDIA H100 80GB HBM3"),
    Card("V100", 125, 32, r"Tesla V100-SXM2-(16|32)GB", bf16=False),
    Card("T4", 65, 16, r"Tesla T4|NVIDIA T4", bf16=False),
)


def hours(flops: float, card: Card, efficiency: float = EFFICIENCY) -> float:
    """Of `flops` floating-point operations, on one card."""
    return flops / (card.tflops * 1e12 * efficiency) / 3600


def peak(device_name: str) -> float | None:
    """Floating-point operations per second of the card that the driver calls so; None for others.

    A slice of a card, a laptop's, a PCIe H100 or V100 have other rates under similar names.
    """
    found = [card.tflops * 1e12 for card in CARDS if re.fullmatch(card.called, device_name)]
    return found[0] if found else None
