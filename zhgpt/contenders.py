"""Three ways from JSON lines to token ids, each in a process of its own: python -m zhgpt.contenders
JOB, a JSON object from zhgpt.benchmark_preparation, whose answer lies in the job's folder.

A job has `way`, `folder` (empty, where all is written), `files`, `tokenizer`, `block_size`,
`batch_size` and the time when it was `started`. An answer has the seconds of the work and those of
the start and the imports before it, and `streams`: lists of files whose ids in a row are the
documents, each with its end of text. `remainder` tokens at the end are in no file.
"""

import io
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from tokenizers import Tokenizer

from zhgpt import encoder
from zhgpt.ledger import SPLITS

PROCESSORS = 2
ANSWER = "answer.json"
_SECONDS_OF_LOADING = 1.0

Job = Mapping[str, Any]
Answer = dict[str, Any]


def example(job: Job) -> Answer:
    """As the language-modelling examples of transformers: `datasets` maps the text to ids and the
    ids of a thousand documents to blocks, each map in two processes with its file in the cache.

    What fills no block of a thousand documents is lost, as there; the end of text, which the
    example leaves to the tokenizer, is added, or the ids would not be the ones of the others.
    """
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["tokenizer"])
    tokenizer.model_max_length = sys.maxsize  # else a warning for every long document

    def encoded(rows: Mapping[str, list]) -> Mapping[str, list]:
        found = tokenizer(rows["text"], split_special_tokens=True)
        for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True):
            ids.append(tokenizer.eos_token_id)
            mask.append(1)
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    texts = datasets.load_dataset("json", data_files=job["files"], split="train")
    options = {"batched": True, "num_proc": PROCESSORS}
    ids = texts.map(encoded, remove_columns=texts.column_names, **options)
    blocks = ids.map(group_texts, fn_kwargs={"size": job["block_size"]}, **options)
    return {
        # Of the first map: what the second one loses, the others have.
        "streams": [[file["filename"] for file in ids.cache_files]],
        "tokens_in_blocks": len(blocks) * job["block_size"],
    }


def group_texts(rows: Mapping[str, list], size: int) -> Mapping[str, list]:
    """Each column's lists in a row, cut into blocks, and the ids once more as labels."""
    blocks = {}
    for column, lists in rows.items():
        flat = [value for part in lists for value in part]
        whole = len(flat) - len(flat) % size
        blocks[column] = [flat[start : start + size] for start in range(0, whole, size)]
    return blocks | {"labels": [block.copy() for block in blocks["input_ids"]]}


def bare(job: Job) -> Answer:
    """tiktoken in two processes, each with every second line; ids of 16 bits, one after another.

    Nothing is checked, counted, ordered or safe from an interruption.
    """
    with multiprocessing.get_context("fork").Pool(PROCESSORS) as pool:
        paths = pool.starmap(_bare, [(job, number) for number in range(PROCESSORS)])
    return {"streams": [[path] for path in paths]}


def _bare(job: Job, number: int) -> str:
    tokenizer, eos_id = tokenizer_of(job["tokenizer"])
    engine = encoder.Encoder(tokenizer).engine
    path, end = Path(job["folder"], f"bare-{number}.bin"), np.array([eos_id], np.uint16)
    with path.open("wb") as file:
        for line in _every_second(job["files"], number):
            ids = engine.encoding.encode_to_numpy(json.loads(line)["text"], disallowed_special=())
            file.write(engine.ids[ids])
            file.write(end)
    return str(path)


def _every_second(files: Iterable[str], number: int) -> Iterator[bytes]:
    for name in files:
        with open(name, "rb") as file:
            if name.endswith(".zst"):
                unpacked = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                file = io.BufferedReader(unpacked, 1 << 20)
            yield from islice(file, number, None, PROCESSORS)


def ours(job: Job) -> Answer:
    """zhgpt.corpus.prepare; at once if this folder's cache has the blocks already."""
    made = _prepared(job)
    files = [[dataset.cache_files[0]["filename"]] for dataset in (made.train, made.validation)]
    facts = ("documents", "bytes", "tokens", "eos_tokens")
    sums = {fact: sum(made.ledger[split][fact] for split in SPLITS) for fact in facts}
    remainder = made.ledger["train"]["remainder_tokens"]
    return {"streams": files, "remainder": remainder, "fingerprint": made.fingerprint} | sums


def _prepared(job: Job) -> Any:
    from zhgpt import corpus, recipe

    tokenizer, eos_id = tokenizer_of(job["tokenizer"])
    section = recipe.CorpusSection(
        train_files=tuple(job["files"]),
        block_size=job["block_size"],
        contamination="report",  # the others leave nothing out either
    )
    return corpus.prepare(section, recipe.CleaningSection(), tokenizer, eos_id, lambda line: None)


def loading(job: Job) -> Answer:
    """Tokens/s of DataLoader over blocks that are in this folder's cache: rows as they are, in the
    file's order and in that of training; stacked to a tensor; and as the Trainer's collator does.
    """
    import torch
    import transformers

    from zhgpt import order

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["tokenizer"])
    blocks = _prepared(job).train
    shuffled = order.Stream(blocks, len(blocks), 0)
    of_trainer = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    ways = {
        "rows": (blocks, list),
        "rows in the order of training": (shuffled, list),
        "stacked": (shuffled, lambda rows: torch.tensor([row["input_ids"] for row in rows])),
        "DataCollatorForLanguageModeling": (shuffled, of_trainer),
    }
    loader = torch.utils.data.DataLoader
    rates = {
        way: _rate(loader(rows, batch_size=job["batch_size"], collate_fn=collate), job)
        for way, (rows, collate) in ways.items()
    }
    return {"tokens_per_second": rates}


def _rate(batches: Iterable, job: Job) -> float:
    """Tokens/s of whole batches, over a second."""
    began, rows = time.perf_counter(), 0
    while True:
        for _ in batches:
            rows += job["batch_size"]
            seconds = time.perf_counter() - began
            if seconds > _SECONDS_OF_LOADING:
                return rows * job["block_size"] / seconds


def tokenizer_of(folder: str) -> tuple[Tokenizer, int]:
    """The tokenizer and the id of its end of text."""
    config = json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    return tokenizer, tokenizer.token_to_id(config["eos_token"])


# What runs, and what is imported before the clock starts: of each no more than it needs itself.
WAYS: dict[str, tuple[Callable[[Job], Answer], tuple[str, ...]]] = {
    "example": (example, ("datasets", "transformers.models.auto.tokenization_auto")),
    "bare": (bare, ("tiktoken",)),
    "ours": (ours, ("zhgpt.corpus",)),
    "loading": (loading, ("zhgpt.corpus", "torch", "transformers")),
}


def run(job: Job) -> None:
    """Does the job and writes its answer to the job's folder."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])
    work, modules = WAYS[job["way"]]
    for module in modules:
        import_module(module)
    imports = time.time() - job["started"]
    began = time.perf_counter()
    answer = work(job)
    answer |= {"seconds": time.perf_counter() - began, "import_seconds": imports}
    Path(job["folder"], ANSWER).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
