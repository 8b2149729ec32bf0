"""What a corpus holds: counted exactly, shown harmlessly, in bounded memory."""

import bz2
import csv
import gzip
import json
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from conftest import ROOT, tiny_stories, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers

from zhgpt import cleaning, survey, survey_table
from zhgpt.errors import INTERRUPTED, InputError, exit_code
from zhgpt.recipe import CleaningSection, TextSection
from zhgpt.survey import Beginnings, FrequentLines, Lengths, Seen, character_class
from zhgpt.text import find_files


def silent(line: str) -> None:
    pass


def taken(*paths, tokenizer=None, say=silent, **section) -> survey.Survey:
    names = [str(path) for path in paths]
    asked = TextSection(train_files=tuple(names), **section)
    return survey.survey(find_files(names, "PATH", silent), asked, tokenizer, say)


def command(*words) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "zhgpt.corpus", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, timeout=60)


def characters() -> Tokenizer:
    """A tokenizer with one token per character: figures that can be seen in the text."""
    return Tokenizer(models.BPE({"?": 0}, [], unk_token="?"))


# Exact numbers


@pytest.fixture
def several(tmp_path) -> Path:
    """Five files of five kinds; documents, bytes and drops are counted by hand below."""
    folder = tmp_path / "语 料"
    write_jsonl(folder / "a.jsonl", ["村民们", "ab 12", "", "村民们"])
    (folder / "b.txt.gz").write_bytes(gzip.compress("第一行\n第二行\n\n第一行\n".encode()))
    with (folder / "c.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], ["ab 12"], ["，。"]])
    texts = pyarrow.array(["é", None, "９", "村民们"], pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "d.parquet")
    raw = rb'{"text": "a\ud83d"}' + b"\n" + '{"text": "🀄𠮷"}\n'.encode()
    (folder / "e.jsonl.bz2").write_bytes(bz2.compress(raw))
    (folder / "f.txt").write_bytes(b"")
    return folder


def test_the_numbers_of_several_kinds(several):
    facts = taken(several).as_dict()
    sizes = [path.stat().st_size for path in sorted(several.iterdir())]
    assert (facts["documents"], facts["bytes"], facts["characters"]) == (10, 87, 38)
    assert facts["size_on_disk"] == sum(sizes)
    assert facts["duplicates"] == {"documents": 3, "bytes": 9 + 5 + 9}
    assert facts["usable_bytes"] == 87 - 23
    assert facts["dropped"] == {
        "empty": {"documents": 1, "bytes": 0},
        "empty file": {"documents": 1, "bytes": 0},
        "half a surrogate pair": {"documents": 1, "bytes": 4},
        "null": {"documents": 1, "bytes": 0},
    }
    assert facts["tokens"] is facts["bytes_per_token"] is facts["fixed_length"] is None
    counts = {name: one["characters"] for name, one in facts["classes"].items()}
    # other: two blanks, four line ends, the mahjong tile
    assert counts == {"han": 19, "latin": 5, "punctuation": 2, "digits": 5, "other": 7}
    assert facts["repeated_lines"]["lines"] == [
        {"line": "村民们", "count": 3},
        {"line": "ab 12", "count": 2},
        {"line": "第一行", "count": 2},
    ]
    assert facts["repeated_lines"]["counted"] == 12 and facts["repeated_lines"]["error"] == 0


def test_the_numbers_of_each_file(several):
    files = taken(several).as_dict()["files"]
    assert [Path(f["path"]).name for f in files] == [p.name for p in sorted(several.iterdir())]
    rows = [(f["documents"], f["bytes"], f["characters"], f["duplicates"]["bytes"]) for f in files]
    expected = [(3, 23, 11, 9), (1, 31, 13, 0), (2, 11, 7, 5), (3, 14, 5, 9), (1, 8, 2, 0)]
    assert rows == [*expected, (0, 0, 0, 0)]


def test_nothing_depends_on_the_batches(several, tiny_files, monkeypatch):
    def facts():
        tokenizer = survey._tokenizer(str(tiny_files["tokenizer"]))
        return taken(several, tiny_files["train"], tokenizer=tokenizer).as_dict()

    whole = facts()
    monkeypatch.setattr(survey, "_BYTES_PER_BATCH", 1)
    monkeypatch.setattr(survey, "_CHARACTERS_PER_COUNT", 2)
    assert facts() == whole and whole["documents"] == 10 + 120


def test_tokens_are_those_of_every_document_alone(tmp_path, tiny_files):
    texts = ["村民们" * 50, "<|endoftext|>", "<|endoftext|>村", "x"]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    plain = Tokenizer.from_file(str(tiny_files["tokenizer"] / "tokenizer.json"))
    plain.encode_special_tokens = True  # the name of a special token in a text is text
    expected = [len(plain.encode(text).ids) for text in texts]
    facts = taken(path, tokenizer=survey._tokenizer(str(tiny_files["tokenizer"]))).as_dict()
    assert facts["tokens"] == sum(expected) and expected[1] > 1
    assert facts["bytes_per_token"] == facts["bytes"] / sum(expected)
    quantiles = facts["lengths"]["tokens"]["quantiles"]
    assert (quantiles["0%"], quantiles["100%"]) == (min(expected), max(expected))


def test_truncation_and_padding_saved_with_a_tokenizer_count_for_nothing(tmp_path, tiny_files):
    text = (tiny_files["tokenizer"] / "tokenizer.json").read_text(encoding="utf-8")
    cutting = Tokenizer.from_str(text)
    cutting.enable_truncation(5)
    cutting.enable_padding(length=1_000)
    cutting.save(str(tmp_path / "tokenizer.json"))
    tokenizers = [survey._tokenizer(str(f)) for f in (tmp_path, tiny_files["tokenizer"])]
    cut, whole = (taken(tiny_files["train"], tokenizer=t).as_dict() for t in tokenizers)
    assert cut == whole and 5 * 120 < whole["tokens"] < 1_000 * 120


def test_what_rows_of_fixed_length_would_cost(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["村" * 1_000, "民" * 3_072, "们" * 1_024])
    fixed = taken(path, tokenizer=characters()).as_dict()["fixed_length"]
    assert fixed == {
        "length": 1_024,
        "padding_share": 24 / (3 * 1_024),
        "truncation_share": 2_048 / 5_096,
    }


@pytest.mark.parametrize("texts", [["一"], ["一二"], ["一", "两个"], ["一", "二", "三"]])
def test_what_is_not_conserved_is_our_fault(tmp_path, monkeypatch, texts):
    path = write_jsonl(tmp_path / "a.jsonl", ["一", "二"])
    whole = survey.documents

    def wrong(*arguments):
        list(whole(*arguments))
        yield from texts

    monkeypatch.setattr(survey, "documents", wrong)
    with pytest.raises(AssertionError):
        taken(path)


def test_what_the_reading_says_of_encodings_and_archives(tmp_path, monkeypatch):
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [name]) for name in "abc"]
    whole = survey.documents

    def reading(path, section, tally):
        yield from whole(path, section, tally)
        names = {"a": ["gb18030"], "b": ["utf-8", "gb18030"], "c": []}[path.stem]
        tally.encodings = {f"{path}!{i}": name for i, name in enumerate(names)}
        tally.passed_over = {str(path): Counter({".pdf": 2, "\x1b[2J": 1})} if names else {}

    monkeypatch.setattr(survey, "documents", reading)
    facts = taken(*paths).as_dict()
    assert [f["encoding"] for f in facts["files"]] == ["gb18030", "gb18030, utf-8", None]
    assert facts["encodings"] == {"gb18030": 2, "utf-8": 1}
    assert [f["passed_over"] for f in facts["files"]] == [{".pdf": 2, "\x1b[2J": 1}] * 2 + [{}]
    assert facts["passed_over"] == {".pdf": 4, "\x1b[2J": 2}
    assert "passed over in archives: 4 .pdf, 2 \ufffd[2J\n" in survey_table.table(facts)
    assert "encodings: gb18030 2, utf-8 1 file(s)" in survey_table.table(facts)


