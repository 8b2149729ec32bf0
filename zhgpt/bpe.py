"""Byte-level BPE: train, save, check and compare tokenizers."""

import hashlib
import json
import os
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from zhgpt.command import Command
from zhgpt.errors import InputError
from zhgpt.recipe import BpeSection, TextSection, as_dict, content_hash
from zhgpt.text import Tally, documents, file_hash, find_files

EOS, PAD = "<|endoftext|>", "<|pad|>"
SMALLEST = 256 + 2  # every byte, and the two special tokens
# The trainer reserves memory for every entry asked for, and ends without a word where it gets none;
# the largest vocabularies in use have 262,144.
LARGEST = 1_000_000
FILES = ("tokenizer.json", "tokenizer_config.json", "training.json", "README.md")

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
            raise InputError(f"train_files: no text in them{_dropped(self.tally)}.")
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


def _dropped(tally: Tally) -> str:
    drops = ", ".join(f"{n:,} {reason}" for reason, n in tally.dropped_documents.items())
    return f" (dropped: {drops})" if drops else ""


def train(texts: Iterator[str], section: BpeSection) -> Tokenizer:
    """A tokenizer of at most `vocab_size` entries, the same for any order of the texts.

    No normalizer and every byte in the alphabet: any string comes back as it was. Special tokens
    are entries 0 (end of text, also its begin) and 1 (padding, a token that text never has).
    """
    _require_possible(section)
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
        show_progress=sys.stderr.isatty(),
    )
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except BaseException as error:
        # The library panics where the pattern's search gives up; a panic has no class to import.
        if type(error).__name__ != "PanicException" or "Onig" not in str(error):
            raise
        raise InputError(
            f"bpe.pattern: {section.pattern!r} takes too many steps on this text ({error});\n"
            "write it without repetitions inside repetitions."
        ) from None
    return tokenizer


def _require_possible(section: BpeSection) -> None:
    if section.vocab_size < SMALLEST:
        raise InputError(
            f"bpe.vocab_size: {section.vocab_size}; bytes and special tokens alone are {SMALLEST}."
        )
    for key in ("vocab_size", "min_frequency", "max_token_length"):
        if (getattr(section, key) or 0) > LARGEST:
            raise InputError(f"bpe.{key}: {getattr(section, key)}; {LARGEST:,} at most.")
    # The trainer joins any two bytes before it looks at lengths.
    if section.max_token_length is not None and section.max_token_length < 3:
        raise InputError(
            f"bpe.max_token_length: {section.max_token_length}; 3 at least, or null: entries are"
            " shorter than it in bytes, and the smallest that are made have 2."
        )


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
    texts = (
        tokenizer.to_str(pretty=False),
        _json(TOKENIZER_CONFIG),
        _json(facts),
        card(folder.name, tokenizer, facts),
    )
    try:
        _write(folder.resolve(), dict(zip(FILES, texts, strict=True)))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}).") from None


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Beside the place first; then two renames, so that no kill leaves a part under the name."""
    partial, replaced = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    for left_by_a_kill in (partial, replaced):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, text in texts.items():
        with (partial / name).open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(partial, folder)
    shutil.rmtree(replaced, ignore_errors=True)


# The library's GPT2Tokenizer would put its own pre-tokenizer in the place of ours, and other ids
# would come out; this class takes tokenizer.json as it is.
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": EOS,
    "eos_token": EOS,
    "pad_token": PAD,
    "clean_up_tokenization_spaces": False,
}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def require_free(folder: Path, overwrite: bool) -> None:
    """InputError unless a tokenizer may and can be written there; nothing is touched."""
    if not folder.exists():
        above = next(path for path in folder.resolve().parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise InputError(f"{folder}: {above} is no folder that can be written to.")
        return
    others = _not_ours(folder)
    if others:
        raise InputError(
            f"{folder} exists and is not a tokenizer alone ({', '.join(others[:3])});"
            " nothing was touched. Choose another place with --output_dir."
        )
    if not overwrite:
        raise InputError(
            f"{folder} exists; nothing was touched. Add --overwrite to replace it,"
            " or choose another place with --output_dir."
        )


def _not_ours(folder: Path) -> list[str]:
    """What an --overwrite would delete besides a tokenizer."""
    if not folder.is_dir():
        return ["a file"]
    return sorted(path.name for path in folder.iterdir() if path.name not in FILES)


def facts(reading: Reading, tokenizer: Tokenizer, asked: Command, began: float) -> dict[str, Any]:
    """How a tokenizer was made; `began` is time.perf_counter() at the start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recipe = as_dict(asked.recipe)
    # Names without folders: where the text lay on this machine is nobody's concern.
    recipe["corpus"]["train_files"] = [Path(p).name for p in recipe["corpus"]["train_files"]]
    return {
        "command": command_line(asked),
        "recipe": recipe,
        "recipe_hash": content_hash(asked.recipe),
        "entries": tokenizer.get_vocab_size(),
        "fingerprint": fingerprint(tokenizer),
        "text": reading.ledger(),
        "seconds": round(time.perf_counter() - began, 1),
        # Linux counts in kibibytes, macOS in bytes.
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "versions": {"tokenizers": version("tokenizers"), "python": sys.version.split()[0]},
    }


def command_line(asked: Command) -> str:
    """The command that makes it again, one option a line; $CORPUS is a folder elsewhere."""
    words = [f"python run_bpe.py {_place(asked.path, 'recipes')}"]
    for key, value in asked.overrides.items():
        if key == "corpus.train_files":
            shown = " ".join(_place(path, '"$CORPUS"') for path in value)
        else:
            shown = shlex.quote(value if isinstance(value, str) else json.dumps(value))
        words.append(f"--{key.rpartition('.')[2]} {shown}")
    if asked.flags["output_dir"]:
        words.append(f"--output_dir {_place(asked.flags['output_dir'], 'tokenizer')}")
    return " \\\n  ".join(words)


