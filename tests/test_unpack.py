"""Packed files and archives: only regular members, as streams; traps and damage by name."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import zstandard

from zhgpt import unpack
from zhgpt.errors import InputError
from zhgpt.files import find_files
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents

SECTION = TextSection(train_files=())
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PACK[".zst"] = zstandard.ZstdCompressor().compress


def read(path: Path) -> tuple[list[str], Tally]:
    tally = Tally()
    return list(documents(path, SECTION, tally)), tally


def refused(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read(path)
    return str(raised.value)


def make_tar(members) -> bytes:
    """Of (name, content) or of a TarInfo without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            raw = b"" if info is member else member[1]
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_zip(members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return buffer.getvalue()


MEMBERS = [
    ("b.txt", "甲".encode()),
    ("空 格/村.jsonl", '{"text": "乙"}\n{"text": "丙"}\n'.encode()),
    ("a.md", "丁".encode("utf-16")),
    ("empty.txt", b""),
]
BESIDE = [
    (".hidden.txt", b"x"),
    ("__MACOSX/b.txt", b"x"),
    ("photo.jpg", b"x"),
    ("README", b"x"),
    ("inner.zip", b"x"),
    ("inner.jsonl.gz", b"x"),
    ("inner.tgz", b"x"),
]
SAID = "7 member(s) passed over (3 packed again, 2 hidden, 1 .jpg, 1 without ending)"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.TGZ", "a.tar.zst"])
def test_members_are_read_by_their_kind_and_the_rest_is_counted(tmp_path, name):
    pack = {".TGZ": gzip.compress, ".zst": PACK[".zst"]}.get(Path(name).suffix, lambda raw: raw)
    path = tmp_path / name
    path.write_bytes(pack((make_zip if name == "a.zip" else make_tar)(MEMBERS + BESIDE)))
    (found,) = find_files([str(tmp_path)], "train_files")
    texts, tally = read(found)
    assert texts == ["甲", "乙", "丙", "丁"]
    assert tally.encodings[f"{path}!a.md"] == "utf-16-le"
    assert tally.first_dropped == {"empty file": f"{path}!empty.txt"}
    assert f"{path}: {SAID}" in tally.lines()
    assert tally.documents == 5 and tally.bytes == 12


def test_a_mistake_in_a_member_names_it(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip([("b/c.jsonl", b'{"text": "x"}\n{"text": 3}\n')]))
    assert refused(path).startswith(f"{path}!b/c.jsonl:2: text is 3")


def test_an_archive_without_text_is_counted_and_said(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip([("a.exe", b"x")]))
    texts, tally = read(path)
    assert not texts and tally.dropped_documents == {"empty file": 1}
    assert f"{path}: 1 member(s) passed over (1 .exe)" in tally.lines()


def test_links_devices_and_names_above_are_never_made(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "a.tar"
    path.write_bytes(
        make_tar(
            [
                special("link.txt", tarfile.SYMTYPE, str(secret)),
                special("hard.txt", tarfile.LNKTYPE, "../secret.txt"),
                special("device.txt", tarfile.CHRTYPE),
                special("pipe.txt", tarfile.FIFOTYPE),
                special("folder", tarfile.DIRTYPE),
                ("../above.txt", b"up"),
                ("/etc/absolute.txt", b"down"),
            ]
        )
    )
    before = sorted(tmp_path.rglob("*"))
    texts, tally = read(path)
    assert texts == ["up", "down"] and sorted(tmp_path.rglob("*")) == before
    assert tally.lines()[-1] == f"{path}: 4 member(s) passed over (4 links or devices)"


def test_a_link_in_a_zip_is_passed_over(tmp_path):
    info = zipfile.ZipInfo("link.txt")
    info.external_attr = 0o120777 << 16
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip([(info, b"/etc/passwd"), ("../b.txt", b"up")]))
    texts, tally = read(path)
    assert texts == ["up"] and tally.passed_over[str(path)] == {"links or devices": 1}


@pytest.mark.parametrize("name", ["中文 文件.txt", "小说/红楼梦.txt"])
def test_names_in_gbk_are_readable(tmp_path, name):
    raw_name = name.encode("gbk")
    path = tmp_path / "a.zip"
    # As Windows writes it: bytes of its code page, without the flag for UTF-8.
    placeholder = "x" * (len(raw_name) - 4) + ".txt"
    path.write_bytes(make_zip([(placeholder, b"x")]).replace(placeholder.encode(), raw_name))
    texts, tally = read(path)
    assert texts == ["x"] and list(tally.encodings) == [f"{path}!{name}"]
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT, encoding="gbk") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert f"{tmp_path / 'b.tar'}!{name}" in read(tmp_path / "b.tar")[1].encodings


