"""All that lies between the sources of a corpus and its blocks, in one folder, resumable."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from tokenizers import Tokenizer

from zhgpt import blocks, contamination, disk, parts
from zhgpt.cleaning import Cleaner
from zhgpt.duplicates import Deduplicator, signature
from zhgpt.encoder import Encoder
from zhgpt.errors import InputError
from zhgpt.frequent import LineCounts
from zhgpt.ledger import (
    SPLITS,
    Ledger,
    check_laws,
    collected,
    require_block,
    require_documents,
    tally_of,
)
from zhgpt.recipe import CleaningSection, CorpusSection
from zhgpt.sources import Source
from zhgpt.text import Tally

Say = Callable[[str], None]

# Beside the parts, buckets and blocks each have all tokens once while blocks are cut.
_COPIES = 2


class _Cleaning:
    """What a document becomes by itself, and then among all that came before it."""

    def __init__(self, section: CleaningSection, repeated_lines: frozenset[str]):
        self.cleaner, self.deduplicator = Cleaner(section, repeated_lines), Deduplicator(section)

    def __call__(self, document: str) -> tuple[str, str | None, dict[str, int]]:
        document, reason, removed = self.cleaner(document)
        if reason:
            return document, reason, removed
        document, reason, more = self.deduplicator(document)
        return document, reason, removed | more

    def save(self, path: Path) -> None:
        np.savez(path, **self.deduplicator.state)
        disk.sync(path)

    def restore(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as state:
            self.deduplicator.state = dict(state)


@dataclass(frozen=True)
class Preparation:
    """Makes the blocks of `found` in `folder`, which is this preparation's alone."""

    folder: Path
    section: CorpusSection
    clean: CleaningSection
    found: dict[str, list[Source]]
    tokenizer: Tokenizer
    eos_id: int
    say: Say

    def run(self) -> Path:
        """The folder of the finished blocks and their ledger; finished parts are made once.

        InputError for text that cannot be read or is too short, or that both splits share.
        """
        self.folder.mkdir(exist_ok=True)
        engine = Encoder(self.tokenizer)
        if engine.reason:
            self.say(f"corpus: encoded by {engine.name}: {engine.reason}")
        self._make_parts(engine)
        self._require_unchanged()
        seals = parts.seals(self.folder)
        for line in tally_of(seals).lines():
            self.say(f"corpus: {line}")
        ledger = collected(seals, self.found)
        ledger |= {"encoder": engine.name, "validation_split": self._split()}
        left_out = self._judge_contamination(ledger)
        ready = self.folder / "ready"
        ready.mkdir()
        digests = []
        for split in SPLITS:
            digest = xxhash.xxh3_128()
            facts = blocks.write(
                self.folder, ready, split, left_out, self.section, engine.dtype, digest
            )
            ledger[split] |= facts
            digests.append(digest.hexdigest())
        # Of each split on its own: a document that moves from one to the other is another corpus.
        pins = f"{digests} {self.section.block_size}"
        ledger["blocks_hash"] = xxhash.xxh3_128_hexdigest(pins.encode())
        check_laws(ledger)
        require_documents(ledger)
        require_block(ledger)
        disk.write_whole(ready / "ledger.json", json.dumps(ledger, ensure_ascii=False))
        disk.sync(ready)
        return ready

    @property
    def _ordered(self) -> list[tuple[int, Source]]:
        codes = {"validation": parts.VALIDATION, "train": parts.TRAIN}
        return [(code, source) for split, code in codes.items() for source in self.found[split]]

    def _make_parts(self, engine: Encoder) -> None:
        near = self.section.contamination_similarity < 1
        parts.Maker(
            folder=self.folder,
            sources=self._ordered,
            held_out=0.0 if self.found["validation"] else self.section.validation_fraction,
            clean=self._cleaner(),
            signature=signature if near else None,
            encoder=engine,
            eos_id=self.eos_id,
            say=self.say,
        ).make()

    def _cleaner(self) -> "_Cleaning | None":
        return None if self.clean == CleaningSection() else _Cleaning(self.clean, self._lines())

    def _lines(self) -> frozenset[str]:
        """Those that recur in more documents than the recipe allows: a pass of its own."""
        share, path = self.clean.repeated_lines, self.folder / parts.LINES
        if share is None:
            return frozenset()
        if not path.exists():
            self.say("corpus: looking through all of the text for lines that recur")
            counts = LineCounts()
            for _, source in self._ordered:
                for document in source.documents(Tally()):
                    counts.add(document)
            disk.write_whole(path, json.dumps(sorted(counts.repeated(share))))
        return frozenset(json.loads(path.read_text(encoding="utf-8")))

    def _split(self) -> str:
        if self.found["validation"]:
            return "validation_files"
        return f"{self.section.validation_fraction:.2%} of documents, by a hash of their content"

    def _require_unchanged(self) -> None:
        for _, source in self._ordered:
            if not source.unchanged():
                raise InputError(
                    f"{source.name}: changed while it was read. Start again when it is complete."
                )

    def _judge_contamination(self, ledger: Ledger) -> list[np.ndarray]:
        """A mask (documents,) of each part: what is left out of training."""
        hits, policy = self._contamination(ledger), self.section.contamination
        if not ledger["contamination"]:
            return hits.rows
        words = self._contaminated_words(hits)
        if policy == "refuse":
            raise InputError(
                f"corpus: {words}.\n"
                "A model is not evaluated on what it has learnt: remove them from one side, or have"
                " them\nleft out of training: --contamination drop (report: trained on, but said)"
            )
        self.say(f"corpus: {words}; {'left out' if policy == 'drop' else 'trained on'}")
        if policy == "report":
            return [np.zeros_like(mask) for mask in hits.rows]
        ledger["dropped"] |= ledger["contamination"]
        return hits.rows

    def _contamination(self, ledger: Ledger) -> contamination.Found:
        hits = contamination.find(self.folder, self.section.contamination_similarity)
        ledger["contamination"] = {
            reason: {"documents": number, "bytes": hits.bytes[reason]}
            for reason, number in hits.documents.items()
            if number
        }
        return hits

    def _contaminated_words(self, hits: contamination.Found) -> str:
        source, ids = hits.first
        counted = " and ".join(
            f"{number:,} {reason.replace('duplicate', 'duplicate' + 's' * (number > 1))}"
            for reason, number in hits.documents.items()
            if number
        )
        begins = self.tokenizer.decode([i for i in ids.tolist() if i != self.eos_id])
        name = self._ordered[source][1].name
        return f"{counted} in training, the first in {name}: {begins[:40]!r}"

    def room_needed(self) -> str:
        """What a full disk means here, and how much room the rest takes."""
        free, done = shutil.disk_usage(self.folder.parent).free, parts.seals(self.folder)
        needed, total = "2 bytes per byte of text", sum(s.size for _, s in self._ordered)
        if done and done[-1]["reached"]:
            here = sum(path.stat().st_size for path in self.folder.glob("part-*"))
            tokens = sum(table.nbytes for table in parts.tables(self.folder, ["input_ids"]))
            needed = (here + _COPIES * tokens) * total / done[-1]["reached"]
            needed = f"{needed / 1e6:,.0f} MB"
        return (
            f"corpus: the disk of the cache {self.folder.parent} is full ({free / 1e6:,.0f} MB are"
            f" free); all of it takes about {needed} while it is made.\n"
            f"{len(done)} part(s) are finished and kept: free some space, and the same command goes"
            " on there;\nor name a folder on another disk: HF_HOME=FOLDER"
        )
