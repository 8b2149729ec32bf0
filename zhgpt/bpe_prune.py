"""Of a tokenizer with more entries than wanted, those that a text uses most."""

import heapq
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from zhgpt.encoder import Encoder, portions

_TOGETHER = 1 << 22  # characters that are encoded at once


def pruned(tokenizer: Tokenizer, size: int, texts: Iterable[str]) -> Tokenizer:
    """The same tokenizer with its `size` most used entries, ids without holes in the same order.

    Uses are counted in the texts, encoded with all entries. Of those that no other is made of, the
    least used goes, and what it stood for is its two halves, once each for each use; then the
    next. Equal ones go in the order of their names, so the order of the texts changes nothing.
    """
    content = json.loads(tokenizer.to_str())
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    uses = _uses(Encoder(tokenizer), texts)
    gone = _least_used(
        {first + second: (first, second) for first, second in merges},
        {name: int(uses[number]) for name, number in vocab.items()},
        len(vocab) - size,
    )
    kept = [name for name in sorted(vocab, key=vocab.__getitem__) if name not in gone]
    content["model"]["vocab"] = {name: number for number, name in enumerate(kept)}
    content["model"]["merges"] = [pair for pair in merges if "".join(pair) not in gone]
    return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def _uses(encoder: Encoder, texts: Iterable[str]) -> np.ndarray:
    """(entries,) how often each is a token of the texts."""
    size = encoder.tokenizer.get_vocab_size()
    uses = np.zeros(size, np.int64)
    for batch in portions(texts, _TOGETHER):
        for ids in encoder.encode(batch):
            uses += np.bincount(ids, minlength=size)
    return uses


def _least_used(halves: dict[str, tuple[str, str]], uses: dict[str, int], number: int) -> set[str]:
    """Names of so many entries, or of all that are made of others."""
    made_of = Counter(half for pair in halves.values() for half in pair)
    queue: list[tuple[int, Any]] = [(uses[name], name) for name in halves if not made_of[name]]
    heapq.heapify(queue)
    gone: set[str] = set()
    while queue and len(gone) < number:
        count, name = heapq.heappop(queue)
        gone.add(name)
        for half in halves[name]:
            uses[half] += count
            made_of[half] -= 1
            if half in halves and not made_of[half]:
                heapq.heappush(queue, (uses[half], half))
    return gone
