"""Columns of Parquet and Arrow files to texts, batch by batch."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from zhgpt.encodings import require_text
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.tally import Tally
from zhgpt.unpack import Member

Row = tuple[str | None, ...]


def columns_of(section: TextSection) -> tuple[str, ...]:
    return section.text_columns or (section.text_column,)


def no_column(where: str, column: str, columns: Iterable[str], texts: list[str]) -> InputError:
    """`texts` are those of the columns that hold texts."""
    offer = texts[0] if len(texts) == 1 else "content" if "content" in texts else "NAME"
    return InputError(
        f"{where}: no column {column!r}; there are: {', '.join(columns) or 'none'}.\n"
        f"Name the one that holds the text: --text_column {offer}"
    )


def parquet_rows(member: Member, section: TextSection, tally: Tally) -> Iterator[Row]:
    """The values of the text columns of every record that is text."""
    table = pyarrow.parquet.ParquetFile(_seekable(member))
    columns = _text_columns(table.schema_arrow, section, member.name)
    batches = table.iter_batches(columns=columns, batch_size=1024)
    yield from _rows(batches, columns, member.name, section, tally)


def arrow_rows(member: Member, section: TextSection, tally: Tally) -> Iterator[Row]:
    """The same of an Arrow IPC file or stream, which `datasets` writes."""
    if member.file.peek(6)[:6] == b"ARROW1":
        reader = pyarrow.ipc.open_file(_seekable(member))
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        batches = reader = pyarrow.ipc.open_stream(member.file)
    yield from batch_rows(batches, reader.schema, member.name, section, tally)


def batch_rows(
    batches: Iterable[pyarrow.RecordBatch],
    schema: pyarrow.Schema,
    name: str,
    section: TextSection,
    tally: Tally,
) -> Iterator[Row]:
    """The same of a table in memory."""
    columns = _text_columns(schema, section, name)
    yield from _rows(batches, columns, name, section, tally)


def _seekable(member: Member) -> Any:
    """Both are read from their end: a packed one has to be unpacked into memory."""
    return member.file if member.seekable else io.BytesIO(member.file.read())


def _text_columns(schema: pyarrow.Schema, section: TextSection, name: str) -> list[str]:
    texts = [field.name for field in schema if _is_text(field.type)]
    for column in columns_of(section):
        if column not in schema.names:
            raise no_column(name, column, schema.names, texts)
        if column not in texts:
            kind = schema.field(column).type
            raise InputError(f"{name}: column {column!r} holds {kind}, not text.")
    return list(columns_of(section))


def _is_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _rows(
    batches: Iterable[pyarrow.RecordBatch],
    columns: list[str],
    name: str,
    section: TextSection,
    tally: Tally,
) -> Iterator[Row]:
    first, bad, bad_bytes, size = "", 0, 0, 0
    number = -1
    for batch in batches:
        size += sum(batch.column(column).nbytes for column in columns)
        for row in zip(*(_values(batch.column(column)) for column in columns), strict=True):
            number += 1
            lost = sum(len(value) for value in row if isinstance(value, bytes))
            if not lost:
                yield row
                continue
            first = first or f"record {number}"
            bad, bad_bytes = bad + 1, bad_bytes + lost
            tally.lose("undecodable", lost, f"{name}, record {number}")
    require_text(name, (bad, bad_bytes), size, section, first)


def _values(column: pyarrow.Array) -> list[str | bytes | None]:
    """What is not UTF-8, which the format asks for, stays bytes."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pyarrow.large_binary()).to_pylist()
    return [_text(value) if value is not None else None for value in values]


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
