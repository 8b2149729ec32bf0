"""Files of any supported kind to documents: whole, in order, byte for byte."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
import xxhash
import zstandard

from zhgpt.errors import InputError
from zhgpt.files import PACKINGS, ending
from zhgpt.files import find_files as find_files  # documents and their files: one interface
from zhgpt.recipe import TextSection


class _Zstd(io.RawIOBase):
    """All frames of a .zst file; the library's own reader takes one cut short for a whole one."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._parts = self._unpack()
        self._rest = memoryview(b"")

    def _unpack(self) -> Iterator[bytes]:
        frame = None
        # A block of 128 kB takes 4 bytes at least, so what is unpacked at once stays below 32 MB.
        while raw := self._file.read(1 << 10):
            while raw:
                # 2 GB is the window of zstd --long=31, the largest there is.
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                yield frame.decompress(raw)
                raw, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if frame:
            raise EOFError("it ends in the middle of a frame")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": lambda path: io.BufferedReader(_Zstd(path), 1 << 20),
}
# What the decompressors and pyarrow raise for a damaged or truncated file, besides OSError.
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pyarrow.ArrowException)

_BOM, _UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


@dataclass
class Tally:
    """What was read, in documents and UTF-8 bytes of text, and what of it was dropped and why.

    An empty file counts as an empty document. `first_dropped` is the first file of each reason.
    """

    documents: int = 0
    bytes: int = 0
    dropped_documents: Counter = field(default_factory=Counter)
    dropped_bytes: Counter = field(default_factory=Counter)
    first_dropped: dict[str, Path] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, size: int, path: Path) -> None:
        self.dropped_documents[reason] += 1
        self.dropped_bytes[reason] += size
        self.first_dropped.setdefault(reason, path)


def file_hash(path: Path) -> str:
    """Of the file as it lies there, packed or not: a change of content is never missed."""
    digest = xxhash.xxh3_128()
    with _named(path), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def documents(path: Path, section: TextSection, tally: Tally) -> Iterator[str]:
    """The documents of one file; what is empty or no Unicode text is counted in `tally`.

    InputError for a file that cannot be read, is damaged, or has no such column.
    """
    with _named(path):
        try:
            with _unpacked(path) as file:
                yield from _kept(file, path, section.text_column, tally)
        except UnicodeDecodeError:
            raise InputError(_undecodable(path)) from None


def _kept(file: BinaryIO, path: Path, text_column: str, tally: Tally) -> Iterator[str]:
    before = tally.documents
    # An empty file is no JSON, no CSV and no parquet; in a folder of many it is no reason to stop.
    for text in _READERS[ending(path)](file, path, text_column) if file.peek(1) else ():
        tally.documents += 1
        try:
            size = len((text or "").encode("utf-8"))
        except UnicodeEncodeError:
            # JSON can write half a surrogate pair, \\ud83d alone; UTF-8 and so a tokenizer cannot.
            size = len(text.encode("utf-8", "surrogatepass"))
            tally.drop("half a surrogate pair", size, path)
            text = None
        else:
            if not size:
                tally.drop("null" if text is None else "empty", 0, path)
        tally.bytes += size
        if text:
            yield text
    if tally.documents == before:
        tally.documents += 1
        tally.drop("empty file", 0, path)


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _unpacked(path: Path) -> BinaryIO:
    return _OPENERS.get(path.suffix.lower(), _open)(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read names it."""
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{path}: damaged ({error}). Copy or download it again.") from None
    except OSError as error:
        # The system's own errors have a number; those of gzip, bz2 and parquet have none.
        if error.errno is None:
            raise InputError(f"{path}: damaged ({error}). Copy or download it again.") from None
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None


def _undecodable(path: Path) -> str:
    """What is wrong with a file that is not UTF-8: how many places, and the first of them."""
    if ending(path) == ".parquet":
        return f"{path}: its text is not UTF-8, which parquet asks for; write the file again."
    bad = offset = 0
    first, other = "", "gb18030"
    with _unpacked(path) as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line or (number == 1 and line[:2] in _UTF16):
                other = "utf-16"
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                bad += line.decode("utf-8", "replace").count("\ufffd") - line.count(b"\xef\xbf\xbd")
                place = f"byte {offset + error.start} (0x{line[error.start]:02x}), line {number}"
                first = first or place
            offset += len(line)
    return (
        f"{path}: not UTF-8: {bad:,} undecodable place(s), the first at {first}.\n"
        f"If it is text, it looks like {other}: iconv -f {other} -t utf-8 OLD > NEW"
    )


def _read_txt(file: BinaryIO, path: Path, text_column: str) -> Iterator[str]:
    text = file.read().removeprefix(_BOM).decode("utf-8")
    if "\0" in text:
        raise InputError(f"{path}: NUL at character {text.index(chr(0))}: this is a binary file.")
    yield text


def _read_jsonl(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    # Lines end at \n alone: U+2028 and others are characters of the text.
    for number, raw in enumerate(file, 1):
        line = (raw.removeprefix(_BOM) if number == 1 else raw).decode("utf-8")
        if line.strip(" \t\r\n"):
            yield _column(_parse(line, path, number), text_column, f"{path}:{number}")


def _parse(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text.rstrip(" \t\r\n"))
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})."
        raise InputError(place) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{line}: not JSON ({error}).") from None


def _read_json(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    content = _parse(file.read().removeprefix(_BOM).decode("utf-8"), path)
    records = content.get("data") if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise InputError(f'{path}: expected a list of records, or {{"data": [...]}}.')
    for number, record in enumerate(records):
        yield _column(record, text_column, f"{path}: record {number}")


def _column(record: Any, text_column: str, where: str) -> str | None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: {type(record).__name__} instead of an object with a text.")
    if text_column not in record:
        raise InputError(_no_column(where, text_column, list(record)))
    text = record[text_column]
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: {text_column} is {text!r:.40}, not a text.")
    return text


def _no_column(where: str, text_column: str, columns: Sequence[str]) -> str:
    offer = "content" if "content" in columns else "NAME"
    return (
        f"{where}: no column {text_column!r}; there are: {', '.join(columns) or 'none'}.\n"
        f"Name the one that holds the text: --text_column {offer}"
    )


def _read_csv(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    # The default refuses documents of more than 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    # strict: a quote that is never closed would swallow the rest of the file in silence.
    rows = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""), strict=True)
    try:
        columns = list(rows.fieldnames or [])
        if text_column not in columns:
            raise InputError(_no_column(str(path), text_column, columns))
        for row in rows:
            if None in row:
                raise InputError(
                    f"{path}:{rows.line_num}: {len(columns) + len(row[None])} values under"
                    f" {len(columns)} columns; a text with a comma stands in double quotes."
                )
            yield row[text_column]
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: not CSV ({error}).") from None


def _read_parquet(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    # Parquet is read from its end: a packed one has to be unpacked into memory.
    table = pyarrow.parquet.ParquetFile(
        io.BytesIO(file.read()) if path.suffix.lower() in PACKINGS else file
    )
    columns = table.schema_arrow.names
    if text_column not in columns:
        raise InputError(_no_column(str(path), text_column, columns))
    kind = table.schema_arrow.field(text_column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise InputError(f"{path}: column {text_column!r} holds {kind}, not text.")
    for batch in table.iter_batches(columns=[text_column], batch_size=1024):
        yield from batch.column(0).to_pylist()


_READERS: dict[str, Callable[[BinaryIO, Path, str], Iterator[str | None]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
