"""Kills the preparation of a corpus again and again, and compares what comes out with a twin.

    python tests/campaign_preparation.py --kills 30 --seed 0 --files FILE... --part_bytes 800000

Each attempt is a process that SIGKILL ends after a random time, or before a random one of its
changes to the disk; the next goes on from what it left. When one comes to its end, its blocks and
ledger must be byte for byte those of a preparation that nobody disturbed, no finished part may
have been made again, and nothing else may lie in the cache. Then the next life begins, until there
were so many kills. Prints the kills by phase; exit code 1 if anything differs.
"""

import argparse
import functools
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from conftest import tiny_stories, write_jsonl
from tokenizers import Tokenizer

from zhgpt import blocks, contamination, corpus, parts, preparation
from zhgpt.recipe import CleaningSection, CorpusSection

TOKENIZER = Path(__file__).resolve().parent.parent / "tokenizer" / "village_4k" / "tokenizer.json"
CLEANINGS = {
    "plain": CleaningSection(),
    "cleaned": CleaningSection(
        control_characters=True, repeated_lines=0.1, duplicates="paragraphs", near_duplicates=0.8
    ),
}
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
# What a process is in while one of these runs; the innermost counts.
PHASES = [
    (preparation.Preparation, "_lines", "counting lines"),
    (parts.Maker, "make", "reading"),
    (parts.Maker, "_write_rows", "encoding"),
    (parts.Maker, "_seal", "sealing"),
    (contamination, "find", "contamination"),
    (blocks, "_deal", "dealing"),
    (blocks, "_cut", "cutting"),
    (preparation, "check_laws", "ledger"),
    (os, "replace", "renaming"),
    (shutil, "rmtree", "tidying up"),
]


