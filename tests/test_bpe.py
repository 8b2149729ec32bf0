"""Tokenizers: every string comes back, the ids are the same everywhere, nothing is half written."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tiny_stories, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, TextStreamer

import run_bpe
from zhgpt import bpe, bpe_folder, sampling
from zhgpt.encoder import Encoder
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents

SHIPPED = sorted(path.parent for path in (ROOT / "tokenizer").glob("*/tokenizer.json"))
HARD = "ＡＢＣ，全角 é é ﷺ 🀄🇨🇳👨‍👩‍👧 \u2028\u3000\x00\x07\r\n\t<|endoftext|><|pad|> 12345 don't"


def load(folder: Path) -> Tokenizer:
    """As the corpus uses it: a special token's name inside a text is text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def round_trip(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False)


ANY = st.text() | st.text(
    st.sampled_from("é\u0301ﷺＡ，🀄🇨🇳👨\u200d👩\ufe0f\u0378\U000e0100\x00\r\n <|endoftext|>")
)


@given(ANY)
def test_every_string_comes_back(tiny_files, text):
    assert round_trip(load(tiny_files["tokenizer"]), text) == text


@given(ANY)
def test_a_stream_never_shows_half_a_character(tiny_files, text):
    """What a model writes is shown token by token."""
    tokenizer = load(tiny_files["tokenizer"])
    shown, stream = [], decoders.DecodeStream(skip_special_tokens=False)
    for token in tokenizer.encode(text).ids:
        shown.append(stream.step(tokenizer, token) or "")
    assert "".join(shown) == text
    assert all("\ufffd" not in part for part in shown) or "\ufffd" in text


