"""The record of how it grows, as Markdown: all figures, and the exponent of each."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import linear_regression, median
from typing import Any

from zhgpt.benchmark_table import head, markdown, number

Record = Mapping[str, Any]

# Part of the record: what it grows with, its measure, and what grows.
GROWTH: dict[str, tuple[str, Callable[[Record], float], dict[str, Callable[[Record], Any]]]] = {
    "texts": (
        "text",
        lambda run: run["bytes"] / 1e6,
        {
            "preparation, s": lambda run: run["seconds"],
            "its peak memory, GB": lambda run: (run["peak_memory"] or 0) / 1e9,
            "its peak of disk, MB": lambda run: run["peak_disk"] / 1e6,
            "the cache, MB": lambda run: run["disk"] / 1e6,
            "second start, s": lambda run: run["second_start"],
        },
    ),
    "models": (
        "parameters",
        lambda run: run["parameters"] / 1e6,
        {
            "start to first step, s": lambda run: run["start"],
            "step, s": lambda run: median(run["steps"]),
            "training waits for a save, ms": lambda run: 1000 * run["stall"],
            "save until on the disk, s": lambda run: run["sealed"],
            "checkpoint, MB": lambda run: run["checkpoint_bytes"] / 1e6,
            "resume to first step, s": lambda run: run["resume"],
        },
    ),
    "processes": (
        "processes",
        lambda run: run["processes"],
        {
            "until new text is prepared, s": lambda run: max(run["wait"]),
            "until prepared text is found, s": lambda run: max(run["wait_again"]),
            "start to first step, s": lambda run: run["start"],
            "step, s": lambda run: median(run["steps"]),
        },
    ),
}
_UNITS = {"texts": "MB of text", "models": "million parameters", "processes": "processes"}


def scale(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what scale."""
    parts = [_about(record), _exponents(record)]
    parts += [_figures(record, part) for part in GROWTH if record[part]]
    return "\n\n".join([*parts, _shards(record["shards"])])


def _about(record: Record) -> str:
    return (
        f"Text of `{record['tokenizer']}` from {len(record['files'])} file(s), their documents"
        f" repeated under other numbers; models in steps of {record['block_size']} tokens,"
        f" {record['machine']['torch_threads']} thread(s); processes of `{record['recipe']}` with"
        f" {record['megabytes_together']} MB of text, a thread each, over gloo; everything once;"
        f" {head(record)}"
    )


def _exponents(record: Record) -> str:
    """Of y ~ x^e: least squares of the logarithms; the range when each size is left out once."""
    heads = ["", "grows with", "from", "to", "exponent", "one size left out"]
    rows = [[*heads, "between the two largest"], ["---", "---", *("--:" for _ in range(5))]]
    for part, (name, size, columns) in GROWTH.items():
        runs = record[part]
        for what, figure in columns.items():
            rows.append([what, name, *_growth([(size(run), figure(run)) for run in runs])])
    return markdown(rows)


def _growth(points: Sequence[tuple[float, float]]) -> list[str]:
    """First and last figure and their exponents; what is 0 or was not seen has none."""
    points = sorted(points)
    ends = [number(figure) for _, figure in points[:: max(1, len(points) - 1)]]
    ends = [*ends, "—", "—"][:2]
    points = [(size, figure) for size, figure in points if figure > 0]
    if len(points) < 3:
        return [*ends, "—", "—", "—"]
    low, high = left_out(points)
    return [
        *ends,
        number(exponent(points)),
        f"{low:.2f} to {high:.2f}",
        number(exponent(points[-2:])),
    ]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """e of y ~ x^e for (x, y) above 0: the slope of log y over log x by least squares."""
    sizes, figures = zip(*points, strict=True)
    return linear_regression(list(map(math.log, sizes)), list(map(math.log, figures))).slope


def left_out(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Lowest and highest exponent with one of three points or more left out."""
    found = [exponent([*points[:n], *points[n + 1 :]]) for n in range(len(points))]
    return min(found), max(found)


def _figures(record: Record, part: str) -> str:
    _, size, columns = GROWTH[part]
    rows = [[_UNITS[part], *columns], ["--:" for _ in range(len(columns) + 1)]]
    for run in record[part]:
        named = size(run) if part == "processes" else number(size(run))
        rows.append([str(named), *(number(figure(run)) for figure in columns.values())])
    return markdown(rows)


def _shards(runs: Sequence[Record]) -> str:
    heads = ["the same text in", "MB of text", "preparation, s", "peak memory, GB"]
    rows = [[*heads, "second start, s"], ["---", *("--:" for _ in heads)]]
    for run in runs:
        cells = [run["bytes"] / 1e6, run["seconds"], (run["peak_memory"] or 0) / 1e9]
        rows.append([f"{run['files']:,} files", *map(number, [*cells, run["second_start"]])])
    return markdown(rows)
