"""The comparison of tokenizers as tables for a terminal or a page; nothing in it is obeyed."""

from collections.abc import Mapping, Sequence
from typing import Any

from zhgpt.report import printable
from zhgpt.survey_table import aligned, one_line

SOURCES_SHOWN = 20
LINE = 100  # columns

Facts = Mapping[str, Any]
Rows = list[tuple[str, ...]]

_FIGURES = {
    "bytes/token": ("bytes_per_token", "{:.3f}"),
    "chars/token": ("characters_per_token", "{:.3f}"),
    "tokens/Han": ("tokens_per_han_character", "{:.3f}"),
    "tokens": ("tokens", "{:,}"),
    "unknown": ("unknown_tokens", "{:,}"),
    "single bytes": ("single_byte_tokens", "{:,}"),
    "changed": ("changed_documents", "{:,}"),
}
MEANING = {
    "unused": "entries that never came up in this text, of all but special ones",
    "tokens/Han": "tokens for a Han character, each by its share of Han characters",
    "unknown": "tokens that stand for any text",
    "single bytes": "tokens of one byte of a character that has several",
    "changed": "documents that are not the same again from their tokens",
    "MB/s": "encoding, side by side on this machine",
}


def text(facts: Facts) -> str:
    """All of it, of what `bpe_compare.compare` gives."""
    amount = facts["text"]
    left = len(amount["sources"]) - SOURCES_SHOWN
    parts = [
        f"{amount['documents']:,} documents, {amount['bytes']:,} bytes,"
        f" {amount['characters']:,} characters, {amount['han_characters']:,} of them Han",
        aligned(overall(facts)),
        aligned(sources, left=2) if (sources := by_source(facts)) else "",
        f"and {left:,} more source(s); all are in --json" if left > 0 else "",
        aligned(shares) if (shares := overlap(facts)) else "",
        "The longest entries:\n" + "\n".join(longest(facts)),
        "\n".join(changes(facts)),
        "\n".join(f"{name}: {meaning}" for name, meaning in MEANING.items()),
    ]
    return "\n\n".join(filter(None, parts))


def overall(facts: Facts) -> Rows:
    """A row for each tokenizer, the heads first."""
    rows: Rows = [("tokenizer", "entries", "unused", *_FIGURES, "MB/s")]
    for one in facts["tokenizers"]:
        unused = one["unused_entries"] / one["entries"]
        speed = one["encoded_bytes_per_second"]
        rows.append(
            (
                printable(one["folder"]),
                f"{one['entries']:,}",
                f"{unused:.1%}",
                *_figures(one["all"]),
                f"{speed / 1e6:.1f}" if speed else "-",
            )
        )
    return rows


def by_source(facts: Facts) -> Rows:
    """A row for each source and tokenizer, of the sources with the most text; none for a single
    source, which would be the whole once more.
    """
    sources = facts["text"]["sources"]
    if len(sources) == 1:
        return []
    largest = sorted(sources, key=lambda name: (-sources[name]["bytes"], name))[:SOURCES_SHOWN]
    rows: Rows = [("source", "tokenizer", *_FIGURES)]
    for name in sorted(largest):
        for number, one in enumerate(facts["tokenizers"]):
            shown = "" if number else one_line(name, LINE // 2)
            rows.append((shown, printable(one["folder"]), *_figures(one["sources"][name])))
    return rows


def _figures(figures: Facts) -> tuple[str, ...]:
    return tuple(
        "-" if figures[key] is None else form.format(figures[key])
        for key, form in _FIGURES.values()
    )


def overlap(facts: Facts) -> Rows:
    """Which share of the row's entries the column's tokenizer has too; none for a single one."""
    if len(facts["tokenizers"]) == 1:
        return []
    names = [printable(one["folder"]) for one in facts["tokenizers"]]
    rows: Rows = [("its entries are also in", *names)]
    for number, (name, shared) in enumerate(zip(names, facts["overlap"], strict=True)):
        rows.append((name, *(f"{count / shared[number]:.1%}" for count in shared)))
    return rows


def longest(facts: Facts) -> Sequence[str]:
    return [
        one_line(f"{one['folder']}: {'  '.join(one['longest_entries'])}", LINE)
        for one in facts["tokenizers"]
    ]


def changes(facts: Facts) -> Sequence[str]:
    """An example for each tokenizer that does not give every text back."""
    return [
        printable(
            f"{one['folder']} changes {example['text']!r} to {example['again']!r}"
            f" ({example['source']})"
        )
        for one in facts["tokenizers"]
        if (example := one["changed_example"])
    ]
