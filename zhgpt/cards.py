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
    memory (1e9 bytes). `bf16`: else the rate is of fp16, and bf16 is refused there.
    """

    name: str
    tflops: float
    gb: float
    bf16: bool = True


# NVIDIA's data sheets. Those that state rates with sparsity (L40S 733, H100 SXM 1,979) are halved;
# consumer cards sum in 32 bits at half their rate (4090: 165 of 330, 3090: 71 of 142).
CARDS = (
    Card("L20", 119.5, 48),
    Card("L40S", 362, 48),
    Card("3090", 71, 24),
    Card("4090", 165, 24),
    Card("A10", 125, 24),
    Card("A100", 312, 80),
    Card("H20", 148, 96),
    Card("H100", 989, 80),
    Card("V100", 125, 32, bf16=False),
    Card("T4", 65, 16, bf16=False),
)


def hours(flops: float, card: Card, efficiency: float = EFFICIENCY) -> float:
    """Of `flops` floating-point operations, on one card."""
    return flops / (card.tflops * 1e12 * efficiency) / 3600


# Of these forms the data sheets have other rates than the table's, except of the A100.
_FORMS = re.compile("PCIE|NVL|TI|D|SUPER|LAPTOP")
_SLICES = re.compile(r"MIG|GRID|\d+[ABCQ]")  # of a card; nobody says which share of its rate
_SAME_IN_EVERY_FORM = ("A100",)


def peak(device_name: str) -> float | None:
    """Dense floating-point operations per second in 16 bits of a card, by the name that its driver
    gives; None for one that is not in the table, or is not quite it.
    """
    words = re.split(r"[ -]", device_name.upper())
    card = next((card for card in CARDS if card.name in words), None)
    if card is None or any(map(_SLICES.fullmatch, words)):
        return None
    other = any(map(_FORMS.fullmatch, words)) and card.name not in _SAME_IN_EVERY_FORM
    return None if other else card.tflops * 1e12
