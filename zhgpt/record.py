"""Published results: python -m zhgpt.record RUN appends a run's line to recipes/results.jsonl.

Then the tables between the marks in README.md and its translation are written anew from those
lines; without RUN only that. Earlier lines are never changed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhgpt import disk, marks, session
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.report import count

RESULTS = Path("recipes/results.jsonl")
PAGES = (Path("README.md"), Path("docs/README.zh-CN.md"))
BEGIN, END = "<!-- results: written by python -m zhgpt.record -->", "<!-- end of results -->"
HEADS = {
    "README.md": "run text parameters tokens bits/byte loss perplexity hours device code",
    "README.zh-CN.md": "运行 文本 参数量 词元数 比特/字节 损失 困惑度 小时 设备 代码",
}


def result(folder: Path) -> dict[str, Any]:
    """The published facts of a finished run; InputError for any other, for unrecorded code, and
    for a record that is damaged.
    """
    record = session.read(folder)
    try:
        line = _line(folder, record)
        _row(line)  # what the table is made of
        return line
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder}/run.json: damaged ({fault}); nothing was published.") from None


def _line(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    if record["status"] != "finished":
        raise InputError(
            f"{record['name']} is {record['status']}: only a finished run is published."
        )
    if record["source"]["commit"] is None or record["source"]["modified"]:
        raise InputError(
            f"{record['name']} ran from code that no commit holds, so nobody could repeat it.\n"
            "Commit, then run it again from a clean checkout."
        )
    metrics = {k: v for k, v in record["metrics"].items() if k.startswith(("eval_", "train_"))}
    kept = ("name", "recipe_file", "recipe_hash", "inputs", "plan", "machine")
    return {key: record[key] for key in kept} | {
        "overrides": {key: _without_folders(key, v) for key, v in record["overrides"].items()},
        "curve": curve(folder),
        "commit": record["source"]["commit"],
        "versions": record["versions"],
        "train_tokens": record["ledger"]["train"]["tokens"],
        "train_bytes": record["ledger"]["train"]["bytes"],
        "metrics": metrics,
        "finished": record["segments"][-1]["ended"],
        "segments": len(record["segments"]),
    }


def _without_folders(key: str, value: Any) -> Any:
    """Where the text lay on the machine that trained is nobody's concern; its names may tell."""
    return [Path(path).name for path in value] if key.endswith("_files") else value


def curve(folder: Path) -> list[tuple[int, float]]:
    """(tokens, bits per byte) of every evaluation."""
    path = folder / "trainer_state.json"
    try:
        history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        evaluations = [entry for entry in history if "eval_bits_per_byte" in entry]
        return [(entry["tokens"], round(entry["eval_bits_per_byte"], 5)) for entry in evaluations]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: no whole curve in it ({fault}).") from None


def append(results: Path, line: Mapping[str, Any]) -> None:
    """Refuses a run that is there already."""
    for known in read(results):
        if (known["name"], known["finished"]) == (line["name"], line["finished"]):
            raise InputError(f"{results} holds this run already ({line['name']}).")
    before = results.read_text(encoding="utf-8") if results.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    disk.write_whole(results, before + json.dumps(line, ensure_ascii=False) + "\n")


def read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    lines = results.read_text(encoding="utf-8").splitlines()
    return [_parse(results, number, line) for number, line in enumerate(lines, 1)]


def _parse(results: Path, number: int, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
        _row(content), content["finished"]
        return content
    except (ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise InputError(f"{results}:{number}: not a line of results ({fault}).") from None


def table(lines: Sequence[Mapping[str, Any]], head: str) -> str:
    """Markdown; runs on the same text stand together, best bits per byte first."""
    ranked = sorted(lines, key=lambda x: (x["train_bytes"], x["metrics"]["eval_bits_per_byte"]))
    heads = head.split()
    rule = "|---|" + "--:|" * (len(heads) - 3) + "---|---|"
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {_row(line)} |" for line in ranked)])


def _row(line: Mapping[str, Any]) -> str:
    metrics = line["metrics"]
    cells = (
        f"`{line['name']}`",
        f"{line['train_bytes'] / 1e6:.1f} MB",
        count(line["plan"]["parameters"]),
        count(line["plan"]["tokens"]),
        f"{metrics['eval_bits_per_byte']:.3f}",
        f"{metrics['eval_loss']:.3f}",
        f"{metrics['eval_perplexity']:.1f}",
        f"{metrics['train_runtime'] / 3600:.2f}",
        line["machine"]["device"],
        f"`{line['commit'][:7]}`",
    )
    return " | ".join(cells)


def with_table(page: str, name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """`page` with the table between its marks replaced; InputError where they are not."""
    return marks.with_content(page, name, (BEGIN, END), table(lines, HEADS[name]))


def _page(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{page}: {error.strerror}; start this in the repository's own folder, or name another"
            " --results."
        ) from None


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m zhgpt.record")
    parser.add_argument("run", nargs="?", type=Path, help="output folder of a finished run")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args(argv)
    pages = {page: _page(page) for page in PAGES} if options.results == RESULTS else {}
    for page, text in pages.items():
        with_table(text, page.name, [])  # before anything is written
    if options.run:
        append(options.results, result(options.run))
    for page, text in pages.items():
        disk.write_whole(page, with_table(text, page.name, read(RESULTS)))
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
