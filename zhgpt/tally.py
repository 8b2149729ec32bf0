"""What was read and what of it was dropped, counted by reason, and how to say it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Tally:
    """What was read, in documents and UTF-8 bytes of text, and what of it was dropped and why.

    An empty file counts as an empty document. What is undecodable counts with its bytes as they
    lie in the file. `first_dropped` is the first place of each reason; `encodings` is what every
    file of characters was read as, by its path or path!member; `passed_over` is what in an archive
    was not read, by the archive's path and the reason.
    """

    documents: int = 0
    bytes: int = 0
    dropped_documents: Counter = field(default_factory=Counter)
    dropped_bytes: Counter = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, Counter] = field(default_factory=dict)

    def drop(self, reason: str, size: int, place: str | Path, documents: int = 1) -> None:
        """Of what is counted as read already; no document if only a part of one is dropped."""
        self.dropped_documents[reason] += documents
        self.dropped_bytes[reason] += size
        self.first_dropped.setdefault(reason, str(place))

    def lose(self, reason: str, size: int, place: str | Path, documents: int = 1) -> None:
        """Counted as read and as dropped in one."""
        self.documents += documents
        self.bytes += size
        self.drop(reason, size, place, documents)

    def pass_over(self, archive: str, reason: str) -> None:
        self.passed_over.setdefault(archive, Counter())[reason] += 1

    def lines(self) -> list[str]:
        """For people: drops, encodings other than UTF-8, what was not read of archives."""
        return [*self._drops(), *self._encodings(), *self._passed_over()]

    def _drops(self) -> list[str]:
        return [
            f"dropped {self.dropped_documents[reason]:,} ({reason}), first in {place}"
            if self.dropped_documents[reason]
            else f"cut out {self.dropped_bytes[reason]:,} bytes ({reason}), first in {place}"
            for reason, place in self.first_dropped.items()
        ]

    def _encodings(self) -> list[str]:
        counts = Counter(self.encodings.values())
        first = {name: path for path, name in reversed(self.encodings.items())}
        return [
            f"{count:,} file(s) read as {name}, first {first[name]}"
            for name, count in counts.items()
            if not name.startswith("utf-8")
        ]

    def _passed_over(self) -> list[str]:
        return [
            f"{archive}: {sum(counts.values()):,} member(s) passed over"
            f" ({', '.join(f'{n:,} {reason}' for reason, n in counts.most_common())})"
            for archive, counts in self.passed_over.items()
        ]


def merged(tallies: Iterable[Mapping[str, Any]]) -> Tally:
    """One tally of the fields of many, in their order."""
    total = Tally()
    for tally in map(dict, tallies):
        total.documents += tally["documents"]
        total.bytes += tally["bytes"]
        total.dropped_documents.update(tally["dropped_documents"])
        total.dropped_bytes.update(tally["dropped_bytes"])
        total.first_dropped = tally["first_dropped"] | total.first_dropped
        total.encodings |= tally["encodings"]
        total.passed_over |= {name: Counter(n) for name, n in tally["passed_over"].items()}
    return total
