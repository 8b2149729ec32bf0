"""The text that a tokenizer is trained on, and what was read of it."""

from collections.abc import Callable, Iterator
from typing import Any

from zhgpt.bpe import dropped
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents, file_hash, find_files

Say = Callable[[str], None]


class Reading:
    """The documents of some files, at least one, and what was read of them so far."""

    def __init__(self, section: TextSection, say: Say):
        self.files = find_files(section.train_files, "train_files")
        self.section, self.say = section, say
        self.tally = Tally()
        self.documents = self.bytes = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for number, path in enumerate(self.files, 1):
            for text in documents(path, self.section, self.tally):
                self.documents += 1
                self.bytes += len(text.encode("utf-8"))
                self.characters += len(text)
                yield text
            self.say(f"read {number}/{len(self.files)} files, {self.bytes / 1e6:.1f} MB")
        if not self.documents:
            raise InputError(f"train_files: no text in them{dropped(self.tally)}.")
        for line in self.tally.lines():
            self.say(line)

    def ledger(self) -> dict[str, Any]:
        """File names without folders, and content hashes: the same text on another machine."""
        return {
            "files": [
                {"name": p.name, "bytes": p.stat().st_size, "xxh3_128": file_hash(p)}
                for p in self.files
            ],
            "documents": self.documents,
            "bytes": self.bytes,
            "characters": self.characters,
            "dropped_documents": dict(self.tally.dropped_documents),
        }
