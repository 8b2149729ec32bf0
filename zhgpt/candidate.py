"""Any tokenizer that AutoTokenizer loads, as one that cuts text: ids, places, pieces, speed."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer

from zhgpt.bpe import byte_characters
from zhgpt.encoder import Encoder
from zhgpt.errors import InputError


@dataclass(frozen=True)
class Cut:
    """A text as ids (n,) and spans (n, 2): the first character of each token and the one after its
    last; parts of one character have the same span. None where a tokenizer does not tell.
    """

    ids: np.ndarray
    spans: np.ndarray | None


class Piece(NamedTuple):
    """What of a text became one token.

    `part`: its bytes are no whole characters, but parts of those of `text`. `unknown`: the token
    stands for any text. `added`: it stands for nothing in the text. `lost`: characters that no
    token stands for, id None.
    """

    text: str
    id: int | None
    bytes: bytes
    kind: Literal["whole", "part", "unknown", "added", "lost"]


class Candidate:
    """A folder's tokenizer. Names of special tokens in a text are text like any other.

    `entries` has the bytes that each id stands for, without special tokens, b"" where that is not
    known; `unknown` is the id for what has no other, or None; `located` says whether spans are
    known. InputError for a folder that AutoTokenizer does not load; code in it is never run.
    """

    def __init__(self, folder: str):
        self.name = folder
        loaded = _load(folder)
        self.kind = type(loaded).__name__
        self.size = len(loaded)
        self.unknown: int | None = loaded.unk_token_id
        self.located = loaded.is_fast
        self.engine = _Rust(loaded) if loaded.is_fast else _Python(loaded)
        self.encoder = self.engine.name
        self.entries = self.engine.entries
        if not self.entries:
            raise InputError(f"{folder}: the tokenizer there has no entries.")

    def cut(self, texts: Sequence[str]) -> list[Cut]:
        """All tokens of each text and no others: nothing is put around it."""
        return self.engine.cut(texts)

    def joined(self, cuts: Sequence[Cut]) -> list[str]:
        """The texts again, as far as the tokens have kept them."""
        return self.engine.joined([cut.ids.tolist() for cut in cuts])

    def seconds(self, texts: Sequence[str]) -> float:
        """What it takes to encode them as a corpus is prepared here."""
        began = time.perf_counter()
        self.engine.encode(texts)
        return time.perf_counter() - began

    def pieces(self, text: str) -> Iterator[Piece]:
        """The whole text from left to right, token by token."""
        cut = self.cut([text])[0]
        if cut.spans is None:
            for number in cut.ids.tolist():
                yield self._unlocated(number)
            return
        reached = 0
        for number, (start, end) in zip(cut.ids.tolist(), cut.spans.tolist(), strict=True):
            if start > reached:
                yield Piece(text[reached:start], None, b"", "lost")
            yield self._piece(number, text[start:end], text[max(start, reached) : end])
            reached = max(reached, end)
        if reached < len(text):
            yield Piece(text[reached:], None, b"", "lost")

    def _piece(self, number: int, covered: str, new: str) -> Piece:
        """`covered` is what the token stands for, `new` what of it no earlier one stands for."""
        raw = self.entries.get(number, b"")
        if number == self.unknown:
            return Piece(new, number, raw, "unknown")
        if not _is_whole(raw):
            return Piece(covered, number, raw, "part")
        return Piece(new or raw.decode("utf-8"), number, raw, "whole" if new else "added")

    def _unlocated(self, number: int) -> Piece:
        raw = self.entries.get(number, b"")
        kind = "unknown" if number == self.unknown else "whole" if raw else "part"
        return Piece(raw.decode("utf-8"), number, raw, kind)


def _is_whole(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _load(folder: str) -> Any:
    if not Path(folder).is_dir():
        raise InputError(f"--compare: there is no folder {folder}.")
    try:
        # Neither the network nor code that lies in the folder.
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each kind of tokenizer fails in a way of its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if any(Path(folder).glob("*.model")) and not find_spec("sentencepiece"):
            reason = "its .model file needs another library: pip install sentencepiece"
        raise InputError(
            f"--compare: {folder} is no tokenizer that AutoTokenizer loads ({reason})."
        ) from None


class _Rust:
    """One of the library `tokenizers`, nearly all are."""

    def __init__(self, loaded: Any):
        self.tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # It puts special tokens around a text, and may take spaces out of the spans.
        self.tokenizer.post_processor = None
        self.encoder = Encoder(self.tokenizer)
        self.name = self.encoder.name
        self.entries = _entries(self.tokenizer)
        self.blanks = [number for number, raw in self.entries.items() if raw == b" "]

    def cut(self, texts: Sequence[str]) -> list[Cut]:
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._cut(text, one) for text, one in zip(texts, encodings, strict=True)]

    def _cut(self, text: str, encoding: Encoding) -> Cut:
        ids = np.array(encoding.ids, dtype=np.int64)
        spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        # A space that is put before a text has the place of the first character, which it is not.
        for place in np.flatnonzero(np.isin(ids, self.blanks)):
            start, end = spans[place]
            if not text[start:end].isspace():
                spans[place] = start, start
        return Cut(ids, spans)

    def joined(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return self.tokenizer.decode_batch(ids, skip_special_tokens=False)

    def encode(self, texts: Sequence[str]) -> None:
        self.encoder.encode(texts)


def _entries(tokenizer: Tokenizer) -> dict[int, bytes]:
    """By the rules of its decoder; what they do not change stands for itself, in UTF-8."""
    rules = _rules(json.loads(tokenizer.to_str())["decoder"])
    added = tokenizer.get_added_tokens_decoder()
    entries = tokenizer.get_vocab(with_added_tokens=False)
    found = {number: _entry_bytes(entry, rules) for entry, number in entries.items()}
    found |= {number: token.content.encode("utf-8") for number, token in added.items()}
    special = {number for number, token in added.items() if token.special}
    return {number: raw for number, raw in found.items() if number not in special}


def _rules(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not decoder:
        return []
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _entry_bytes(entry: str, rules: Sequence[dict[str, Any]]) -> bytes:
    for rule in rules:
        kind = rule["type"]
        if kind == "ByteLevel" and set(entry) <= _BYTE_OF.keys():
            return bytes(_BYTE_OF[character] for character in entry)
        if kind == "ByteFallback" and len(entry) == 6 and entry[:3] == "<0x":
            return bytes.fromhex(entry[3:5])
        if kind == "Metaspace":
            entry = entry.replace(rule["replacement"], " ")
        elif kind == "Replace" and "String" in rule["pattern"]:
            entry = entry.replace(rule["pattern"]["String"], rule["content"])
        elif kind == "WordPiece":
            entry = entry.removeprefix(rule["prefix"])
        elif kind == "BPEDecoder":
            entry = entry.removesuffix(rule["suffix"])
    return entry.encode("utf-8")


_BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


class _Python:
    """One written in Python; it tells no places in the text."""

    def __init__(self, loaded: Any):
        self.tokenizer = loaded
        self.name = f"transformers {version('transformers')}"
        special = set(loaded.all_special_ids)
        texts = {
            number: loaded.convert_tokens_to_string([entry])
            for entry, number in loaded.get_vocab().items()
            if number not in special
        }
        # A byte of a longer character has no text of its own.
        self.entries = {n: b"" if "\ufffd" in t else t.encode("utf-8") for n, t in texts.items()}

    def cut(self, texts: Sequence[str]) -> list[Cut]:
        return [Cut(np.array(ids, dtype=np.int64), None) for ids in self.encode(texts)]

    def joined(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ids]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return encoded["input_ids"]
