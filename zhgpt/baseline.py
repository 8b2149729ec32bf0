"""What a table of byte trigrams reaches on a text: python -m zhgpt.baseline --help

A model that is not well below it has learnt spelling and nothing else.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.files import find_files
from zhgpt.recipe import TextSection
from zhgpt.text import Tally, documents

BYTES = 256


class Trigrams:
    """Byte trigrams, interpolated with bigrams, single bytes and the uniform distribution.

    p(w | h) = (c(h w) + T(h) p(w | shorter h)) / (c(h) + T(h)), where T(h) counts the different
    bytes seen after h: Witten and Bell 1991, method C, as in Chen and Goodman 1998, section 2.2.
    Documents are apart: the first bytes of one have a shorter history.
    """

    def __init__(self, texts: Iterable[bytes]):
        self.counts = [np.zeros(BYTES**order, dtype=np.int64) for order in (1, 2, 3)]
        for text in texts:
            for order, counts in enumerate(self.counts, 1):
                np.add.at(counts, _grams(text, order), 1)
        tables = [counts.reshape(-1, BYTES) for counts in self.counts]
        self.totals = [table.sum(1) for table in tables]
        self.kinds = [(table > 0).sum(1) for table in tables]

    def bits(self, text: bytes) -> float:
        """Sum of -log2 p over the bytes of a document."""
        p = np.full(len(text), 1 / BYTES)
        for order, counts in enumerate(self.counts, 1):
            grams = _grams(text, order)
            history = grams // BYTES
            kinds, total = self.kinds[order - 1][history], self.totals[order - 1][history]
            longer = p[order - 1 :]
            seen = total > 0  # an unknown history leaves the shorter one's verdict
            mixed = (counts[grams] + kinds * longer) / np.maximum(1, total + kinds)
            p[order - 1 :] = np.where(seen, mixed, longer)
        return float(-np.log2(p).sum())


def _grams(text: bytes, order: int) -> np.ndarray:
    """The number of each run of `order` bytes, its first byte the most significant."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    end = max(0, len(codes) - order + 1)
    return sum(codes[i : end + i] * BYTES ** (order - 1 - i) for i in range(order))


def bits_per_byte(train: Iterable[bytes], validation: Sequence[bytes]) -> float:
    table = Trigrams(train)
    return sum(table.bits(text) for text in validation) / sum(map(len, validation))


def _texts(patterns: Sequence[str], key: str, text_column: str) -> Iterable[bytes]:
    section = TextSection(train_files=tuple(patterns), text_column=text_column)
    for path in find_files(patterns, key):
        for text in documents(path, section, Tally()):
            yield text.encode("utf-8")


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.baseline")
    parser.add_argument("--train_files", nargs="+", required=True)
    parser.add_argument("--validation_files", nargs="+", required=True)
    parser.add_argument("--text_column", default="text")
    options = parser.parse_args(argv)
    train = _texts(options.train_files, "train_files", options.text_column)
    held_out = list(_texts(options.validation_files, "validation_files", options.text_column))
    if not held_out:
        raise InputError("validation_files: no document with text in them.")
    figure = bits_per_byte(train, held_out)
    print(f"byte trigrams: {figure:.4f} bits/byte on {sum(map(len, held_out)):,} bytes")
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