@dataclass
class Campaign:
    """A corpus, how it is prepared, and what the kills came to."""

    files: tuple[str, ...]
    clean: CleaningSection
    part_bytes: int
    work: Path
    draw: random.Random
    phases: Counter = field(default_factory=Counter)
    lives: int = 0
    kept: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.work / "cache" / "zhgpt"

    def run(self, kills: int) -> None:
        self.attempt()
        (twin,) = (path for path in self.cache.iterdir() if path.is_dir())
        self.twin = contents(twin)
        self.whole = json.loads((self.work / "end.json").read_text())
        while sum(self.phases.values()) < kills:
            shutil.rmtree(self.cache)
            self.life(kills)

    def life(self, kills: int) -> None:
        """From an empty cache to finished blocks."""
        self.lives += 1
        killed = True
        while killed and sum(self.phases.values()) < kills:
            made = len(self.sealed()) / self.whole["parts"]
            by = self.draw.choice(["seconds", "changes"])
            # What comes before and behind the parts is done anew every time.
            first, parts, rest = self.whole[by]
            limit = self.draw.random() * 1.1 * (first + (1 - made) * parts + rest)
            killed = self.attempt(**{by: limit})
            if killed:
                self.phases[(self.work / "phase").read_text().rstrip()] += 1
        if killed:
            self.attempt()
        self.compare()

    def attempt(self, seconds: float | None = None, changes: float | None = None) -> bool:
        """Whether it was killed."""
        before = self.sealed()
        (self.work / "made").write_text("")
        child = os.fork()
        if not child:
            self.prepare(seconds, changes)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status:
            self.faults.append(f"status {status}")
        self.kept += len(before)
        again = {int(n) for n in (self.work / "made").read_text().split()} & before.keys()
        self.faults += [f"part {number} was made again" for number in again]
        if killed and not any(self.finished()):
            after = self.sealed()
            self.faults += [f"part {n} changed" for n in before if after.get(n) != before[n]]
        return killed

    def prepare(self, seconds: float | None, changes: float | None) -> None:
        """In the process of an attempt, which ends here."""
        code = 1
        try:
            watch = Watch(self.work, changes)
            self.patch(watch)
            if seconds is not None:
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            tokenizer = Tokenizer.from_file(str(TOKENIZER))
            section = CorpusSection(
                train_files=self.files,
                block_size=64,
                validation_fraction=0.05,
                contamination="drop",
                contamination_similarity=0.8,
            )
            end = tokenizer.token_to_id("<|endoftext|>")
            corpus.prepare(section, self.clean, tokenizer, end, lambda line: None)
            watch.mark()
            (self.work / "end.json").write_text(json.dumps(watch.facts()))
            code = 0
        finally:
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)

    def patch(self, watch: "Watch") -> None:
        parts.BYTES_PER_PART, blocks._BYTES_PER_BUCKET = self.part_bytes, self.part_bytes // 4
        datasets.config.HF_DATASETS_CACHE = self.cache.parent
        for place, name, phase in PHASES:
            setattr(place, name, watch.within(getattr(place, name), phase))

    def finished(self) -> list[Path]:
        folders = (path for path in self.cache.glob("*") if path.is_dir())
        return [path for path in folders if path.suffix != ".partial"]

    def partial(self) -> list[Path]:
        return list(self.cache.glob("*.partial"))

    def sealed(self) -> dict[int, tuple]:
        """Finished parts and what their files are to the system."""
        found = {}
        for folder in self.partial():
            for number in range(len(parts.seals(folder))):
                paths = [parts._path(folder, number, kind) for kind in ("arrow", "json")]
                facts = [path.stat() for path in paths if path.exists()]
                found[number] = tuple((f.st_ino, f.st_mtime_ns) for f in facts)
        return found

    def compare(self) -> None:
        folders = [path for path in self.cache.iterdir() if path.is_dir()]
        names = {path.name for path in self.cache.iterdir()}
        if len(folders) != 1 or names != {folders[0].name, folders[0].name + ".lock"}:
            self.faults.append(f"in the cache lie {sorted(names)}")
        elif contents(folders[0]) != self.twin:
            self.faults.append("the blocks differ from the twin's")

    def table(self) -> str:
        facts = {"parts": self.whole["parts"], "lives": self.lives, "parts kept": self.kept}
        facts |= {"kills": sum(self.phases.values())}
        return "\n".join(f"{name:>20}  {n:,}" for name, n in (facts | self.phases).items())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Watch:
    """What a process does to the disk, counted; what it is at, where a kill leaves it to be read.

    Kills the process before change number `limit`.
    """

    def __init__(self, work: Path, limit: float | None):
        self.work, self.limit, self.changes = work, limit, 0
        self.phase, self.made, self.marks = "opening files", 0, []
        self.file = os.open(work / "phase", os.O_RDWR | os.O_CREAT)
        self.note(self.phase)
        self.mark()
        sys.addaudithook(self.hook)

    def hook(self, event: str, _: tuple) -> None:
        if event in CHANGES:
            if self.limit is not None and self.changes >= self.limit:
                os.kill(os.getpid(), signal.SIGKILL)
            self.changes += 1

    def note(self, phase: str) -> None:
        self.phase = phase
        os.pwrite(self.file, f"{phase:<20}".encode(), 0)

    def mark(self) -> None:
        self.marks.append({"seconds": time.monotonic(), "changes": self.changes})

    def within(self, function: Callable, phase: str) -> Callable:
        @functools.wraps(function)
        def noted(*args, **settings):
            before = self.phase
            self.note(phase)
            if phase in ("reading", "sealing"):
                self.mark() if phase == "reading" else self.log(args[1])
            try:
                return function(*args, **settings)
            finally:
                self.note(before)
                if phase == "reading":
                    self.mark()

        return noted

    def log(self, number: int) -> None:
        """That a part is made."""
        self.made += 1
        descriptor = os.open(self.work / "made", os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{number}\n".encode())
        os.close(descriptor)

    def facts(self) -> dict[str, Any]:
        """Number of parts; seconds and changes before them, while they are made, behind them."""
        steps = {
            by: [b[by] - a[by] for a, b in itertools.pairwise(self.marks)]
            for by in ("seconds", "changes")
        }
        return {"parts": self.made} | steps


def stories(folder: Path) -> tuple[str, ...]:
    """Files with documents that stand twice, nearly twice, and lines that recur."""
    first = [f"卷首语。\n{story}" for story in tiny_stories(150, seed=7)]
    second = [*tiny_stories(150, seed=8), *first[::9], *(f"{s}\n完。" for s in first[4::9])]
    files = {"a.jsonl": first, "b.jsonl": second}
    return tuple(str(write_jsonl(folder / name, texts)) for name, texts in files.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="for each kind of cleaning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", default=[])
    parser.add_argument("--part_bytes", type=int, default=6_500)
    args = parser.parse_args()
    faults = 0
    for name, clean in CLEANINGS.items():
        with tempfile.TemporaryDirectory(prefix="campaign-") as work:
            files = tuple(args.files) or stories(Path(work))
            draw = random.Random(f"{args.seed} {name}")
            campaign = Campaign(files, clean, args.part_bytes, Path(work), draw)
            began = time.monotonic()
            campaign.run(args.kills)
            print(f"{name}: {time.monotonic() - began:.1f} s\n{campaign.table()}", flush=True)
            for fault in campaign.faults:
                print(f"FAULT: {fault}")
            faults += len(campaign.faults)
    print(f"{faults} fault(s)")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