def test_a_part_of_a_document_may_be_dropped(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", ["一", "二"])
    whole = survey.documents

    def reading(path, section, tally):
        yield from whole(path, section, tally)
        tally.bytes += 5
        tally.dropped_bytes["undecodable"] += 5
        tally.dropped_documents["undecodable"] += 0

    monkeypatch.setattr(survey, "documents", reading)
    found = taken(path)
    assert found.as_dict()["dropped"] == {"undecodable": {"documents": 0, "bytes": 5}}
    assert "dropped: 5 bytes (undecodable)" in found.table()


# What it is counted with


@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=60), max_size=20))
def test_repeated_hashes_are_those_of_a_set(batches):
    seen, known = Seen(), set()
    for batch in batches:
        expected = []
        for one in batch:
            expected.append(one in known)
            known.add(one)
        assert seen.repeated(np.array(batch, dtype=np.uint64)).tolist() == expected
    arrays = [array for part in seen.parts for array in part]
    assert sum(array.nbytes for array in arrays) == 8 * len(known)


def test_of_many_hashes_few_arrays_are_kept():
    draw, seen = np.random.default_rng(0), Seen()
    for _ in range(300):
        hashes = draw.integers(0, 2**64, 200, dtype=np.uint64)
        assert not seen.repeated(hashes).any() and seen.repeated(hashes).all()
    assert max(map(len, seen.parts)) <= 12


