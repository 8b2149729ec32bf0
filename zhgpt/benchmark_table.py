"""The record of a benchmark as Markdown: figures of all contenders, and which targets they meet."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Record = Mapping[str, Any]

NAMES = {
    "example": "transformers' example",
    "bare": "bare `tiktoken` loop",
    "ours": "`zhgpt.corpus.prepare`",
}
_GIGABYTE = 1e9
# How far memory may move with the size of the text and still be called the same.
_SAME = 1.25


def preparation(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what preparation."""
    parts = [_head(record), _contenders(record), _loading(record)]
    parts += [_large(record)] if "large" in record else []
    return "\n\n".join([*parts, target_rows(targets(record))])


def _head(record: Record) -> str:
    ours = record["ways"]["ours"][0]
    return (
        f"{ours['bytes'] / 1e6:,.1f} MB of text, {ours['documents']:,} documents,"
        f" {ours['tokens']:,} tokens of `{record['tokenizer']}`; {record['repeats']} repeats in"
        f" turn, {record['processors']} processes each; {head(record)}"
    )


def head(record: Record) -> str:
    """Machine, versions, code and day of a record of any kind."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    code = (record["commit"] or "no commit")[:7] + (" and changes" if record["modified"] else "")
    return (
        f"{machine['device']}, {machine['cpu_cores']} cores; Python {machine['python']},"
        f" {versions}; code `{code}`, {record['finished'][:10]}."
    )


def _contenders(record: Record) -> str:
    ways = record["ways"]
    rows = [["median (lowest–highest)", *(NAMES[way] for way in ways)]]
    rows += [["---", *("--:" for _ in ways)]]
    sizes = record["ways"]["ours"][0]
    tokens = sizes["tokens"] + sizes["eos_tokens"]
    columns = {
        "seconds": lambda f: f["seconds"],
        "MB of text/s": lambda f: sizes["bytes"] / 1e6 / f["seconds"],
        "start and imports before, seconds": lambda f: f["import_seconds"],
        "peak memory, GB": lambda f: (f["peak_memory"] or 0) / _GIGABYTE,
        "disk at the end, bytes/token": lambda f: f["disk"] / tokens,
        "peak of disk, bytes/token": lambda f: f["peak_disk"] / tokens,
    }
    for name, figure in columns.items():
        rows.append([name, *(spread([figure(f) for f in ways[way]]) for way in ways)])
    return markdown(rows)


def _loading(record: Record) -> str:
    rates = {way: [run[way] / 1e6 for run in record["loading"]] for way in record["loading"][0]}
    size, batch = record["block_size"], record["batch_size"]
    rows = [[f"DataLoader, {batch} blocks of {size}", "million tokens/s"], ["---", "--:"]]
    return markdown(rows + [[way, spread(found)] for way, found in rates.items()])


def _large(record: Record) -> str:
    heads = ["our way with", "seconds", "MB of text/s", "peak memory, GB", "second start, seconds"]
    rows = [heads, ["---", *("--:" for _ in heads[1:])]]
    for run in record["large"]:
        speed = run["bytes"] / 1e6 / run["seconds"]
        memory = (run["peak_memory"] or 0) / _GIGABYTE
        cells = [run["seconds"], speed, memory, run["second_start"]]
        rows.append([run["text"], *map(number, cells)])
    return markdown(rows)


def target_rows(targets: Sequence[tuple[str, Sequence[float], float, bool]]) -> str:
    """A table of what is asked, what was measured, and whether that is met."""
    rows = [["target", "measured", "ratio to the target", ""], ["---", "--:", "--:", "---"]]
    for name, figures, bound, at_most in targets:
        ratio = median(figures) / bound
        rows.append([name, spread(figures), f"{ratio:.2f}", _verdict(figures, bound, at_most)])
    return markdown(rows)


def _verdict(figures: Sequence[float], bound: float, at_most: bool) -> str:
    """By the median; where a repeat says otherwise, that is said too."""
    met = [figure <= bound if at_most else figure >= bound for figure in figures]
    middle = median(figures)
    verdict = "met" if (middle <= bound if at_most else middle >= bound) else "**not met**"
    return verdict if len(set(met)) == 1 else f"{verdict}, in {sum(met)} of {len(met)} repeats"


def targets(record: Record) -> list[tuple[str, list[float], float, bool]]:
    """What is asked, the figures measured, their bound, and whether it is one from above.

    Speeds are compared within a repeat, so that what slows all of them down cancels.
    """
    ours = record["ways"]["ours"]
    tokens = ours[0]["tokens"] + ours[0]["eos_tokens"]
    found = [
        ("at least 4 × as fast as transformers' example", _faster(record, "example"), 4, False),
        ("at least as fast as the bare loop", _faster(record, "bare"), 1, False),
        ("at most 2.2 bytes of disk per token", [f["disk"] / tokens for f in ours], 2.2, True),
        ("at least 19 M tokens/s of DataLoader rows", _rows_loaded(record), 19, False),
    ]
    large = record.get("large", [])
    memory = [run["peak_memory"] for run in [*ours, *large]]
    if all(memory):  # unknown where there is no /proc
        found.append(("memory below 1.5 GB", [max(memory) / _GIGABYTE], 1.5, True))
    return found + (_of_large(large) if large else [])


def _of_large(runs: Sequence[Record]) -> list[tuple[str, list[float], float, bool]]:
    """Memory of each text beside that of the first one; the second start with the most text."""
    first, *others = runs
    found = []
    for run in others:
        if run["peak_memory"]:
            name = f"the same memory for {run['text']} as for {first['text']}, within a quarter"
            found.append((name, [run["peak_memory"] / first["peak_memory"]], _SAME, True))
    longest = max(runs, key=lambda run: run["bytes"])
    name = f"second start below 1 s, {longest['text']}"
    return [*found, (name, [longest["second_start"]], 1, True)]


def _faster(record: Record, other: str) -> list[float]:
    pairs = zip(record["ways"][other], record["ways"]["ours"], strict=True)
    return [theirs["seconds"] / ours["seconds"] for theirs, ours in pairs]


def _rows_loaded(record: Record) -> list[float]:
    return [run["rows"] / 1e6 for run in record["loading"]]


def spread(values: Sequence[float]) -> str:
    """Median and, of several values, lowest and highest."""
    found = number(median(values))
    if len(values) == 1:
        return found
    return f"{found} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Three digits: 1234, 12.3, 1.23."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the second row says how columns are aligned."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
