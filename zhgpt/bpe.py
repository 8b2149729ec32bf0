"""Byte-level BPE: train, save, check and compare tokenizers."""

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from zhgpt.errors import InputError
from zhgpt.recipe import BpeSection
from zhgpt.text import Tally, documents, file_hash, find_files

EOS, PAD = "<|endoftext|>", "<|pad|>"
SMALLEST = 256 + 2  # every byte, and the two special tokens

Say = Callable[[str], None]


class Reading:
    """The documents of some files, and what was read of them so far."""

    def __init__(self, patterns: Sequence[str], text_column: str, say: Say):
        self.files = find_files(patterns, "train_files")
        self.text_column, self.say = text_column, say
        self.tally = Tally()
        self.documents = self.bytes = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for number, path in enumerate(self.files, 1):
            for text in documents(path, self.text_column, self.tally):
                self.documents += 1
                self.bytes += len(text.encode("utf-8"))
                self.characters += len(text)
                yield text
            self.say(f"read {number}/{len(self.files)} files, {self.bytes / 1e6:.1f} MB")

    def ledger(self) -> dict[str, Any]:
        """File names without folders, and content hashes: the same text on another machine."""
        return {
            "files": [{"name": p.name, "xxh3_128": file_hash(p)} for p in self.files],
            "documents": self.documents,
            "bytes": self.bytes,
            "characters": self.characters,
            "dropped_documents": dict(self.tally.dropped_documents),
        }


def train(texts: Iterator[str], section: BpeSection) -> Tokenizer:
    """A tokenizer of at most `vocab_size` entries, the same for any order of the texts.

    No normalizer and every byte in the alphabet: any string comes back as it was. Special tokens
    are entries 0 (end of text, also its begin) and 1 (padding, a token that text never has).
    """
    if section.vocab_size < SMALLEST:
        raise InputError(
            f"bpe.vocab_size: {section.vocab_size}; bytes and special tokens alone are {SMALLEST}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(section.pattern)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.vocab_size,
        min_frequency=section.min_frequency,
        max_token_length=section.max_token_length,
        special_tokens=[EOS, PAD],
        # Without it a byte that the training text lacks would be dropped in silence.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception as error:  # the library raises no narrower class
        raise InputError(f"bpe.pattern: {pattern!r} is no regular expression ({error}).") from None
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_])