@given(
    st.lists(st.lists(st.sampled_from("一二三四五六七八九十ab"), max_size=30), max_size=12),
    st.integers(1, 5),
)
def test_counts_of_lines_keep_the_bound_of_misra_and_gries(batches, capacity):
    lines, exact = FrequentLines(capacity), Counter()
    for batch in batches:
        lines.add(batch)
        exact.update(batch)
        assert len(lines.counts) <= 2 * capacity
    assert lines.counted == exact.total()
    assert lines.error <= lines.counted / (capacity + 1)
    for line, count in exact.items():
        assert count - lines.error <= lines.counts[line] <= count


def test_a_frequent_line_is_found_among_many_others():
    lines, draw = FrequentLines(capacity=20), random.Random(1)
    stream = [f"第{i}行" for i in range(3_000)] + ["总结"] * 400
    draw.shuffle(stream)
    for start in range(0, len(stream), 37):
        lines.add(stream[start : start + 37])
    assert 0 < lines.error <= 3_400 / 21
    (line, count), *others = lines.most_common(5)
    assert line == "总结" and 400 - lines.error <= count <= 400 and not others


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200))
def test_quantiles_are_those_of_numpy(values):
    lengths = Lengths()
    lengths.counts.update(values)
    percents = [0, 1, 5, 25, 50, 75, 95, 99, 100]
    expected = np.percentile(values, percents, method="inverted_cdf")
    assert list(lengths.quantiles(percents).values()) == expected.tolist()
    assert lengths.mean() == pytest.approx(np.mean(values))


@given(st.lists(st.integers(1, 5_000), max_size=80))
def test_every_document_is_in_one_bin(values):
    lengths = Lengths()
    lengths.counts.update(values)
    bins = lengths.histogram()
    for one in bins:
        inside = [value for value in values if one["from"] <= value <= one["to"]]
        assert (one["documents"], one["characters"]) == (len(inside), sum(inside))
    assert sum(one["documents"] for one in bins) == len(values)
    assert all(b["from"] == a["to"] + 1 for a, b in zip(bins, bins[1:], strict=False))


def test_the_sample_is_uniform_and_seeded():
    def drawn(seed: int) -> list[int]:
        sample = Beginnings(number=5, seed=seed)
        for i in range(20):
            sample.add(Path("a"), f"{i}")
        return [int(text) for _, text in sample.rows]

    assert drawn(3) == drawn(3) != drawn(4) and len(set(drawn(3))) == 5
    counts = Counter(i for seed in range(2_000) for i in drawn(seed))
    # 2,000 draws of 5 in 20: 500 each, standard deviation 19.4
    assert all(abs(counts[i] - 500) < 4 * 19.4 for i in range(20))


def test_han_is_what_the_library_takes_for_han():
    every = "".join(chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in _NONE)
    rest = normalizers.Replace(Regex(r"\p{Han}"), "").normalize_str(every)
    han = set(every) - set(rest)
    assert {c for c in every if character_class(c) == "han"} == han and len(han) > 90_000


_NONE = ("Cn", "Cs")  # unassigned, and so different between versions; surrogates


@pytest.mark.parametrize(
    "text, name",
    [
        ("aZéÅßＡｚﬁ", "latin"),
        ("，。！“”、《》—…·.,-()「」", "punctuation"),
        ("09９٣", "digits"),
        (" \n\u3000\t+=￥①Ⅳ½αЖかア한🀄\x1b", "other"),
        ("一々〇𠮷〥⺀", "han"),
    ],
)
def test_classes_of_characters(text, name):
    assert {character_class(character) for character in text} == {name}


