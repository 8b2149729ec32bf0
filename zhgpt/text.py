"""Files of any supported kind to documents: whole, in order, byte for byte."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow

from zhgpt import unpack
from zhgpt.encodings import Bad, Lines
from zhgpt.errors import InputError
from zhgpt.files import TABLES, content_hash
from zhgpt.files import find_files as find_files  # documents and their files: one interface
from zhgpt.recipe import TextSection
from zhgpt.tables import Row, arrow_rows, batch_rows, columns_of, no_column, parquet_rows
from zhgpt.tally import Tally as Tally
from zhgpt.unpack import Member

Rows = Iterator[Row]

SOURCE = "source"  # the column that says where a text is from, as data sets have it

# A text of this many characters is measured in parts, so that memory does not hold it once more.
_LONG = 1 << 20


def file_hash(path: Path) -> str:
    """Of the file as it lies there, packed or not: a change of content is never missed."""
    with unpack.named(path):
        return content_hash(path)


def documents(path: Path, section: TextSection, tally: Tally) -> Iterator[str]:
    """The documents of one file or archive, the same ones in the same order every time.

    What is empty or no text is dropped and counted in `tally`. A line of a text file ends with \\n
    or \\r\\n; \\r alone, U+2028 and U+0085 are characters of the text. Documents keep their line
    ends, except the last one where `section.document` is a paragraph or a line; blank lines
    between those belong to none. Text columns that are null or empty leave no line behind.

    InputError for a file that cannot be read, is damaged, changes meanwhile, has no such column, or
    in which more than section.undecodable_share is no text.
    """
    return (text for _, text in _kept(path, section, tally, sources=0))


def sourced(path: Path, section: TextSection, tally: Tally) -> Iterator[tuple[str, str]]:
    """The same with where each is from: what the column `source` says, else the file's name.

    All records of a file have the column, or it is not looked at: InputError for one without it
    after a first one with it.
    """
    labelled = replace(section, text_columns=(SOURCE, *columns_of(section)))
    try:
        next(_kept(path, labelled, Tally(), sources=1), None)
    except InputError:  # of another cause, it comes again
        return ((str(path), text) for text in documents(path, section, tally))
    kept = _kept(path, labelled, tally, sources=1)
    return ((source or str(path), text) for source, text in kept)


def _kept(
    path: Path, section: TextSection, tally: Tally, sources: int
) -> Iterator[tuple[str | None, str]]:
    """Source and text; `sources` columns, 0 or 1, stand before those of the text."""
    before = tally.documents
    with unpack.named(path):
        for member in unpack.members(path, tally):
            with unpack.named(member.name), _readable_as(section.encoding, member.name):
                # An empty file is no JSON, no CSV and no parquet; in a folder of many it is no
                # reason to stop.
                full = member.file.peek(1)
                rows = _READERS[member.kind](member, section, tally) if full else iter(())
                yield from _counted(rows, member.name, tally, sources)
    if tally.documents == before:
        tally.lose("empty file", 0, path)


@contextmanager
def _readable_as(encoding: str | None, name: str) -> Iterator[None]:
    """Of the encodings that may be named, some are for no lines of text (punycode, UTF-32)."""
    try:
        yield
    except UnicodeError as error:
        raise InputError(f"{name}: cannot be read as {encoding} ({error}).") from None


def of_batches(
    batches: Iterable[pyarrow.RecordBatch],
    schema: pyarrow.Schema,
    name: str,
    section: TextSection,
    tally: Tally,
) -> Iterator[str]:
    """The documents of a table in memory, as those of a file."""
    rows = batch_rows(batches, schema, name, section, tally)
    return (text for _, text in _counted(rows, name, tally, sources=0))


def _counted(rows: Rows, name: str, tally: Tally, sources: int) -> Iterator[tuple[str | None, str]]:
    before = tally.documents
    for row in rows:
        source, text = row[0], _joined(row[sources:])
        tally.documents += 1
        try:
            size = _size(text or "", "strict")
        except UnicodeEncodeError:
            # JSON can write half a surrogate pair, \\ud83d alone; UTF-8 and so a tokenizer cannot.
            size = _size(text, "surrogatepass")
            tally.drop("half a surrogate pair", size, name)
            text = None
        else:
            if not size:
                tally.drop("null" if text is None else "empty", 0, name)
        tally.bytes += size
        if text:
            yield source, text
    if tally.documents == before:
        tally.lose("empty file", 0, name)


def _joined(row: Row) -> str | None:
    texts = [value for value in row if value is not None]
    return "\n".join(filter(None, texts)) if texts else None


def _size(text: str, errors: str) -> int:
    """In bytes of UTF-8."""
    if len(text) < _LONG:
        return len(text.encode("utf-8", errors))
    parts = (text[i : i + _LONG] for i in range(0, len(text), _LONG))
    return sum(len(part.encode("utf-8", errors)) for part in parts)


def _read_text(member: Member, section: TextSection, tally: Tally) -> Rows:
    lines = Lines(member.file, member.name, section, tally)
    alone = section.document == "line"
    texts = _UNITS[section.document](_good(lines, member.name, tally, documents=int(alone)))
    # One value for each column, as records have them; a file of text has none but the last.
    others = (None,) * (len(columns_of(section)) - 1)
    yield from ((*others, text) for text in texts)


def _good(lines: Lines, name: str, tally: Tally, documents: int) -> Iterator[str]:
    """The lines without the bad ones, each of which is so many documents."""
    number = 0
    for line in lines:
        number += 1
        if isinstance(line, Bad):
            tally.lose("undecodable", line.size, line.place, documents)
            continue
        if "\0" in line:
            place = f"NUL at character {line.index(chr(0))} of line {number:,}"
            raise InputError(f"{name}: {place}: this is a binary file.")
        yield line


def _whole(lines: Iterable[str]) -> Iterator[str]:
    parts = list(lines)
    if parts:
        yield "".join(parts)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    group: list[str] = []
    for line in lines:
        if not line.isspace():
            group.append(line)
        elif group:
            yield _without_end("".join(group))
            group = []
    if group:
        yield _without_end("".join(group))


def _single(lines: Iterable[str]) -> Iterator[str]:
    return (_without_end(line) for line in lines if not line.isspace())


def _without_end(text: str) -> str:
    return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text


_UNITS: dict[str, Callable[[Iterable[str]], Iterator[str]]] = {
    "file": _whole,
    "paragraph": _paragraphs,
    "line": _single,
}


def _read_jsonl(member: Member, section: TextSection, tally: Tally) -> Rows:
    name, columns = member.name, columns_of(section)
    lines = Lines(member.file, name, section, tally)
    number = records = 0
    for line in lines:
        number += 1
        if isinstance(line, Bad):
            if records and _unfinished(line):
                lines.bad_bytes -= line.size
                tally.lose("cut short", line.size, f"{name}, line {number:,}")
            else:
                tally.lose("undecodable", line.size, line.place)
        elif not _BLANK.fullmatch(line):
            try:
                record = _parse(line, name, number)
            except InputError:
                if not (records and _unfinished(line)):
                    raise
                tally.lose("cut short", _size(line, "strict"), f"{name}, line {number:,}")
            else:
                records += 1
                yield _row_of(record, columns, f"{name}:{number}")


# What JSON takes for white space.
_BLANK = re.compile("[ \t\r\n]*")


def _unfinished(line: str) -> bool:
    """Whether a line that is no record is the beginning of one: a download that was interrupted."""
    return line.startswith("{") and not line.endswith("\n")


def _parse(text: str, name: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:  # without the line end, so that a place at the end is in this line
        return json.loads(text.rstrip(" \t\r\n"))
    except json.JSONDecodeError as error:
        place = f"{name}:{line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})."
        raise InputError(place) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}:{line}: not JSON ({error}).") from None


def _read_json(member: Member, section: TextSection, tally: Tally) -> Rows:
    name, columns = member.name, columns_of(section)
    lines = Lines(member.file, name, section, tally)
    content = _parse("".join(lines), name)
    records = content.get("data") if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise InputError(f'{name}: expected a list of records, or {{"data": [...]}}.')
    for number, record in enumerate(records):
        row = _row_of(record, columns, f"{name}: record {number}")
        text = _joined(row) or ""
        if lines.bad and _ESCAPED.search(text):
            size = _size(text, "surrogateescape")
            tally.lose("undecodable", size, f"{name}, record {number}")
        else:
            yield row


# Bytes of a bad line, as surrogateescape writes them.
_ESCAPED = re.compile("[\udc80-\udcff]")


def _row_of(record: Any, columns: tuple[str, ...], where: str) -> Row:
    return tuple(_column(record, column, where) for column in columns)


def _column(record: Any, column: str, where: str) -> str | None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: {type(record).__name__} instead of an object with a text.")
    if column not in record:
        texts = [key for key, value in record.items() if isinstance(value, str)]
        raise no_column(where, column, record, texts)
    text = record[column]
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: {column} is {text!r:.40}, not a text.")
    return text


def _read_csv(member: Member, section: TextSection, tally: Tally) -> Rows:
    # The default refuses documents of more than 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    name, columns = member.name, columns_of(section)
    lines = Lines(member.file, name, section, tally)
    dialect = "excel-tab" if member.kind == ".tsv" else "excel"
    # strict: a quote that is never closed would swallow the rest of the file in silence.
    rows = csv.DictReader(_split(lines), dialect=dialect, strict=True)
    try:
        heads = list(rows.fieldnames or [])
        for column in columns:
            if column not in heads:
                raise no_column(name, column, heads, heads)
        yield from _csv_texts(rows, columns, lines, name, tally)
    except csv.Error as error:
        raise InputError(f"{name}:{rows.line_num}: not CSV ({error}).") from None


def _csv_texts(
    rows: csv.DictReader, columns: tuple[str, ...], lines: Lines, name: str, tally: Tally
) -> Rows:
    heads, bad = len(rows.fieldnames), lines.bad
    for row in rows:
        if None in row:
            raise InputError(
                f"{name}:{rows.line_num}: {heads + len(row[None])} values under"
                f" {heads} columns; a text with a comma stands in double quotes."
            )
        values = tuple(row[column] for column in columns)
        if lines.bad > bad:
            size = _size(_joined(values) or "", "surrogateescape")
            tally.lose("undecodable", size, lines.last_bad)
        else:
            yield values
        bad = lines.bad


def _split(lines: Iterable[str]) -> Iterator[str]:
    """At \\r too, which the csv module takes for the end of a line outside of quotes."""
    for line in lines:
        if "\r" in line[:-2]:
            yield from re.findall("[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", line)
        else:
            yield line


def _read_table(member: Member, section: TextSection, tally: Tally) -> Rows:
    return (parquet_rows if member.kind == ".parquet" else arrow_rows)(member, section, tally)


_READERS: dict[str, Callable[[Member, TextSection, Tally], Rows]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    **dict.fromkeys(TABLES, _read_table),
}