def _place(path: str, outside: str) -> str:
    """A path of the project as it is; of any other the last name alone, in the folder `outside`."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        return f"{outside}/{shlex.quote(Path(path).name)}"
    return shlex.quote(path)


_CARD = """# {name}

{purpose}

Byte-level BPE of {entries:,} entries{fewer}: every byte is one,
nothing is normalised, so every string comes back as it was.
`<|endoftext|>` (id 0) ends a document, `<|pad|>` (id 1) is padding only.

| made from | |
|---|--:|
| files | {files} |
| documents | {documents:,} |
| bytes | {bytes:,} |
| characters | {characters:,} |
| seconds | {seconds} |
| peak memory | {memory:.2f} GB |
| tokenizers | {tokenizers} |
| recipe's hash | {recipe_hash} |
| fingerprint | {fingerprint} |

```
{command}
```

Split before merging by

```
{pattern}
```

The longest entries:

    {longest}
"""


def card(name: str, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> str:
    """README.md of a tokenizer, from the facts alone."""
    recipe, text = facts["recipe"], facts["text"]
    asked = recipe["bpe"]["vocab_size"]
    return _CARD.format(
        name=name,
        purpose=recipe["purpose"],
        entries=facts["entries"],
        fewer=""
        if facts["entries"] == asked
        else f" ({asked:,} asked; the text has no more pairs)",
        files=", ".join(file["name"] for file in text["files"]),
        documents=text["documents"],
        bytes=text["bytes"],
        characters=text["characters"],
        seconds=facts["seconds"],
        memory=facts["peak_memory_bytes"] / 1e9,
        tokenizers=facts["versions"]["tokenizers"],
        recipe_hash=facts["recipe_hash"],
        fingerprint=facts["fingerprint"],
        command=facts["command"],
        pattern=recipe["bpe"]["pattern"],
        longest="  ".join(longest_entries(tokenizer, 12)),
    )


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


def require_usable(tokenizer: Any, pins: Any) -> None:
    """`tokenizer` is AutoTokenizer's, `pins` a ClmRecipe; InputError if they do not fit."""
    backend = tokenizer.backend_tokenizer
    check(backend, tokenizer.eos_token_id, tokenizer.pad_token_id, pins.tokenizer)
    check_prompts(backend, pins.samples.prompts, pins.corpus.block_size)


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Of AutoTokenizer's, as a model's configuration names them."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: getattr(tokenizer, key) for key in keys}


def check_prompts(tokenizer: Tokenizer, prompts: Sequence[str], block_size: int) -> None:
    """InputError for a prompt that leaves no position for a continuation."""
    for prompt in prompts:
        length = len(tokenizer.encode(prompt).ids)
        if length >= block_size:
            raise InputError(
                f"samples.prompts: {prompt[:20]!r}... has {length:,} tokens, and the model has"
                f" {block_size:,} positions (corpus.block_size). Shorten it."
            )


@dataclass
class _Count:
    """What a tokenizer made of some text."""

    tokens: int = 0
    bytes: int = 0
    characters: int = 0
    used: set[int] = field(default_factory=set)
    whole: bool = True

    def add(self, text: str, ids: Sequence[int], whole: bool) -> None:
        self.tokens += len(ids)
        self.bytes += len(text.encode("utf-8"))
        self.characters += len(text)
        self.used.update(ids)
        self.whole = self.whole and whole

    def row(self, entries: int) -> tuple[str, ...]:
        return (
            f"{entries:,}",
            f"{self.bytes / self.tokens:.3f}" if self.tokens else "no text",
            f"{self.characters / self.tokens:.3f}" if self.tokens else "no text",
            f"{self.tokens:,}",
            f"{1 - len(self.used) / entries:.1%}",
            "yes" if self.whole else "NO",
        )


def compare(folders: Sequence[str], section: TextSection) -> str:
    """A table of tokenizers on the same text, per file and over all of them, and what is longest
    in each. More bytes per token is better packing; `unused` are entries that never came up.
    """
    tokenizers = {folder: _as_text(folder) for folder in folders}
    files, tally = find_files(section.train_files, "files"), Tally()
    counts = {(name, folder): _Count() for name in (*files, "all") for folder in folders}
    for path in files:
        for text in documents(path, section, tally):
            for folder, tokenizer in tokenizers.items():
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                whole = tokenizer.decode(ids, skip_special_tokens=False) == text
                for name in (path, "all"):
                    counts[name, folder].add(text, ids, whole)
    if not any(count.tokens for count in counts.values()):
        raise InputError(f"files: no text in them{_dropped(tally)}.")
    rows = [
        (str(name), folder, *count.row(tokenizers[folder].get_vocab_size()))
        for (name, folder), count in counts.items()
        if name != "all" or len(files) > 1
    ]
    lines = [_table(rows), *tally.lines(), "", "The longest entries:"]
    for folder, tokenizer in tokenizers.items():
        lines.append(f"{folder}: {'  '.join(longest_entries(tokenizer, 8))}")
    return "\n".join(lines)


def _as_text(folder: str) -> Tokenizer:
    """A folder's tokenizer, to which the name of a special token in a text is text."""
    require_folder(folder)
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    heads = ("text", "tokenizer", "entries", "bytes/token", "chars/token", "tokens", "unused")
    rows = [(*heads, "round trip"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: tuple[str, ...]) -> str:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        figures = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        return "  ".join([*names, *figures])

    return "\n".join(line(row) for row in rows)
