"""Files of every kind to documents: found once, read whole, byte for byte, or refused by name."""

import bz2
import csv
import gzip
import json
import lzma
import os
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from zhgpt import files
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents, file_hash, find_files

BOM = b"\xef\xbb\xbf"
HARD = [
    "村民们都很高兴。",
    " 两端有空格 \n",
    "行\r\n行\r行\u2028行\u2029行\x0b\x0c行\x85",
    "<|endoftext|>",
    '引号"和逗号,和制表\t',
    "🀄👨‍👩‍👧 e\u0301 ﬁ Ａ\u3000ＢＣ 𠮷 \ufeff中间的BOM",
    "x" * 200_000,
]
PACK = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
PACKED = [packing for packing in PACK if packing]


def jsonl(texts, column="text") -> bytes:
    return "".join(json.dumps({column: t}, ensure_ascii=False) + "\n" for t in texts).encode()


def as_csv(folder, texts) -> bytes:
    path = folder / "made.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    return path.read_bytes()


def as_parquet(folder, texts) -> bytes:
    path = folder / "made.parquet"
    table = pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path.read_bytes()


def content(kind, folder, texts) -> bytes:
    records = [{"text": text} for text in texts]
    return {
        ".txt": lambda: "".join(texts).encode(),
        ".jsonl": lambda: jsonl(texts),
        ".json": lambda: json.dumps(records, ensure_ascii=False, indent=1).encode(),
        ".csv": lambda: as_csv(folder, texts),
        ".parquet": lambda: as_parquet(folder, texts),
    }[kind]()


def read(path, column="text", tally=None) -> list[str]:
    section = TextSection(train_files=(), text_column=column)
    return list(documents(path, section, tally or Tally()))


