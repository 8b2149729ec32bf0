"""How preparation, start, step, save and resume grow with text, model and processes."""

import gc
import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from transformers import GPT2Config

from zhgpt import machine, plan, text
from zhgpt.benchmark_preparation import Preparation, UnequalWork, write_large
from zhgpt.benchmark_save import Saves
from zhgpt.benchmark_startup import PARTS, Marks, Starts
from zhgpt.errors import InputError
from zhgpt.recipe import TextSection

Record = dict[str, Any]

MEGABYTES = (10, 30, 100, 300, 1000, 2000)
MILLIONS = (1, 3, 10, 30, 100, 300)
PROCESSES = (1, 2, 4)
_SHARDS = (7, 1000)
_RECIPE, _TOKENIZER = Path("recipes/village.json"), Path("tokenizer/village_4k")
_VOCABULARY, _BLOCK_SIZE = 4096, 128  # of that tokenizer, and of that recipe
_STEPS, _STEPS_TOGETHER, _STEPS_BETWEEN_SAVES = 3, 10, 2
_MEGABYTES_TOGETHER = 30
# Weights and gradients, two moments, and a copy of all but the gradients while it is saved.
_BYTES_PER_PARAMETER = 28
_WIDTHS = range(64, 4097, 64)
# Nothing is sampled and next to nothing evaluated: both would grow with the model beside the rest.
_SMALL = {"samples.prompts": "[]", "tokens_per_step": str(_BLOCK_SIZE)}
_SMALL |= {"per_device_train_batch_size": "1"}


@dataclass(frozen=True)
class Scale:
    """Text of `files` in so many `megabytes`, models of so many `millions` of parameters, and so
    many `processes`, each measured once, in `scratch`, which is empty.

    `tokenizer` is that of the text; models and processes have the village recipe's.
    """

    files: Sequence[Path]
    tokenizer: Path
    megabytes: Sequence[int]
    millions: Sequence[int]
    processes: Sequence[int]
    scratch: Path
    say: Callable[[str], None]

    def measure(self) -> Record:
        """InputError for a model that does not fit this machine, and for files that are no JSON
        lines; UnequalWork where the same text in other files gives other blocks.
        """
        shapes = [shape(size * 1_000_000) for size in self.millions]
        for config in shapes:
            _require_memory(config)
        record: Record = {"files": [path.name for path in self.files]}
        record |= {"tokenizer": self.tokenizer.name, "recipe": _RECIPE.name}
        record |= {"texts": self._texts(), "shards": self._shards()}
        record["models"] = [self._model(config) for config in shapes]
        record["processes"] = [self._together(number) for number in self.processes]
        return record | {"megabytes_together": _MEGABYTES_TOGETHER, "block_size": _BLOCK_SIZE}

    def _texts(self) -> list[Record]:
        preparation, found = self._preparation(), []
        for size in self.megabytes:
            with self._folder() as folder:
                write_large(folder / "text.jsonl", self.files, size * 1_000_000, 0)
                found.append(preparation.ours([folder], f"{size} MB"))
        return found

    def _shards(self) -> list[Record]:
        """The same documents in few files and in many; they have to give the same blocks."""
        preparation, found = self._preparation(), []
        for number in _SHARDS:
            with self._folder() as folder:
                made = write_shards(folder, self.files, number)
                found.append({"files": made} | preparation.ours([folder], f"{made} files"))
        if len({run["fingerprint"] for run in found}) > 1:
            raise UnequalWork("the same text in other files gave other blocks")
        return found

    def _preparation(self) -> Preparation:
        scratch = self.scratch / "preparation"
        scratch.mkdir(exist_ok=True)
        preparation = Preparation(self.files, self.tokenizer, 1, scratch, self.say)
        preparation.require_input()
        return preparation

    def _model(self, config: GPT2Config) -> Record:
        """Seconds from the command to the first step, of a step, and of a save."""
        with self._folder() as folder:
            starts = Starts(_RECIPE, 1, folder, self.say, _changed(config, folder), steps=_STEPS)
            starts.run("run", upto=2)  # a checkpoint to go on from, and the text is prepared
            (resumed,), (new,) = starts.timed("run"), starts.timed("new")
            saves = Saves(config, _TOKENIZER, 1, folder, self.say, _STEPS_BETWEEN_SAVES)
            _, save = saves.turns(["ours", "ours"])  # the first one takes its memory
        gc.collect()  # model and trainer hold one another, and the next model is larger
        found = {"parameters": plan.count_parameters(config), "n_layer": config.n_layer}
        found |= {"n_embd": config.n_embd, "start": _to_first_step(new), "steps": _steps(new)}
        found |= {"resume": _to_first_step(resumed), "checkpoint_bytes": save["bytes"]}
        self.say(f"{found['parameters'] / 1e6:.1f} M parameters: start {found['start']:.1f} s")
        return found | {"stall": save["stall"], "sealed": save["sealed"]}

    def _together(self, processes: int) -> Record:
        """Seconds of processes of one run, a thread each: with text that is new, and again."""
        with self._folder() as folder:
            write_large(folder / "text.jsonl", self.files, _MEGABYTES_TOGETHER * 1_000_000, 0)
            changed = {"corpus.train_files": str(folder / "text.jsonl")}
            changed["per_device_train_batch_size"] = "1"
            starts = Starts(
                _RECIPE, 1, folder, self.say, changed, {"OMP_NUM_THREADS": "1"},
                processes, _STEPS_TOGETHER,
            )  # fmt: skip
            new, again = starts.timed("new"), starts.timed("again")
        self.say(f"{processes} process(es): {statistics.median(_steps(again[0])):.2f} s a step")
        return {
            "processes": processes,
            "wait": [_until_text(marks) for marks in new],
            "wait_again": [_until_text(marks) for marks in again],
            "start": max(map(_to_first_step, again)),
            "steps": _steps(again[0]),
        }

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = self.scratch / "one"
        folder.mkdir()
        yield folder
        shutil.rmtree(folder)


