"""The survey of a corpus as text for a terminal: nothing in it is obeyed, everything is aligned."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from zhgpt.report import printable

FILES_SHOWN = 20
BAR = 40  # columns of the longest bar
TEXT = 72  # columns of a line of the corpus

Facts = Mapping[str, Any]


def table(facts: Facts) -> str:
    """Of what `Survey.as_dict()` gives; control characters of texts and of file names stand as
    U+FFFD, so that a terminal shows them and does not obey them.
    """
    parts = [
        *(_sizes(facts), _files(facts["files"]), _classes(facts["classes"])),
        *(_quantiles(facts["lengths"]), _chart(facts["lengths"]["characters"])),
        *(_rows_of_fixed_length(facts["fixed_length"]), _lines(facts["repeated_lines"])),
        _beginnings(facts["beginnings"]),
    ]
    return "\n\n".join(part for part in parts if part)


def size(count: int) -> str:
    """1234567 -> 1.2 MB, as disks are sold: 1 MB is 1,000,000 bytes."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:,.1f} {unit}"
    return f"{count} B"


def width(text: str) -> int:
    """Columns of a terminal: two for wide characters, none for marks on the one before.

    Unicode Standard Annex 11; ambiguous ones count as narrow.
    """
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def one_line(text: str, columns: int) -> str:
    """A text in one line of at most so many columns; white space becomes single spaces."""
    shown = printable(" ".join(text.split()))
    if width(shown) <= columns:
        return shown
    return _head(shown, columns - 3) + "..."


def _head(text: str, columns: int) -> str:
    for end, character in enumerate(text):
        columns -= _columns(character)
        if columns < 0:
            return text[:end]
    return text


