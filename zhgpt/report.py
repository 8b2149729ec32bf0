"""What a person reads of a run: the banner before it, the summary and the model card after it."""

import errno
import json
import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zhgpt import leaving, lint

Record = Mapping[str, Any]
Say = Callable[[str], None]


def speaker(main_process: bool) -> Say:
    """Prints lines at once, also into a log file; the other processes keep silent."""
    return _print if main_process else (lambda line: None)


def _print(line: str) -> None:
    """A reader that is gone (`| head`, a closed terminal) ends the run in good order.

    A log's disk that is full does not end it: what waits in the buffer goes out with a later line.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        if error.errno not in (errno.EPIPE, errno.EIO) or not leaving.listening():
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        leaving.ask("nobody reads its output")


def banner(record: Record, output_dir: Path, resume_step: int) -> str:
    """Ten lines and the findings: what will be trained, on what, how long, where."""
    plan = record["plan"]
    rows = [
        ("recipe", f"{record['name']}  ({record['recipe_file']}, {record['recipe_hash']})"),
        ("overrides", _pairs(record["overrides"])),
        ("model", f"GPT-2, {count(plan['parameters'])} parameters, {_shape(record)}"),
        ("tokenizer", f"{record['recipe']['tokenizer']}, {plan['vocab_size']:,} entries"),
        ("corpus", _corpus(record["ledger"])),
        ("tokens", _tokens(record)),
        ("steps", _steps(record)),
        ("compute", f"{plan['flops']:.2e} floating-point operations"),
        ("device", _device(record["machine"])),
        ("writes", f"{output_dir}" + (f", continues at step {resume_step}" if resume_step else "")),
        *(("lint", line) for line in lint.summary(record["lint"])),
    ]
    return "\n".join(f"{name:>10}  {text}" for name, text in rows)


def train_tokens(ledger: Mapping[str, Any]) -> int:
    """Tokens of an epoch: those that lie in whole blocks."""
    return ledger["train"]["blocks"] * ledger["train"]["block_size"]


def count(number: float) -> str:
    """1234567 -> 1.23M"""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "none"


def _shape(record: Record) -> str:
    plan = record["plan"]
    shape = (plan["n_layer"], plan["n_embd"], plan["n_head"], plan["block_size"])
    return "{} layers x {} wide, {} heads, {} positions".format(*shape)


def _corpus(ledger: Mapping[str, Any]) -> str:
    train, validation = ledger["train"], ledger["validation"]
    return (
        f"{train['documents']:,} documents, {train['bytes'] / 1e6:,.2f} MB;"
        f" validation {validation['documents']:,}, {validation['bytes'] / 1e6:,.2f} MB"
    )


def _tokens(record: Record) -> str:
    plan = record["plan"]
    text = count(train_tokens(record["ledger"]))
    return (
        f"{count(plan['tokens'])} = {plan['epochs']:.2f} epochs of {text},"
        f" {plan['tokens_per_parameter']:.1f} per parameter"
    )


def _steps(record: Record) -> str:
    plan, processes = record["plan"], record["machine"]["processes"]
    return (
        f"{plan['max_steps']:,} of {record['recipe']['tokens_per_step']:,} tokens"
        f" = {plan['micro_batch']} blocks x {plan['gradient_accumulation_steps']} accumulated"
        f" x {processes} process(es); {plan['unused_blocks']} blocks left over"
    )


def _device(machine: Mapping[str, Any]) -> str:
    return f"{machine['device']}, {machine['cpu_cores']} cores, {machine['torch_threads']} threads"


def summary(record: Record, output_dir: Path) -> str:
    """The end of a finished run; also what a second start of it prints."""
    metrics = record["metrics"]
    texts = "\n\n".join(printable(row["prompt"] + row["text"]) for row in last_samples(output_dir))
    figures = "\n".join(f"{name:>22}  {metrics[name]:.4f}" for name in FIGURES)
    return (
        f"\n{record['name']} is finished: {record['plan']['max_steps']:,} steps,"
        f" {count(record['plan']['tokens'])} tokens, {len(record['segments'])} segment(s)\n"
        f"{figures}\n{alarms(record)}\n{texts}\n\n"
        f"The model lies in {output_dir}; load it with"
        f' AutoModelForCausalLM.from_pretrained("{output_dir.as_posix()}")'
    )


def alarms(record: Record) -> str:
    """What the guards have found, in a line; nothing where there was nothing."""
    found = [f"{alarm['guard']} at step {alarm['step']:,}" for alarm in record.get("alarms", [])]
    return f"{'alarms':>22}  {', '.join(found)}; more in run.json\n" if found else ""


FIGURES = (
    "eval_bits_per_byte",
    "eval_loss",
    "eval_perplexity",
    "eval_accuracy",
    "eval_nats_per_character",
)


def printable(text: str) -> str:
    """An untrained model writes control characters too; a terminal would obey them."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in _OBEYED and c != "\n" else c for c in text
    )


