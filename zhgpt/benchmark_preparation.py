"""How fast, and with how much memory and disk, text becomes blocks: ours beside two other ways."""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from zhgpt import bpe, contenders, meter, text
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection

Say = Callable[[str], None]
Record = dict[str, Any]
Documents = Counter[tuple[int, int]]  # (hash of the ids, number of ids) of each

WAYS = ("example", "bare", "ours")
_BLOCK_SIZE, _BATCH_SIZE = 512, 16
_ENDINGS = (".jsonl", ".jsonl.zst")
_MEGABYTES_OF_LARGE = (100, 1000)
_MEGABYTES_OF_LINE = 200
_KEPT = "documents bytes tokens eos_tokens remainder tokens_in_blocks seconds".split()
_KEPT += ["import_seconds"]


class UnequalWork(Exception):
    """Two ways gave other ids: their times say nothing about each other."""


@dataclass(frozen=True)
class Preparation:
    """What is measured: JSON lines in `files`, each way `repeats` times in turn, in `scratch`."""

    files: Sequence[Path]
    tokenizer: Path
    repeats: int
    scratch: Path
    say: Say

    def measure(self, large: bool) -> Record:
        """The figures of every way and of loading; if `large`, of texts of up to a gigabyte too.

        InputError for files that are no JSON lines; UnequalWork.
        """
        self.require_input()
        record: Record = {"files": [path.name for path in self.files], "repeats": self.repeats}
        record |= {"tokenizer": self.tokenizer.name, "block_size": _BLOCK_SIZE}
        record |= {"batch_size": _BATCH_SIZE, "processors": contenders.PROCESSORS}
        record |= {"ways": {way: [] for way in WAYS}, "loading": []}
        for number in range(self.repeats):
            for way, figures in self._repeat(number).items():
                record["ways"][way].append(figures)
            record["loading"].append(self._loading())
            self._clear()
        if large:
            record["large"] = self._large()
        return record

    def require_input(self) -> None:
        bpe.require_folder(str(self.tokenizer))
        tokenizer, _ = contenders.tokenizer_of(str(self.tokenizer))
        if reason := contenders.encoder.Encoder(tokenizer).reason:
            raise InputError(f"--tokenizer: tiktoken does not give the ids of this one: {reason}.")
        for path in self.files:
            if not path.is_file() or not path.name.endswith(_ENDINGS):
                raise InputError(f"--files: {path} is no file ending in {' or '.join(_ENDINGS)}.")

    def _repeat(self, number: int) -> dict[str, Record]:
        """Figures of each way, which all start with nothing; another one is first each time."""
        first = number % len(WAYS)
        answers, figures = {}, {}
        for way in (*WAYS[first:], *WAYS[:first]):
            folder = self.scratch / way
            peaks, answers[way] = self._run(way, folder, self.files)
            figures[way] = _figures(peaks, answers[way], folder)
            self.say(f"repeat {number + 1}, {way}: {answers[way]['seconds']:.1f} s")
        _, eos_id = contenders.tokenizer_of(str(self.tokenizer))
        require_equal(answers, eos_id)
        return figures

    def _run(self, way: str, folder: Path, files: Sequence[Path]) -> tuple[meter.Peaks, Record]:
        folder.mkdir(exist_ok=True)
        job = {
            "way": way,
            "folder": str(folder),
            "files": [str(path.resolve()) for path in files],
            "tokenizer": str(self.tokenizer),
            "block_size": _BLOCK_SIZE,
            "batch_size": _BATCH_SIZE,
            "started": time.time(),
        }
        changed = {
            "HF_HOME": str(folder / "home"),
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-m", "zhgpt.contenders", json.dumps(job)]
        peaks = meter.watch(command, folder, os.environ | changed)
        answer = folder / contenders.ANSWER
        found = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
        return peaks, found

    def _loading(self) -> Record:
        """Tokens/s over the blocks that `ours` has just made."""
        return self._run("loading", self.scratch / "ours", self.files)[1]["tokens_per_second"]

    def _clear(self) -> None:
        for folder in self.scratch.iterdir():
            shutil.rmtree(folder)

    def _large(self) -> list[Record]:
        """Of our way, cold and then again, with more and more text and with one long line."""
        texts = {f"{size} MB": (size, 0) for size in _MEGABYTES_OF_LARGE}
        texts |= {f"one line of {_MEGABYTES_OF_LINE} MB": (10, _MEGABYTES_OF_LINE)}
        found = []
        for name, (size, line) in texts.items():
            folder = self.scratch / "large"
            folder.mkdir()
            path = folder / "large.jsonl"
            write_large(path, self.files, size * 1_000_000, line * 1_000_000)
            found.append({"text": name} | self.ours([path], name))
        return found

    def ours(self, files: Sequence[Path], name: str) -> Record:
        """Our way with these files, cold and then again; the folder is empty before and after.

        UnequalWork where the second start gives other blocks.
        """
        folder = self.scratch / "ours"
        cold, answer = self._run("ours", folder, files)
        _, again = self._run("ours", folder, files)
        if again["fingerprint"] != answer["fingerprint"]:
            raise UnequalWork(f"{name}: the second start gave other blocks")
        figures = _figures(cold, answer, folder) | {"fingerprint": answer["fingerprint"]}
        self.say(f"{name}: {answer['seconds']:.1f} s, again {again['seconds']:.2f} s")
        self._clear()
        return {"second_start": again["seconds"]} | figures


def _figures(peaks: meter.Peaks, answer: Mapping[str, Any], folder: Path) -> Record:
    """`disk` and `peak_disk` are of all that lies in the folder of the way, in bytes."""
    return {key: answer[key] for key in _KEPT if key in answer} | {
        "peak_memory": peaks.memory,
        "peak_disk": peaks.disk,
        "disk": meter.folder_size(folder),
    }


def require_equal(answers: Mapping[str, Mapping[str, Any]], eos_id: int) -> None:
    """UnequalWork unless all ways encoded the same documents to the same ids, in any order.

    Where a way's last tokens fill no block, the documents that they are of may be missing: as
    many tokens as it says.
    """
    right, _ = _documents(answers["bare"]["streams"], eos_id)
    for way, answer in answers.items():
        found, cut = _documents(answer["streams"], eos_id)
        missing = sum(size * number for (_, size), number in (right - found).items())
        others = sum((found - right).values())
        if others or missing != cut + answer.get("remainder", 0):
            raise UnequalWork(
                f"{way}: {others:,} documents have other ids than those of the bare loop, and"
                f" {missing:,} tokens are missing, of which it says"
                f" {answer.get('remainder', 0):,}; {right.total():,} documents in all"
            )


def _documents(streams: Sequence[Sequence[str]], eos_id: int) -> tuple[Documents, int]:
    """The documents of all streams, and how many tokens stand behind the last whole one of each."""
    found: Documents = Counter()
    behind = 0
    for stream in streams:
        ids = np.concatenate([ids for path in stream for ids in _ids(path)])
        ends = np.flatnonzero(ids == eos_id) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            found[xxhash.xxh3_64_intdigest(ids[start:end].tobytes()), int(end - start)] += 1
        behind += len(ids) - int(ends[-1]) if len(ends) else len(ids)
    return found, behind


def _ids(path: str) -> Iterator[np.ndarray]:
    """The ids of a file of 16-bit integers, or of an Arrow stream's column input_ids."""
    if path.endswith(".bin"):
        yield np.fromfile(path, np.uint16)
        return
    with pa.memory_map(path) as file:
        for batch in pa.ipc.open_stream(file):
            yield batch.column("input_ids").flatten().to_numpy().astype(np.uint16)


def write_large(path: Path, files: Sequence[Path], size: int, line: int) -> None:
    """JSON lines of `size` bytes of text: the documents of `files` over and over, each time under
    another number, so that no two are equal; before them one of `line` bytes.
    """
    with path.open("w", encoding="utf-8") as file:
        numbered = _numbered(files)
        if line:
            parts = _up_to(numbered, line)
            file.write(json.dumps({"text": " ".join(parts)}, ensure_ascii=False) + "\n")
        for document in _up_to(numbered, size):
            file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")


def _numbered(files: Sequence[Path]) -> Iterator[str]:
    section = TextSection(train_files=())
    rounds = 0
    while True:
        rounds += 1
        for path in files:
            for number, document in enumerate(text.documents(path, section, text.Tally())):
                yield f"第{rounds}轮第{number}篇。{document}"


def _up_to(documents: Iterator[str], size: int) -> Iterator[str]:
    for document in documents:
        yield document
        size -= len(document.encode("utf-8"))
        if size <= 0:
            return
