"""Two curves of docs/tokenizer.md: python -m zhgpt.bpe_curve --output docs/tokenizer.svg

Needs matplotlib (docs/requirements.txt), which training does not.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zhgpt import curve
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.record import read

SIZES = Path("recipes/tokenizer_size/results.jsonl")
VOCABULARIES = Path("recipes/vocabulary/results.jsonl")

Line = Mapping[str, Any]


def draw(sizes: Sequence[Line], runs: Sequence[Line], path: Path) -> None:
    """Packing against training text, and bits per byte at equal compute against entries."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    text, entries = figure.subplots(1, 2)
    packing = [(line["bytes"] / 1e6, line["bytes_per_token"]) for line in sizes]
    _plot(text, packing, "training text, MB (log scale)", "bytes per token of other text")
    _ticks(text, [x for x, _ in packing])
    bits = [
        (line["plan"]["vocab_size"] / 1024, line["metrics"]["eval_bits_per_byte"]) for line in runs
    ]
    _plot(entries, bits, "entries, times 1,024 (log scale)", "bits per byte, the same compute")
    _ticks(entries, [x for x, _ in bits])
    curve.save(figure, path)


def _plot(axes: Axes, points: Sequence[tuple[float, float]], x: str, y: str) -> None:
    """Every point, and a line through the means."""
    columns = defaultdict(list)
    for place, value in points:
        columns[place].append(value)
    means = [(place, fmean(values)) for place, values in sorted(columns.items())]
    axes.plot(*zip(*means, strict=True), color="tab:blue")
    axes.plot(*zip(*points, strict=True), "o", color="tab:blue", markersize=4)
    axes.set(xlabel=x, ylabel=y, xscale="log")
    axes.grid(alpha=0.3)


def _ticks(axes: Axes, places: Sequence[float]) -> None:
    shown = sorted(set(places))
    axes.set_xticks(shown, labels=[f"{place:,.0f}" for place in shown], minor=False)
    axes.set_xticks([], minor=True)


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.bpe_curve")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    for path in (SIZES, VOCABULARIES):
        if not path.exists():
            raise InputError(f"{path}: no results in it; run this in the project's folder.")
    sizes = [json.loads(line) for line in SIZES.read_text(encoding="utf-8").splitlines()]
    draw(sizes, read(VOCABULARIES), options.output)
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
