"""Tokenizers side by side on the same text: python run_bpe.py --compare DIR DIR --files FILE"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zhgpt import bpe_page, bpe_table
from zhgpt.bpe import dropped
from zhgpt.bpe_counts import Amount, Counts, Part, overlap, parts
from zhgpt.candidate import Candidate
from zhgpt.clock import Clock
from zhgpt.errors import FINISHED, InputError
from zhgpt.passages import Passages
from zhgpt.recipe import TextSection
from zhgpt.report import printable
from zhgpt.text import Tally, find_files, sourced

_BATCH = 1 << 20  # bytes

Facts = dict[str, Any]


class Reading:
    """The text in batches of parts, with what came of it so far. InputError if there is none."""

    def __init__(self, section: TextSection, seed: int):
        self.section = section
        self.files = find_files(section.train_files, "files", say)
        self.tally, self.amount, self.passages = Tally(), Amount(), Passages(seed)

    def __iter__(self) -> Iterator[list[Part]]:
        batch: list[Part] = []
        size, clock = 0, Clock(say)
        for part in self._parts():
            self.amount.add(part)
            self.passages.add(part.source, part.text)
            batch.append(part)
            size += part.size
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
                clock.line(self._progress)
        if batch:
            yield batch
        if not self.amount.sums:
            raise InputError(f"--files: no text in them{dropped(self.tally)}.")

    def _parts(self) -> Iterator[Part]:
        number = 0
        for path in self.files:
            for source, text in sourced(path, self.section, self.tally):
                yield from parts(number, printable(source), text)
                number += 1

    def _progress(self, seconds: float) -> str:
        done = self.amount.of(None)["bytes"]
        return f"{done / 1e6:,.1f} MB compared in {seconds:.0f} s"

    def as_dict(self) -> Facts:
        sources = {source: dict(self.amount.of(source)) for source in sorted(self.amount.sums)}
        files = [str(path) for path in self.files]
        return {"files": files, **self.amount.of(None), "sources": sources}


def compare(candidates: Sequence[Candidate], reading: Reading) -> Facts:
    """Everything of the table and of --json, as JSON has it."""
    counts = [Counts(candidate) for candidate in candidates]
    for batch in reading:
        for count in counts:
            count.add(batch)
    return {
        "text": reading.as_dict(),
        "dropped_documents": dict(reading.tally.dropped_documents),
        "tokenizers": [count.as_dict(reading.amount) for count in counts],
        "overlap": overlap(candidates),
    }


def run(argv: Sequence[str]) -> int:
    options = _options(argv)
    if options.output:
        bpe_page.require_free(options.output, options.overwrite)
    candidates = [Candidate(folder) for folder in options.compare]
    section = TextSection(train_files=options.files, text_column=options.text_column)
    reading = Reading(section, options.seed)
    facts = compare(candidates, reading)
    for line in reading.tally.lines():
        say(line)
    if options.output:
        cuts = [_cut(row, candidates) for row in reading.passages.rows()]
        bpe_page.write(options.output, facts, cuts, options.overwrite)
        say(f"{options.output}: {len(cuts)} passages as each tokenizer cuts them")
    print(json.dumps(facts, indent=1) if options.json else bpe_table.text(facts), flush=True)
    return FINISHED


def _cut(row: tuple[str, str], candidates: Sequence[Candidate]) -> bpe_page.Passage:
    source, text = row
    return bpe_page.Passage(source, text, [list(one.pieces(text)) for one in candidates])


def say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # standard output is the result alone


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_bpe.py", description="Tokenizers side by side on the same text."
    )
    folders = "folders of tokenizers that AutoTokenizer loads"
    parser.add_argument("--compare", nargs="+", metavar="DIR", required=True, help=folders)
    files = "files, folders or globs; the column source, if there is one, is compared apart"
    parser.add_argument("--files", nargs="+", metavar="FILE", required=True, help=files)
    parser.add_argument("--text_column", metavar="NAME", default="text")
    page = "a page that shows the same passages as each tokenizer cuts them"
    parser.add_argument("--output", metavar="PAGE.html", type=Path, help=page)
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing of passages")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args(argv)
    twice = {folder for folder in options.compare if options.compare.count(folder) > 1}
    if twice:
        raise InputError(f"--compare: {min(twice)} is named twice.")
    return options