def _tail(text: str, columns: int) -> str:
    """The end of a path says more than its beginning."""
    shown = printable(" ".join(text.split()))
    return shown if width(shown) <= columns else "..." + _head(shown[::-1], columns - 3)[::-1]


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns of equal width, the first `left` of them to the left and the others to the right."""
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        padding = [" " * (w - width(cell)) for w, cell in zip(widths, row, strict=True)]
        names = [cell + pad for pad, cell in zip(padding[:left], row[:left], strict=True)]
        figures = [pad + cell for pad, cell in zip(padding[left:], row[left:], strict=True)]
        return "  ".join([*names, *figures]).rstrip()

    return "\n".join(map(line, rows))


def _sizes(facts: Facts) -> str:
    """What is claimed against what can be used, and where the rest went."""
    again = facts["duplicates"]
    rows = [f"{size(facts['size_on_disk'])} on disk, {size(facts['usable_bytes'])} of text usable"]
    kept = f"{facts['documents']:,} documents in {len(facts['files']):,} file(s)"
    rows.append(f"kept: {kept}, {facts['bytes']:,} bytes, {facts['characters']:,} characters")
    if facts["tokens"] is not None:
        rows[-1] += f", {facts['tokens']:,} tokens ({_ratio(facts['bytes_per_token'])} bytes each)"
    rows.append(
        f"of these the same as an earlier one: {again['documents']:,} documents,"
        f" {again['bytes']:,} bytes (not counted as usable)"
    )
    rows.append(f"dropped: {_dropped(facts['dropped']) or 'nothing'}")
    if facts["passed_over"]:
        members = (f"{count:,} {reason}" for reason, count in facts["passed_over"].items())
        rows.append(f"passed over in archives: {printable(', '.join(members))}")
    if facts["encodings"]:
        names = (f"{name} {files:,}" for name, files in facts["encodings"].items())
        rows.append(f"encodings: {', '.join(names)} file(s)")
    return "\n".join(rows)


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _dropped(reasons: Facts) -> str:
    """A part of a document may be dropped without the rest of it: no documents, but bytes."""
    return ", ".join(
        f"{drop['documents']:,} documents ({reason}, {drop['bytes']:,} bytes)"
        if drop["documents"]
        else f"{drop['bytes']:,} bytes ({reason})"
        for reason, drop in reasons.items()
    )


def _files(files: Sequence[Facts]) -> str:
    """The largest on disk, in the order of their names."""
    largest = sorted(files, key=lambda file: file["size_on_disk"], reverse=True)[:FILES_SHOWN]
    names = {file["path"] for file in largest}
    shown = [file for file in files if file["path"] in names]
    heads = ("file", "on disk", "encoding", "documents", "text", "characters", "tokens")
    rows = [(*heads, "bytes/token", "dropped", "repeated"), *map(_file_row, shown)]
    if all(file["tokens"] is None for file in files):
        rows = [(*row[:6], *row[8:]) for row in rows]
    left = len(files) - len(shown)
    return aligned(rows) + (f"\nand {left:,} smaller file(s); all are in --json" if left else "")


def _file_row(file: Facts) -> tuple[str, ...]:
    tokens, again = file["tokens"], file["duplicates"]["documents"]
    return (
        _tail(file["path"], TEXT // 2),
        size(file["size_on_disk"]),
        file["encoding"] or "-",
        f"{file['documents']:,}",
        size(file["bytes"]),
        f"{file['characters']:,}",
        "-" if tokens is None else f"{tokens:,}",
        _ratio(file["bytes_per_token"]),
        f"{sum(drop['documents'] for drop in file['dropped'].values()):,}",
        f"{again:,}",
    )


def _classes(classes: Facts) -> str:
    if not any(one["characters"] for one in classes.values()):
        return ""
    shares = ", ".join(f"{name} {one['share']:.1%}" for name, one in classes.items())
    return f"characters: {shares}\n(other: white space, symbols, other scripts)"


def _quantiles(lengths: Facts) -> str:
    """Length of a document, in characters and, if they were counted, in tokens."""
    rows = [(unit, facts) for unit, facts in lengths.items() if facts and facts["quantiles"]]
    if not rows:
        return ""
    called = {"0%": "shortest", "50%": "median", "100%": "longest"}
    names = (called.get(name, name) for name in rows[0][1]["quantiles"])
    lines = [("length of a document", *names, "mean")]
    for unit, facts in rows:
        figures = (f"{value:,}" for value in facts["quantiles"].values())
        lines.append((unit, *figures, f"{facts['mean']:,.1f}"))
    return aligned(lines)


def _chart(lengths: Facts) -> str:
    """Documents by length, each bin twice as wide as the one before."""
    bins = lengths["histogram"]
    if not bins:
        return ""
    most, documents = max(b["documents"] for b in bins), sum(b["documents"] for b in bins)
    characters = sum(b["characters"] for b in bins)
    rows = [("length in characters", " " * BAR, "documents", "of them", "of the text")]
    for b in bins:
        # An exact bar of less than a column would look like none.
        bar = "#" * max(b["documents"] > 0, round(BAR * b["documents"] / most))
        span = f"{b['from']:>11,} - {b['to']:>11,}"
        shares = (f"{b['documents'] / documents:.1%}", f"{b['characters'] / characters:.1%}")
        rows.append((span, bar + " " * (BAR - len(bar)), f"{b['documents']:,}", *shares))
    return aligned(rows)


def _rows_of_fixed_length(facts: Facts | None) -> str:
    if facts is None or facts["padding_share"] is None:
        return ""
    return (
        f"one document per row of {facts['length']:,} tokens: padding would be"
        f" {facts['padding_share']:.1%} of all positions,\n"
        f"and truncation would lose {facts['truncation_share']:.1%} of all tokens;"
        " blocks cut from the joined documents do neither"
    )


def _lines(facts: Facts) -> str:
    if not facts["lines"]:
        return ""
    most = f"; each may be up to {facts['error']:,} more" if facts["error"] else ""
    head = f"most frequent of {facts['counted']:,} lines (first {facts['compared']} characters"
    rows = [f"{row['count']:>11,}  {one_line(row['line'], TEXT)}" for row in facts["lines"]]
    return "\n".join([f"{head} compared{most}):", *rows])


def _beginnings(rows: Sequence[Facts]) -> str:
    if not rows:
        return ""
    shown = [f"  {one_line(row['text'], TEXT)}" for row in rows]
    return "\n".join([f"beginnings of {len(rows)} documents drawn at random:", *shown])
