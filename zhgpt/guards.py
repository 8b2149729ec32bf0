"""What is wrong with a run, as its log lines tell: one rule per function, and what each is for.

A rule gets the figures of the lines after the warm-up, oldest first, and gives the words of its
alarm, or None. Thresholds are relative to the run's own figures; docs/watch.md has the reasons.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

FEWEST_LINES = 8  # before them nothing is known of what is usual
WINDOW = 16  # lines that the present one is compared with

JUMP_SPREADS, JUMP_SHARE = 8, 0.1
EXPLOSION = 20
PLATEAU, PLATEAU_FROM, PLATEAU_FALL = 0.95, 0.2, 0.15
RECENT_LINES, SLOW = 5, 0.5
EVALUATIONS = 2

# Whose fault it is decides what `stop` means: another start on another machine may help (75), or
# the same command would come to the same (2).
OF_THE_MACHINE = ("no_progress", "throughput_drop")
# Said again in each start; the others once in a run, so that its next start can go on past them.
EACH_START = ("not_finite", *OF_THE_MACHINE)

Lines = Sequence[Mapping[str, Any]]


def figures(lines: Lines, key: str, after_step: int = 0) -> list[float]:
    return [line[key] for line in lines if key in line and line["step"] > after_step]


def loss_jump(losses: Sequence[float]) -> str | None:
    """The last loss is far above the median of those before it.

    Far is 8 robust standard deviations (1.4826 times the median deviation, as for a normal
    distribution: Rousseeuw and Croux 1993), and a tenth of the median.
    """
    before = losses[-WINDOW - 1 : -1]
    if len(before) < FEWEST_LINES:
        return None
    usual = median(before)
    spread = 1.4826 * median(abs(loss - usual) for loss in before)
    if losses[-1] <= usual + max(JUMP_SPREADS * spread, JUMP_SHARE * abs(usual)):
        return None
    return f"the loss jumped to {losses[-1]:.3f}; the {len(before)} lines before have {usual:.3f}"


def gradient_explosion(norms: Sequence[float], highest: float) -> str | None:
    """`highest` since the last line is 20 times the median of the `norms` logged before."""
    before = norms[-WINDOW:]
    if len(before) < FEWEST_LINES or highest <= EXPLOSION * median(before):
        return None
    return f"the gradient's norm reached {highest:.3g}; {median(before):.3g} was usual"


def unigram_plateau(
    losses: Sequence[float], steps: Sequence[int], entropy: float, max_steps: int
) -> str | None:
    """The loss stays at what the frequencies of single tokens would give.

    `entropy` is of the training tokens, in nats; `steps` are those of the losses. Every run passes
    there. One that will not leave: a fifth of it is done, its last third of lines is not below 95 %
    of the entropy, and at the pace from the third before it will not fall by 15 % to its end.
    """
    third = len(losses) // 3
    if len(losses) < FEWEST_LINES or steps[-1] < PLATEAU_FROM * max_steps:
        return None
    now, before = median(losses[-third:]), median(losses[-2 * third : -third])
    pace = (before - now) / (steps[-1] - steps[-1 - third])
    if now < PLATEAU * entropy or pace * (max_steps - steps[-1]) > PLATEAU_FALL * entropy:
        return None
    return (
        f"the model has only learnt character frequencies: the loss stays at {now:.2f},"
        f" and the frequencies of single tokens alone give {entropy:.2f}"
    )


def throughput_drop(rates: Sequence[float]) -> str | None:
    """The last five lines of this start are below half of the speed before them."""
    recent, before = rates[-RECENT_LINES:], rates[:-RECENT_LINES]
    if len(before) < FEWEST_LINES or median(recent) >= SLOW * median(before):
        return None
    return f"{median(recent):,.0f} tokens/s; it was {median(before):,.0f} before, in this start"


def repetition(repeating: Sequence[float]) -> str | None:
    """In two evaluations on end more than half of the samples repeat themselves."""
    last = repeating[-EVALUATIONS:]
    if len(last) < EVALUATIONS or min(last) <= 0.5:
        return None
    return f"{last[-1]:.0%} of the samples repeat themselves, as none of the validation text does"


def not_finite(values: Sequence[float]) -> int | None:
    """The place of the first NaN or infinity."""
    return next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
