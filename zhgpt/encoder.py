"""Documents to token ids, by the fastest engine that is known to give those of `tokenizers`."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer

from zhgpt.pattern import GPT2, Pattern, Unreadable

# Parts of a batch that a thread takes at once: large enough that it seldom needs the interpreter,
# small enough that the threads end together.
_SMALLEST_PART, _LARGEST_PART = 1 << 15, 1 << 18  # characters
# `tokenizers` shares a part among threads of its own, text by text, and keeps some hundred bytes
# per token until it returns.
_PART_OF_TOKENIZERS = 1 << 20
_SAMPLE = 1 << 17  # characters of a document that are compared
# Stands between documents that are handed over together. It has noncharacters, which no text has;
# where one has them after all, its part goes to `tokenizers`. No beginning of it is also its end,
# so that the rest of a text cannot make up another one with a half of it.
_BETWEEN = "\U0010fffe<next document>\U0010ffff"

Span = tuple[int, int, int]  # number of a text, its first character, the one after the last


class Unfit(Exception):
    """Why the fast engine cannot serve a tokenizer."""


class Encoder:
    """Encodes as `tokenizer.encode_batch` would without special tokens, several times faster.

    What serves is in `name`; where that is `tokenizers` itself, the cause is in `reason`. Names of
    special tokens in a document are text like any other. A document of any length is encoded in
    parts, cut where the pre-tokenizer cuts anyway; without a split pattern that says where, or
    in a run without such a place, in one piece. For many threads at once, and after a fork.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        self.dtype = np.dtype(np.uint16 if highest < 2**16 else np.uint32)
        self.pattern: Pattern | None = None
        self.engine: _Tiktoken | None = None
        self.reason = ""
        config = json.loads(tokenizer.to_str())
        try:
            self.pattern = _pattern(config)
            self.engine = _Tiktoken(config["model"], self.pattern, self.tokenizer, self.dtype)
        except (Unfit, Unreadable) as error:
            self.reason = str(error)

    @property
    def name(self) -> str:
        """The engine that serves, and its version."""
        engine = "tiktoken" if self.engine else "tokenizers"
        return f"{engine} {version(engine)}"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, 16 bits where all ids of the tokenizer fit, without end of text.

        Threads share a batch and leave the interpreter to others; megabytes at once are fastest.
        UnicodeEncodeError for half of a surrogate pair, which is no text.
        """
        threads = _processors() if self.engine else 1
        parts = _parts(texts, self.pattern, *self._sizes(texts, threads))
        rows: list[list[np.ndarray]] = [[] for _ in texts]
        with ThreadPoolExecutor(threads) as pool:
            encoded = pool.map(partial(self._encode_part, texts), parts)
            for part, arrays in zip(parts, encoded, strict=True):
                for (number, _, _), ids in zip(part, arrays, strict=True):
                    rows[number].append(ids)
        return [row[0] if len(row) == 1 else np.concatenate(row) for row in rows]

    def check(self, texts: Sequence[str]) -> None:
        """Compares ids of the texts' beginnings with those of `tokenizers` in one piece.

        Where they differ, which is a fault of ours or of an engine of another version, the encoder
        turns to `tokenizers` for good and has the reason.
        """
        texts = [text[:_SAMPLE] for text in texts]
        for text, ids, right in zip(texts, self.encode(texts), self._plainly(texts), strict=True):
            if not np.array_equal(ids, right):
                self.reason = f"{self.name} gives other ids for a document, {text[:40]!r}"
                self.engine = self.pattern = None
                return

    def _sizes(self, texts: Sequence[str], threads: int) -> tuple[int, int]:
        """Characters of a part, and of a piece of one text in it."""
        if not self.engine:
            return _PART_OF_TOKENIZERS, _LARGEST_PART
        share = sum(map(len, texts)) // (2 * threads)
        size = min(max(share, _SMALLEST_PART), _LARGEST_PART)
        return size, size

    def _encode_part(self, texts: Sequence[str], part: list[Span]) -> list[np.ndarray]:
        pieces = [texts[number][start:end] for number, start, end in part]
        ids = self.engine.encode(pieces) if self.engine else None
        return self._plainly(pieces) if ids is None else ids

    def _plainly(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]


def _processors() -> int:
    """Those that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parts(
    texts: Sequence[str], pattern: Pattern | None, size: int, piece: int
) -> list[list[Span]]:
    """All texts in order, in parts of about `size` characters."""
    parts: list[list[Span]] = []
    room = 0
    for span in _spans(texts, pattern, piece):
        if room <= 0:
            parts.append([])
            room = size
        parts[-1].append(span)
        room -= span[2] - span[1]
    return parts


