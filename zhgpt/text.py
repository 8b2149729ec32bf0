"""Files of any supported kind to documents: whole, in order, byte for byte."""

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import sys
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

_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    # The library's own reader has no lines.
    ".zst": lambda path: io.BufferedReader(zstandard.open(path, "rb"), 1 << 20),
}
# What the decompressors raise for a damaged or truncated file.
_DAMAGE = (EOFError, gzip.BadGzipFile, OSError, lzma.LZMAError, zstandard.ZstdError)

_BOM = b"\xef\xbb\xbf"


@dataclass
class Tally:
    """What was read, in documents and UTF-8 bytes of text, and what of it was dropped and why."""

    documents: int = 0
    bytes: int = 0
    dropped_documents: Counter = field(default_factory=Counter)
    dropped_bytes: Counter = field(default_factory=Counter)

    def drop(self, reason: str, size: int) -> None:
        self.dropped_documents[reason] += 1
        self.dropped_bytes[reason] += size


def find_files(patterns: Sequence[str], key: str) -> list[Path]:
    """Files, folders (with all below) and globs, sorted by path, each file once.

    In folders and globs, files of other kinds are passed over; one that is named is an InputError.
    """
    found = sorted({path for pattern in patterns for path in _match(pattern, key)})
    if found:
        return found
    raise InputError(
        f"{key}: no file matches {', '.join(patterns)} (looked from {Path.cwd()}).\n"
        f"Put your text there as {', '.join(_READERS)}, plain or packed ({', '.join(_OPENERS)}),\n"
        f"or name other files, folders or globs: --{key} PATH ..."
    )


def file_hash(path: Path) -> str:
    """Of the file as it lies there, packed or not: a change of content is never missed."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _match(pattern: str, key: str) -> list[Path]:
    named = Path(pattern)
    if named.is_file():
        kind(named, key)
        return [named]
    # glob does not follow a symbolic link to a folder inside **, so a loop of links ends.
    inside = f"{glob.escape(pattern)}/**/*" if named.is_dir() else pattern
    paths = map(Path, glob.glob(inside, recursive=True))
    return [path for path in paths if path.is_file() and _ending(path) in _READERS]


def _ending(path: Path) -> str:
    """The ending below the packing: .jsonl for a.jsonl.zst."""
    return (path.with_suffix("") if path.suffix in _OPENERS else path).suffix.lower()


def kind(path: Path, key: str) -> str:
    ending = _ending(path)
    if ending not in _READERS:
        raise InputError(
            f"{key}: {path} has the ending {ending or '(none)'}; readable are"
            f" {', '.join(_READERS)}, plain or packed ({', '.join(_OPENERS)})."
        )
    return ending


def documents(path: Path, text_column: str, tally: Tally) -> Iterator[str]:
    """The documents of one file; what is empty or no Unicode text is counted in `tally`.

    InputError for a file that cannot be read, is damaged, or has no such column.
    """
    with _opened(path) as file:
        for text in _READERS[_ending(path)](file, path, text_column):
            # JSON can write half a surrogate pair, \\ud83d alone; UTF-8 and so a tokenizer cannot.
            raw = (text or "").encode("utf-8", "surrogatepass")
            tally.documents += 1
            tally.bytes += len(raw)
            if not raw:
                tally.drop("null" if text is None else "empty", 0)
            elif not _is_utf8(raw):
                tally.drop("half a surrogate pair", len(raw))
            else:
                yield text


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file; whatever goes wrong while they are read names the file."""
    packed = path.suffix in _OPENERS
    try:
        with _OPENERS[path.suffix](path) if packed else path.open("rb") as file:
            yield file
    except PermissionError as error:
        raise InputError(f"{path}: not readable ({error.strerror}).") from None
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: damaged ({error}). Copy or download it again.") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: damaged ({error}). Copy or download it again.") from None


def _decode(raw: bytes, path: Path, line: int | None = None) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = raw.decode("utf-8", "replace").count("\ufffd") - raw.count("\ufffd".encode())
        place = f"line {line}, byte" if line else "byte"
        hint = (
            "it holds NUL bytes: is it text at all?"
            if b"\0" in raw
            else "convert it: iconv -t utf-8"
        )
        raise InputError(
            f"{path}: {bad} undecodable place(s), the first at {place} {error.start}"
            f" (0x{raw[error.start]:02x}): the file is not UTF-8; {hint}"
        ) from None


def _read_txt(file: BinaryIO, path: Path, text_column: str) -> Iterator[str]:
    raw = file.read().removeprefix(_BOM)
    text = _decode(raw, path)
    if "\0" in text:
        raise InputError(f"{path}: NUL at character {text.index(chr(0))}: this is a binary file.")
    yield text


def _read_jsonl(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    # Lines end at \n alone: U+2028 and others are characters of the text.
    for number, raw in enumerate(file, 1):
        line = _decode(raw.removeprefix(_BOM) if number == 1 else raw, path, number)
        if line.strip():
            yield _column(_parse(line, path, number), text_column, f"{path}:{number}")


def _parse(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = line + getattr(error, "lineno", 1) - 1
        raise InputError(f"{path}:{where}: not JSON ({error}).") from None


def _read_json(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    content = _parse(_decode(file.read().removeprefix(_BOM), path), path)
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


def _read_csv(file: BinaryIO, path: Path, text_column: str) -> Iterator[str]:
    csv.field_size_limit(
        sys.maxsize
    )  # the default refuses documents of more than 131,072 characters
    rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    try:
        if text_column not in (rows.fieldnames or []):
            raise InputError(_no_column(str(path), text_column, rows.fieldnames or []))
        for row in rows:
            if row[text_column] is not None:
                yield row[text_column]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 near line {rows.line_num + 1} ({error}).") from None
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: {error}.") from None


def _read_parquet(file: BinaryIO, path: Path, text_column: str) -> Iterator[str | None]:
    # Parquet is read from its end: a packed one has to be unpacked into memory.
    table = pyarrow.parquet.ParquetFile(
        file if path.suffix == ".parquet" else io.BytesIO(file.read())
    )
    columns = table.schema_arrow.names
    if text_column not in columns:
        raise InputError(_no_column(str(path), text_column, columns))
    kind_ = table.schema_arrow.field(text_column).type
    if not (pyarrow.types.is_string(kind_) or pyarrow.types.is_large_string(kind_)):
        raise InputError(f"{path}: column {text_column!r} holds {kind_}, not text.")
    for batch in table.iter_batches(columns=[text_column], batch_size=1024):
        yield from batch.column(0).to_pylist()


_READERS: dict[str, Callable[[BinaryIO, Path, str], Iterator[str | None]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
