"""The most used entries of too many: which go, and that what is left is a whole tokenizer."""

import json
import random

import pytest
from conftest import tiny_stories
from tokenizers import Tokenizer

from zhgpt import bpe, bpe_prune
from zhgpt.encoder import Encoder

STORIES = tiny_stories(60, seed=4)


@pytest.fixture(scope="module")
def large(tiny_files) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_files["tokenizer"] / "tokenizer.json"))


def tokens(tokenizer: Tokenizer) -> int:
    return sum(len(ids) for ids in Encoder(tokenizer).encode(STORIES))


def test_the_least_used_go_and_give_their_uses_to_their_halves():
    """ab goes after abc and abd, which are made of it; its uses are 3 + 5 then, fewer than cd's."""
    halves = {"ab": ("a", "b"), "abc": ("ab", "c"), "abd": ("ab", "d"), "cd": ("c", "d")}
    uses = {"ab": 1, "abc": 2, "abd": 5, "cd": 9, "a": 0, "b": 0, "c": 0, "d": 0}
    going = [bpe_prune._least_used(halves, dict(uses), number) for number in range(6)]
    names = [next(iter(more - less)) for less, more in zip(going, going[1:4], strict=False)]
    assert names == ["abc", "abd", "ab"]
    assert going[4] == going[5] == halves.keys()


def test_what_is_left_is_a_whole_tokenizer(large):
    size = large.get_vocab_size()
    small = bpe_prune.pruned(large, size - 60, STORIES)
    assert sorted(small.get_vocab().values()) == list(range(size - 60))
    model = json.loads(small.to_str())["model"]
    assert all({a, b, a + b} <= model["vocab"].keys() for a, b in model["merges"])
    assert bpe.EOS not in (a + b for a, b in model["merges"]) and small.token_to_id(bpe.EOS) == 0
    assert Encoder(small).name.startswith("tiktoken")
    text = STORIES[0] + "龘🀄\x00"
    assert small.decode(small.encode(text).ids) == text
    assert bpe_prune.pruned(large, size, STORIES).to_str() == large.to_str()


def test_it_packs_better_than_to_leave_off_the_last_entries(large):
    size = large.get_vocab_size() - 60
    content = json.loads(large.to_str())
    last = {name for name, number in content["model"]["vocab"].items() if number >= size}
    for name in last:
        del content["model"]["vocab"][name]
    merges = content["model"]["merges"]
    content["model"]["merges"] = [pair for pair in merges if "".join(pair) not in last]
    left_off = Tokenizer.from_str(json.dumps(content))
    assert tokens(bpe_prune.pruned(large, size, STORIES)) < tokens(left_off)


def test_the_order_of_texts_and_batches_change_nothing(large, monkeypatch):
    size = large.get_vocab_size() - 60
    one = bpe_prune.pruned(large, size, STORIES)
    monkeypatch.setattr(bpe_prune, "_TOGETHER", 500)
    shuffled = random.Random(1).sample(STORIES, len(STORIES))
    assert bpe_prune.pruned(large, size, shuffled).to_str() == one.to_str()
