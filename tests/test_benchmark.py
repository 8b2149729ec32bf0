"""The benchmark: all ways do equal work or none is timed, and the page shows what was recorded."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT, tiny_stories, write_jsonl

from zhgpt import benchmark, benchmark_table, meter
from zhgpt.benchmark_preparation import (
    WAYS,
    UnequalWork,
    require_equal,
    write_large,
)
from zhgpt.errors import InputError

RECORD = ROOT / "docs" / "benchmark_preparation.json"
PAGE = ROOT / "docs" / "speed.md"
EOS = 0


@pytest.fixture(scope="module")
def measured(tiny_files, tmp_path_factory):
    output = tmp_path_factory.mktemp("benchmark") / "record.json"
    options = ["--files", str(tiny_files["train"]), "--tokenizer", str(tiny_files["tokenizer"])]
    options += ["--repeats", "1", "--output", str(output)]
    assert benchmark.run(["--what", "preparation", *options]) == 0
    return output


def test_all_ways_are_measured_on_the_same_documents(measured):
    record = benchmark.read(measured)
    ours = record["ways"]["ours"][0]
    assert set(record["ways"]) == set(WAYS)
    assert ours["documents"] == ours["eos_tokens"] == 120
    assert ours["bytes"] == sum(len(text.encode()) for text in tiny_stories(120, seed=1))
    for runs in record["ways"].values():
        assert runs[0]["seconds"] > 0 and runs[0]["import_seconds"] > 0
        assert runs[0]["peak_disk"] >= runs[0]["disk"] >= 2 * ours["tokens"]
        # Of processes that live for some tenths of a second, the peak itself may be missed.
        assert runs[0]["peak_memory"] is None or runs[0]["peak_memory"] > 0
    assert min(record["loading"][0].values()) > 0
    # The example loses what fills no block of a thousand documents, here of all.
    tokens = ours["tokens"] + ours["eos_tokens"]
    assert 0 <= tokens - record["ways"]["example"][0]["tokens_in_blocks"] < 2 * 512


def test_the_record_alone_gives_the_tables(measured, capsys):
    record = benchmark.read(measured)
    assert benchmark.run(["--table", str(measured)]) == 0
    printed = capsys.readouterr().out
    assert printed == benchmark.tables(record) + "\n"
    assert (
        "bare `tiktoken` loop" in printed and f"{record['ways']['ours'][0]['tokens']:,}" in printed
    )


def ids_file(folder, name: str, documents: list[list[int]]) -> str:
    path = folder / f"{name}.bin"
    np.array([i for ids in documents for i in [*ids, EOS]], np.uint16).tofile(path)
    return str(path)


def cut(path: str, tokens: int) -> str:
    ids = np.fromfile(path, np.uint16)[: -tokens or None]
    ids.tofile(path)
    return path


DOCUMENTS = [[5, 6, 7], [8], [5, 6, 7], [9, 10, 11, 12]]


def test_another_order_of_the_documents_is_equal_work(tmp_path):
    bare = ids_file(tmp_path, "bare", DOCUMENTS)
    ours = [ids_file(tmp_path, "a", DOCUMENTS[2:]), ids_file(tmp_path, "b", DOCUMENTS[:2])]
    require_equal({"bare": {"streams": [[bare]]}, "ours": {"streams": [ours]}}, EOS)


@pytest.mark.parametrize("lost", [1, 3])
def test_the_remainder_of_the_blocks_may_be_missing_and_nothing_else(tmp_path, lost):
    bare = ids_file(tmp_path, "bare", DOCUMENTS)
    ours = cut(ids_file(tmp_path, "ours", DOCUMENTS), lost)
    answers = {"bare": {"streams": [[bare]]}, "ours": {"streams": [[ours]], "remainder": lost}}
    require_equal(answers, EOS)
    answers["ours"]["remainder"] = lost - 1
    with pytest.raises(UnequalWork, match="tokens are missing"):
        require_equal(answers, EOS)


@pytest.mark.parametrize(
    "others",
    [
        [[5, 6, 7], [8], [5, 6, 7], [9, 10, 12, 11]],
        [[5, 6, 7], [8], [9, 10, 11, 12]],
        [[5, 6, 7], [8], [8], [5, 6, 7], [9, 10, 11, 12]],
        [[5, 6, 7, 8], [5, 6, 7], [9, 10, 11, 12]],
    ],
    ids=["another order of ids", "one copy less", "one more", "no end of text between two"],
)
def test_unequal_work_is_refused(tmp_path, others):
    bare, theirs = (
        ids_file(tmp_path, *pair) for pair in [("bare", DOCUMENTS), ("example", others)]
    )
    answers = {"bare": {"streams": [[bare]]}, "example": {"streams": [[theirs]]}}
    with pytest.raises(UnequalWork, match="^example: "):
        require_equal(answers, EOS)


def test_repeated_text_has_the_size_and_no_two_equal_documents(tmp_path):
    texts = ["甲乙" * 50, "丙丁" * 50]
    source = write_jsonl(tmp_path / "source.jsonl", texts)
    write_large(tmp_path / "large.jsonl", [source], size=10_000, line=5_000)
    lines = (tmp_path / "large.jsonl").read_text(encoding="utf-8").splitlines()
    first, *rest = (json.loads(line)["text"] for line in lines)
    assert 5_000 <= len(first.encode()) < 5_500
    assert 10_000 <= sum(len(text.encode()) for text in rest) < 10_400
    assert len({first, *rest}) == len(lines)


def test_memory_and_disk_of_all_processes_are_seen(tmp_path):
    child = "import time; held = bytearray(60_000_000); held[::4096] = b'x' * len(held[::4096])"
    child += "; open('held', 'wb').write(held); time.sleep(1); import os; os.remove('held')"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], cwd='.')"
    command = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {both}"]
    peaks = meter.watch(command, tmp_path, {})
    assert peaks.disk == 60_000_000 and meter.folder_size(tmp_path) == 0
    assert peaks.memory is None or 60e6 < peaks.memory < 150e6


@pytest.mark.parametrize(
    "options, words",
    [
        (["--what", "preparation", "--files", "README.md"], "README.md is no file ending in"),
        (["--what", "preparation", "--repeats", "0"], "--repeats: 0"),
        (["--table", "README.md"], "README.md: no record"),
        (["--what", "preparation", "--tokenizer", "docs"], "tokenizer"),
    ],
)
def test_what_cannot_be_measured_is_said(options, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=words):
        benchmark.run(options)


def figures(seconds: float) -> dict:
    return dict(seconds=seconds, import_seconds=1.0, peak_memory=10**9, peak_disk=900, disk=210)


def test_targets_are_met_or_not_by_the_repeats_own_ratios():
    sizes = {"documents": 1, "bytes": 400, "tokens": 99, "eos_tokens": 1}
    record = {
        "ways": {
            "example": [figures(s) for s in (39.0, 410.0, 42.0)],
            "bare": [figures(s) for s in (9.0, 90.0, 9.0)],
            "ours": [figures(s) | sizes for s in (10.0, 100.0, 10.0)],
        },
        "loading": [{"rows": 20e6}] * 3,
    }
    found = {
        name: (measured, bound) for name, measured, bound, _ in benchmark_table.targets(record)
    }
    assert found["at least 4 × as fast as transformers' example"] == ([3.9, 4.1, 4.2], 4)
    assert found["at least as fast as the bare loop"] == ([0.9, 0.9, 0.9], 1)
    assert found["at most 2.2 bytes of disk per token"] == ([2.1, 2.1, 2.1], 2.2)
    lines = benchmark_table.target_rows(benchmark_table.targets(record)).splitlines()
    verdicts = [line.split("|")[-2].strip() for line in lines[2:]]
    assert verdicts == ["met, in 2 of 3 repeats", "**not met**", "met", "met", "met"]


def test_the_page_shows_the_record():
    page = PAGE.read_text(encoding="utf-8")
    assert page == benchmark.with_tables(page, RECORD.name, benchmark.read(RECORD))