def json_line(value: Any) -> str:
    """The value whole, as JSON for a file as for a terminal: what that would obey is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in _OBEYED else c for c in text)


_OBEYED = ("Cc", "Cf", "Cs")  # control, format (right-to-left marks among them), surrogate


def last_samples(output_dir: Path) -> list[dict[str, Any]]:
    """The rows of samples.jsonl of the last step; none where the recipe has no prompts."""
    path = output_dir / "samples.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    return [row for row in rows if row["step"] == rows[-1]["step"]]


_CARD = """---
language: zh
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, zhgpt]
---
# {name}

{purpose}

A GPT-2 of {parameters} parameters ({shape}), trained from scratch on {corpus}.
{tokens} tokens in {steps} steps: {epochs:.2f} epochs, {ratio:.1f} tokens per parameter.

| metric | value |
|---|--:|
{metrics}

`eval_bits_per_byte` does not depend on the tokenizer; it compares models with other vocabularies.

```python
from transformers import pipeline
print(pipeline("text-generation", model="{folder}")("村民们都很高兴", max_new_tokens=100))
```

{samples}
## How it was made

Recipe `{recipe_file}` ({recipe_hash}), overrides: {overrides}. Device: {device}. Alarms: {alarms}.
{versions}. Code: {source}. Everything else is in `run.json`.

```json
{recipe}
```
"""


def write_model_card(record: Record, output_dir: Path) -> None:
    (output_dir / "README.md").write_text(model_card(record, output_dir), encoding="utf-8")


def model_card(record: Record, output_dir: Path) -> str:
    """README.md of the output folder, from the record and the samples alone."""
    plan = record["plan"]
    return _CARD.format(
        name=record["name"],
        purpose=record["recipe"]["purpose"],
        parameters=count(plan["parameters"]),
        shape=_shape(record),
        corpus=_corpus(record["ledger"]),
        tokens=count(plan["tokens"]),
        steps=f"{plan['max_steps']:,}",
        epochs=plan["epochs"],
        ratio=plan["tokens_per_parameter"],
        metrics="\n".join(f"| {key} | {record['metrics'][key]:.4f} |" for key in FIGURES),
        folder=output_dir.as_posix(),
        samples="".join(_quoted(row) for row in last_samples(output_dir)),
        alarms=alarms(record).strip().removeprefix("alarms  ") or "none",
        recipe_file=record["recipe_file"],
        recipe_hash=record["recipe_hash"],
        overrides=_pairs(record["overrides"]),
        device=_device(record["machine"]),
        versions=", ".join(f"{name} {value}" for name, value in record["versions"].items()),
        source=record["source"]["commit"] or "not from a repository",
        recipe=json.dumps(record["recipe"], ensure_ascii=False, indent=1),
    )


def _quoted(row: Mapping[str, str]) -> str:
    return "> " + (row["prompt"] + row["text"]).replace("\n", "\n> ") + "\n\n"
