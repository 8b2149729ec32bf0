"""Ids are those of `tokenizers`, on text of any kind and length, whatever engine serves."""

import functools
import json
import multiprocessing
import random
import re
import unicodedata

import numpy as np
import pytest
import tiktoken
import zstandard
from conftest import ROOT, tiny_stories
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from zhgpt import encoder as encoder_module
from zhgpt.encoder import Encoder
from zhgpt.pattern import CONTRACTIONS, GPT2, PROPERTIES, Pattern, Unreadable

OURS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "ours": OURS,
    "gpt2": GPT2,
    "contractions": f"{CONTRACTIONS}|{OURS}",
    "one digit": OURS.replace("{1,3}", ""),
    "four Han": r"\p{Han}{1,4}|[^\p{Han}\s]+|\s+",
    "Han apart": r"\p{Han}+|[^\p{Han}]+",
    "marks": r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|\p{N}|\s*[\r\n]|\s+(?!\S)|\s|[^\s\p{L}\p{M}\p{N}]",
    "gaps": r"\p{Han}+|[a-z]{2,}",
}
ENGLISH = (
    "It's what we'd  do:\n\tfor i in range(10):\r\n        print(f'{i} + 1 = {i+1}')\n\n They're"
)


def train(pre_tokenizer, size: int = 500) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*tiny_stories(60, seed=5), *[ENGLISH] * 9], trainer)
    return tokenizer


def split(pattern: str):
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([splitter, bytes_])


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "byte level":
        return train(pre_tokenizers.ByteLevel(add_prefix_space=False))
    if kind in PATTERNS:
        return train(split(PATTERNS[kind]))
    return Tokenizer.from_file(str(ROOT / "tokenizer" / kind / "tokenizer.json"))


@functools.cache
def encoder_of(kind: str) -> Encoder:
    return Encoder(tokenizer_of(kind))


KINDS = ["32k_v1", "village_4k", "byte level", *PATTERNS]


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy to which the name of a special token is text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


@functools.cache
def plain_of(kind: str) -> Tokenizer:
    return plain(tokenizer_of(kind))


def require_equal(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    """`tokenizer` takes the texts whole, as `tokenizers` does by itself."""
    rows = encoder.encode(texts)
    assert len(rows) == len(texts)
    assert {row.dtype for row in rows} <= {encoder.dtype}
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for text, row, encoding in zip(texts, rows, encodings, strict=True):
        assert row.tolist() == encoding.ids, text[:200]


# Text of every kind


def code_points(category: str) -> list[str]:
    every = map(chr, [*range(0xD800), *range(0xE000, 0x110000)])
    return [c for c in every if unicodedata.category(c).startswith(category)]


MARKS, DIGITS, CONTROLS = code_points("M"), code_points("N"), code_points("C")[:200]
SPACES = [*" \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2028\u2029\u202f\u205f\u3000\u200b"]
SPACES += map(chr, range(0x2000, 0x200B))
PEOPLE = [*"👩👨👧🧑🚀🏽🏿❤🔥🏳🌈"]
SAID = "'s 'S 't 'RE 've 'm 'LL 'd don't we'Ve 'ſ 're's <|endoftext|> <|pad|> 12345678 1½ foo_bar"
SAID = [*SAID.split(), "  x", " \n", "\r\n", "\r\r\n\n", "a\u0301", "\ufeff", "\U0010ffff"]


def hard(draw: random.Random) -> str:
    """A few characters of one kind."""
    few = range(draw.choice((1, 1, 2, 3, 5, 9)))
    kind = draw.randrange(11)
    if kind == 0:
        return "".join(chr(draw.randrange(0xE000, 0x110000)) for _ in few)
    if kind == 1:
        return "".join(chr(draw.randrange(0xD800)) for _ in few)
    if kind == 2:
        return draw.choice("aé한ก") + "".join(draw.choice(MARKS) for _ in few)
    if kind == 3:
        return "\u200d".join(draw.choice(PEOPLE) + draw.choice(("", "\ufe0f")) for _ in few)
    if kind == 4:
        return "".join(draw.choice("\r\n ") for _ in few)
    if kind == 5:
        return " " * draw.choice((1, 2, 3, 40, 200))
    if kind == 6:
        return "".join(draw.choice(draw.choice((SPACES, CONTROLS))) for _ in few)
    if kind == 7:
        return "".join(draw.choice(DIGITS) for _ in few)
    if kind == 8:
        return "".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in few)
    if kind == 9:
        return "".join(chr(draw.randrange(0x20000, 0x33500)) for _ in few)
    return draw.choice(SAID)


