"""The text that a tokenizer is trained on: cleaned, sampled, and read as often as it is needed."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from zhgpt import sources
from zhgpt.bpe import dropped
from zhgpt.cleaning import Cleaner
from zhgpt.clock import Clock
from zhgpt.duplicates import Deduplicator, utf8_size
from zhgpt.errors import InputError
from zhgpt.frequent import LineCounts
from zhgpt.recipe import BpeRecipe, TextSection
from zhgpt.text import Tally

Say = Callable[[str], None]


def without_folders(section: TextSection) -> TextSection:
    """Where the text lay on this machine is nobody's concern; a data set's name on a hub stays."""
    files = tuple(Path(path).name for path in section.train_files)
    dataset = section.dataset and {key: _local(value) for key, value in section.dataset.items()}
    return replace(section, train_files=files, dataset=dataset)


def _local(value: str) -> str:
    path = Path(value)
    return path.name if path.is_absolute() or path.exists() or ".." in path.parts else value


class Reading:
    """The documents of a recipe's files, at least one, and what was read of them the last time.

    With `sample_bytes`, those of the smallest hashes (XXH3 of their text with the seed) that are
    so many bytes together: the same ones in any order. All documents that are equal belong to the
    sample, or none. What is found out of the whole text first is found out here, in passes of
    its own.
    """

    def __init__(self, recipe: BpeRecipe, say: Say):
        self.section, self.cleaning, self.say = recipe.corpus, recipe.cleaning, say
        self.seed = recipe.bpe.seed
        self.sources = sources.open_training(self.section, say)
        self.repeated: frozenset[str] = frozenset()
        self.highest: int | None = None
        self._begin()
        if self.cleaning.repeated_lines is not None:
            self.repeated = self._repeated_lines(self.cleaning.repeated_lines)
        if recipe.bpe.sample_bytes is not None:
            self.highest = self._highest_hash(recipe.bpe.sample_bytes)

    def _begin(self) -> None:
        self.tally, self.removed = Tally(), Counter()
        self.documents = self.bytes = self.characters = 0
        self.share = 0.0

    def texts(self, doing: str = "") -> Iterator[str]:
        """One pass; `doing` is what for, said with the time left. InputError if there is no text.

        `share` of it is done at any time.
        """
        self._begin()
        for place, text in self._cleaned(doing):
            if self.highest is None or self._hash(text) <= self.highest:
                self.documents += 1
                self.bytes += utf8_size(text)
                self.characters += len(text)
                yield text
            else:
                self.tally.drop("not in the sample", utf8_size(text), place)
        if not self.documents:
            raise InputError(f"train_files: no text in them{dropped(self.tally)}.")

    def _cleaned(self, doing: str) -> Iterator[tuple[str, str]]:
        alone, among = Cleaner(self.cleaning, self.repeated), Deduplicator(self.cleaning)
        for place, text in self._read(doing):
            for step in (alone, among):
                text, reason, removed = step(text)
                self.removed.update(removed)
                if reason:
                    self.tally.drop(reason, utf8_size(text), place)
                    break
            else:
                yield place, text

    def _read(self, doing: str) -> Iterator[tuple[str, str]]:
        clock, before, total = Clock(self.say), 0, sum(source.size for source in self.sources)
        for source in self.sources:
            for text in source.documents(self.tally):
                yield source.name, text
                self.share = (before + source.position()) / total
                if doing:
                    clock.line(lambda seconds: progress(doing, self.share, seconds))
            before += source.size

    def _repeated_lines(self, share: float) -> frozenset[str]:
        counts = LineCounts()
        for _, text in self._read("looking for lines that recur"):
            counts.add(text)
        self._begin()
        return counts.repeated(share)

    def _highest_hash(self, sample_bytes: int) -> int | None:
        found = [(self._hash(text), utf8_size(text)) for _, text in self._cleaned("sampling")]
        self._begin()
        hashes, sizes = np.array(found, np.uint64).reshape(-1, 2).T
        order = np.argsort(hashes)
        last = np.searchsorted(np.cumsum(sizes[order]), sample_bytes)
        return int(hashes[order][last]) if last < len(found) else None

    def _hash(self, text: str) -> int:
        return xxhash.xxh3_64_intdigest(text.encode("utf-8"), self.seed)

    def _names(self) -> list[str]:
        if self.section.dataset:
            return ["/".join(without_folders(self.section).dataset.values())]
        return [Path(source.name).name for source in self.sources]

    def ledger(self) -> dict[str, Any]:
        """Names without folders, and content hashes: the same text on another machine.

        Bytes read = `bytes` + those of the drops + those removed, by each step of cleaning.
        """
        return {
            "files": [
                {"name": name, "bytes": source.size, "digest": source.digest}
                for name, source in zip(self._names(), self.sources, strict=True)
            ],
            "documents": self.documents,
            "bytes": self.bytes,
            "characters": self.characters,
            "read": {"documents": self.tally.documents, "bytes": self.tally.bytes},
            "dropped_documents": dict(self.tally.dropped_documents),
            "dropped_bytes": dict(self.tally.dropped_bytes),
            "removed_bytes": dict(self.removed),
        }


def progress(doing: str, share: float, seconds: float) -> str:
    left = seconds * (1 - share) / share if share else 0
    return f"{doing}: {share:.0%}, {left:,.0f} s left"
