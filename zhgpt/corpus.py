"""A recipe's text to blocks of tokens: nothing lost on the way, everything counted.

Sources become sealed parts of token rows, training that is in validation is looked for, and the
rows are cut into blocks. Every document is followed by one end-of-text token.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import datasets
import filelock
from tokenizers import Tokenizer

from zhgpt import disk, sources, survey, text
from zhgpt.errors import InputError, exit_code
from zhgpt.ledger import SPLITS, Ledger, ledger_table
from zhgpt.preparation import Preparation
from zhgpt.recipe import CleaningSection, CorpusSection, as_dict
from zhgpt.sources import Source

Say = Callable[[str], None]

# What the blocks and their ledger follow from: other code makes others.
_MODULES = (
    "blocks cleaning contamination corpus disk duplicates encoder encodings files frequent ledger"
    " parts pattern preparation sources tables tally text unpack"
).split()
_CODE = Path(__file__).parent
_LIBRARIES = "charset-normalizer datasets numpy opencc pyarrow rensa tiktoken tokenizers".split()


@dataclass(frozen=True)
class Corpus:
    """Memory-mapped blocks, one column `input_ids`.

    Rows of `train` have block_size ids; the last row of `validation` may be shorter, so that the
    whole split is scored. `fingerprint` is of the blocks themselves: equal text in equal splits,
    tokenizer, seed and block size give the same one anywhere.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    ledger: Ledger
    fingerprint: str


def require_files(section: CorpusSection) -> None:
    """InputError unless the named text is there: said before anything that takes time."""
    sources.find(section, lambda line: None)


def prepare(
    section: CorpusSection,
    clean: CleaningSection,
    tokenizer: Tokenizer,
    eos_id: int,
    say: Say = print,
) -> Corpus:
    """The section's text as blocks; made once per content, then found again at once.

    The result is cached in the folder of `datasets` (HF_HOME, HF_DATASETS_CACHE) under a key of
    all that it depends on; it gets its name when it is complete. A preparation that was cut off
    goes on behind its last sealed part. InputError for text that cannot be read or does not fill a
    block, for splits that share text, and for a full disk.
    """
    found = sources.open_all(section, say)
    plain = _plain(tokenizer)
    folder = _cache() / _key(section, clean, found, plain, eos_id)
    partial = folder.with_suffix(".partial")
    if not folder.exists() or partial.exists():
        with _alone(folder, say):
            if not folder.exists():
                _make(folder, Preparation(partial, section, clean, found, plain, eos_id, say))
            shutil.rmtree(partial, ignore_errors=True)
    facts = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    say(ledger_table(facts))
    splits = (datasets.Dataset.from_file(str(folder / f"{split}.arrow")) for split in SPLITS)
    return Corpus(*splits, facts, facts["blocks_hash"])


Sources = dict[str, list[Source]]


def _cache() -> Path:
    folder = Path(datasets.config.HF_DATASETS_CACHE, "zhgpt")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        reason = "no permission to write"
    except OSError as error:
        reason = error.strerror
    raise _unwritable(folder, reason)


def _unwritable(folder: Path, reason: str) -> InputError:
    return InputError(
        f"corpus: the cache {folder} cannot be written ({reason}).\n"
        "Name a folder that can, with some 2 bytes of room per byte of text: HF_HOME=FOLDER"
    )


# The content of the files counts, not their names; the model alone knows of the mask.
_BESIDE_THE_BLOCKS = ("train_files", "validation_files", "document_mask", "claimed_bytes")


def _key(
    section: CorpusSection,
    clean: CleaningSection,
    found: Sources,
    tokenizer: Tokenizer,
    eos_id: int,
) -> str:
    """Hash of everything that the blocks follow from, this code included."""
    settings = as_dict(section)
    facts = {
        "sources": {split: [source.digest for source in found[split]] for split in SPLITS},
        "corpus": {k: v for k, v in settings.items() if k not in _BESIDE_THE_BLOCKS},
        "cleaning": as_dict(clean),
        "tokenizer": [tokenizer.to_str(), eos_id],
        "versions": [*map(version, _LIBRARIES), unicodedata.unidata_version],
        "code": [text.file_hash(_CODE / f"{module}.py") for module in _MODULES],
    }
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()[:24]


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy without the truncation and padding that a tokenizer may have been saved with."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """One process prepares; others of the same corpus wait and find it done."""
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say("corpus: another process prepares the same text; waiting for it")
        lock.acquire()
    except OSError as error:
        raise _unwritable(folder.parent, error.strerror) from None
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path, preparation: Preparation) -> None:
    try:
        ready = preparation.run()
        os.replace(ready, folder)
        disk.sync(folder.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # What is sealed stays: the same command goes on behind it.
        raise InputError(preparation.room_needed()) from None
    except InputError:
        shutil.rmtree(preparation.folder)
        raise


if __name__ == "__main__":
    sys.exit(exit_code(survey.run, None))
