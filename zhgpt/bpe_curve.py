"""Two curves of docs/tokenizer.md: python -m zhgpt.bpe_curve --output docs/tokenizer.svg

Needs matplotlib (docs/requirements.txt), which training does not.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.record import read

SIZES = Path("recipes/tokenizer_size/results.jsonl")
VOCABULARIES = Path("recipes/vocabulary/results.jsonl")


def draw(sizes: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Packing against training text, and bits per byte at equal compute against entries."""
    matplotlib.rcParams["svg.hashsalt"] = "zhgpt"  # the same picture is the same file
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    text, entries = figure.subplots(1, 2)
    packing = [(line["bytes"] / 1e6, line["bytes_per_token"]) for line in sizes]
    _plot(text, packing, "training text, MB", "validation bytes per token")
    bits = [(r["plan"]["vocab_size"], r["metrics"]["eval_bits_per_byte"]) for r in runs]
    _plot(entries, bits, "entries", "validation bits per byte, equal compute")
    entries.set_xticks(sorted({x for x, _ in bits}), minor=False)
    entries.set_xticks([], minor=True)
    entries.xaxis.set_major_formatter(lambda x, _: f"{x / 1024:.0f}k")
    figure.savefig(path, metadata={"Date": None})


def _plot(axes: Axes, points: Sequence[tuple[float, float]], x: str, y: str) -> None:
    axes.plot(*zip(*sorted(points), strict=True), marker="o")
    axes.set(xlabel=x, ylabel=y, xscale="log")
    axes.grid(alpha=0.3)


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.bpe_curve")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    lines = {path: read(path) for path in (SIZES, VOCABULARIES)}
    for path, there in lines.items():
        if not there:
            raise InputError(f"{path}: no results in it; run this in the project's folder.")
    draw(*lines.values(), options.output)
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
