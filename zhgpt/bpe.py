"""A byte-level BPE tokenizer: what its entries are, which one it is, whether it suits a model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, processors

from zhgpt.errors import InputError
from zhgpt.text import Tally

EOS, PAD = "<|endoftext|>", "<|pad|>"


def dropped(tally: Tally) -> str:
    """Why documents were dropped, in brackets; "" where none was."""
    drops = ", ".join(f"{n:,} {reason}" for reason, n in tally.dropped_documents.items())
    return f" (dropped: {drops})" if drops else ""


def longest_entries(tokenizer: Tokenizer, count: int) -> list[str]:
    """Long entries are where boilerplate of the training text shows; whole characters only."""
    special = tokenizer.get_added_tokens_decoder()
    ids = [number for number in tokenizer.get_vocab().values() if number not in special]
    texts = {" ".join(tokenizer.decode([number]).split()) for number in ids}
    whole = [text for text in texts if "\ufffd" not in text]
    return sorted(whole, key=lambda text: (-len(text.encode("utf-8")), text))[:count]


def fingerprint(tokenizer: Tokenizer) -> str:
    """The same for tokenizer.json and for what AutoTokenizer made of it."""
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()  # set by use, not by training; so is padding
    bare.no_padding()
    if bare.post_processor is None:
        # AutoTokenizer puts this one there, which adds nothing.
        bare.post_processor = processors.TemplateProcessing("$A:0", "$A:0 $B:1")
    return hashlib.sha256(bare.to_str().encode("utf-8")).hexdigest()[:16]


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The UTF-8 bytes of entry i; b"" for a special token. InputError if it is not byte-level."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    special = tokenizer.get_added_tokens_decoder()
    table = [b""] * tokenizer.get_vocab_size()
    for entry, number in tokenizer.get_vocab().items():
        if number in special:
            continue
        try:
            table[number] = bytes(byte_of[character] for character in entry)
        except KeyError as error:
            raise InputError(
                f"the tokenizer is not byte-level: entry {number}, {entry!r}, has {error};"
                " bits per byte cannot be computed with it. Train one with run_bpe.py."
            ) from None
    return table


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's encoder.py).

    Printable Latin-1 stands for itself; the 68 others take the code points from 256 on.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


def require_folder(folder: str) -> None:
    """InputError unless AutoTokenizer will find a whole tokenizer there."""
    path = Path(folder, "tokenizer.json")
    if not path.is_file():
        present = sorted(p.parent.as_posix() for p in Path("tokenizer").glob("*/tokenizer.json"))
        raise InputError(
            f"tokenizer: no {path}; there are: {', '.join(present) or 'none in tokenizer/'}.\n"
            "Train one: python run_bpe.py recipes/bpe_32k.json"
        )
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise InputError(f"tokenizer: {path} is damaged ({error}); train it again.") from None
    config = path.with_name("tokenizer_config.json")
    try:
        # Without it no token is known for the end of text, and `check` says so.
        known = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"tokenizer: {config} is damaged ({error}); train it again.") from None
    if not isinstance(known, dict):
        raise InputError(f"tokenizer: {config} is damaged (no JSON object); train it again.")


def check(tokenizer: Tokenizer, eos_id: int | None, pad_id: int | None, where: str) -> None:
    """InputError for a tokenizer that a model cannot be trained with."""
    if eos_id is None:
        raise InputError(f"tokenizer: {where} has no eos_token; documents would run together.")
    if pad_id is None:
        raise InputError(f"tokenizer: {where} has no pad_token; give it one of its own.")
    if pad_id == eos_id:
        raise InputError(
            f"tokenizer: {where} has the same token (id {eos_id}) for padding and end of text;"
            " padding is never learnt from, so the model would never learn to end."
        )
    entries, highest = tokenizer.get_vocab_size(), max(tokenizer.get_vocab().values())
    if highest >= entries:
        raise InputError(
            f"tokenizer: {where} has {entries} entries and the id {highest}: ids have holes, and"
            " the model's table would be too short."
        )


def check_prompts(tokenizer: Tokenizer, prompts: Sequence[str], block_size: int) -> None:
    """InputError for a prompt that leaves no position for a continuation."""
    for prompt in prompts:
        length = len(tokenizer.encode(prompt).ids)
        if length >= block_size:
            raise InputError(
                f"samples.prompts: {prompt[:20]!r}... has {length:,} tokens, and the model has"
                f" {block_size:,} positions (corpus.block_size). Shorten it."
            )
