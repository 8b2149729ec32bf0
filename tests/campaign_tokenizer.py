"""Kills the training of a tokenizer again and again, and looks at what lies under its name.

    python tests/campaign_tokenizer.py --kills 200 --seed 0

Each attempt is a process of run_bpe.py that SIGKILL ends after a random time, or before a random
one of its changes to the disk. A life begins with no tokenizer or with an older one that is to be
replaced, and ends when an attempt comes to its end. After each kill there must lie, under the
name, nothing or the whole new one, and where there was one the whole older or the whole new one;
only between the two renames of a replacement it may lie beside, and the next attempt must put it
back before anything else. In the end the files are those of a training that nobody disturbed.
Prints the kills by what was under way; exit code 1 if anything differs.
"""

import argparse
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
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every attempt is a fork
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import tiny_stories, write_jsonl

import run_bpe
from zhgpt import bpe_folder
from zhgpt.errors import exit_code

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
OLDER, NEW = 300, 420  # entries


class Campaign:
    """One recipe, and what the kills of its training came to."""

    def __init__(self, work: Path, seed: int):
        self.work, self.draw = work, random.Random(seed)
        self.folder = work / "tokenizer" / "t"
        self.kills, self.lives, self.faults = Counter(), 0, []
        text = write_jsonl(work / "text.jsonl", tiny_stories(400, seed=3))
        recipe = {
            "name": "t",
            "purpose": "killed",
            "corpus": {"train_files": [str(text)]},
            "bpe": {"vocab_size": NEW, "pre_tokenizer": "modern"},
        }
        (work / "t.json").write_text(json.dumps(recipe), encoding="utf-8")
        self.twins = {entries: self.twin(entries) for entries in (OLDER, NEW)}

    def twin(self, entries: int) -> dict[str, bytes]:
        """What an undisturbed training gives, and how long it is."""
        began = time.monotonic()
        self.attempt(entries)
        self.seconds = time.monotonic() - began
        self.changes = int((self.work / "changes").read_text())
        made = whole(self.folder)
        shutil.copytree(self.folder, self.work / f"twin-{entries}")
        shutil.rmtree(self.folder)
        return made

    def run(self, kills: int) -> None:
        while self.kills.total() < kills:
            self.life(kills)

    def life(self, kills: int) -> None:
        self.lives += 1
        shutil.rmtree(self.folder.parent)
        replaced = self.draw.random() < 0.6
        if replaced:
            shutil.copytree(self.work / f"twin-{OLDER}", self.folder)
        state = ""
        while state not in ("finished", "behind the rename"):
            if self.kills.total() == kills:
                self.attempt(NEW, replaced)
                break
            by = self.draw.choice(["seconds", "changes"])
            limit = self.draw.random() * 1.1 * getattr(self, by)
            if by == "changes" and self.draw.random() < 0.7:  # most of them are of reading
                limit = self.changes + self.draw.randint(-9, 12 * replaced)
            killed = self.attempt(NEW, replaced, **{by: limit})
            state = self.under_way(replaced) if killed else "finished"
            self.kills.update([state] * killed)
        self.compare()

    def under_way(self, replaced: bool) -> str:
        """Of an attempt that was killed, by what it has left; what must not be is a fault."""
        beside = {path.name for path in self.folder.parent.glob(".t.*")}
        there = whole(self.folder) if self.folder.exists() else None
        if there == self.twins[NEW]:
            return "behind the rename"
        if replaced and there is None:
            if whole(self.folder.with_name(".t.old")) != self.twins[OLDER]:
                self.faults.append("the older tokenizer is gone")
            return "between the renames"
        if there != (self.twins[OLDER] if replaced else None):
            self.faults.append(f"under the name lies {sorted(there or ())}")
        return "writing" if ".t.partial" in beside else "reading and training"

    def compare(self) -> None:
        if whole(self.folder) != self.twins[NEW]:
            self.faults.append("the tokenizer differs from the twin")
        left = {path.name for path in self.folder.parent.iterdir()} - {"t", ".t.old"}
        if left:
            self.faults.append(f"beside it lie {sorted(left)}")

    def attempt(self, entries: int, overwrite: bool = True, **limits: float) -> bool:
        """Whether it was killed."""
        child = os.fork()
        if not child:
            self.train(entries, overwrite, **limits)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if status and not killed:
            self.faults.append(f"status {status}")
        return killed

    def train(
        self,
        entries: int,
        overwrite: bool,
        seconds: float | None = None,
        changes: float | None = None,
    ) -> None:
        """In the process of an attempt, which ends here."""
        code, made = 1, 0

        def count(event: str, _: tuple) -> None:
            nonlocal made
            if event in CHANGES:
                if changes is not None and made >= changes:
                    os.kill(os.getpid(), signal.SIGKILL)
                made += 1

        try:
            sys.addaudithook(count)
            if seconds is not None:
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            os.dup2(os.open(self.work / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
            words = [str(self.work / "t.json"), "--output_dir", str(self.folder)]
            words += ["--vocab_size", str(entries)]
            code = exit_code(run_bpe.run, words + ["--overwrite"] * overwrite)
            if seconds is None and changes is None:
                (self.work / "changes").write_text(str(made))
        finally:
            os._exit(code)

    def table(self) -> str:
        facts = {"kills": self.kills.total(), "lives": self.lives} | dict(
            sorted(self.kills.items())
        )
        return "\n".join(f"{name:>20}  {number:,}" for name, number in facts.items())


def whole(folder: Path) -> dict[str, bytes]:
    """What is the same in every training of a folder's tokenizer; all of its files are there."""
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found.keys() == {*bpe_folder.FILES}, sorted(found)
    assert facts["fingerprint"] in found["README.md"].decode()
    return {name: found[name] for name in ("tokenizer.json", "tokenizer_config.json")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        campaign = Campaign(Path(work), options.seed)
        campaign.run(options.kills)
    print(campaign.table())
    for fault in campaign.faults:
        print("FAULT", fault)
    return int(bool(campaign.faults))


if __name__ == "__main__":
    sys.exit(main())