def written(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", files.KINDS)
def test_every_kind_gives_the_documents_back(tmp_path, kind, packing):
    path = written(tmp_path / f"文 本{kind}{packing}", PACK[packing](content(kind, tmp_path, HARD)))
    assert read(path) == (["".join(HARD)] if kind == ".txt" else HARD)


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_no_text(tmp_path, kind):
    path = written(tmp_path / f"a{kind}", BOM + content(kind, tmp_path, ["一", "二"]))
    assert read(path) == (["一二"] if kind == ".txt" else ["一", "二"])


def test_records_may_lie_under_data_and_endings_in_capitals(tmp_path):
    path = written(tmp_path / "A.JSON.GZ", gzip.compress(b'{"data": [{"text": "x"}]}'))
    assert read(find_files([str(path)], "train_files")[0]) == ["x"]


def test_a_packed_file_of_several_parts_is_read_to_its_end(tmp_path):
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"  # what pzstd puts between
    for packing in PACKED:
        pack = PACK[packing]
        middle = skippable if packing == ".zst" else b""
        raw = pack(jsonl(["一"])) + middle + pack(jsonl(["二"]))
        assert read(written(tmp_path / f"a.jsonl{packing}", raw)) == ["一", "二"]


@settings(max_examples=40, deadline=None)
@given(packing=st.sampled_from(PACKED), share=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_file_cut_short_is_never_taken_for_a_shorter_one(tmp_path_factory, packing, share):
    raw = PACK[packing](jsonl(f"第{i}篇，{i * i}" for i in range(300)))
    cut = raw[: max(1, int(len(raw) * share))]
    path = written(tmp_path_factory.mktemp("cut") / f"a.jsonl{packing}", cut)
    with pytest.raises(InputError, match="a.jsonl.*damaged"):
        read(path)


@pytest.mark.parametrize("flushed", [True, False])
def test_a_zst_cut_between_its_blocks_is_damaged(tmp_path, flushed):
    """There every line that is left is whole, and the library's reader notices nothing."""
    packer = zstandard.ZstdCompressor().compressobj()
    raw = packer.compress(jsonl(HARD)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    if not flushed:
        raw += packer.flush()
        assert read(written(tmp_path / "a.jsonl.zst", raw)) == HARD
        return
    with pytest.raises(InputError, match="in the middle of a frame"):
        read(written(tmp_path / "a.jsonl.zst", raw))


@pytest.mark.parametrize("packing", PACKED)
def test_a_file_with_a_wrong_byte_is_damaged(tmp_path, packing):
    pack = PACK[packing]
    if packing == ".zst":
        pack = zstandard.ZstdCompressor(write_checksum=True).compress
    raw = bytearray(pack(jsonl(f"第{i}篇，{i * i}" for i in range(300))))
    raw[len(raw) // 2] ^= 0xFF
    with pytest.raises(InputError, match="damaged"):
        read(written(tmp_path / f"a.jsonl{packing}", raw))


def test_what_is_empty_or_no_unicode_is_dropped_and_counted(tmp_path):
    lines = [b'{"text": ""}', b'{"text": null}', rb'{"text": "a\ud83d"}', b"", b'{"text": "ok"}']
    path = written(tmp_path / "a.jsonl", b"\r\n".join(lines))
    tally = Tally()
    assert read(path, tally=tally) == ["ok"]
    assert tally.dropped_documents == {"empty": 1, "null": 1, "half a surrogate pair": 1}
    assert tally.dropped_bytes == {"empty": 0, "null": 0, "half a surrogate pair": 4}
    assert (tally.documents, tally.bytes) == (4, 6)
    assert set(tally.first_dropped.values()) == {path}


def test_a_whole_surrogate_pair_is_one_character(tmp_path):
    assert read(written(tmp_path / "a.jsonl", rb'{"text": "\ud83c\udc04"}')) == ["🀄"]


@pytest.mark.parametrize(
    "name, raw",
    [
        *((f"a{kind}", b"") for kind in files.KINDS),
        ("a.jsonl.gz", gzip.compress(b"")),
        ("a.jsonl.zst", b""),
        ("a.jsonl", b"\n \n"),
        ("a.json", b"[]"),
        ("a.csv", b"id,text\n"),
    ],
)
def test_a_file_without_a_document_is_counted(tmp_path, name, raw):
    tally = Tally()
    assert read(written(tmp_path / name, raw), tally=tally) == []
    assert tally.dropped_documents == {"empty file": 1} and tally.documents == 1


NO_UTF8 = "中文\n".encode() + "村民们\n".encode("gb18030")
BAD = {
    "gbk": ("a.txt", NO_UTF8, ["not UTF-8", "first at byte 7 (0xb4), line 2", "gb18030"]),
    "utf16": ("a.txt", "中文".encode("utf-16"), ["not UTF-8", "byte 0 (0xff), line 1", "utf-16"]),
    "binary": ("a.txt", b"abc\0def", ["NUL at character 3", "binary"]),
    "gbk line": (
        "a.jsonl",
        jsonl(["x"]) + b'{"text": "\xb4\xe5"}\n' * 2,
        ["4 undecodable", "byte 24 "],
    ),
    "gbk csv": ("a.csv", b"text\n\xb4\n", ["1 undecodable", "byte 5 (0xb4), line 2"]),
    "gbk json": ("a.json", b'[\n{"text": "\xb4"}]', ["1 undecodable", "byte 12 (0xb4), line 2"]),
    "line": ("a.jsonl", b'{"text": "x"}\n{"text": \n', ["a.jsonl:2: not JSON", "column"]),
    "no blank": ("a.jsonl", "\u3000\n".encode(), ["a.jsonl:1: not JSON"]),
    "cut line": ("a.jsonl", b'{"text": "x"}\n{"text": "y', ["a.jsonl:2: not JSON"]),
    "json": ("a.json", b'[{"text": "x"},\n oops]', ["a.json:2: not JSON"]),
    "deep": ("a.jsonl", b"[" * 100_000, ["a.jsonl:1: not JSON"]),
    "list": ("a.jsonl", b'["x"]\n', ["a.jsonl:1", "list instead of an object"]),
    "one object": ("a.json", b'{"text": "x"}', ["a.json", "list of records"]),
    "number": ("a.jsonl", b'{"text": 3}\n', ["a.jsonl:1", "text is 3, not a text"]),
    "column": ("a.jsonl", jsonl(["x"], "content"), ["'text'", "are: content", "_column content"]),
    "csv column": ("a.csv", b"id,body\n1,x\n", ["no column 'text'", "are: id, body"]),
    "csv comma": ("a.csv", b"text\nx, y\n", ["a.csv:2", "2 values under 1", "double quotes"]),
    "csv quote": ("a.csv", b'text\n"x\ny\n', ["a.csv:", "not CSV"]),
    "no parquet": ("a.parquet", b"PAR1 no", ["a.parquet: damaged"]),
    "no gzip": ("a.txt.gz", b"plain text", ["a.txt.gz: damaged", "Not a gzipped file"]),
    "no zstd": ("a.txt.zst", b"plain text", ["a.txt.zst: damaged"]),
    "no xz": ("a.txt.xz", b"plain text", ["a.txt.xz: damaged"]),
    "no bz2": ("a.txt.bz2", b"plain text", ["a.txt.bz2: damaged"]),
}


@pytest.mark.parametrize("name, raw, words", BAD.values(), ids=BAD)
def test_bad_files_are_named_with_the_place(tmp_path, name, raw, words):
    with pytest.raises(InputError) as raised:
        read(written(tmp_path / name, raw))
    assert all(word in str(raised.value) for word in [name, *words]), raised.value


def test_bad_parquet_columns_are_named(tmp_path):
    table = pyarrow.table({"text": [1, 2], "body": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="'text' holds int64, not text"):
        read(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'title'; there are: text, body"):
        read(tmp_path / "a.parquet", column="title")
    bad = pyarrow.array([b"\xb4\xe5"]).cast(pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="b.parquet: .* not UTF-8"):
        read(tmp_path / "b.parquet")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = written(tmp_path / "a.txt", b"x")
    refused = PermissionError(13, "Permission denied")

    def refuse(*_):
        raise refused

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    for use in (lambda: read(path), lambda: file_hash(path)):
        with pytest.raises(InputError, match=r"a.txt: cannot be read \(Permission denied\)"):
            use()


def test_a_large_file_is_read_line_by_line(tmp_path):
    raw = jsonl(f"{i}" + "村" * 3_000 for i in range(3_000))
    path = written(tmp_path / "a.jsonl.zst", PACK[".zst"](raw))
    tracemalloc.start()
    count = sum(1 for _ in documents(path, TextSection(train_files=()), Tally()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3_000 and len(raw) > 27e6 and peak < 8e6


# Finding files


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("甲 乙/b.txt", "甲 乙/深/c.jsonl.zst", "a.csv", "d.pdf", ".e.txt", ".git/f.txt"):
        written(tmp_path / "t" / name, b"x")
    monkeypatch.chdir(tmp_path)
    return Path("t")


def found(said, *patterns) -> list[str]:
    return [p.as_posix() for p in find_files(patterns, "train_files", said.append)]


def test_a_folder_is_all_that_is_below_it(tree):
    said = []
    assert found(said, "t") == ["t/a.csv", "t/甲 乙/b.txt", "t/甲 乙/深/c.jsonl.zst"]
    assert said == ["train_files: 3 file(s) passed over (2 hidden, 1 .pdf)"]


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("t/*", ["t/a.csv", "t/甲 乙/b.txt", "t/甲 乙/深/c.jsonl.zst"]),
        ("t/**", ["t/a.csv", "t/甲 乙/b.txt", "t/甲 乙/深/c.jsonl.zst"]),
        ("**/*.txt", ["t/甲 乙/b.txt"]),
        ("t/**/深/*", ["t/甲 乙/深/c.jsonl.zst"]),
        ("t/*/*.txt", ["t/甲 乙/b.txt"]),
        ("t/**/*.csv", ["t/a.csv"]),
    ],
)
def test_globs(tree, pattern, names):
    assert found([], pattern) == names


def test_a_file_of_many_names_is_read_once(tree):
    (tree / "y.csv").symlink_to(tree.absolute() / "a.csv")
    assert found([], "t/y.csv", "t/a.csv", "t/*.csv", "t/../t/*.csv") == ["t/../t/a.csv"]
    assert found([], "t/y.csv", "t/a.csv") == ["t/a.csv"]


@pytest.mark.parametrize("pattern", ["t", "t/**", "t/**/*.*"])
def test_loops_of_links_end(tree, pattern):
    before = found([], pattern)
    for name, folder in (("one", "."), ("two", "甲 乙"), ("three", "甲 乙")):
        os.symlink(tree.absolute() / folder, tree / "甲 乙" / name)
    assert found([], pattern) == before


def test_a_folder_behind_a_link_is_read(tree):
    os.symlink(tree.absolute() / "甲 乙" / "深", "link")
    assert found([], "link") == ["link/c.jsonl.zst"]


def test_a_name_with_glob_characters_is_that_file(tree):
    written(tree / "a[1].txt", b"x")
    assert found([], "t/a[1].txt") == ["t/a[1].txt"]


@pytest.mark.parametrize(
    "patterns, words",
    [
        (["data/train/*"], ["train_files", "data/train/*", "looked from", ".jsonl", "PATH"]),
        (["t", "missing.txt"], ["train_files: there is no missing.txt"]),
        (["t/d.pdf"], ["train_files: t/d.pdf has the ending .pdf", ".parquet"]),
        (["t/*.pdf"], ["no file matches t/*.pdf", "passed over: 1 .pdf"]),
    ],
)
def test_nothing_to_read_is_an_error(tree, patterns, words):
    with pytest.raises(InputError) as raised:
        found([], *patterns)
    assert all(word in str(raised.value) for word in words), raised.value


def test_who_has_no_validation_text_is_told_of_the_split(tree):
    with pytest.raises(InputError, match=r"set apart: --validation_files '\[\]'"):
        find_files(["data/validation/*"], "validation_files")


def test_an_empty_glob_among_others_is_said(tree):
    said = []
    assert found(said, "t/*.csv", "t/*.json") == ["t/a.csv"]
    assert said == ["train_files: no text matches t/*.json"]


def test_a_folder_that_may_not_be_looked_into(tree, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "t")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cannot look into t"):
        found([], "t")


def test_devices_and_broken_links_are_passed_over(tree):
    os.mkfifo(tree / "pipe.txt")
    os.symlink("nowhere", tree / "gone.txt")
    said = []
    found(said, "t")
    assert "2 broken links or devices" in said[0]
