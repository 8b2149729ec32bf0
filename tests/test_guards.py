"""The rules: each fires on its fault and is silent on what healthy runs look like."""

import json
import random

import pytest
from conftest import ROOT

from zhgpt import guards


def falling(lines: int, noise: float = 0.05, seed: int = 0) -> list[float]:
    """A loss from 10 to 2, with the noise of small batches."""
    draw = random.Random(seed)
    return [2 + 8 * 0.97**n + draw.gauss(0, noise) for n in range(lines)]


@pytest.mark.parametrize("seed", range(20))
def test_no_alarm_on_a_falling_loss(seed):
    losses = falling(300, noise=0.15, seed=seed)
    entropy = 7.0
    for n in range(1, len(losses)):
        assert not guards.loss_jump(losses[:n]), n
        assert not plateau(losses[:n], entropy, 300, every=1), n


def test_a_jump_is_told_with_both_values():
    losses = falling(100)
    text = guards.loss_jump([*losses, 7.5])
    assert "7.500" in text and "2." in text
    assert not guards.loss_jump([*losses, losses[-1] + 0.15])
    assert not guards.loss_jump([5.0, 50.0])  # nothing is known of it yet


@pytest.mark.parametrize("seed", range(20))
def test_an_explosion_is_far_beyond_what_single_steps_reach(seed):
    draw = random.Random(seed)
    norms = [draw.lognormvariate(0, 0.5) for _ in range(100)]  # as gradients' norms scatter
    for n in range(1, 100):
        assert not guards.gradient_explosion(norms[:n], norms[n])
    assert "usual" in guards.gradient_explosion(norms, 200.0)
    assert not guards.gradient_explosion(norms[:3], 200.0)


def plateau(losses, entropy, max_steps, every=18):
    steps = [every * (n + 1) for n in range(len(losses))]
    return guards.unigram_plateau(losses, steps, entropy, max_steps)


# Of the village stories, 7.38 nats a token: at 5e-5 to the end, and with 262 steps in all, too few,
# which rest there for a while and then learn on.
STUCK = [8.22, 8.04, 7.92, 7.81, 7.72, 7.64, 7.57, 7.53, 7.47, 7.43, 7.39, 7.35, 7.35, 7.33, 7.28]
STUCK += [7.27, 7.26, 7.21, 7.22, 7.21]
RESTING = [7.54, 7.98, 7.46, 7.43, 7.32, 7.34, 7.27, 7.21, 7.14, 7.15, 7.08, 7.05, 6.94, 6.91, 6.79]
RESTING += [6.78, 6.64, 6.61, 6.48, 6.47]


def test_a_loss_that_stays_where_frequencies_alone_lead():
    told = [plateau(STUCK[:n], 7.38, 875) for n in range(len(STUCK) + 1)]
    assert "only learnt character frequencies" in told[-1] and not any(told[:12])
    assert not any(plateau(RESTING[:n], 7.38, 262, 6) for n in range(len(RESTING) + 1))
    flat = [10, 9, 8, *[7.3] * 20]
    assert plateau(flat, 7.2, 1000) and not plateau(flat, 7.2, 3000)  # there it is too early
    assert not plateau([*flat, *[5.0] * 10], 7.2, 1000)


def test_a_machine_that_has_become_slow():
    assert "500 tokens/s; it was 2,000" in guards.throughput_drop([2000.0] * 10 + [500.0] * 5)
    assert not guards.throughput_drop([2000.0] * 10 + [500.0] * 2 + [1900.0] * 3)
    assert not guards.throughput_drop([2000.0] * 4 + [500.0] * 5)


def test_samples_have_to_repeat_themselves_twice_on_end():
    assert guards.repetition([0.0, 1.0, 1.0]) and guards.repetition([0.67, 0.67])
    assert not guards.repetition([1.0]) and not guards.repetition([1.0, 0.5, 1.0])


def test_the_first_number_that_is_none():
    assert guards.not_finite([1.0, float("inf"), float("nan")]) == 1
    assert guards.not_finite([1.0, -2.0]) is None and guards.not_finite([]) is None


def test_no_alarm_on_the_recorded_curves():
    """Of the published runs, as far as their lines tell: bits per byte fall without a jump."""
    lines = (ROOT / "recipes/results.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        bits = [value for _, value in line["curve"]]
        assert not any(guards.loss_jump(bits[:n]) for n in range(len(bits) + 1))
