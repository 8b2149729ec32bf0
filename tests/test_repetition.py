"""Samples beside real text: the figures by hand, and what counts as repeating itself."""

import json

import pytest
from conftest import ROOT

from zhgpt import repetition
from zhgpt.repetition import Usual, figures, longest_run


@pytest.fixture(scope="module")
def usual() -> Usual:
    lines = (ROOT / "recipes/village/validation.jsonl").read_text(encoding="utf-8").splitlines()
    return Usual("".join(json.loads(line)["text"] for line in lines))


@pytest.mark.parametrize(
    "text, share", [("", 0.0), ("一二三", 0.0), ("一二三四五", 0.0), ("“““““““““", 5 / 6)]
)
def test_repetition(text, share):
    assert repetition.repetition(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text, run",
    [("", 0), ("一", 0), ("一二三", 0), ("一一", 2), ("甲“““乙", 3), ("他说，他说，他说，啊", 9)]
    + [("一二三一二", 0), ("一二三一二三四", 6), ("哈" * 100, 100)],
)
def test_the_longest_run_is_one_unit_over_and_over(text, run):
    assert longest_run(text) == run


def test_figures_by_hand():
    found = figures("他说：“好。”")
    assert found["punctuation"] == pytest.approx(4 / 7)
    assert found["distinct_4"] == 1
    assert figures("“" * 100)["zip"] < 0.1 and figures("")["punctuation"] == 0


# What models wrote: the first four while all they knew was how often a character occurs.
COLLAPSED = [
    "，在" + "“" * 60,
    "，他说，他说，他说，他说，他说，他说，他说，他说，他说，他说，",
    "，，。的的，的，。，，的，。的，，的，。，，的，的，。，，的，。的，，",
    "说：“。”着说，“。”的，”说。”，“：“。”的。”，说“。”着：“，”。“，”",
]
GOOD = [
    "，围着大家在茶山脚下晒太阳，小荷都记在心里。村里人都说，这一年的收成真好。",
    "，屋里又有了笑声，冯老爹说：“这房子是全村人的心。”从此每天晚上，阿福都去看看各家的柴垛。",
    "，都说又热闹了，街上飘着炒花生的香味，见了面都笑呵呵的，秀秀也忙着帮家里翻地。",
]


@pytest.mark.parametrize("text", COLLAPSED)
def test_a_collapsed_sample_repeats_itself(usual, text):
    assert usual.repeats(text)


@pytest.mark.parametrize("text", GOOD)
def test_a_good_sample_does_not(usual, text):
    assert not usual.repeats(text)


def test_real_text_is_never_outside_its_own_range(usual):
    pieces = [usual.text[begin : begin + 80] for begin in range(0, 8000, 80)]
    assert sum(map(usual.repeats, pieces)) <= 2


def test_a_verdict_is_of_the_samples_that_are_long_enough(usual):
    verdict = usual.judge([COLLAPSED[0], GOOD[0], "太短。"])
    assert (verdict.scored, verdict.repeating) == (2, 1)
    assert verdict.text["distinct_4"] > 0.9 > verdict.samples["distinct_4"]
    assert usual.judge(["太短。", ""]) is None and usual.judge([]) is None
    assert usual.judge([COLLAPSED[0], "太短。", ""]) is None
    assert len("  samples: " + repetition.line(verdict)) <= 100


def test_a_text_shorter_than_a_sample_is_one_piece():
    assert Usual("村民们都很高兴。").judge(["村民们" * 40]).repeating == 1
