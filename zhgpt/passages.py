"""Some passages of a text, drawn evenly over its sources while it is read."""

import random
from collections import defaultdict
from collections.abc import Iterator

PASSAGES, LENGTH = 10, 160  # LENGTH: characters


class Passages:
    """A uniform sample of each source (Vitter 1985, algorithm R), the same for the same seed."""

    def __init__(self, seed: int):
        self.seed = seed
        self.drawn: dict[str, list[str]] = defaultdict(list)
        self.seen: dict[str, int] = defaultdict(int)
        self.draws: dict[str, random.Random] = {}

    def add(self, source: str, text: str) -> None:
        draw = self.draws.setdefault(source, random.Random(f"{self.seed} {source}"))
        drawn = self.drawn[source]
        for passage in _passages(text):
            self.seen[source] += 1
            place = int(draw.random() * self.seen[source])
            if len(drawn) < PASSAGES:
                drawn.append(passage)
            elif place < PASSAGES:
                drawn[place] = passage

    def rows(self) -> list[tuple[str, str]]:
        """Source and passage, by source; of more sources than passages some are drawn."""
        sources = sorted(source for source, drawn in self.drawn.items() if drawn)
        order = random.Random(self.seed).sample(sources, len(sources))
        rounds = (
            (source, self.drawn[source][number])
            for number in range(PASSAGES)
            for source in order
            if number < len(self.drawn[source])
        )
        return sorted(row for row, _ in zip(rounds, range(PASSAGES), strict=False))


def _passages(text: str) -> Iterator[str]:
    """From the beginning of a line to the last end of one within LENGTH, or to LENGTH where that
    would be less than a half of it. What is left of a line belongs to no passage.
    """
    start = 0
    while start < len(text):
        end = start + LENGTH
        if end < len(text):
            end = text.rfind("\n", start + LENGTH // 2, end) + 1 or end
        passage = text[start:end].strip("\n")
        if passage and not passage.isspace():
            yield passage
        start = text.find("\n", end - 1) + 1 or len(text)