def hard_strings(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(hard(draw) for _ in range(draw.randrange(8))) for _ in range(count)]


@pytest.mark.parametrize("count", [6_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["32k_v1", "byte level"])
def test_hard_strings(kind, count):
    require_equal(encoder_of(kind), plain_of(kind), hard_strings(count, seed=count))
    assert encoder_of(kind).name.startswith("tiktoken ")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plain_pattern(kind):
    require_equal(encoder_of(kind), plain_of(kind), [*hard_strings(800, seed=7), ENGLISH, ""])
    assert encoder_of(kind).name.startswith("tiktoken ")
    assert encoder_of(kind).reason == ""


@pytest.mark.parametrize("kind", ["32k_v1", "contractions", "four Han"])
@given(texts=st.lists(st.text(st.characters(codec="utf-8")), max_size=4))
@example(texts=["  ", "a", "", "", "b\n"])
@example(texts=["a", encoder_module._BETWEEN, "b"])
@example(texts=[encoder_module._BETWEEN[:-1], encoder_module._BETWEEN[-1:]])
@example(texts=[encoder_module._BETWEEN[1:], encoder_module._BETWEEN[:1]])
def test_any_documents(kind, texts):
    require_equal(encoder_of(kind), plain_of(kind), texts)


def test_documents_do_not_touch():
    """A lookahead sees the end of its document, not the beginning of the next."""
    texts = ["字  ", "字", "1", "23", "a", "'s", "\r", "\n", " ", "x", "", " "]
    for kind in KINDS:
        require_equal(encoder_of(kind), plain_of(kind), texts)


@pytest.mark.corpus
@pytest.mark.parametrize("kind", ["32k_v1", "village_4k", "byte level"])
def test_real_documents(kind, corpus_dir):
    with zstandard.open(corpus_dir / "validation.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    require_equal(encoder_of(kind), plain_of(kind), texts)


def test_ids_beyond_16_bits():
    config = json.loads(tokenizer_of("ours").to_str())
    vocab = config["model"]["vocab"]
    # The names of the entries keep their merges; only what they are called in ids moves up.
    vocab |= {name: number + 70_000 for name, number in vocab.items() if number > 300}
    moved = Tokenizer.from_str(json.dumps(config))
    encoder = Encoder(moved)
    assert (encoder.dtype, encoder.name[:9]) == (np.uint32, "tiktoken ")
    require_equal(encoder, plain(moved), [*tiny_stories(5, seed=5), ENGLISH])
    assert max(map(max, encoder.encode([ENGLISH]))) > 70_000


# What the fast engine may serve


CLASSES = [rf"\p{{{name}}}" for name in PROPERTIES] + [r"\s", r"\d", "(?i:s)"]
QUICK = [(name, 0x34000) for name in (r"\p{L}", r"\p{N}", r"\s", r"\p{Han}")]
QUICK.append((r"[^\P{L}\p{Han}]", 0x34000))
SLOW = [pytest.param(name, 0x110000, marks=pytest.mark.slow) for name in CLASSES]


@pytest.mark.parametrize("named, last", QUICK + SLOW)
def test_both_regex_engines_know_the_same_characters(named, last):
    """Else a new edition of Unicode in one of them would change ids."""
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, last)]))
    single = {bytes([byte]): byte for byte in range(256)}
    rust = tiktoken.Encoding("rust", pat_str=named, mergeable_ranks=single, special_tokens={})
    onig = pre_tokenizers.Split(Regex(f"{named}+"), "removed", invert=True)
    found = "".join(part for part, _ in onig.pre_tokenize_str(text))
    assert bytes(rust.encode_ordinary(text)).decode() == found
    assert found


