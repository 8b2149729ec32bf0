"""Training a tokenizer: within its memory, the same in any order, refused where it cannot be."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_stories, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import run_bpe
from zhgpt import bpe_text, bpe_train, clock, pre_tokenizer, pre_tokens
from zhgpt.errors import InputError
from zhgpt.recipe import BpeRecipe, BpeSection, CleaningSection, TextSection

STORIES = tiny_stories(300, seed=7)
NOTHING = CleaningSection()


def recipe_of(files: list[Path], clean: CleaningSection = NOTHING, **bpe) -> BpeRecipe:
    pins = {"vocab_size": 400, "pre_tokenizer": "modern"} | bpe
    corpus = TextSection(train_files=tuple(map(str, files)))
    return BpeRecipe(name="t", purpose="t", corpus=corpus, bpe=BpeSection(**pins), cleaning=clean)


def made(recipe: BpeRecipe) -> tuple[str, dict, dict]:
    """tokenizer.json, and what was said of training and of the text."""
    bpe_train.require_possible(recipe.bpe)
    reading = bpe_text.Reading(recipe, lambda line: None)
    tokenizer, facts = bpe_train.train(reading, recipe.bpe, lambda line: None)
    return tokenizer.to_str(), facts, reading.ledger()


@pytest.fixture
def stories(tmp_path) -> Path:
    return write_jsonl(tmp_path / "stories.jsonl", STORIES)


@pytest.fixture
def shuffled(tmp_path) -> list[Path]:
    """The same documents in another order, in three files."""
    texts = random.Random(1).sample(STORIES, len(STORIES))
    return [write_jsonl(tmp_path / f"{i}.jsonl", texts[i::3]) for i in range(3)]


@settings(max_examples=60)
@given(st.lists(st.text("甲乙丙 ", max_size=6)), st.integers(1, 5), st.integers(0, 3))
def test_one_in_so_many_occurrences_of_each(texts, rate, seed):
    counted = pre_tokens.PreTokens(seed)
    counted.count(texts, str.split)
    true = Counter(piece for text in texts for piece in text.split())
    assert len(counted.hashes) == len(true) and counted.counts.sum() == true.total()
    chosen = [p for some in counted.one_in(rate, texts[::-1], str.split) for p in some]
    for piece, number in Counter(chosen).items():
        assert true[piece] // rate <= number <= -(-true[piece] // rate)
    assert rate > 1 or Counter(chosen) == true


def test_what_is_left_is_right_on_the_average():
    texts = [f"{number} " * (1 + number % 7) for number in range(20_000)]
    counted = pre_tokens.PreTokens(0)
    counted.count(texts, str.split)
    total = sum(len(text.split()) for text in texts)
    assert counted.occurrences(5).sum() == pytest.approx(total / 5, rel=0.02)
    rare = counted.counts == 1
    assert counted.occurrences(5)[rare].mean() == pytest.approx(1 / 5, abs=0.03)


def test_batches_and_merges_do_not_show(monkeypatch):
    whole = pre_tokens.PreTokens(0)
    whole.count(STORIES, list)
    monkeypatch.setattr(pre_tokens, "_BATCH", 5)
    parts = pre_tokens.PreTokens(0)
    parts.count(STORIES[::-1], list)
    for name in ("hashes", "counts", "sizes"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_the_rate_is_the_smallest_within_the_budget():
    counted = pre_tokens.PreTokens(0)
    counted.count(["ab"] * 3 + ["cd", "ef"], lambda text: [text])
    assert counted.rate(lambda sizes: sizes * 1.0, 6.0) == 1
    assert counted.rate(lambda sizes: sizes * 1.0, 4.0) == 2
    assert counted.rate(lambda sizes: sizes * 1.0, 2.0) == 5


def test_text_that_changes_while_it_is_read():
    counted = pre_tokens.PreTokens(0)
    counted.count(["甲"], list)
    with pytest.raises(InputError, match="changed while"):
        list(counted.one_in(1, ["乙"], list))


@pytest.mark.parametrize(
    "bpe",
    [{}, {"sample_bytes": 20_000}, {"max_memory_gb": 0.3055, "pre_tokenizer": "none"}],
    ids=["all", "sample", "thin"],
)
def test_the_order_of_documents_and_files_changes_nothing(stories, shuffled, bpe):
    one, other = made(recipe_of([stories], **bpe)), made(recipe_of(shuffled[::-1], **bpe))
    assert one[0] == other[0] and one[1] == other[1]
    assert one[2]["bytes"] == other[2]["bytes"]
    assert (one[1]["one_in"] > 1) == ("max_memory_gb" in bpe)
    another_seed = made(recipe_of([stories], seed=1, **bpe))
    assert (another_seed[0] == one[0]) == (not bpe)


def test_a_sample_has_its_size_and_the_ledger_all_bytes(stories):
    clean = CleaningSection(duplicates="documents", min_characters=60, repeated_lines=0.5)
    text = made(recipe_of([stories], clean, sample_bytes=20_000))[2]
    assert 20_000 <= text["bytes"] < 20_000 + 400
    gone = sum(text["dropped_bytes"].values()) + sum(text["removed_bytes"].values())
    assert text["read"]["bytes"] == text["bytes"] + gone
    assert text["read"]["documents"] == text["documents"] + sum(text["dropped_documents"].values())
    assert {"not in the sample", "below min_characters"} <= text["dropped_bytes"].keys()
    whole = made(recipe_of([stories], sample_bytes=10**9))[2]
    assert whole["bytes"] == whole["read"]["bytes"]


def test_cleaning_is_that_of_a_model(tmp_path):
    texts = [f"{story}\r\n联系 someone@example.com\x07" for story in STORIES]
    path = write_jsonl(tmp_path / "dirty.jsonl", texts)
    clean = CleaningSection(control_characters=True, mask_contacts=True)
    ledger = made(recipe_of([path], clean))[2]
    assert ledger["removed_bytes"].keys() == {"control_characters", "mask_contacts"}


def test_special_tokens_of_the_recipe(stories):
    tokenizer = Tokenizer.from_str(made(recipe_of([stories], special_tokens=("<|问|>",)))[0])
    assert tokenizer.token_to_id("<|问|>") == 2
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode("<|问|><|endoftext|><|pad|>").ids
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<|问|><|endoftext|><|pad|>"


@pytest.mark.parametrize(
    "bpe, words",
    [
        ({"vocab_size": 257}, "bytes and special tokens alone are 258"),
        ({"vocab_size": 258, "special_tokens": ("<|a|>",)}, "alone are 259"),
        ({"vocab_size": 9_999}, r"the text has pairs for [\d,]+ entries\s+only"),
        ({"special_tokens": ("a",)}, "equals an entry, a single byte"),
        ({"special_tokens": ("在",)}, "equals an entry that the text gives"),
        ({"special_tokens": ("<|pad|>",)}, "stands twice, or is there anyway"),
        ({"max_memory_gb": 0.2}, r"a vocabulary of\s+400 needs 0.30"),
        ({"max_memory_gb": 0.30481}, r"different\s+pre-tokens and the vocabulary need 0.3"),
        ({"max_token_length": 2}, "3 at least"),
        ({"pre_tokenizer": "modren"}, 'did you mean "modern"'),
        ({"sample_bytes": 5_000, "vocab_size": 2_000}, "or give more text"),
    ],
)
def test_what_cannot_be_is_said(stories, bpe, words):
    with pytest.raises(InputError, match=words):
        made(recipe_of([stories], **bpe))


def test_the_name_of_a_special_token_that_the_text_is_full_of(tmp_path):
    path = write_jsonl(tmp_path / "dump.jsonl", ["<|endoftext|>"] * 900 + STORIES)
    with pytest.raises(InputError, match="frequent in it as text"):
        made(recipe_of([path], pre_tokenizer="none"))


def test_nothing_is_written_where_it_is_refused(stories, tmp_path, capsys):
    content = {
        "name": "small",
        "purpose": "tests",
        "corpus": {"train_files": [str(stories)]},
        "bpe": {"vocab_size": 9_999, "pre_tokenizer": "modern"},
    }
    path = tmp_path / "small.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="--vocab_size [0-9]+, or"):
        run_bpe.run([str(path), "--output_dir", str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()


def test_a_data_set_gives_the_tokenizer_of_its_files(tmp_path, stories):
    folder = tmp_path / "somewhere" / "set"
    write_jsonl(folder / "train.jsonl", STORIES)
    pins = BpeSection(vocab_size=400, pre_tokenizer="modern")
    corpus = TextSection(dataset={"path": str(folder), "split": "train"})
    same, _, ledger = made(BpeRecipe(name="t", purpose="t", corpus=corpus, bpe=pins))
    assert same == made(recipe_of([stories]))[0]
    assert [file["name"] for file in ledger["files"]] == ["set/train"]
    assert str(tmp_path) not in json.dumps(ledger)
    arguments = ["--train_files", "[]", "--dataset", json.dumps(dict(corpus.dataset))]
    recipe = {
        "name": "t",
        "purpose": "t",
        "corpus": {"train_files": ["x"]},
        "bpe": {"vocab_size": 400, "pre_tokenizer": "modern"},
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    assert run_bpe.run([str(path), *arguments, "--output_dir", str(tmp_path / "made")]) == 0
    assert (tmp_path / "made" / "tokenizer.json").read_text(encoding="utf-8") == same
    assert "somewhere" not in (tmp_path / "made" / "training.json").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="in the place of train_files"):
        run_bpe.run([str(path), *arguments[2:]])


@pytest.mark.parametrize("name", [*pre_tokenizer.PATTERNS, r"(?:a|b)+|[^ab]"])
def test_a_long_document_has_the_same_pre_tokens_in_parts(name, monkeypatch):
    if name == "words":
        pytest.importorskip("rjieba")
    text = (
        "".join(STORIES) + "don't  go 12345\u3000\r\n\n ，。GPT门 aab\t" * 30 + "".join(STORIES[:9])
    )
    cuts = pre_tokenizer.of(name)
    split = cuts.splitter()
    monkeypatch.setattr(pre_tokenizer, "_PART", 50)
    parts = list(cuts.parts(text))
    assert (len(parts) == 1) == (name == "none" or name.startswith("("))
    assert [piece for part in parts for piece in split(part)] == split(text)


def test_merging_says_how_far_it_is(stories, monkeypatch):
    monkeypatch.setattr(clock, "SECONDS_BETWEEN_LINES", 0)
    lines, recipe = [], recipe_of([stories])
    bpe_train.train(bpe_text.Reading(recipe, lines.append), recipe.bpe, lines.append)
    assert any(line.startswith("merging: ") and line.endswith(" s left") for line in lines)