def _spans(texts: Sequence[str], pattern: Pattern | None, piece: int) -> Iterator[Span]:
    """Each text whole, or in pieces of `piece` characters and what follows to the next safe cut."""
    for number, text in enumerate(texts):
        cuts = pattern.parts(text, piece) if pattern else [(0, len(text))]
        yield from ((number, start, end) for start, end in cuts)


def _pattern(config: dict[str, Any]) -> Pattern:
    """The split pattern of a tokenizer that does nothing to a text but split it."""
    if config["normalizer"]:
        raise Unfit(f"its normalizer, {config['normalizer']['type']}")
    if not all(token["special"] for token in config["added_tokens"]):
        raise Unfit("its added tokens that are not special")
    match config["pre_tokenizer"]:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return Pattern(GPT2)
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return Pattern(pattern)
    raise Unfit("its pre-tokenizer, which is not one split and then bytes")


class _Tiktoken:
    """`tiktoken` with the merges of a byte-level BPE; Unfit where its ids could be others.

    Both engines split first and then join the pair of lowest rank, the leftmost first. But
    `tokenizers` joins the pairs in its list of merges, `tiktoken` any two neighbours that together
    are an entry. That comes to the same where every entry comes of one merge only, after those
    of its halves, and where its own bytes, merged by themselves, end as that entry: whenever two
    neighbours make up an entry, they are then the two of its merge, because nothing that was
    joined across their ends could be parted again.
    """

    def __init__(
        self, model: dict[str, Any], pattern: Pattern, tokenizer: Tokenizer, dtype: np.dtype
    ):
        entries = _entries(model, tokenizer)
        ranks = {entry: rank for rank, entry in enumerate(entries)}
        self.between = len(ranks)
        self.ids = np.array([*entries.values(), 0], dtype)
        self.sizes = np.array([*map(len, entries), len(_BETWEEN.encode())])
        try:
            self.encoding = tiktoken.Encoding(
                "zhgpt",
                pat_str=pattern.pattern,
                mergeable_ranks=ranks,
                special_tokens={_BETWEEN: self.between},
            )
        except ValueError as error:
            raise Unfit(f"its split pattern, to tiktoken ({error})") from None

    def encode(self, texts: list[str]) -> list[np.ndarray] | None:
        """Ids of each text; None where the engine gives up, or leaves out a byte of the text."""
        joined = _BETWEEN.join(texts)
        size = len(joined.encode("utf-8"))
        try:
            found = self.encoding.encode_to_numpy(
                joined, allowed_special={_BETWEEN}, disallowed_special=()
            )
        except ValueError:  # a million spaces are too many for its regex engine
            return None
        ends = np.flatnonzero(found == self.between)
        if len(ends) + 1 != len(texts) or self.sizes[found].sum() != size:
            return None
        starts = [0, *(ends + 1)]
        ids = self.ids[found]
        return [ids[a:b] for a, b in zip(starts, [*ends, len(ids)], strict=True)]


def _entries(model: dict[str, Any], tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes and id of every entry that comes of merges, single bytes first, in order of merging."""
    _require_plain(model)
    vocab, byte_of = model["vocab"], _bytes_of_characters()
    if not vocab.keys() >= byte_of.keys():
        raise Unfit("its vocabulary, which lacks single bytes")
    entries = {bytes([byte]): vocab[character] for character, byte in byte_of.items()}
    names = []
    for first, second in model["merges"]:
        halves = [bytes(byte_of.get(c, 0) for c in half) for half in (first, second)]
        entry = b"".join(halves)
        if entry in entries or not all(half in entries for half in halves):
            raise Unfit(f"its merge of {first!r} and {second!r}, which is not in order")
        entries[entry] = vocab[first + second]
        names.append(first + second)
    alone = Tokenizer(tokenizer.model).encode_batch_fast(names, add_special_tokens=False)
    for name, encoding in zip(names, alone, strict=True):
        if encoding.ids != [vocab[name]]:
            raise Unfit(f"its entry {name!r}, to which its own bytes do not merge")
    return entries


def portions(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Neighbouring texts, few enough for the encoder's memory: each but the last has so many
    characters, or more by a part of its last text.
    """
    portion, size = [], 0
    for text in texts:
        portion.append(text)
        size += len(text)
        if size >= characters:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _require_plain(model: dict[str, Any]) -> None:
    if model["type"] != "BPE":
        raise Unfit(f"its model, {model['type']}")
    others = "dropout continuing_subword_prefix end_of_word_suffix byte_fallback ignore_merges"
    for key in others.split():
        if model[key]:
            raise Unfit(f"its model's {key}")


def _bytes_of_characters() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte: itself where it can be printed, else
    the next after U+00FF. As in GPT-2's encoder.py (Radford et al. 2019).
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    stand_ins = {chr(0x100 + number): byte for number, byte in enumerate(others)}
    return {chr(byte): byte for byte in printed} | stand_ins
