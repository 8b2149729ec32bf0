"""A large text from a smaller one: python tests/recombine.py OUT.jsonl.zst BYTES FILE...

First the text itself, then text that reads on elsewhere: after a Han character, with probability
1/8, at another place (any of them, drawn with a seed) where the same two characters stand. So
clauses are new ones, of true pairs of characters, and do not repeat as copies of the text would;
English, digits and marks stay as they are.
"""

import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard

CHAINS, STEPS = 20_000, 3_000


def texts_of(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)["text"]


class Elsewhere:
    """Every place of a text by the two characters that end there."""

    def __init__(self, text: str):
        self.codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        keys = self.codes.astype(np.uint64)
        keys[1:] |= keys[:-1] << np.uint64(32)
        self.places = np.argsort(keys).astype(np.uint32)
        first = np.flatnonzero(np.diff(keys[self.places], prepend=~keys[self.places[:1]]))
        sizes = np.diff(first, append=len(keys))
        self.first = np.empty(len(keys), np.uint32)
        self.size = np.empty(len(keys), np.uint32)
        self.first[self.places] = np.repeat(first, sizes)
        self.size[self.places] = np.repeat(sizes, sizes)
        self.han = (self.codes >= 0x4E00) & (self.codes < 0xA000)

    def chains(self, draw: np.random.Generator) -> np.ndarray:
        """(CHAINS, STEPS) code points."""
        at = draw.integers(0, len(self.codes) - 1, CHAINS)
        rows = np.empty((STEPS, CHAINS), np.uint32)
        for row in rows:
            row[:] = self.codes[at]
            jump = np.flatnonzero(self.han[at] & (draw.random(CHAINS, np.float32) < 1 / 8))
            here = at[jump]
            order = self.first[here] + (draw.random(len(jump)) * self.size[here]).astype(np.int64)
            at[jump] = self.places[order]
            at = (at + 1) % len(self.codes)
        return rows.T.copy()


def main(out: str, wanted: str, *files: str) -> None:
    texts = [text for name in sorted(files) for text in texts_of(Path(name))]
    random.Random(0).shuffle(texts)
    draw, written = np.random.default_rng(0), 0
    with zstandard.ZstdCompressor(3, threads=2).stream_writer(Path(out).open("wb")) as sink:

        def write(text: str) -> None:
            nonlocal written
            written += len(text.encode("utf-8"))
            sink.write(json.dumps({"text": text}, ensure_ascii=False).encode("utf-8") + b"\n")

        for text in texts:
            write(text)
        elsewhere = Elsewhere("\0".join(texts))
        while written < int(wanted):
            for chain in elsewhere.chains(draw):
                if written < int(wanted):
                    for text in chain.tobytes().decode("utf-32-le").split("\0"):
                        if text:
                            write(text)
    print(f"{written:,} bytes of text")


if __name__ == "__main__":
    main(*sys.argv[1:])
