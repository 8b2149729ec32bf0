"""Documents to blocks: both laws on hard text, the split, the cache, and what is refused."""

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from conftest import ROOT, tiny_stories, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zhgpt import blocks, clock, corpus, parts, text
from zhgpt.errors import InputError
from zhgpt.ledger import check_laws
from zhgpt.recipe import CleaningSection, CorpusSection, TextSection

EOS = "<|endoftext|>"
HARD = [
    EOS,
    f"前{EOS}后",
    "\0",
    "\ufeff",
    "\r\n\u2028",
    "e\u0301 ﬁ Ａ\u3000",
    "👨‍👩‍👧",
    " ",
    "𠮷" * 9,
]


def byte_bpe(texts: list[str], entries: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=[EOS, "<|pad|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


TOKENIZER = byte_bpe(tiny_stories(200, seed=3), 400)
EOS_ID = TOKENIZER.token_to_id(EOS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "zhgpt"


def section(train, validation=(), **changes) -> CorpusSection:
    names = {"train_files": (str(train),), "validation_files": tuple(map(str, validation))}
    return CorpusSection(**names, **({"block_size": 16} | changes))


def prepare(train, *validation, tokenizer=TOKENIZER, eos_id=EOS_ID, say=lambda _: None, **changes):
    asked = section(train, validation, **changes)
    return corpus.prepare(asked, CleaningSection(), tokenizer, eos_id, say)


def ids(split: datasets.Dataset) -> np.ndarray:
    """Rows as they lie on disk, one after the other."""
    column = split.with_format("arrow")[:]["input_ids"]
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])


def decoded(stream: np.ndarray, tokenizer=TOKENIZER) -> list[str]:
    """The documents of whole documents' ids."""
    parts = np.split(stream, np.flatnonzero(stream == EOS_ID) + 1)
    assert not len(parts[-1])
    return [tokenizer.decode(part[:-1].tolist(), skip_special_tokens=False) for part in parts[:-1]]


def encoded(texts: list[str], tokenizer=TOKENIZER) -> list[int]:
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    encodings = plain.encode_batch(texts, add_special_tokens=False)
    return [token for encoding in encodings for token in [*encoding.ids, EOS_ID]]


def ordered(texts: list[str], seed: int = 0) -> list[str]:
    """In the order of packing: by SplitMix64 of their hash, worked out with Python's integers."""

    def place(text: str) -> int:
        x = xxhash.xxh3_64_intdigest(text.encode()) + seed * 0x9E3779B97F4A7C15
        x = ((x ^ ((x % 2**64) >> 30)) % 2**64) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    return sorted(texts, key=place)


def require_laws(made: corpus.Corpus, train: list[str], validation: list[str], tokenizer=TOKENIZER):
    """Both laws, from the blocks and the texts alone."""
    assert decoded(ids(made.validation), tokenizer) == ordered(validation)
    expected = encoded(ordered(train), tokenizer)
    blocks_ids, facts = ids(made.train), made.ledger["train"]
    assert blocks_ids.tolist() == expected[: len(blocks_ids)]
    assert facts["remainder_tokens"] == len(expected) - len(blocks_ids) < facts["block_size"]
    assert facts["tokens"] + facts["eos_tokens"] == len(expected)
    assert {len(row) for row in made.train["input_ids"]} == {facts["block_size"]}
    for name, texts in (("train", train), ("validation", validation)):
        facts = made.ledger[name]
        assert facts["bytes"] == sum(len(t.encode()) for t in texts)
        assert facts["characters"] == sum(map(len, texts))
        assert facts["documents"] == facts["eos_tokens"] == len(texts)
        assert facts["blocks"] == len(getattr(made, name))


# Law 1 and law 2


documents = st.lists(st.one_of(st.sampled_from(HARD), st.text(max_size=40)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(documents, documents, st.integers(2, 40), st.integers(1, 5), st.integers(1, 5))
def test_blocks_give_the_documents_back(train, validation, size, per_part, per_bucket):
    """Documents straddle blocks; parts and buckets are smaller than many documents."""
    train, validation = ["训练" * 20, *("T" + t for t in train), ""], ["V" + t for t in validation]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(name, "cache"))
        patch.setattr(parts, "BYTES_PER_PART", per_part * 300)
        patch.setattr(blocks, "_BYTES_PER_BUCKET", per_bucket * 50)
        files = [
            write_jsonl(Path(name, "t.jsonl"), train),
            write_jsonl(Path(name, "v.jsonl"), ["", *validation, "V最后"]),
        ]
        made = prepare(files[0], files[1], block_size=size)
        require_laws(made, train[:-1], [*validation, "V最后"])
        assert made.ledger["dropped"] == {"empty": {"documents": 2, "bytes": 0}}


def test_tokens_are_carried_across_thousands_of_documents(tmp_path):
    train = [f"第{i}篇" * (i % 5 + 1) for i in range(2_500)]
    validation = [f"验证{i}" for i in range(1_100)]
    files = [
        write_jsonl(tmp_path / "t.jsonl", train),
        write_jsonl(tmp_path / "v.jsonl", validation),
    ]
    require_laws(prepare(*files, block_size=7), train, validation)


def test_drops_of_every_kind_are_in_the_ledger(tmp_path):
    lines = [
        '{"text": ""}',
        '{"text": null}',
        r'{"text": "\ud83d"}',
        '{"text": "%s"}' % ("好" * 50),
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.txt").write_bytes(b"")
    said = []
    made = prepare(folder, write_jsonl(tmp_path / "v.jsonl", ["验证"]), say=said.append)
    assert made.ledger["dropped"] == {
        "empty": {"documents": 1, "bytes": 0},
        "empty file": {"documents": 1, "bytes": 0},
        "half a surrogate pair": {"documents": 1, "bytes": 3},
        "null": {"documents": 1, "bytes": 0},
    }
    assert made.ledger["read"] == {"files": 3, "documents": 6, "bytes": 150 + 6 + 3}
    assert f"corpus: dropped 1 (empty file), first in {folder / 'b.txt'}" in said


def test_what_is_no_text_is_in_the_ledger(tmp_path):
    """Of records, with their bytes; of a text file, lines of a document that stays."""
    lines = [f"第{i}句是我们的话。\n".encode("gb18030") for i in range(300)]
    lines[9] = b"\xff\n"
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    records = [f'{{"text": "{i}他们都来了"}}\n'.encode() for i in range(200)]
    records[7] = b'{"text": "\xff"}\n'
    (tmp_path / "b.jsonl").write_bytes(b"".join(records) + b'{"text": "cut')
    said, validation = [], write_jsonl(tmp_path / "v.jsonl", ["验证"])
    made = prepare(str(tmp_path / "[ab].*"), validation, say=said.append)
    assert made.ledger["dropped"] == {
        "cut short": {"documents": 1, "bytes": 13},
        "undecodable": {"documents": 1, "bytes": 2 + 14},
    }
    assert made.ledger["train"]["documents"] == 1 + 199
    assert f"corpus: 1 file(s) read as gb18030, first {tmp_path / 'a.txt'}" in said
    assert f"corpus: dropped 1 (cut short), first in {tmp_path / 'b.jsonl'}, line 201" in said


def test_how_a_file_is_read_is_a_part_of_what_is_cached(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"第{i}句\n" for i in range(99)), encoding="utf-8")
    validation = write_jsonl(tmp_path / "v.jsonl", ["验证"])
    units = {unit: prepare(path, validation, document=unit) for unit in ("file", "line")}
    counts = {unit: made.ledger["train"]["documents"] for unit, made in units.items()}
    assert counts == {"file": 1, "line": 99}


@pytest.mark.parametrize("unit", ["documents", "bytes"])
def test_a_ledger_that_loses_something_is_our_fault(tiny_files, unit):
    ledger = prepare(tiny_files["train"], tiny_files["validation"]).ledger
    check_laws(ledger)
    ledger["train"][unit] -= 1
    with pytest.raises(AssertionError):
        check_laws(ledger)


def test_a_tokenizer_saved_with_truncation_and_padding_loses_nothing(tiny_files):
    cut = Tokenizer.from_str(TOKENIZER.to_str())
    cut.enable_truncation(4)
    cut.enable_padding(pad_id=1, length=64)
    plain, same = (prepare(tiny_files["train"], tokenizer=t) for t in (TOKENIZER, cut))
    assert ids(plain.train).tolist() == ids(same.train).tolist()


@pytest.mark.parametrize("entries, kind", [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_ids_take_two_bytes_where_all_of_them_fit(tmp_path, entries, kind):
    vocabulary = json.loads(TOKENIZER.to_str())["model"]["vocab"]
    vocabulary |= {f"新{i}": i for i in range(len(vocabulary), entries - 1)} | {"Ġ大": entries - 1}
    merges = [*json.loads(TOKENIZER.to_str())["model"]["merges"]]
    large = Tokenizer(models.BPE(vocabulary, [tuple(m) for m in merges]))
    large.pre_tokenizer, large.decoder = TOKENIZER.pre_tokenizer, TOKENIZER.decoder
    large.add_special_tokens([EOS])
    highest = entries - 1
    train = write_jsonl(tmp_path / "t.jsonl", ["训练" * 30])
    validation = write_jsonl(tmp_path / "v.jsonl", ["验证"])
    made = prepare(train, validation, tokenizer=large, eos_id=highest)
    assert made.train.features["input_ids"].feature.dtype == kind
    assert ids(made.validation)[-1] == highest


# The product


def test_blocks_are_memory_mapped_rows_of_a_dataset(tiny_files, cache):
    made = prepare(tiny_files["train"], tiny_files["validation"])
    for name in ("train", "validation"):
        split = getattr(made, name)
        assert isinstance(split, datasets.Dataset) and split.column_names == ["input_ids"]
        assert [Path(f["filename"]).parent.parent for f in split.cache_files] == [cache]
        assert split.features["input_ids"].feature.dtype == "uint16"
    assert len(made.train[3]["input_ids"]) == 16


def test_nothing_but_the_blocks_and_the_ledger_stays(tiny_files, cache):
    prepare(tiny_files["train"])
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    names = {path.name for path in folder.iterdir()}
    assert names == {"train.arrow", "validation.arrow", "ledger.json"}


def test_libraries_keep_silent_and_keep_their_settings(tiny_files, capfd):
    for enable in (datasets.disable_progress_bars, datasets.enable_progress_bars):
        enable()
        prepare(tiny_files["train"], block_size=8 if enable is datasets.enable_progress_bars else 9)
        assert datasets.is_progress_bar_enabled() is (enable is datasets.enable_progress_bars)
    assert capfd.readouterr() == ("", "")


def test_the_ledger_is_the_same_in_another_folder(tmp_path):
    made = []
    for name in ("one", "two"):
        train = write_jsonl(tmp_path / name / "t.jsonl", tiny_stories(120, seed=1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / name)
            made.append(prepare(train))
    assert made[0].ledger == made[1].ledger and made[0].fingerprint == made[1].fingerprint
    assert str(tmp_path) not in json.dumps(made[0].ledger)


def test_the_hash_of_a_split_is_of_its_documents_alone(tiny_files, tmp_path):
    """Of no tokenizer, order, file, seed or block size; one other character gives another."""
    texts = tiny_stories(30, seed=5)
    other = Tokenizer.from_file(str(tiny_files["tokenizer"] / "tokenizer.json"))
    write_jsonl(tmp_path / "two" / "a.jsonl", texts[20:])
    write_jsonl(tmp_path / "two" / "b.jsonl", texts[:20])
    one = prepare(tiny_files["train"], write_jsonl(tmp_path / "one.jsonl", texts)).ledger
    changes = {"seed": 3, "block_size": 8, "tokenizer": other}
    two = prepare(tiny_files["train"], tmp_path / "two", **changes).ledger
    whole = sum(xxhash.xxh3_64_intdigest(text.encode()) for text in texts) % 2**64
    assert one["validation"]["text_hash"] == two["validation"]["text_hash"] == f"{whole:016x}"
    assert one["train"]["text_hash"] == two["train"]["text_hash"] != one["validation"]["text_hash"]
    changed = [*texts[:-1], texts[-1][:-1] + "？"]
    three = prepare(tiny_files["train"], write_jsonl(tmp_path / "three.jsonl", changed)).ledger
    assert three["validation"]["text_hash"] != one["validation"]["text_hash"]


def test_the_table_has_every_number(tiny_files):
    ledger = prepare(tiny_files["train"], tiny_files["validation"]).ledger
    table = corpus.ledger_table(ledger)
    lines = table.splitlines()
    assert len({len(line) for line in lines[:3]}) == 1
    for line, split in zip(lines[1:3], ("train", "validation"), strict=True):
        numbers = [n.replace(",", "") for n in line.split()]
        counts = {k: v for k, v in ledger[split].items() if type(v) is int}
        assert len(counts) == 9 and set(map(str, counts.values())) < set(numbers)
    assert f"{ledger['train']['bytes']:,}" in table and "," in f"{ledger['train']['bytes']:,}"


def test_long_work_is_reported_and_short_work_is_not(tiny_files, monkeypatch):
    said = []
    ledger = prepare(tiny_files["train"], say=said.append).ledger
    assert said == [corpus.ledger_table(ledger)]
    monkeypatch.setattr(clock, "SECONDS_BETWEEN_LINES", 0)
    prepare(tiny_files["train"], say=said.append, block_size=20)
    assert any(line.startswith("corpus: 100% in tokens") for line in said)


# The split


def test_the_split_follows_the_content_of_a_document_alone(tmp_path):
    stories = tiny_stories(400, seed=5)
    write_jsonl(tmp_path / "one" / "a.jsonl", stories)
    for number, part in enumerate([stories[200:][::-1], stories[:200], tiny_stories(90, seed=6)]):
        write_jsonl(tmp_path / "two" / f"{number}.jsonl", part)
    one, two = (prepare(tmp_path / name, validation_fraction=0.1) for name in ("one", "two"))
    first, second = (set(decoded(ids(made.validation))) for made in (one, two))
    assert first == second & set(stories) and 15 < len(first) < 75
    assert len(second) > len(first)
    assert one.ledger["validation_split"] == "10.00% of documents, by a hash of their content"
    assert one.ledger["train"]["documents"] + len(first) == 400


def test_a_document_that_moves_to_the_other_split_is_another_corpus(tmp_path):
    """Although the stream of training and then validation ids stays what it was."""
    texts = ["甲" * 16, "乙" * 16, "丙" * 16]
    made = []
    for name, cut in (("one", 1), ("two", 2)):
        train = write_jsonl(tmp_path / name / "t.jsonl", texts[:cut])
        validation = write_jsonl(tmp_path / name / "v.jsonl", texts[cut:])
        made.append(prepare(train, validation, block_size=2))
    streams = [[*ids(m.train), *ids(m.validation)] for m in made]
    assert made[0].fingerprint != made[1].fingerprint
    assert abs(len(streams[0]) - len(streams[1])) <= 1


def test_validation_that_is_trained_on_is_refused(tmp_path):
    train = write_jsonl(
        tmp_path / "t.jsonl", [*tiny_stories(9, seed=1), "重复的文档" * 9, "甲", "甲"]
    )
    validation = write_jsonl(tmp_path / "v.jsonl", ["重复的文档" * 9, "甲", "乙"])
    with pytest.raises(InputError) as raised:
        prepare(train, validation)
    first = f"{train}: '{('重复的文档' * 9)[:40]}'"
    assert "3 duplicates of validation in training" in str(raised.value)
    assert first in str(raised.value) or f"{train}: '甲'" in str(raised.value)


def test_a_file_in_both_splits_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", ["x"])
    (tmp_path / "link.jsonl").symlink_to(path)
    monkeypatch.setattr(text, "documents", None)
    with pytest.raises(InputError, match="a.jsonl is one of the train_files too"):
        prepare(tmp_path / "link.jsonl", path)


# Refused


def one_text(tmp_path) -> Path:
    (tmp_path / "novel.txt").write_text("很久以前" * 50, encoding="utf-8")
    return tmp_path / "novel.txt"


def test_a_corpus_shorter_than_one_block_is_refused(tmp_path):
    validation = write_jsonl(tmp_path / "v.jsonl", ["验证"])
    tokens = len(encoded(["很久以前" * 50]))
    with pytest.raises(InputError, match=rf"{tokens:,} tokens, less than one block of 1,024"):
        prepare(one_text(tmp_path), validation, block_size=1024)


@pytest.mark.parametrize(
    "fraction, words",
    [
        (0.01, ["1 document(s)", "none is left for validation", "validation_files", "raise"]),
        (0.9999, ["1 document(s)", "none is left for training", "lower"]),
    ],
)
def test_a_split_without_documents_is_refused(tmp_path, fraction, words):
    with pytest.raises(InputError) as raised:
        prepare(one_text(tmp_path), validation_fraction=fraction)
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_files_without_text_are_refused(tmp_path, empty):
    files = {"train": one_text(tmp_path), "validation": write_jsonl(tmp_path / "v.jsonl", ["x"])}
    files[empty] = write_jsonl(tmp_path / "e.jsonl", ["", ""])
    with pytest.raises(InputError, match=rf"{empty}_files: no text in them \(2 empty\)"):
        prepare(files["train"], files["validation"])


def test_an_empty_file_alone_is_refused(tmp_path):
    (tmp_path / "e.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"train_files: no text in them \(1 empty file\)"):
        prepare(tmp_path / "e.jsonl")


def test_nothing_half_made_stays_after_an_error(tmp_path, cache):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n{"text": \n{"text": "y"}\n')
    with pytest.raises(InputError, match="a.jsonl:2"):
        prepare(path)
    assert not [p for p in cache.iterdir() if p.is_dir()]


def test_a_full_disk_is_said_and_the_same_command_goes_on(tiny_files, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blocks, "write", full)
    with pytest.raises(InputError) as raised:
        prepare(tiny_files["train"])
    assert all(w in str(raised.value) for w in ("is full", "1 part(s)", "HF_HOME", str(cache)))
    assert not [p for p in cache.iterdir() if p.is_dir() and p.suffix != ".partial"]
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache.parent)
    said = []
    prepare(tiny_files["train"], say=said.append)
    assert said[0] == "corpus: 1 finished part(s) found, going on behind them"
    assert not list(cache.glob("*.partial"))


def test_a_cache_that_cannot_be_written_is_named(tiny_files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(InputError, match=r"the cache .*Not a directory.*\n.*HF_HOME"):
        prepare(tiny_files["train"])


# The cache


def test_a_second_start_makes_nothing(tiny_files, monkeypatch):
    first = prepare(tiny_files["train"])
    monkeypatch.setattr(corpus, "_make", None)
    second = prepare(tiny_files["train"])
    assert second.ledger == first.ledger and second.fingerprint == first.fingerprint
    assert ids(second.train).tolist() == ids(first.train).tolist()


def test_a_renamed_file_is_not_read_again(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.v1.jsonl", tiny_stories(120, seed=1))
    first = prepare(path)
    monkeypatch.setattr(corpus, "_make", None)
    assert prepare(path.rename(tmp_path / "改名.v2.jsonl")).ledger == first.ledger


OTHER = byte_bpe(tiny_stories(200, seed=3), 401)


def test_the_document_mask_makes_no_other_blocks(tiny_files, monkeypatch):
    first = prepare(tiny_files["train"])
    monkeypatch.setattr(corpus, "_make", None)
    second = prepare(tiny_files["train"], document_mask=True)
    assert second.ledger == first.ledger and second.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"block_size": 17},
        {"validation_fraction": 0.3},
        {"tokenizer": OTHER},
        {"eos_id": 1},
        {"text_column": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_the_blocks_follow_from_is_never_mixed_up(tmp_path, cache, change):
    lines = [{"text": t, "other": t[::-1]} for t in tiny_stories(200, seed=1)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    first, second = prepare(path), prepare(path, **change)
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 2
    assert first.fingerprint != second.fingerprint


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path):
    stories = tiny_stories(120, seed=1)
    path = write_jsonl(tmp_path / "a.jsonl", stories)
    before, times = prepare(path), path.stat()
    write_jsonl(path, [s[:-1] + "！" for s in stories])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert prepare(path).fingerprint != before.fingerprint


@pytest.mark.parametrize("module", corpus._MODULES)
def test_other_code_makes_other_blocks(tiny_files, tmp_path, cache, monkeypatch, module):
    prepare(tiny_files["train"])
    shutil.copytree(ROOT / "zhgpt", tmp_path / "code")
    with (tmp_path / "code" / f"{module}.py").open("a") as changed:
        changed.write("\n# newer\n")
    monkeypatch.setattr(corpus, "_CODE", tmp_path / "code")
    prepare(tiny_files["train"])
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 2


# Other processes

COMMAND = """
import os, signal, sys, time
sys.path[:0] = {paths}
from pathlib import Path
import test_corpus
from zhgpt import blocks
write = blocks.write

def wrapped(*facts):
    {action}
    return write(*facts)

blocks.write = wrapped
test_corpus.datasets.config.HF_DATASETS_CACHE = Path({cache!r})
made = test_corpus.prepare({path!r}, say=lambda line: print(line, flush=True))
print("fingerprint", made.fingerprint)
"""


def start(cache: Path, path: Path, action: str) -> subprocess.Popen:
    paths = [str(ROOT), str(ROOT / "tests")]
    code = COMMAND.format(paths=paths, action=action, cache=str(cache.parent), path=str(path))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_whole(tiny_files, cache):
    killed = start(cache, tiny_files["train"], "os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (left,) = (path for path in cache.iterdir() if path.is_dir())
    made = prepare(tiny_files["train"])
    assert not left.exists() and len([p for p in cache.iterdir() if p.is_dir()]) == 1
    stories = tiny_stories(120, seed=1)
    held_out = decoded(ids(made.validation))
    require_laws(made, [s for s in stories if s not in held_out], held_out)


def test_of_two_processes_one_prepares_and_the_other_waits(tiny_files, cache):
    both = [start(cache, tiny_files["train"], "time.sleep(1)") for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("another process prepares the same text" in output for output in outputs) == 1
    assert len({output.split("fingerprint ")[1] for output in outputs}) == 1


# The large corpus


@pytest.mark.corpus
def test_both_laws_on_real_text(corpus_dir):
    names = [corpus_dir / f"{name}.jsonl.zst" for name in ("train-wiki", "validation")]
    texts = [
        list(text.documents(name, TextSection(train_files=()), text.Tally())) for name in names
    ]
    tokenizer = byte_bpe(texts[1], 2_000)
    made = prepare(*names, tokenizer=tokenizer, block_size=512)
    require_laws(made, *texts, tokenizer=tokenizer)
    assert made.ledger["dropped"] == {} and made.ledger["train"]["bytes"] > 4e6


def test_the_sample_that_is_checked_has_beginnings_of_whole_characters():
    texts = pa.array(["汉" * 3000, "a", "𠀀" * 1024, "a" + "é" * 5000], pa.large_string())
    assert parts._sample(texts) == ["汉" * 1024, "a", "𠀀" * 1024, "a" + "é" * 1023]


def test_packed_shards_are_the_corpus_of_their_documents(tmp_path):
    """As docs/datatrove_shards.py has them written: a file for each task, its logs elsewhere."""
    stories = tiny_stories(60, seed=4)
    shards, work = tmp_path / "shards", tmp_path / "shards.work"
    for folder in (shards, work):
        folder.mkdir()
    (work / "00000.json").write_text('{"text": "a log"}')
    for number, story in enumerate(stories):
        line = json.dumps({"text": story, "source": ""}, ensure_ascii=False) + "\n"
        (shards / f"{number:05d}.jsonl.gz").write_bytes(gzip.compress(line.encode("utf-8")))
    made, one = prepare(shards), prepare(write_jsonl(tmp_path / "one.jsonl", stories))
    assert made.fingerprint == one.fingerprint and made.ledger["train"]["files"] == 60
    assert made.ledger["dropped"] == {}
    assert made.ledger["read"]["documents"] == 60
    assert made.ledger["read"]["bytes"] == sum(len(story.encode("utf-8")) for story in stories)
