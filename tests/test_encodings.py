"""Chinese text in any encoding is recognised or asked about; what is no text is dropped."""

import json
import random
from pathlib import Path

import pytest
import zstandard
from conftest import tiny_stories

from zhgpt.encodings import recognise
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents

SIMPLIFIED = "\n".join(tiny_stories(30, seed=1)) + "\n"
TRADITIONAL = "村裡的人們都很高興，因為他們的水車又能用了。這是我們要說的第一個故事。\n" * 30
LATIN = "A line of Latin text: f(a, b) = {x}; see table 3.\n"


def read(folder: Path, name: str, raw: bytes, **changes) -> tuple[list[str], Tally]:
    (folder / name).write_bytes(raw)
    tally = Tally()
    section = TextSection(train_files=(), **changes)
    return list(documents(folder / name, section, tally)), tally


@pytest.mark.parametrize("codec", ["gb18030", "gbk", "gb2312", "cp950", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("characters", [40, 400, 1000])
@pytest.mark.parametrize("latin", [0, 20])
def test_text_is_recognised(codec, characters, latin):
    text = (TRADITIONAL if codec == "cp950" else SIMPLIFIED)[:characters]
    text = "".join(line + LATIN * latin for line in text.splitlines(keepends=True))
    expected = "gb18030" if codec.startswith("gb") else codec
    assert recognise(text.encode(codec)) == expected


def test_utf_8_with_a_wrong_byte_is_utf_8():
    raw = SIMPLIFIED.encode()
    assert recognise(raw[:400] + b"\xff" + raw[400:]) == "utf-8"


JAPANESE = "これは村の人々の話です。水車はまた動くようになりました。みんな喜んでいます。"
OTHERS = {
    "shift_jis": JAPANESE * 9,
    "euc_jp": JAPANESE * 9,
    "euc_kr": "마을 사람들은 모두 기뻐했습니다. 물레방아가 다시 돌아가기 때문입니다." * 9,
    "cp1251": "Все люди в деревне очень рады: водяная мельница снова работает." * 9,
    "koi8_r": "Все люди в деревне очень рады: водяная мельница снова работает." * 9,
    "cp1252": "Où est né le garçon? Là-bas, près de la forêt où l'été dure à peine." * 9,
}


@pytest.mark.parametrize("codec", OTHERS)
def test_other_languages_are_asked_about_not_guessed(tmp_path, codec):
    raw = OTHERS[codec].encode(codec)
    with pytest.raises(InputError, match="a.txt: not UTF-8 at line 1, .*\n.*--encoding"):
        read(tmp_path, "a.txt", raw)
    texts, tally = read(tmp_path, "a.txt", raw, encoding=codec)
    assert texts == [OTHERS[codec]] and tally.encodings == {str(tmp_path / "a.txt"): codec}


def test_a_codec_that_is_not_for_such_a_file_is_said(tmp_path):
    with pytest.raises(InputError, match="a.txt: cannot be read as utf-32"):
        read(tmp_path, "a.txt", b"no UTF-32 at all", encoding="utf-32")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_a_character_that_is_not_known_yet_does_not_hide_utf_16(codec):
    assert recognise((SIMPLIFIED + chr(0x0378)).encode(codec)) == codec


def test_half_in_one_encoding_and_half_in_another_is_neither():
    first, then = SIMPLIFIED.encode("gb18030")[:900], TRADITIONAL.encode("big5")[:900]
    assert recognise(first) == "gb18030" and recognise(then) == "cp950"
    assert recognise(first + then) == ""


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_text(seed):
    assert recognise(random.Random(seed).randbytes(4000)) == ""


@pytest.mark.parametrize(
    "encoding, raw",
    [
        ("utf-8", "\ufeff甲".encode()),
        ("utf-8-sig", "\ufeff甲".encode()),
        ("gbk", "甲".encode("gbk")),
        ("GB18030", "\ufeff甲".encode("gb18030")),
        ("big5", "甲".encode("big5")),
        ("utf-16", "甲".encode("utf-16")),
        ("utf-16", "甲".encode("utf-16-le")),
        ("utf-16-be", "\ufeff甲".encode("utf-16-be")),
        ("utf-32", "甲".encode("utf-32")),
    ],
)
def test_a_named_encoding_is_taken(tmp_path, encoding, raw):
    texts, tally = read(tmp_path, "a.txt", raw, encoding=encoding)
    assert texts == ["甲"] and list(tally.encodings.values()) == [encoding]


def test_the_first_other_byte_decides_however_late_it_comes(tmp_path):
    raw = LATIN.encode() * 60_000 + SIMPLIFIED.encode("gb18030")
    texts, tally = read(tmp_path, "a.txt", raw)
    assert texts[0].endswith(SIMPLIFIED) and list(tally.encodings.values()) == ["gb18030"]
    assert tally.lines() == [f"1 file(s) read as gb18030, first {tmp_path / 'a.txt'}"]


def spoilt(codec: str) -> list[bytes]:
    """A thousand lines, the third of them no text."""
    lines = [line.encode(codec) for line in SIMPLIFIED.splitlines(keepends=True)] * 34
    lines[2] = lines[2][:7] + b"\xff" + lines[2][7:]
    return lines


@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
@pytest.mark.parametrize("document", ["file", "paragraph", "line"])
def test_a_line_that_is_no_text_is_cut_out(tmp_path, codec, document):
    lines = spoilt(codec)
    kept = [line.decode(codec) for number, line in enumerate(lines) if number != 2]
    texts, tally = read(tmp_path, "a.txt", b"".join(lines), document=document)
    assert "".join(texts).replace("\n", "") == "".join(kept).replace("\n", "")
    alone = document == "line"
    assert tally.dropped_documents == {"undecodable": int(alone)}
    assert tally.dropped_bytes == {"undecodable": len(lines[2])}
    assert tally.documents == len(texts) + alone
    assert tally.bytes == sum(len(text.encode()) for text in texts) + len(lines[2])
    place = f"line 3, byte {len(lines[0] + lines[1]) + 7} (0xff)"
    assert tally.first_dropped == {"undecodable": f"{tmp_path / 'a.txt'}, {place}"}
    cut = "dropped 1" if alone else f"cut out {len(lines[2])} bytes"
    assert tally.lines()[0] == f"{cut} (undecodable), first in {tmp_path / 'a.txt'}, {place}"


@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_a_record_that_is_no_text_is_dropped(tmp_path, codec, name):
    texts = tiny_stories(500, seed=2)
    form = {
        "a.jsonl": ("", '{{"text": "{}"}}\n', ""),
        "a.csv": ("text\n", '"{}\n"\n', ""),
        "a.json": ("[\n", '{{"text": "{}"}},\n', '{"text": null}]'),
    }[name]
    records = [form[1].format(text).encode(codec) for text in texts]
    records[2] = records[2][:10] + b"\xff" + records[2][10:]
    raw = form[0].encode() + b"".join(records) + form[2].encode()
    read_, tally = read(tmp_path, name, raw)
    del texts[2]
    assert [text.rstrip("\n") for text in read_] == texts
    assert tally.dropped_documents["undecodable"] == 1
    dropped = tally.dropped_documents.total()
    assert tally.documents == len(texts) + dropped
    sizes = sum(len(text.encode()) for text in read_) + tally.dropped_bytes.total()
    assert tally.bytes == sizes and tally.dropped_bytes["undecodable"] > 20


def test_a_share_of_the_file_may_be_undecodable_and_no_more(tmp_path):
    lines = spoilt("utf-8")
    raw = b"".join(lines)
    share = len(lines[2]) / len(raw)
    read(tmp_path, "a.txt", raw, undecodable_share=share * 1.01)
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.txt", raw, undecodable_share=share * 0.99)
    said = f"1 undecodable line(s) or record(s), {len(lines[2]):,} of {len(raw):,} bytes"
    assert said in str(raised.value) and "line 3, byte" in str(raised.value)
    assert "--encoding" in str(raised.value) and "--undecodable_share 0.0" in str(raised.value)


def test_half_a_character_of_utf_16_is_cut_out(tmp_path):
    text = SIMPLIFIED.encode("utf-16")
    texts, tally = read(tmp_path, "a.txt", text + b"\n\0\x00\xd8\n\0" + b"x", undecodable_share=0.1)
    assert texts == [SIMPLIFIED + "\n"]
    assert tally.dropped_bytes == {"undecodable": 4 + 2}


@pytest.mark.parametrize("lines", [300, 30_000])
@pytest.mark.parametrize("first, then", [("gb18030", "big5"), ("big5", "gb18030")])
def test_a_file_that_goes_on_in_another_encoding_is_refused(tmp_path, first, then, lines):
    line = {"gb18030": SIMPLIFIED.splitlines()[0], "big5": TRADITIONAL.splitlines()[0]}
    raw = f"{line[first]}\n".encode(first) * lines + f"{line[then]}\n".encode(then) * 300
    with pytest.raises(InputError, match="look like Chinese|not clearly Chinese|undecodable"):
        read(tmp_path, "a.txt", raw)


def test_rules_and_tables_in_a_file_are_no_other_encoding(tmp_path):
    text = SIMPLIFIED + ("┌" + "─" * 70 + "┐\nＡＢＣ　①②③\n") * 400 + SIMPLIFIED
    assert read(tmp_path, "a.txt", text.encode("gb18030"))[0] == [text]


def test_a_line_in_utf_8_does_not_pass_for_gbk(tmp_path):
    """An even number of Han in UTF-8 is a valid line of other Han in GBK."""
    wrong = "村民们都很高兴啊\n".encode()
    assert wrong.decode("gb18030")
    raw = SIMPLIFIED.encode("gb18030") * 9
    texts, tally = read(tmp_path, "a.txt", raw + wrong + raw)
    assert texts == [SIMPLIFIED * 18]
    assert tally.dropped_bytes == {"undecodable": len(wrong)}


@pytest.mark.corpus
@pytest.mark.parametrize("codec", ["gb18030", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("characters, least", [(20, 0.9), (60, 0.98), (400, 1.0)])
def test_real_text_is_recognised_and_never_taken_for_another(corpus_dir, codec, characters, least):
    with (corpus_dir / "validation.jsonl.zst").open("rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read()
    texts = [json.loads(line)["text"][:characters] for line in raw.splitlines()]
    texts = [text for text in texts if sum("一" <= c <= "鿿" for c in text) >= characters / 2]
    guesses = [recognise(text.encode(codec)) for text in texts]
    assert set(guesses) <= {codec, ""}
    assert guesses.count(codec) >= least * len(texts) > 100
