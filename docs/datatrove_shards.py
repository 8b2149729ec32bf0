"""Shards for train_files, made by datatrove: python datatrove_shards.py SOURCE TARGET

Of the *.jsonl.zst in SOURCE, documents that are long enough, each equal one once; every task writes
one file of JSON lines to TARGET. Signatures and logs lie beside it, in TARGET.work.
"""

import sys

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import ExactDedupFilter, ExactDedupSignature, ExactFindDedups
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

FILES = "train-*.jsonl.zst"  # never what is validated with
TASKS, WORKERS, SEARCHERS = 6, 2, 2  # a task reads whole files: no more of them than files
LEAST_CHARACTERS = 50


def text(document: Document) -> str:
    return document.text


def is_long(document: Document) -> bool:
    return len(document.text) >= LEAST_CHARACTERS


def only_text(writer: JsonlWriter, document: Document) -> dict:
    return {"text": document.text, "source": document.metadata.get("source", "")}


def run(source: str, target: str) -> None:
    """Three stages; each begins when all tasks of the one before it are done."""
    work, equal = f"{target}.work", ExactDedupConfig(content_getter=text)
    read = [JsonlReader(source, glob_pattern=FILES), LambdaFilter(is_long)]
    stages = {
        "signatures": [*read, ExactDedupSignature(f"{work}/signatures", equal, SEARCHERS)],
        "duplicates": [ExactFindDedups(f"{work}/signatures", f"{work}/duplicates", equal)],
        "shards": [
            *read,
            ExactDedupFilter(f"{work}/duplicates", equal),
            JsonlWriter(target, "${rank}.jsonl.gz", adapter=only_text),
        ],
    }
    before = None
    for name, pipeline in stages.items():
        before = LocalPipelineExecutor(
            pipeline,
            tasks=SEARCHERS if name == "duplicates" else TASKS,
            workers=WORKERS,
            logging_dir=f"{work}/logs/{name}",
            depends=before,
        )
    before.run()


if __name__ == "__main__":  # without it, every worker would start the pipeline again
    run(*sys.argv[1:])