# What people see


def test_size_claimed_against_size_usable(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n" + f"{'9' * 2_000},村民们\n" * 1_000, encoding="utf-8")
    head, kept, again, dropped = taken(path).table().split("\n")[:4]
    assert head == "2.0 MB on disk, 9 B of text usable"
    assert kept == "kept: 1,000 documents in 1 file(s), 9,000 bytes, 3,000 characters"
    assert "999 documents, 8,991 bytes" in again and dropped == "dropped: nothing"


def test_a_corpus_without_text_is_a_survey_too(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["", ""])
    table = taken(path, tokenizer=characters()).table()
    assert "0 B of text usable" in table and "dropped: 2 documents (empty, 0 bytes)" in table


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202ekcatta\u2066\x7f\x00\r\x08\u2028\x85村"


@pytest.fixture
def hostile(tmp_path) -> Path:
    path = tmp_path / "a\x1b[2J\u202eb.jsonl"
    return write_jsonl(path, [HOSTILE, HOSTILE + "二", "\ufeff" + HOSTILE * 40])


def test_control_sequences_never_reach_the_terminal(hostile):
    table = taken(hostile).table()
    assert "owned" in table and "村" in table and "b.jsonl" in table
    obeyed = {c for c in table if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert obeyed == {"\n"}


def test_control_sequences_are_escaped_in_json(hostile, capsys):
    assert survey.run([str(hostile.parent), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii() and {c for c in printed if not c.isprintable()} == {"\n"}
    assert json.loads(printed)["beginnings"][0]["text"] == HOSTILE


def test_everything_is_aligned_whatever_its_width(tmp_path):
    names = ["语料库一.txt", "a.txt", "e\u0301ﬁＡ.txt", "長" * 60 + ".txt"]
    for length, name in enumerate(names, 1):
        (tmp_path / name).write_text("村" * 10**length, encoding="utf-8")
    blocks = taken(tmp_path).table().split("\n\n")
    files, chart = (next(b for b in blocks if b.startswith(s)) for s in ("file ", "length in"))
    for block, rows in ((files, 5), (chart, 1 + 11)):
        assert len({survey_table.width(line) for line in block.split("\n")}) == 1
        assert len(block.split("\n")) == rows
    bars = [re.search(r"\d  (#*) ", line)[1] for line in chart.split("\n")[1:]]
    assert [len(bar) for bar in bars] == [40, 0, 0, 40, 0, 0, 40, 0, 0, 0, 40]


def test_widths_are_those_of_a_terminal():
    assert [survey_table.width(t) for t in ("ab", "村民", "e\u0301", "Ａ，", "")] == [2, 4, 1, 4, 0]
    assert survey_table.one_line("村民们都很高兴", 9) == "村民们..."
    assert survey_table.one_line(" a\n\t b\u3000c ", 9) == "a b c"


def test_of_many_files_the_largest_are_shown_and_the_rest_counted(tmp_path):
    for i in range(25):
        (tmp_path / f"{i:02}.txt").write_text("x" * (i + 1), encoding="utf-8")
    table = taken(tmp_path).table()
    assert "24.txt" in table and "05.txt" in table and "04.txt" not in table
    assert "and 5 smaller file(s)" in table


def test_a_few_documents_are_a_bar_too(tmp_path):
    table = taken(write_jsonl(tmp_path / "a.jsonl", ["x"] * 500 + ["xx"])).table()
    bars = re.findall(r"^ +[\d,]+ - +[\d,]+  (#*) ", table, re.MULTILINE)
    assert [len(bar) for bar in bars] == [40, 1]


def test_long_lines_are_compared_by_their_beginning(tmp_path):
    lines = ["长" * 200 + "甲", "长" * 200 + "乙", "长" * 199]
    found = taken(write_jsonl(tmp_path / "a.jsonl", lines)).as_dict()["repeated_lines"]
    assert found["lines"] == [{"line": "长" * 200, "count": 2}]


def test_the_bound_of_repeated_lines_is_said(tmp_path):
    found = taken(write_jsonl(tmp_path / "a.jsonl", ["x\n" * 3]))
    assert "more" not in found.table()
    found.lines.error = 7
    assert "each may be up to 7 more" in found.table()


# Progress


def test_progress_goes_by_bytes_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "Clock", _Always)
    monkeypatch.setattr(survey_table, "size", str)
    draw = np.random.default_rng(0)
    for i in range(2):
        codes = draw.integers(0x4E00, 0x9FFF, (1_000, 900)).astype("<u2")
        raw = "".join(
            json.dumps({"text": row.tobytes().decode("utf-16-le")}) + "\n" for row in codes
        )
        (tmp_path / f"{i}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(raw.encode()))
    lines: list[str] = []
    taken(tmp_path, say=lines.append)
    first, second = (path.stat().st_size for path in sorted(tmp_path.iterdir()))
    total = first + second
    assert lines[-1] == f"survey: read {total} of {total} on disk, 0 s left"
    # Several positions within each packed file, never backwards.
    done = [int(re.search(r"read (\d+) of", line)[1]) for line in lines]
    assert done == sorted(done) and {first, total} <= set(done)
    assert len({d for d in done if 0 < d < first}) >= 2
    assert len({d for d in done if first < d < total}) >= 2


class _Always:
    def __init__(self, say):
        self.say = say

    def line(self, words):
        self.say(words(2.0))


def test_time_left():
    said = survey._progress(4 * 10**9, 10**9, None, 20)
    assert said == "survey: read 1.0 GB of 4.0 GB on disk, 60 s left"
    assert survey._progress(10, 0, None, 6) == "survey: read 0 B of 10 B on disk"


# The command


COUNTS = {"documents": int, "bytes": int}
LENGTHS = {
    "quantiles": {f"{p}%": int for p in (0, 1, 5, 25, 50, 75, 95, 99, 100)},
    "mean": float,
    "histogram": [{"from": int, "to": int, "documents": int, "characters": int}],
}
SCHEMA = {
    "files": [
        {
            **{"path": str, "size_on_disk": int, "encoding": (str, type(None))},
            **{"documents": int, "bytes": int, "characters": int, "tokens": int},
            **{"bytes_per_token": float, "dropped": {"empty": COUNTS}, "duplicates": COUNTS},
            "passed_over": dict,
        }
    ],
    **{"size_on_disk": int, "documents": int, "bytes": int, "characters": int},
    **{"usable_bytes": int, "tokens": int, "bytes_per_token": float},
    "passed_over": dict,
    **{"dropped": {"empty": COUNTS}, "encodings": dict, "duplicates": COUNTS},
    "classes": {name: {"characters": int, "share": float} for name in survey.CLASSES},
    "lengths": {"characters": LENGTHS, "tokens": LENGTHS},
    "fixed_length": {"length": int, "padding_share": float, "truncation_share": float},
    "repeated_lines": {
        **{"lines": [{"line": str, "count": int}], "counted": int, "compared": int, "error": int}
    },
    "beginnings": [{"path": str, "text": str}],
}


def require_schema(value, schema, where="survey") -> None:
    if isinstance(schema, dict):
        assert value.keys() == schema.keys(), where
        for key, inner in schema.items():
            require_schema(value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        assert value and isinstance(value, list), where
        for one in value:
            require_schema(one, schema[0], where)
    else:
        assert isinstance(value, schema), where


def test_the_json_object_is_all_on_standard_output(tmp_path, tiny_files):
    write_jsonl(tmp_path / "a.jsonl", ["", *tiny_stories(20, seed=3), "x", "x"])
    (tmp_path / "b.pdf").write_bytes(b"x")
    result = command(tmp_path, "--tokenizer", tiny_files["tokenizer"], "--json")
    facts = json.loads(result.stdout.decode("ascii"))
    assert result.returncode == 0
    require_schema(facts, SCHEMA)
    tokenizer = survey._tokenizer(str(tiny_files["tokenizer"]))
    assert facts == taken(tmp_path, tokenizer=tokenizer).as_dict()
    assert result.stderr.decode().strip() == "PATH: 1 file(s) passed over (1 .pdf)"


def test_the_table_is_printed_and_the_column_can_be_named(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"content": "村民们"}\n', encoding="utf-8")
    assert survey.run([str(tmp_path), "--text_column", "content"]) == 0
    printed = capsys.readouterr()
    asked = TextSection(train_files=(), text_column="content")
    found = survey.survey(find_files([str(tmp_path)], "PATH", silent), asked, None, silent)
    assert printed.out == found.table() + "\n" and printed.err == ""


def test_what_was_asked_reaches_the_reading(tmp_path, monkeypatch):
    path, sections = write_jsonl(tmp_path / "a.jsonl", ["x"]), []
    whole = survey.documents

    def noted(path, section, tally):
        sections.append(section)
        return whole(path, section, tally)

    monkeypatch.setattr(survey, "documents", noted)
    assert survey.run([str(path), "--document", "line", "--encoding", "gb18030"]) == 0
    assert (sections[0].document, sections[0].encoding) == ("line", "gb18030")


@pytest.mark.parametrize(
    "words, said",
    [
        (["{}/none.txt"], ["PATH: there is no", "none.txt", "globs: PATH ..."]),
        (["{}/*.csv"], ["PATH: no file matches", "*.csv"]),
        (["{}/damaged.jsonl.gz"], ["damaged.jsonl.gz: damaged"]),
        (["{}/a.jsonl", "--text_column", "body"], ["no column 'body'", "--text_column "]),
        (["{}/a.jsonl", "--tokenizer", "{}"], ["tokenizer: no", "tokenizer.json"]),
        (["{}/a.jsonl", "--tokenizer", ""], ["tokenizer: no"]),
    ],
)
def test_faults_are_one_message_and_code_2(tmp_path, capsys, words, said):
    write_jsonl(tmp_path / "a.jsonl", ["x"])
    (tmp_path / "damaged.jsonl.gz").write_bytes(b"no gzip")
    code = exit_code(survey.run, [word.format(tmp_path) for word in [*words, "--json"]])
    printed = capsys.readouterr()
    assert code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and all(part in printed.err for part in said)


def test_a_file_that_disappears_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone.txt: cannot be read \(No such file"):
        survey.survey([tmp_path / "gone.txt"], TextSection(train_files=()), None, silent)


def test_the_command_ends_with_code_2(tmp_path):
    result = command(tmp_path / "none")
    assert result.returncode == 2 and result.stdout == b""
    assert b"error: PATH: there is no" in result.stderr and b"Traceback" not in result.stderr


# The large corpus


@pytest.mark.corpus
def test_real_text_against_an_independent_count(corpus_dir):
    found = taken(corpus_dir / "*.jsonl.zst").as_dict()
    lengths, hashes, bytes_, lines = [], Counter(), 0, Counter()
    han = re.compile("[\u4e00-\u9fff]")
    ideographs = 0
    for path in sorted(corpus_dir.glob("*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as file:
            texts = [json.loads(line)["text"] for line in file]
        lengths += map(len, texts)
        hashes.update(texts)
        bytes_ += sum(len(text.encode()) for text in texts)
        lines.update(re.findall(r"无名氏(?=\s*$)", "\n".join(texts), re.MULTILINE))
        if path.name.startswith("validation"):
            ideographs = sum(len(han.findall(text)) for text in texts)
    assert (found["documents"], found["bytes"]) == (len(lengths), bytes_)
    assert found["characters"] == sum(lengths) and found["dropped"] == {}
    assert found["duplicates"]["documents"] == len(lengths) - len(hashes)
    quantiles = found["lengths"]["characters"]["quantiles"]
    expected = np.percentile(lengths, [int(name[:-1]) for name in quantiles], method="inverted_cdf")
    assert list(quantiles.values()) == expected.tolist()
    alone = taken(corpus_dir / "validation.jsonl.zst").as_dict()["classes"]["han"]["characters"]
    assert ideographs <= alone < 1.001 * ideographs


# Cleaning


UNCLEAN = [
    "第一篇：村民们在河边修好了水车，一直忙到天黑，大家都很高兴。",
    "第二篇：小兰给邻居送去热粥，又讲了一个很长很长的故事给他们听。",
    "第一篇：村民们在河边修好了水车，一直忙到天黑，大家都很高兴。",
    "太短",
    "no Han at all in this one, which is long enough to be kept otherwise",
    "第三篇：张铁匠\u200b学会了编竹篮，他的电话是13800138000，欢迎来看一看。",
]


def test_each_suggested_step_is_counted_on_its_own(tmp_path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", UNCLEAN)
    assert survey.run([str(path), "--cleaning", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    effects = {step: tuple(effect.values()) for step, effect in facts["cleaning"].items()}
    size = [len(text.encode()) for text in UNCLEAN]
    assert effects["duplicates"] == effects["near_duplicates"] == (1, 0, size[2])
    assert effects["min_characters"] == (1, 0, size[3])
    assert effects["min_han_share"] == (1, 0, size[4])
    assert effects["control_characters"] == (0, 1, 3)
    assert effects["mask_contacts"] == (0, 1, 11 - len("【电话】".encode()))
    assert effects["nfc"] == effects["simplified"] == (0, 0, 0)
    assert effects["repeated_lines"] == (2, 0, 2 * size[0])  # the same line, in 2 of 6 documents


def test_cleaning_stands_below_the_survey_with_a_section_to_copy(tmp_path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", UNCLEAN)
    assert survey.run([str(path)]) == 0
    plain = capsys.readouterr().out
    assert survey.run([str(path), "--cleaning"]) == 0
    table, recipe = capsys.readouterr().out.rsplit("\nfor a recipe: ", 1)
    assert table.startswith(plain) and "cleaning" not in plain
    section = CleaningSection(**json.loads("{" + recipe + "}")["cleaning"])
    assert section == cleaning.SUGGESTED


def test_lines_that_recur_are_counted_over_all_files(tmp_path, capsys):
    for i in range(5):
        lines = f"第{i}篇，本站首发\n免责声明：本站不负责\n"
        (tmp_path / f"{i}.txt").write_text(lines, encoding="utf-8")
    assert survey.run([str(tmp_path), "--cleaning", "--json"]) == 0
    effect = json.loads(capsys.readouterr().out)["cleaning"]["repeated_lines"]
    assert effect["changed"] == 5 and effect["bytes"] == 5 * len("免责声明：本站不负责\n".encode())


def test_cleaning_reads_the_files_again_and_keeps_no_document(tmp_path):
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", [f"{n}{i}" for i in range(3)]) for n in "ab"]
    again = survey.Again(paths, TextSection(train_files=("a",)), silent)
    assert list(again) == list(again) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert not any(isinstance(value, list) and len(value) > 2 for value in vars(again).values())


def test_every_option_of_a_text_is_obeyed(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_bytes("题,文\n一,二三\n四,五六\n".encode("gb18030") + b"\x81\x20,x\n")
    words = [str(path), "--encoding", "gb18030", "--json"]
    assert exit_code(survey.run, [*words, "--text_columns", "题", "文"]) == 2
    assert "--undecodable_share 0." in capsys.readouterr().err
    options = ["--undecodable_share", "0.5", "--text_columns", "题", "文"]
    assert survey.run([*words, *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["characters"] == 2 * len("一\n二三") and "undecodable" in facts["dropped"]


# Tokens and the pipe


def test_tokens_are_counted_by_the_encoder_of_the_preparation(tmp_path, tiny_files, monkeypatch):
    asked = []
    encode = survey.Encoder.encode
    monkeypatch.setattr(
        survey.Encoder, "encode", lambda self, texts: asked.extend(texts) or encode(self, texts)
    )
    tokenizer = survey._tokenizer(str(tiny_files["tokenizer"]))
    path = write_jsonl(tmp_path / "a.jsonl", tiny_stories(20, seed=3))
    expected = [len(tokenizer.encode(text).ids) for text in tiny_stories(20, seed=3)]
    assert taken(path, tokenizer=tokenizer).as_dict()["tokens"] == sum(expected)
    assert asked == tiny_stories(20, seed=3)


@pytest.mark.parametrize("documents", [1, 400], ids=["in the buffer", "beyond the pipe"])
def test_a_reader_that_goes_away_is_no_traceback(tmp_path, documents):
    for i in range(documents):
        (tmp_path / f"{i:03}.txt").write_text(f"村{i}", encoding="utf-8")
    line = [sys.executable, "-m", "zhgpt.corpus", str(tmp_path), "--json"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == INTERRUPTED


def test_a_pipe_that_is_not_the_output_is_a_fault(capfd):
    def run(argv):
        raise BrokenPipeError("a pipe of ours")

    with pytest.raises(BrokenPipeError):
        exit_code(run, None)