def save(tokenizer: Tokenizer, folder: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """A folder for AutoTokenizer with its card, complete under its name or not there at all."""
    require_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tokenizer.save(str(partial / "tokenizer.json"), pretty=False)
    _write_json(partial / "tokenizer_config.json", TOKENIZER_CONFIG)
    _write_json(partial / "training.json", facts)
    (partial / "README.md").write_text(card(folder.name, tokenizer, facts), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


# The library's GPT2Tokenizer would put its own pre-tokenizer in the place of ours, and other ids
# would come out; this class takes tokenizer.json as it is.
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": EOS,
    "eos_token": EOS,
    "pad_token": PAD,
    "clean_up_tokenization_spaces": False,
}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def require_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists; nothing was touched. Add --overwrite to replace it.")


def facts(reading: Reading, tokenizer: Tokenizer, recipe: Mapping[str, Any], began: float) -> dict:
    """How a tokenizer was made; `began` is time.perf_counter() at the start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = [Path(pattern).name for pattern in recipe["corpus"]["train_files"]]
    return {
        # File names without folders: where the text lay on this machine is nobody's concern.
        "recipe": recipe | {"corpus": recipe["corpus"] | {"train_files": names}},
        "entries": tokenizer.get_vocab_size(),
        "text": reading.ledger(),
        "seconds": round(time.perf_counter() - began, 1),
        # Linux counts in kibibytes, macOS in bytes.
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "versions": {"tokenizers": version("tokenizers"), "python": sys.version.split()[0]},
    }


_CARD = """# {name}

{purpose}

Byte-level BPE of {entries:,} entries: every byte is one, nothing is normalised, so every string
comes back as it was. `<|endoftext|>` (id 0) ends a document, `<|pad|>` (id 1) is padding only.

| made from | |
|---|--:|
| files | {files} |
| documents | {documents:,} |
| bytes | {bytes:,} |
| characters | {characters:,} |
| seconds | {seconds} |
| peak memory | {memory:.2f} GB |
| tokenizers | {tokenizers} |

```
python run_bpe.py recipes/{recipe_name}.json --train_files FILES --output_dir tokenizer/{name}
```

Split before merging by

```
{pattern}
```

The longest entries: {longest}
"""


def card(name: str, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> str:
    """README.md of a tokenizer, from the facts alone."""
    recipe, text = facts["recipe"], facts["text"]
    return _CARD.format(
        name=name,
        purpose=recipe["purpose"],
        entries=facts["entries"],
        files=", ".join(file["name"] for file in text["files"]),
        documents=text["documents"],
        bytes=text["bytes"],
        characters=text["characters"],
        seconds=facts["seconds"],
        memory=facts["peak_memory_bytes"] / 1e9,
        tokenizers=facts["versions"]["tokenizers"],
        recipe_name=recipe["name"],
        pattern=recipe["bpe"]["pattern"],
        longest=" ".join(f"`{entry}`" for entry in longest_entries(tokenizer, 12)),
    )


def longest_entries(tokenizer: Tokenizer, count: int) -> list[str]:
    """Long entries are where boilerplate of the training text shows."""
    entries = sorted(token_bytes(tokenizer), key=lambda b: (-len(b), b))[:count]
    return [entry.decode("utf-8", "replace").strip() for entry in entries]


def fingerprint(tokenizer: Tokenizer) -> str:
    return hashlib.sha256(tokenizer.to_str().encode("utf-8")).hexdigest()[:16]


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The UTF-8 bytes of entry i; b"" for a special token. InputError if it is not byte-level."""
    byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
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


def _byte_characters() -> list[str]:
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


def require_usable(tokenizer: Any, pins: Any) -> None:
    """`tokenizer` is AutoTokenizer's, `pins` a ClmRecipe; InputError if they do not fit."""
    backend = tokenizer.backend_tokenizer
    check(backend, tokenizer.eos_token_id, tokenizer.pad_token_id, pins.tokenizer)
    check_prompts(backend, pins.samples.prompts, pins.corpus.block_size)


def check_prompts(tokenizer: Tokenizer, prompts: Sequence[str], block_size: int) -> None:
    """InputError for a prompt that leaves no position for a continuation."""
    for prompt in prompts:
        length = len(tokenizer.encode(prompt).ids)
        if length >= block_size:
            raise InputError(
                f"samples.prompts: {prompt[:20]!r}... has {length:,} tokens, and the model has"
                f" {block_size:,} positions (corpus.block_size). Shorten it."
            )


def compare(folders: Sequence[str], patterns: Sequence[str], text_column: str) -> str:
    """A table of tokenizers on the same text; fewer tokens for the same bytes is better packing."""
    heads = ("tokenizer", "entries", "bytes/token", "chars/token", "tokens", "unused", "round trip")
    rows = [heads]
    for folder in folders:
        require_folder(folder)
        tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        texts = list(Reading(patterns, text_column, lambda line: None))
        rows.append((folder, *_figures(tokenizer, texts)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)


def _figures(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[str, ...]:
    tokenizer.encode_special_tokens = True
    used: Counter[int] = Counter()
    whole = True
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        used.update(ids)
        whole = whole and tokenizer.decode(ids, skip_special_tokens=False) == text
    tokens, entries = used.total(), tokenizer.get_vocab_size()
    size = sum(len(text.encode("utf-8")) for text in texts)
    return (
        f"{entries:,}",
        f"{size / tokens:.3f}",
        f"{sum(map(len, texts)) / tokens:.3f}",
        f"{tokens:,}",
        f"{1 - len(used) / entries:.1%}",
        "yes" if whole else "NO",
    )
