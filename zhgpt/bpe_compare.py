"""Tokenizers side by side on the same text: python run_bpe.py --compare DIR DIR --files FILE"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from zhgpt.bpe import dropped, longest_entries, require_folder
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents, find_files


@dataclass
class _Count:
    """What a tokenizer made of some text."""

    tokens: int = 0
    bytes: int = 0
    characters: int = 0
    used: set[int] = field(default_factory=set)
    whole: bool = True

    def add(self, text: str, ids: Sequence[int], whole: bool) -> None:
        self.tokens += len(ids)
        self.bytes += len(text.encode("utf-8"))
        self.characters += len(text)
        self.used.update(ids)
        self.whole = self.whole and whole

    def row(self, entries: int) -> tuple[str, ...]:
        return (
            f"{entries:,}",
            f"{self.bytes / self.tokens:.3f}" if self.tokens else "no text",
            f"{self.characters / self.tokens:.3f}" if self.tokens else "no text",
            f"{self.tokens:,}",
            f"{1 - len(self.used) / entries:.1%}",
            "yes" if self.whole else "NO",
        )


def compare(folders: Sequence[str], section: TextSection) -> str:
    """A table of tokenizers on the same text, per file and over all of them, and what is longest
    in each. More bytes per token is better packing; `unused` are entries that never came up.
    """
    tokenizers = {folder: _as_text(folder) for folder in folders}
    files, tally = find_files(section.train_files, "files"), Tally()
    counts = {(name, folder): _Count() for name in (*files, "all") for folder in folders}
    for path in files:
        for text in documents(path, section, tally):
            for folder, tokenizer in tokenizers.items():
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                whole = tokenizer.decode(ids, skip_special_tokens=False) == text
                for name in (path, "all"):
                    counts[name, folder].add(text, ids, whole)
    if not any(count.tokens for count in counts.values()):
        raise InputError(f"files: no text in them{dropped(tally)}.")
    rows = [
        (str(name), folder, *count.row(tokenizers[folder].get_vocab_size()))
        for (name, folder), count in counts.items()
        if name != "all" or len(files) > 1
    ]
    lines = [_table(rows), *tally.lines(), "", "The longest entries:"]
    for folder, tokenizer in tokenizers.items():
        lines.append(f"{folder}: {'  '.join(longest_entries(tokenizer, 8))}")
    return "\n".join(lines)


def _as_text(folder: str) -> Tokenizer:
    """A folder's tokenizer, to which the name of a special token in a text is text."""
    require_folder(folder)
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    heads = ("text", "tokenizer", "entries", "bytes/token", "chars/token", "tokens", "unused")
    rows = [(*heads, "round trip"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: tuple[str, ...]) -> str:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        figures = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        return "  ".join([*names, *figures])

    return "\n".join(line(row) for row in rows)
