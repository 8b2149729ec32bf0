"""The picture of a page's law of growth: python -m zhgpt.growth_curve recipes/proxy/README.md

Written as growth.svg beside the page. Needs matplotlib (docs/requirements.txt), which training does
not.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zhgpt import curve, findings, growth, growth_table, record
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.growth import Fit, Point

FAR = 1e19  # operations: 300M parameters and 6 billion tokens take 1.1e19


def draw(points: Sequence[Point], bytes_per_token: float, path: Path) -> None:
    """Bits per byte against operations: runs, the law at each size, and its best use of compute."""
    law = growth.fit(points, growth.FORMS[0])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, (parameters, runs) in enumerate(groupby(points, key=lambda point: point.parameters)):
        _size(axes, law, parameters, list(runs), bytes_per_token, f"C{place}")
    _best(axes, law, points, bytes_per_token)
    axes.set(
        xlabel="operations, 6 x parameters x tokens",
        ylabel="validation bits per byte",
        xscale="log",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    curve.save(figure, path)


def _size(
    axes: Axes, law: Fit, parameters: float, runs: list[Point], per_token: float, color: str
) -> None:
    label = f"{parameters / 1e6:.3g}M parameters"
    reached = [(_operations(run, per_token), run.bits) for run in runs]
    axes.plot(*zip(*reached, strict=True), "o", color=color, label=label)
    text = np.geomspace(runs[0].bytes, runs[-1].bytes * 4)
    said = [Point(parameters, one, law.bits(parameters, one).best) for one in text]
    axes.plot([_operations(p, per_token) for p in said], [p.bits for p in said], color=color, lw=1)


def _best(axes: Axes, law: Fit, points: Sequence[Point], per_token: float) -> None:
    """The law's best use of compute, with the range of its value there."""
    least = min(_operations(point, per_token) for point in points)
    operations = np.geomspace(least, FAR)
    shapes = [law.shape(one, per_token) for one in operations]
    ranges = [law.bits(*shape[:2]) for shape in shapes]
    axes.plot(operations, [one.best for one in ranges], "k--", label="the law, compute used best")
    low, high = [one.low for one in ranges], [one.high for one in ranges]
    axes.fill_between(operations, low, high, color="k", alpha=0.12, label="95 % of it")


def _operations(point: Point, bytes_per_token: float) -> float:
    return 6 * point.parameters * point.bytes / bytes_per_token


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.growth_curve")
    parser.add_argument("page", type=Path, help="a README.md beside its results.jsonl")
    page = parser.parse_args(argv).page
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page}: {error.strerror}.") from None
    lines = findings.growing(text, record.read(page.parent / "results.jsonl"))
    per_token = lines[0]["train_bytes"] / lines[0]["train_tokens"]
    draw(growth_table.points(lines), per_token, page.parent / "growth.svg")
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