def test_a_name_is_no_command_to_the_terminal(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar([("\x1b[31mred\n.jsonl", b"{")]))
    said = refused(tmp_path / "a.tar")
    assert "\x1b" not in said and "a.tar!\ufffd[31mred\ufffd.jsonl:1: not JSON" in said


def test_an_encrypted_member_is_refused(tmp_path):
    raw = bytearray(make_zip([("a.txt", b"secret")]))
    raw[6] |= 1  # the flag in the member's header and in the directory
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    assert refused(path) == f"{path}!a.txt: encrypted; unpack it with its password first."


def test_a_method_that_python_lacks_is_refused(tmp_path):
    raw = bytearray(make_zip([("a.txt", b"x")]))
    raw[raw.index(b"PK\1\2") + 10] = 9  # Deflate64
    raw[8] = 9
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    assert "a.zip!a.txt" in refused(path) and "pack it again" in refused(path)


WHOLE = [(f"{i}.txt", f"第{i}篇，{i * i}。\n".encode() * 50) for i in range(40)]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.75, 0.97])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst"])
def test_an_archive_cut_short_is_damaged(tmp_path, name, share):
    raw = PACK.get(Path(name).suffix, lambda raw: raw)(
        (make_zip if "zip" in name else make_tar)(WHOLE)
    )
    path = tmp_path / name
    path.write_bytes(raw)
    assert len(read(path)[0]) == 40
    content = raw.rstrip(b"\0") if name == "a.tar" else raw  # it ends with zeros, of no account
    path.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in refused(path)


def test_a_tar_cut_between_members_or_with_a_wrong_header_is_damaged(tmp_path):
    raw = make_tar(WHOLE)
    second = raw.index(b"1.txt")
    path = tmp_path / "a.tar"
    path.write_bytes(raw[:second])
    assert "damaged (no end mark" in refused(path)
    path.write_bytes(raw[:second] + b"\xff" + raw[second + 1 :])
    assert "damaged (no end mark" in refused(path)


def test_a_packing_is_checked_to_its_end(tmp_path):
    """Behind the end mark of the archive there is the checksum of the packing."""
    raw = bytearray(gzip.compress(make_tar(WHOLE) + bytes(1 << 20)))
    raw[-8] ^= 0xFF
    (tmp_path / "a.tar.gz").write_bytes(raw)
    assert "damaged (CRC" in refused(tmp_path / "a.tar.gz")


def test_a_zip_with_a_wrong_byte_is_damaged(tmp_path):
    raw = bytearray(make_zip([("a.txt", os.urandom(500).hex().encode())]))
    raw[200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    assert "damaged" in refused(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.txt.bz2", "a.txt.zst", "a.tar.gz"])
def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(unpack, "_HARMLESS", 1 << 20)
    content = (b" " * 9_999 + b"\n") * 4_000
    raw = make_tar([("a.txt", content)]) if "tar" in name else content
    path = tmp_path / name
    path.write_bytes(PACK[Path(name).suffix](raw))
    section = TextSection(train_files=(), document="line")
    tracemalloc.start()
    with pytest.raises(InputError, match="unpack to more than .* over 250 times as much"):
        list(documents(path, section, Tally()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_many_members_are_no_way_around_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "_HARMLESS", 1 << 20)
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip([(f"{i}.txt", b" " * (1 << 19)) for i in range(9)]))
    assert "a.zip: " in refused(path) and "over 250 times" in refused(path)


def test_a_small_file_of_much_the_same_is_no_bomb(tmp_path):
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"x" * (8 << 20)))
    assert len(read(path)[0][0]) == 8 << 20


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, name):
    path = tmp_path / name
    line = b'{"text": "x"}\n'
    path.write_bytes(line * 300_000)
    texts = documents(path, TextSection(train_files=(), document="line"), Tally())
    next(texts)
    with path.open("ab") as file:
        file.write(line[:7])
    with pytest.raises(
        InputError, match="changed while it was read .4,200,000 bytes before, 4,200,007"
    ):
        list(texts)


def test_a_file_that_is_gone_is_said(tmp_path):
    assert "gone since the files were listed" in refused(tmp_path / "a.txt")
