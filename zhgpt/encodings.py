"""Bytes to lines of text: in which encoding, and which lines are no text in it."""

import codecs
import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

import charset_normalizer

from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.tally import Tally

# The 500 Han characters that are most frequent in a mix of novels, law, poems, encyclopedia and
# technical text, and the traditional forms of those that have others. They are half to eight tenths
# of the Han characters of a Chinese text, and next to none of a text read in a wrong encoding.
_SIMPLIFIED = (
    "的一不人是了在有个我来这以用中上他和为你行可道大说到子时国要法下也定出得年里第生当着会之"
    "家去于作十应后就事如们条那地者或对过理自日其本成发将关所二三分民文能面使方部多看好见小管"
    "数前件机天开公同与务进门并只政无主此工经起都动么又然还而安两等规回太入学处外制知月名内儿"
    "正相头明业心新位设由没通些实请及全单提因合意情被现间加院点老何从四水程建重便员样问代但向"
    "把西已金产长手物果更保花计期信五想表任话据高接最区字它选置笑东口交先种山证听查常书云南风"
    "器性系式令度量路身军记品她体立做取几走统命目今原未依打照权玉构给海指府至报香直别化需次包"
    "运则王资利放级平算马标解什元收项清教白许服很改列该责少组才结特必备调认声张类例且准叫流受"
    "气再共语空具车非台息供总边案户电告存春万料议称配住容力决六世夫施示连百义女装市持北色变求"
    "复比带八检格真己参各华送支转江完场办却爷传款活执基约城红七按呢营言监客除怎布难倒序酒李德"
    "易形即录每商线题源功似亲候反节写值士宝境斯确集官司九坐展食吃型房模版科根战早治预步光影申"
    "章输站引像半护采满创秋美图眼若往望网兵审州况死黄号青限师联须择术始注领让达编喜罢强神故码"
    "职留律符快钱段病千县林英论导飞拿"
)
_TRADITIONAL = (
    "個來這爲說時國裏當會於應後們條對過發將關見數機開與務進門並無經動麼還兩規學處內兒頭業設沒"
    "實請單現間點從員樣問產長計話據區選東種證聽書雲風軍記體幾統權構給報別運則資級馬標項許該責"
    "組結備調認聲張類準氣語車臺總邊戶電萬議稱決連義裝變復帶檢參華轉場辦卻爺傳執約紅營監難錄線"
    "題親節寫寶確喫戰預輸護採滿創圖網審況黃號師聯須擇術領讓達編罷強碼職錢縣論導飛為裡著"
)
_COMMON = re.compile(f"[{_SIMPLIFIED}{_TRADITIONAL}]")
# Neither ASCII nor punctuation, symbols, rules and full-width forms, which say little.
_OTHER = re.compile("[^\t-\r -~·\u2000-\u2bff\u3000-\u303f\uff01-\uff65]")
_ASCII = re.compile("[\t-\r -~]")
_KANA = re.compile("[ぁ-ヺ]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")