def shape(parameters: int) -> GPT2Config:
    """The model of about so many parameters whose width is nearest to 64 times its depth."""
    shapes = [_of_width(width, parameters) for width in _WIDTHS]
    return min((s for s in shapes if s), key=_distance)


def _of_width(width: int, parameters: int) -> GPT2Config | None:
    """None where the embeddings alone leave less than half a layer."""
    facts = _FACTS | {"n_embd": width, "n_head": width // 64}
    one, two = (plan.count_parameters(GPT2Config(n_layer=n, **facts)) for n in (1, 2))
    layers = 1 + round((parameters - one) / (two - one))
    return GPT2Config(n_layer=layers, **facts) if layers > 0 else None


_FACTS = {"vocab_size": _VOCABULARY, "n_positions": _BLOCK_SIZE}
_FACTS |= {"bos_token_id": 0, "eos_token_id": 0}  # the library's own are not in this vocabulary
_FACTS |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)


def _distance(config: GPT2Config) -> float:
    ratio = config.n_embd / (64 * config.n_layer)
    return max(ratio, 1 / ratio)


def _require_memory(config: GPT2Config) -> None:
    size, whole = plan.count_parameters(config), machine.main_memory_bytes()
    if size * _BYTES_PER_PARAMETER > whole:
        raise InputError(
            f"--millions: a model of {size / 1e6:.0f} million parameters takes"
            f" {size * _BYTES_PER_PARAMETER / 1e9:.0f} GB while it is saved, and this machine has"
            f" {whole / 1e9:.0f} GB. Name smaller ones."
        )


def _changed(config: GPT2Config, folder: Path) -> dict[str, str]:
    """Options of run_clm.py for this model; its validation is one short text."""
    short = folder / "validation.jsonl"
    short.write_text(json.dumps({"text": "一篇短文。"}) + "\n", encoding="utf-8")
    sizes = {key: str(getattr(config, key)) for key in ("n_layer", "n_head", "n_embd")}
    return sizes | _SMALL | {"corpus.validation_files": str(short)}


def write_shards(folder: Path, files: Sequence[Path], number: int) -> int:
    """The documents of `files` in their order in so many files, or one each; how many those are."""
    section = TextSection(train_files=())
    found = list(chain.from_iterable(text.documents(p, section, text.Tally()) for p in files))
    number, documents = min(number, len(found)), iter(found)
    for shard in range(number):
        here = len(found) * (shard + 1) // number - len(found) * shard // number
        lines = (json.dumps({"text": d}, ensure_ascii=False) for d in islice(documents, here))
        (folder / f"{shard:06d}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return number


# Of a start's marks: the wall's clock, which waiting is seen by.


def _to_first_step(marks: Marks) -> float:
    return marks[len(PARTS)][0] - marks[0][0]


def _until_text(marks: Marks) -> float:
    """From the end of the imports until the text is prepared, the group joined."""
    return marks[2][0] - marks[1][0]


def _steps(marks: Marks) -> list[float]:
    """Without the first."""
    ends = [wall for wall, _ in marks[len(PARTS) :]]
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]