def changed(**changes) -> Tokenizer:
    config = json.loads(tokenizer_of("ours").to_str())
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            config[section][key] = value
        else:
            config[section] = value
    return Tokenizer.from_str(json.dumps(config))


def normalized() -> Tokenizer:
    tokenizer = changed()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def with_added_token() -> Tokenizer:
    tokenizer = changed()
    tokenizer.add_tokens([AddedToken("村口", special=False)])
    return tokenizer


def with_pattern(pattern: str) -> Tokenizer:
    tokenizer = changed()
    tokenizer.pre_tokenizer = split(pattern)
    return tokenizer


def word_piece() -> Tokenizer:
    pieces = {c: i for i, c in enumerate(["[UNK]", *"村口河边山脚", "##口", "##边"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def toy(merges: list[tuple[str, str]], missing: str = "") -> Tokenizer:
    """Single bytes and these merges, in this order."""
    names = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c != missing]
    names += ["".join(pair) for pair in merges]
    vocab = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


PREFIXED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
OTHERS = {
    "normalizer, NFC": normalized,
    "model, WordPiece|pre-tokenizer": word_piece,
    "added tokens": with_added_token,
    "pre-tokenizer": lambda: changed(pre_tokenizer=PREFIXED),
    "ignore_merges": lambda: changed(model__ignore_merges=True),
    "byte_fallback": lambda: changed(model__byte_fallback=True),
    "single bytes": lambda: toy([("a", "b")], missing="x"),
    r"plain form at '\\\\w": lambda: with_pattern(r"\w+|[^\w]"),
    r"plain form at '\(\?<=": lambda: with_pattern(r"(?<=a)b|\p{L}+|\P{L}+"),
    r"plain form at '\(\?:": lambda: with_pattern(r"(?:ab)+|\p{L}|\P{L}"),
    r"plain form at '\+": lambda: with_pattern(r"\p{L}{1,2}+|\P{L}"),
    "match nothing": lambda: with_pattern(r"\p{Han}*"),
    # What both engines make of "abc" differs: bc first, and then a and bc, which is no merge.
    "own bytes do not merge": lambda: toy([("b", "c"), ("a", "b"), ("ab", "c")]),
    "not in order": lambda: toy([("a", "b"), ("abc", "d"), ("ab", "c")]),
    "not in order$": lambda: toy([("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_tokenizers_itself_serves_where_ids_could_differ(reason):
    tokenizer = OTHERS[reason]()
    encoder = Encoder(tokenizer)
    assert encoder.name.startswith("tokenizers ")
    assert re.search(reason, encoder.reason), encoder.reason
    texts = ["abc abcd  xabcd", "村口 e\u0301 é", ENGLISH, "", *hard_strings(50, seed=3)]
    require_equal(encoder, plain(tokenizer), [*texts, *tiny_stories(5, seed=5)])


def test_truncation_and_padding_of_a_saved_tokenizer_are_not_applied():
    tokenizer = changed()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    require_equal(Encoder(tokenizer), plain(changed()), [*tiny_stories(3, seed=1), "a"])


def test_the_check_turns_to_tokenizers_for_good():
    texts = ["right", *tiny_stories(3, seed=1)]
    encoder = Encoder(tokenizer_of("ours"))
    encoder.check(texts)
    assert (encoder.name[:9], encoder.reason) == ("tiktoken ", "")
    encoder.engine.ids = encoder.engine.ids[::-1].copy()
    encoder.check(texts)
    assert encoder.name.startswith("tokenizers ")
    assert re.fullmatch(r"tiktoken [\d.]+ gives other ids for a document, 'right'", encoder.reason)
    require_equal(encoder, plain_of("ours"), texts)


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(UnicodeEncodeError):
        encoder_of("ours").encode(["a", "b\ud83d"])


# Long documents


def pieces(splitter, text: str) -> list[tuple[int, int]]:
    return [offsets for _, offsets in splitter.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", PATTERNS)
def test_pre_tokens_are_the_same_on_both_sides_of_every_safe_cut(name):
    pattern, splitter = Pattern(PATTERNS[name]), split(PATTERNS[name])
    cuts = 0
    for text in [*hard_strings(250, seed=11), ENGLISH, *tiny_stories(3, seed=1)]:
        for place in 1 + np.flatnonzero(pattern._safe(text)) if text else ():
            after = [(a + place, b + place) for a, b in pieces(splitter, text[place:])]
            assert pieces(splitter, text[:place]) + after == pieces(splitter, text)
            cuts += 1
    assert cuts > 400


@pytest.mark.parametrize("name", PATTERNS)
def test_a_safe_cut_is_where_any_two_characters_are_apart(name):
    """Each pair of kinds of characters, in each neighbourhood that could join them."""
    kinds = ["字", "a", "s", "1", "!", "'", " ", "\n", "\r", "\t", "\u0301", "🚀"]
    pattern, splitter = Pattern(PATTERNS[name]), split(PATTERNS[name])
    for first in kinds:
        for second in kinds:
            if pattern.safe_cut(first + second, 1) == 2:
                continue
            for text in (first + second, *(a + first + second + b for a in kinds for b in kinds)):
                place = text.index(first + second) + 1
                after = [(a + place, b + place) for a, b in pieces(splitter, text[place:])]
                assert pieces(splitter, text[:place]) + after == pieces(splitter, text)


@pytest.fixture
def tiny_parts(monkeypatch):
    monkeypatch.setattr(encoder_module, "_SMALLEST_PART", 4)
    monkeypatch.setattr(encoder_module, "_LARGEST_PART", 4)
    monkeypatch.setattr(encoder_module, "_PART_OF_TOKENIZERS", 8)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_in_parts_have_the_ids_of_whole_ones(kind, tiny_parts):
    texts = [*hard_strings(300, seed=13), *tiny_stories(20, seed=3), ENGLISH * 20, ""]
    encoder = encoder_of(kind)
    require_equal(encoder, plain_of(kind), texts)
    parts = encoder_module._parts(texts, encoder.pattern, 4, 4)
    assert sum(map(len, parts)) > 2 * len(texts)


def test_a_long_document_in_parts_for_tokenizers_itself(tiny_parts):
    tokenizer = changed(model__ignore_merges=True)
    require_equal(
        Encoder(tokenizer), plain(tokenizer), [ENGLISH * 5, "".join(tiny_stories(9, seed=1))]
    )


def test_no_part_of_a_long_document_is_long():
    text = "".join(tiny_stories(3000, seed=1))
    ends = [end for _, _, end in encoder_module._spans([text], Pattern(OURS), 1000)]
    assert ends[-1] == len(text)
    assert max(np.diff([0, *ends])) < 2000 + 100


def test_a_run_without_a_cut_is_encoded_whole():
    """One pre-token of 300 kB: no engine takes a time that grows with the square."""
    text = "字" * 100_000
    assert Pattern(OURS).safe_cut(text, 1000) == len(text)
    require_equal(encoder_of("ours"), plain_of("ours"), ["a", text])


def test_more_spaces_than_the_fast_engine_can_search():
    text = "字" + " " * 1_000_000 + "字"
    assert encoder_of("ours").engine.encode([text]) is None
    require_equal(encoder_of("ours"), plain_of("ours"), ["a", text])


def test_text_between_matches_is_not_lost():
    text = "1234 村口 a bc"
    assert encoder_of("gaps").engine.encode([text]) is None
    require_equal(encoder_of("gaps"), plain_of("gaps"), [text])


def _in_a_fork(texts: list[str]) -> list[list[int]]:
    return [row.tolist() for row in encoder_of("ours").encode(texts)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_serves_in_worker_processes():
    texts = tiny_stories(50, seed=4) * 20
    here = _in_a_fork(texts)  # threads have run before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_in_a_fork, [texts, texts]).get(timeout=60) == [here, here]


@pytest.mark.parametrize("pattern", ["a||b", "a|", "", "[a&&b]", "a{,3}", "^a", "a$", r"\h", "(a"])
def test_patterns_that_are_not_plain(pattern):
    with pytest.raises(Unreadable):
        Pattern(pattern)