# gb18030 contains GBK and GB2312; cp950 is the Big5 of Windows.
_CANDIDATES = ("utf-8", "gb18030", "cp950", "utf-16-le", "utf-16-be")
_BOMS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_BIG = (codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_SAMPLE, _BATCH = 1 << 16, 1 << 20  # bytes

# Measured on passages of 60 characters: the right encoding has a share of common ones of at least
# 0.25, in 99 of 100 passages 0.31; the best of the wrong ones 0.25 at most, 0.13 in 99 of 100.
_CERTAIN, _LEAST = 0.3, 4
# A window of text that was once recognised: on 400 characters 0.44 against 0.12.
_PLAUSIBLE, _ENOUGH = 0.15, 100
_WINDOW, _JUDGED = 1 << 12, 1 << 9  # characters, and how many of them, spread over it, are judged


class Bad(str):
    """A line with bytes that are no text; `size` is that of the line in bytes."""

    __slots__ = ("place", "size")
    place: str
    size: int


def recognise(sample: bytes) -> str:
    """The encoding of Chinese text, one of five, or "" where that is uncertain.

    Common Han characters have to be frequent in the sample as read in it, and at least twice as
    frequent as in any other; kana as frequent as they are in Japanese speak against all.
    """
    shares = {"": (0.0, 0)}
    for name in _CANDIDATES:
        text = codecs.getincrementaldecoder(name)("replace").decode(sample)
        if not name.startswith("utf-16"):
            shares[name] = _share(text)
        elif _is_text(text):
            # Every ASCII character has a zero byte beside it, as in no other encoding.
            shares[name] = _share(text, also=len(_ASCII.findall(text)))
        if name == "gb18030":  # where EUC-JP has its kana
            shares[""] = (len(_KANA.findall(text)) / max(1, len(_OTHER.findall(text))), 0)
    (best, (share, count)), (_, (second, _)) = sorted(
        shares.items(), key=lambda item: item[1], reverse=True
    )[:2]
    return best if share >= max(_CERTAIN, 2 * second) and count >= _LEAST else ""


def _share(text: str, also: int = 0) -> tuple[float, int]:
    """Common Han characters among those that are neither ASCII nor punctuation; their number."""
    common = len(_COMMON.findall(text)) + also
    return common / max(1, len(_OTHER.findall(text)) + also), common


def _is_text(text: str) -> bool:
    """Next to no control, unassigned, private or half characters, of which chance makes many; some
    that are unassigned here are of a later Unicode.
    """
    kinds = {c: unicodedata.category(c) for c in set(text) - set("\t\n\v\f\r\x1a\ufeff")}
    odd = (text.count(c) for c, kind in kinds.items() if kind in ("Cc", "Cn", "Co", "Cs"))
    return sum(odd) <= len(text) / 100


def require_text(
    name: str, bad: tuple[int, int], size: int, section: TextSection, first: str, looks: str = ""
) -> None:
    """InputError if too many of a file's bytes are in units that are no text.

    `bad` is the number of such units and their bytes, `size` the bytes of the file's text.
    """
    if bad[1] > section.undecodable_share * size:
        hint = f" They look like {looks}: this is a file of two encodings." if looks else ""
        raise InputError(
            f"{name}: {bad[0]:,} undecodable line(s) or record(s), {bad[1]:,} of {size:,} bytes;"
            f" the first at {first}.{hint}\n"
            "Name the encoding (--encoding gb18030, big5, utf-16, ...), mend the file,\n"
            "or let more of a file be dropped:"
            f" --undecodable_share {min(1, bad[1] / max(1, size) + 0.005):.2f}"
        )


class Lines:
    """The lines of `file` as text, their ends kept; a line ends at \\n alone.

    One pass, and memory for some lines. All encodings but UTF-16 begin with ASCII, so a file's is
    decided at its first other byte, from that place on. A line that is no text comes as
    `Bad`. InputError for an encoding that is uncertain or turns implausible, and at the end of the
    file if more than section.undecodable_share of its bytes are in bad lines.
    """

    def __init__(self, file: BinaryIO, name: str, section: TextSection, tally: Tally):
        self._file, self._name, self._section, self._tally = file, name, section, tally
        self._ahead: deque[bytes] = deque(file.readlines(_SAMPLE))
        self._number = self._offset = self.bad = self.bad_bytes = 0
        self._first, self._spoilt, self.last_bad = "", b"", ""
        tally.encodings[name] = "utf-8"

    def __iter__(self) -> Iterator[str]:
        encoding = self._section.encoding or self._utf16()
        if encoding:
            self._tally.encodings[self._name] = encoding
            # Read as utf-8-sig, every line would lose a mark at its beginning.
            encoding = codecs.lookup(encoding).name.removesuffix("-sig")
        wide = encoding.startswith(("utf-16", "utf-32"))
        yield from (self._wide_lines if wide else self._narrow_lines)(encoding)
        looks = recognise(self._spoilt) if self._spoilt else ""
        bad = self.bad, self.bad_bytes
        require_text(self._name, bad, self._offset, self._section, self._first, looks)

    def _narrow_lines(self, encoding: str) -> Iterator[str]:
        """Of an encoding in which a line ends with the byte 0x0A and with no other."""
        window = None
        while self._ahead or self._fill():
            raw = self._ahead.popleft()
            self._number += 1
            if not encoding and not raw.isascii():
                encoding = self._decide(raw)
                window = None if encoding == "utf-8" else _Window(self._name, encoding)
            try:
                text = _decoded(raw, encoding or "ascii")
                if window and _is_utf8_han(raw):
                    text = self._bad(raw, 0)
            except UnicodeDecodeError as error:
                text = self._bad(raw, error.start)
            self._offset += len(raw)
            del raw  # a line can be as long as the file
            if self._number == 1 and text[:1] == "\ufeff":
                text = text[1:]
            if window:
                window.add(text, self._number)
            yield text
        if window:
            window.judge()

    def _wide_lines(self, encoding: str) -> Iterator[str]:
        """Of UTF-16 and UTF-32, in which the byte 0x0A is a part of many characters."""
        if encoding in ("utf-16", "utf-32"):  # without a mark, the usual order
            encoding += "-be" if self._sample().startswith(_BIG) else "-le"
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        parts: list[str] = []
        while self._ahead or self._fill():
            parts.append(decoder.decode(self._ahead.popleft()))
            if "\n" in parts[-1]:
                *whole, last = "".join(parts).split("\n")
                parts = [last]
                for text in whole:
                    yield self._wide_line(text + "\n", encoding)
        rest = "".join(chr(0xDC00 + byte) for byte in decoder.getstate()[0])
        text = "".join(parts) + rest
        if text:
            yield self._wide_line(text, encoding)

    def _wide_line(self, text: str, encoding: str) -> str:
        self._number += 1
        raw = text.encode(encoding[:6] + "-le", "surrogatepass")
        half = _SURROGATE.search(text)
        line = self._bad(raw, 0) if half else text
        self._offset += len(raw)
        return line[1:] if self._number == 1 and line[:1] == "\ufeff" else line

    def _fill(self) -> bool:
        lines = self._file.readlines(_BATCH)
        self._ahead.extend(lines)
        return bool(lines)

    def _sample(self, first: bytes = b"") -> bytes:
        sample = bytearray(first[:_SAMPLE])
        for line in self._ahead:
            if len(sample) >= _SAMPLE:
                break
            sample += line[: _SAMPLE - len(sample)]
        return bytes(sample)

    def _utf16(self) -> str:
        sample = self._sample()
        if sample[:2] in _BOMS:
            return _BOMS[sample[:2]]
        if b"\0" not in sample and _first_wrong(sample) is None:
            return ""
        name = recognise(sample)
        return name if name.startswith("utf-16") else ""

    def _decide(self, raw: bytes) -> str:
        """The codec, from the first line on that has more than ASCII."""
        start = _NOT_ASCII.search(raw).start()
        if len(raw) - start < _SAMPLE:
            self._fill()
        sample = self._sample(raw[start : start + _SAMPLE])
        bom = self._number == 1 and raw.startswith(codecs.BOM_UTF8)
        wrong = _first_wrong(sample)
        name = "utf-8" if bom or wrong is None else recognise(sample) or self._nearly_utf8(sample)
        if not name:
            line = self._number + sample[:wrong].count(b"\n")
            place = f"line {line:,}, byte {self._offset + start + wrong} (0x{sample[wrong]:02x})"
            raise InputError(_uncertain(self._name, sample, place))
        self._tally.encodings[self._name] = "utf-8-sig" if bom else name
        return name

    def _nearly_utf8(self, sample: bytes) -> str:
        """UTF-8 all the same, if no more has to be dropped of it than may be."""
        lines = sample.splitlines(keepends=True)
        bad = sum(len(line) for line in lines if _first_wrong(line) is not None)
        return "utf-8" if bad <= self._section.undecodable_share * len(sample) else ""

    def _bad(self, raw: bytes, start: int) -> Bad:
        line = Bad(raw.decode("ascii", "surrogateescape"))
        line.size = len(raw)
        place = f"line {self._number}, byte {self._offset + start} (0x{raw[start]:02x})"
        line.place = self.last_bad = f"{self._name}, {place}"
        self._first = self._first or place
        self.bad, self.bad_bytes = self.bad + 1, self.bad_bytes + len(raw)
        if len(self._spoilt) < _SAMPLE:
            self._spoilt += raw[:_SAMPLE]
        return line


def _decoded(raw: bytes, encoding: str) -> str:
    if len(raw) > _BATCH and not raw.isascii():
        # In parts: at once, it would take three times its size beside the line itself.
        decoder = codecs.getincrementaldecoder(encoding)()
        starts = range(0, len(raw), _BATCH)
        try:
            parts = [decoder.decode(raw[i : i + _BATCH], i + _BATCH >= len(raw)) for i in starts]
            return "".join(parts)
        except UnicodeDecodeError:
            pass  # whose place is in one of the parts
    return raw.decode(encoding)


def _first_wrong(sample: bytes) -> int | None:
    """The first byte that is not UTF-8; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError as error:
        return error.start
    return None


def _is_utf8_han(raw: bytes) -> bool:
    """Whether a line of a file in another encoding is in UTF-8: three Han are not by chance."""
    try:
        return len(re.findall("[一-鿿]", raw.decode("utf-8"))) >= 3
    except UnicodeDecodeError:
        return False


def _uncertain(name: str, sample: bytes, place: str) -> str:
    if b"\0" in sample:
        return (
            f"{name}: NUL, and no UTF-8 at {place}: this is a binary file.\n"
            "If it is text, name its encoding: --encoding utf-16 (or utf-16-be, utf-32)"
        )
    guess = charset_normalizer.from_bytes(sample).best()
    looks = f"; it looks most like {guess.encoding}" if guess else ""
    return (
        f"{name}: not UTF-8 at {place}, and not clearly Chinese in GB18030, Big5 or UTF-16{looks}."
        "\nName its encoding: --encoding gb18030 (or big5, utf-16, cp1252, ...), or write the file"
        " again as UTF-8."
    )


class _Window:
    """Whether a file goes on in the encoding that its beginning was recognised in."""

    def __init__(self, name: str, encoding: str):
        self._name, self._encoding = name, encoding
        self._parts: list[str] = []
        self._size = self._first = self._last = 0

    def add(self, text: str, number: int) -> None:
        if not isinstance(text, Bad):
            self._first = self._first or number
            self._last = number
            self._parts.append(text)
            self._size += len(text)
        if self._size >= _WINDOW:
            self.judge()

    def judge(self) -> None:
        text = "".join(self._parts)
        text = text[:: 1 + len(text) // _JUDGED]
        if _share(text)[0] < _PLAUSIBLE and len(_OTHER.findall(text)) >= _ENOUGH:
            raise InputError(
                f"{self._name}: recognised as {self._encoding}, but lines {self._first:,} to"
                f" {self._last:,} do not look like Chinese in it.\nIf that is right all the same,"
                f" name it: --encoding {self._encoding}; if not, name another one or write the file"
                " again as UTF-8."
            )
        self._parts, self._size, self._first = [], 0, 0
