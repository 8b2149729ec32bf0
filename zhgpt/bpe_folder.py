"""The folder of a tokenizer: how it was made, its card, and all of it written at once."""

import json
import os
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from zhgpt import pre_tokenizer
from zhgpt.bpe import EOS, PAD, fingerprint, longest_entries
from zhgpt.bpe_text import Reading, without_folders
from zhgpt.command import Command
from zhgpt.errors import InputError
from zhgpt.recipe import as_dict, content_hash

FILES = ("tokenizer.json", "tokenizer_config.json", "training.json", "README.md")


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
    partial, replaced = _beside(folder, "partial"), _beside(folder, "old")
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


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}.{ending}")


def _put_back(folder: Path) -> None:
    """What a kill between the two renames has left without its name."""
    replaced = _beside(folder, "old")
    if replaced.exists() and not folder.exists():
        os.replace(replaced, folder)


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
    """InputError unless a tokenizer may and can be written there; nothing there is changed."""
    _put_back(folder.resolve())
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
    corpus = without_folders(asked.recipe.corpus)
    return {
        "command": command_line(asked),
        "recipe": as_dict(replace(asked.recipe, corpus=corpus)),
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
        elif key == "corpus.dataset":
            known = without_folders(asked.recipe.corpus).dataset
            shown = shlex.quote(json.dumps(dict(known), ensure_ascii=False))
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

Byte-level BPE of {entries:,} entries: every byte is one,
nothing is normalised, so every string comes back as it was.
`<|endoftext|>` (id 0) ends a document, `<|pad|>` (id 1) is padding only.

| made from | |
|---|--:|
| files | {files} |
| documents | {documents:,} |
| bytes | {bytes:,} |
| characters | {characters:,} |
| trained on | {share} |
| seconds | {seconds} |
| peak memory | {memory:.2f} GB |
| size of tokenizer.json | {megabytes:.2f} MB |
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
    one_in = facts["training"]["one_in"]
    return _CARD.format(
        name=name,
        purpose=recipe["purpose"],
        entries=facts["entries"],
        files=", ".join(file["name"] for file in text["files"]),
        documents=text["documents"],
        bytes=text["bytes"],
        characters=text["characters"],
        share=f"one in {one_in} occurrences of each pre-token" if one_in > 1 else "all of it",
        seconds=facts["seconds"],
        memory=facts["peak_memory_bytes"] / 1e9,
        megabytes=len(tokenizer.to_str().encode("utf-8")) / 1e6,
        tokenizers=facts["versions"]["tokenizers"],
        recipe_hash=facts["recipe_hash"],
        fingerprint=facts["fingerprint"],
        command=facts["command"],
        pattern=pre_tokenizer.of(recipe["bpe"]["pre_tokenizer"]).pattern or "nothing",
        longest="  ".join(longest_entries(tokenizer, 12)),
    )