def test_the_librarys_streamer_shows_no_half_either():
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED[0])
    text, shown = "龘🀄👨\u200d👩 好，a é𠀀\n" * 3, []

    class Shown(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            shown.append(text)

    streamer = Shown(tokenizer)
    for token in tokenizer(text, return_tensors="pt")["input_ids"][0]:
        streamer.put(token[None])
    streamer.end()
    assert "".join(shown) == text and not any("\ufffd" in part for part in shown)


def test_the_fast_path_gives_the_same_ids_also_in_a_child():
    folder = SHIPPED[-1]
    fast, ids = Encoder(load(folder)), load(folder).encode(HARD).ids
    assert fast.encode([HARD])[0].tolist() == ids
    with multiprocessing.get_context("fork").Pool(1) as child:
        assert child.map(fast.encode, [[HARD]])[0][0].tolist() == ids


def test_special_tokens_of_a_prompt_are_text():
    """As in training; they are looked for only where that is asked for."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED[-1])
    ids = sampling.encoded(tokenizer, "好<|endoftext|>")[0].tolist()
    assert 0 not in ids and tokenizer.decode(ids) == "好<|endoftext|>"
    assert 0 in tokenizer("好<|endoftext|>")["input_ids"]


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_every_validation_document_comes_back(folder, corpus_dir):
    tokenizer = load(folder)
    path, section = corpus_dir / "validation.jsonl.zst", TextSection(train_files=())
    for text in documents(path, section, Tally()):
        assert round_trip(tokenizer, text) == text


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
class TestShipped:
    def test_hard_text_comes_back(self, folder):
        assert round_trip(load(folder), HARD) == HARD

    def test_every_byte_is_an_entry_and_nothing_is_normalised(self, folder):
        tokenizer = load(folder)
        assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())
        assert tokenizer.normalizer is None

    def test_the_library_gives_the_same_ids(self, folder, tmp_path):
        """Also beside a model's config.json, from which the library would guess another class."""
        beside = tmp_path / "model"
        shutil.copytree(folder, beside)
        GPT2Config(bos_token_id=0, eos_token_id=0).save_pretrained(beside)
        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(HARD).ids
        for path in (folder, beside):
            assert AutoTokenizer.from_pretrained(path)(HARD)["input_ids"] == ids

    def test_end_and_padding_are_two_tokens(self, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
        assert tokenizer.pad_token_id == 1
        bpe.check(tokenizer.backend_tokenizer, 0, 1, folder.name)

    def test_bytes_of_tokens_are_those_of_the_text(self, folder):
        tokenizer = load(folder)
        table = bpe.token_bytes(tokenizer)
        assert b"".join(table[i] for i in tokenizer.encode(HARD).ids) == HARD.encode()
        assert table[0] == table[1] == b"" and all(table[2:])

    def test_the_card_tells_no_folder_of_a_machine(self, folder):
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        names = facts["recipe"]["corpus"]["train_files"] + [
            f["name"] for f in facts["text"]["files"]
        ]
        assert names and not any("/" in name for name in names)
        assert facts["entries"] == load(folder).get_vocab_size()
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"{facts['text']['documents']:,}" in card

    def test_the_card_says_which_it_is_and_how_large(self, folder):
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert facts["fingerprint"] == bpe.fingerprint(load(folder))
        assert f"| fingerprint | {facts['fingerprint']} |" in card
        megabytes = (folder / "tokenizer.json").stat().st_size / 1e6
        assert f"| size of tokenizer.json | {megabytes:.2f} MB |" in card and megabytes <= 4


def test_a_fresh_process_loads_it_as_what_it_is():
    """And why it is not saved as GPT-2's class, which puts a pattern of its own in its place."""
    code = """
import json, sys
from transformers import AutoTokenizer, GPT2TokenizerFast
folder, text = sys.argv[1:]
loaded = [kind.from_pretrained(folder) for kind in (AutoTokenizer, GPT2TokenizerFast)]
is_gpt2 = isinstance(loaded[0], GPT2TokenizerFast)
print(json.dumps([is_gpt2, *(tokenizer(text)["input_ids"] for tokenizer in loaded)]))
"""
    text, folder = "（他说，12345678）", ROOT / "tokenizer" / "32k_v1"
    command = [sys.executable, "-c", code, str(folder), text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    is_gpt2, ids, ids_of_gpt2 = json.loads(done.stdout)
    assert not is_gpt2 and ids == load(folder).encode(text).ids != ids_of_gpt2


def test_32k_v1_is_what_its_name_says():
    facts = json.loads((ROOT / "tokenizer/32k_v1/training.json").read_text(encoding="utf-8"))
    assert facts["entries"] == 32_000
    assert facts["text"]["documents"] == 53_215
    assert not any("validation" in file["name"] for file in facts["text"]["files"])


@pytest.mark.slow
def test_killed_anywhere_there_is_no_half_tokenizer():
    script = ROOT / "tests" / "campaign_tokenizer.py"
    command = [sys.executable, str(script), "--kills", "20", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[:2] == ["kills", "20"]


def test_village_4k_is_made_again_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = tmp_path / "village_4k"
    assert run_bpe.run(["recipes/bpe_village.json", "--output_dir", str(made)]) == 0
    committed = ROOT / "tokenizer/village_4k/tokenizer.json"
    assert (made / "tokenizer.json").read_bytes() == committed.read_bytes()


@pytest.fixture
def recipe(tmp_path) -> Path:
    files = [write_jsonl(tmp_path / f"{seed}.jsonl", tiny_stories(30, seed)) for seed in (1, 2)]
    content = {
        "name": "small",
        "purpose": "tests",
        "corpus": {"train_files": [str(path) for path in files]},
        "bpe": {"vocab_size": 350, "pre_tokenizer": r"\p{Han}+|[^\p{Han}]+"},
    }
    path = tmp_path / "small.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_order_of_texts_and_threads_change_nothing(recipe, tmp_path, monkeypatch):
    made = []
    for threads, names in [("true", ["1.jsonl", "2.jsonl"]), ("false", ["b.jsonl", "a.jsonl"])]:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", threads)
        shutil.copy(tmp_path / "1.jsonl", tmp_path / "b.jsonl")
        shutil.copy(tmp_path / "2.jsonl", tmp_path / "a.jsonl")
        folder = tmp_path / names[0][0]
        files = [str(tmp_path / name) for name in names]
        arguments = [str(recipe), "--output_dir", str(folder), "--train_files", *files]
        assert run_bpe.run(arguments) == 0
        made.append((folder / "tokenizer.json").read_bytes())
    assert made[0] == made[1]


def test_what_is_cut_short_never_has_the_final_name(recipe, tmp_path, monkeypatch):
    arguments = [str(recipe), "--output_dir", str(tmp_path / "t")]
    with monkeypatch.context() as broken:
        broken.setattr(bpe_folder, "card", lambda *facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_bpe.run(arguments)
    assert not (tmp_path / "t").exists()
    assert run_bpe.run(arguments) == 0
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    assert run_bpe.run([*arguments, "--overwrite", "--vocab_size", "300"]) == 0
    assert load(tmp_path / "t").get_vocab_size() == 300
