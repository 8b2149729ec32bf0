"""Files of every kind to documents: found once, read whole, byte for byte, or refused by name."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from conftest import tiny_stories
from hypothesis import given, settings
from hypothesis import strategies as st

from zhgpt import encodings, files
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents, file_hash, find_files, sourced

BOM = b"\xef\xbb\xbf"
HARD = [
    "村民们都很高兴，因为他们的水车又能用了。",
    " 两端有空格 \n",
    "行\r\n行\r行\u2028行\u2029行\x0b\x0c行\x85",
    "<|endoftext|>",
    '引号"和逗号,和制表\t',
    "🀄👨‍👩‍👧 e\u0301 ﬁ Ａ\u3000ＢＣ 𠮷 \ufeff中间的BOM",
    "x" * 140_000,
]
PLAIN = ["第一行\n" + text for text in tiny_stories(4, seed=3)] + ["Latin, too"]
TRADITIONAL = ["村裡的人們都很高興，\n因為他們的水車又能用了。", "這是第二個故事：我們來說說他。"]
TEXTS = {
    "utf-8": HARD,
    "utf-8-sig": HARD,
    "utf-16": HARD,
    "utf-16-be with a mark": HARD,
    "utf-16-le": PLAIN,
    "utf-16-be": PLAIN,
    "gb18030": HARD,
    "gbk": PLAIN,
    "gb2312": PLAIN,
    "big5": TRADITIONAL,
}
NAMED = {"utf-16": "utf-16-le", "gbk": "gb18030", "gb2312": "gb18030", "big5": "cp950"}


def as_zip(raw: bytes, name: str = "a.txt") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, raw)
    return buffer.getvalue()


def as_tar(raw: bytes, name: str = "a.txt") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


PACK = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
PACKED = [packing for packing in PACK if packing]
ARCHIVES = {".zip": as_zip, ".tar": as_tar} | {
    name: lambda raw, inner, pack=PACK[packing]: pack(as_tar(raw, inner))
    for name, packing in [
        (".tar.gz", ".gz"),
        (".tgz", ".gz"),
        (".tar.bz2", ".bz2"),
        (".tar.xz", ".xz"),
        (".tar.zst", ".zst"),
    ]
}


def jsonl(texts, column="text") -> bytes:
    return "".join(json.dumps({column: t}, ensure_ascii=False) + "\n" for t in texts).encode()


def as_csv(texts, dialect: str) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, dialect=dialect).writerows([["id", "text"], *enumerate(texts)])
    return buffer.getvalue().encode()


def as_parquet(texts) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())})
    pyarrow.parquet.write_table(table, buffer, row_group_size=2)
    return buffer.getvalue()


def as_arrow(texts, make=pyarrow.ipc.new_stream, kind=None) -> bytes:
    buffer, kind = io.BytesIO(), kind or pyarrow.large_string()
    table = pyarrow.table({"id": list(range(len(texts))), "text": pyarrow.array(texts, kind)})
    with make(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return buffer.getvalue()


def content(kind, texts) -> bytes:
    records = [{"text": text} for text in texts]
    return {
        ".txt": lambda: "".join(texts).encode(),
        ".md": lambda: "".join(texts).encode(),
        ".jsonl": lambda: jsonl(texts),
        ".ndjson": lambda: jsonl(texts),
        ".json": lambda: json.dumps(records, ensure_ascii=False, indent=1).encode(),
        ".csv": lambda: as_csv(texts, "excel"),
        ".tsv": lambda: as_csv(texts, "excel-tab"),
        ".parquet": lambda: as_parquet(texts),
        ".arrow": lambda: as_arrow(texts),
    }[kind]()


def encoded(raw: bytes, encoding: str) -> bytes:
    name, _, mark = encoding.partition(" with")
    return (("\ufeff" if mark else "") + raw.decode()).encode(name)


def read(path, column="text", tally=None, **changes) -> list[str]:
    section = TextSection(train_files=(), text_column=column, **changes)
    return list(documents(path, section, Tally() if tally is None else tally))


def written(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


OF_CHARACTERS = [kind for kind in files.KINDS if kind not in files.TABLES]
CASES = [(kind, "utf-8") for kind in files.TABLES]
CASES += [(kind, encoding) for kind in OF_CHARACTERS for encoding in TEXTS]


@pytest.mark.parametrize("packing", [*PACK, *ARCHIVES])
@pytest.mark.parametrize("kind, encoding", CASES)
def test_every_kind_gives_the_documents_back(tmp_path, kind, encoding, packing):
    texts, tally = TEXTS[encoding], Tally()
    raw = content(kind, texts)
    if kind in OF_CHARACTERS:
        raw = encoded(raw, encoding)
    if packing in PACK:
        path = written(tmp_path / f"文 本{kind}{packing}", PACK[packing](raw))
        name = str(path)
    else:
        member = f"一 级/文 本{kind}"
        path = written(tmp_path / f"文 本{packing}", ARCHIVES[packing](raw, member))
        name = f"{path}!{member}"
    assert read(path, tally=tally) == (["".join(texts)] if kind in (".txt", ".md") else texts)
    if kind in OF_CHARACTERS:
        read_as = NAMED.get(encoding, encoding.partition(" ")[0])
        assert tally.encodings == {name: read_as}
    sizes = [len(text.encode()) for text in texts]
    assert tally.bytes == sum(sizes) and not tally.dropped_documents


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
    assert set(tally.first_dropped.values()) == {str(path)}


LINED = "\n \u3000\n甲\r\n乙\r丙\u2028丁\x85戊\n\r\n\n己<|endoftext|>\r\n　\n庚"


@pytest.mark.parametrize(
    "document, texts",
    [
        ("file", [LINED]),
        ("paragraph", ["甲\r\n乙\r丙\u2028丁\x85戊", "己<|endoftext|>", "庚"]),
        ("line", ["甲", "乙\r丙\u2028丁\x85戊", "己<|endoftext|>", "庚"]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.md.gz"])
def test_a_document_is_a_file_a_paragraph_or_a_line(tmp_path, name, document, texts):
    raw = LINED.encode()
    path = written(tmp_path / name, gzip.compress(raw) if name.endswith("gz") else raw)
    tally = Tally()
    assert read(path, tally=tally, document=document) == texts
    assert tally.bytes == sum(len(text.encode()) for text in texts)


def test_a_text_comes_with_its_source_where_the_file_has_that_column(tmp_path):
    rows = [("诗", "甲"), (None, "乙"), ("诗", ""), ("史", "丙\n丁")]
    table = pyarrow.table({"source": [row[0] for row in rows], "text": [row[1] for row in rows]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    records = [{"source": source, "text": text} for source, text in rows]
    (tmp_path / "a.json").write_text(json.dumps(records))
    for name in ("a.parquet", "a.json"):
        tally, path = Tally(), tmp_path / name
        read = list(sourced(path, TextSection(train_files=()), tally))
        assert read == [("诗", "甲"), (str(path), "乙"), ("史", "丙\n丁")]
        # What is no text of the document is in no ledger.
        assert tally.bytes == 13 and tally.dropped_documents == {"empty": 1}


def test_without_that_column_the_file_is_the_source(tmp_path):
    (tmp_path / "a.txt").write_text("甲\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "甲\\n"}\n', encoding="utf-8")
    (tmp_path / "c.csv").write_text('source,text\n,"甲\n"\n', encoding="utf-8")
    for name in ("a.txt", "b.jsonl", "c.csv"):
        path = tmp_path / name
        read = list(sourced(path, TextSection(train_files=()), Tally()))
        assert read == [(str(path), "甲\n")]


def test_a_fault_of_a_file_is_said_with_or_without_sources(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"source": "诗"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="text"):
        list(sourced(tmp_path / "a.jsonl", TextSection(train_files=()), Tally()))


def test_columns_are_joined_without_those_that_are_null_or_empty(tmp_path):
    rows = [("甲", "乙"), (None, "乙"), ("甲", ""), (None, None), ("", "")]
    records = [dict(zip("ab", row, strict=True)) for row in rows]
    raw = "".join(json.dumps(record) + "\n" for record in records).encode()
    written(tmp_path / "a.jsonl", raw)
    written(tmp_path / "a.json", json.dumps(records).encode())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    for kind in (".jsonl", ".json", ".parquet"):
        tally = Tally()
        texts = read(tmp_path / f"a{kind}", tally=tally, text_columns=("b", "a"))
        assert texts == ["乙\n甲", "乙", "甲"]
        assert tally.dropped_documents == {"null": 1, "empty": 1} and tally.documents == 5
    table = "c,a,b\n1,甲,乙\n2,,乙\n3,,\n".encode()
    assert read(written(tmp_path / "a.csv", table), text_columns=("a", "b")) == ["甲\n乙", "乙"]
    for kind in (".jsonl", ".json", ".parquet", ".csv"):
        with pytest.raises(InputError, match="no column 'title'"):
            read(tmp_path / f"a{kind}", text_columns=("a", "title"))


@pytest.mark.parametrize(
    "record, offer",
    [
        ({"id": 3, "content": "x"}, "content"),
        ({"title": "x", "content": "x"}, "content"),
        ({"id": 3, "body": "x"}, "body"),
        ({"title": "x", "body": "x"}, "NAME"),
    ],
)
def test_a_missing_column_is_answered_with_the_one_that_it_can_be(tmp_path, record, offer):
    written(tmp_path / "a.jsonl", json.dumps(record).encode() + b"\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(InputError) as raised:
            read(tmp_path / name)
        assert str(raised.value).endswith(f"--text_column {offer}")


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()])
@pytest.mark.parametrize("make", [pyarrow.ipc.new_file, pyarrow.ipc.new_stream])
def test_arrow_files_and_streams(tmp_path, make, kind):
    assert read(written(tmp_path / "a.arrow", as_arrow(HARD, make, kind))) == HARD


def test_what_datasets_writes_is_read(tmp_path):
    import datasets

    made = datasets.Dataset.from_dict({"text": HARD})
    made.save_to_disk(tmp_path / "made")
    (path,) = find_files([str(tmp_path / "made" / "*.arrow")], "train_files", lambda line: None)
    assert read(path) == HARD


@pytest.mark.parametrize("cut", [1, 6, 12])
def test_a_last_line_that_is_cut_short_is_dropped_and_said(tmp_path, cut):
    """Cut between characters or within one, where a download stopped."""
    raw = jsonl(["一", "二三四"])[:-cut]
    path, tally = written(tmp_path / "a.jsonl", raw), Tally()
    whole = cut == 1
    assert read(path, tally=tally) == (["一", "二三四"] if whole else ["一"])
    if not whole:
        size = len(raw) - len(jsonl(["一"]))
        assert tally.dropped_documents == {"cut short": 1}
        assert tally.dropped_bytes == {"cut short": size} and tally.bytes == 3 + size
        assert tally.lines() == [f"dropped 1 (cut short), first in {path}, line 2"]


def test_nul_in_a_record_is_text(tmp_path):
    assert read(written(tmp_path / "a.jsonl", rb'{"text": "a\u0000b"}')) == ["a\0b"]


def test_old_line_ends_in_csv(tmp_path):
    raw = 'id,text\r1,"甲\r乙"\r2,丙\r'.encode()
    assert read(written(tmp_path / "a.csv", raw)) == ["甲\r乙", "丙"]


def test_a_whole_surrogate_pair_is_one_character(tmp_path):
    assert read(written(tmp_path / "a.jsonl", rb'{"text": "\ud83c\udc04"}')) == ["🀄"]


@pytest.mark.parametrize(
    "name, raw",
    [
        *((f"a{kind}", b"") for kind in files.KINDS + files.ARCHIVES),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
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
    assert tally.lines() == [f"dropped 1 (empty file), first in {tmp_path / name}"]


SENTENCES = "村民们都很高兴。\n", "他们的水车又能用了\n"
BAD = {
    "two encodings": (
        "a.txt",
        SENTENCES[0].encode() * 40 + SENTENCES[1].encode("gb18030") * 9,
        ["9 undecodable line(s)", "line 41, byte 1000 (0xcb)", "They look like gb18030", "0.15"],
    ),
    "half of each": (
        "a.txt",
        SENTENCES[0].encode() * 40 + SENTENCES[1].encode("gb18030") * 40,
        ["not UTF-8 at line 41, byte 1000 (0xcb), and not clearly Chinese"],
    ),
    "too short": ("a.txt", "红楼".encode("gb18030"), ["line 1, byte 0 (0xba)", "--encoding gb"]),
    "cp1252": (
        "a.txt",
        "Où est le garçon né?\n".encode("cp1252"),
        ["not UTF-8 at line 1, byte 1 (0xf9)", "looks most like", "--encoding"],
    ),
    "binary": ("a.txt", b"abc\0def", ["NUL at character 3 of line 1", "binary"]),
    "other binary": ("a.txt", b"\x7fELF\xff\0\0\0\1" * 99, ["NUL", "binary"]),
    "gbk line": (
        "a.jsonl",
        jsonl(["这是我们的村子"]) + b'{"text": "\xb4\xe5"}\n' * 2,
        ["2 undecodable line(s)", "30 of 64 bytes", "line 2, byte 44 (0xb4)"],
    ),
    "csv": ("a.csv", b"text\n\xb4\n", ["not UTF-8 at line 2, byte 5 (0xb4)"]),
    "json bytes": ("a.json", b'[\n{"text": "\xb4"}]', ["not UTF-8 at line 2, byte 12 (0xb4)"]),
    "line": ("a.jsonl", b'{"text": "x"}\n{"text": \n', ["a.jsonl:2: not JSON", "column"]),
    "no blank": ("a.jsonl", "\u3000\n".encode(), ["a.jsonl:1: not JSON"]),
    "only a part of a line": ("a.jsonl", b'{"text": "y', ["a.jsonl:1: not JSON"]),
    "a last line that is none": ("a.jsonl", b'{"text": "x"}\noops', ["a.jsonl:2: not JSON"]),
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
    with pytest.raises(InputError, match="b.parquet: 1 undecodable .* first at record 0"):
        read(tmp_path / "b.parquet")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = written(tmp_path / "a.txt", b"x")
    refused = PermissionError(13, "Permission denied")

    def refuse(*_, **__):
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
    assert count == 3_000 and len(raw) > 27e6 and peak < 10e6


def peak_of(path: Path, **changes) -> tuple[int, int]:
    """Documents, and the most memory held while they are read, in bytes."""
    section = TextSection(train_files=(), **changes)
    tracemalloc.start()
    count = sum(1 for _ in documents(path, section, Tally()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, peak


@pytest.mark.parametrize("document", ["file", "paragraph", "line"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_one_long_line_takes_no_more_than_thrice_its_size(tmp_path, name, document):
    text = "村民们都很高兴" * 1_000_000
    raw = jsonl([text]) if name == "a.jsonl" else text.encode()
    count, peak = peak_of(written(tmp_path / name, raw), document=document)
    assert count == 1 and peak < 3 * len(raw)


@pytest.mark.parametrize("document", ["paragraph", "line"])
def test_many_tiny_documents_take_no_memory(tmp_path, monkeypatch, document):
    monkeypatch.setattr(encodings, "_BATCH", 1 << 12)
    path = written(tmp_path / "a.txt", ("村\n\n" * 60_000).encode())
    count, peak = peak_of(path, document=document)
    assert count == 60_000 and peak < 3e6


def test_every_reading_gives_the_same_documents(tmp_path):
    path = written(tmp_path / "a.zip", as_zip(jsonl(HARD), "a.jsonl"))
    assert read(path) == read(path) == HARD


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
