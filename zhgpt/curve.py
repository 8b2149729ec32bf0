"""The curves of published runs: python -m zhgpt.curve NAME... --output docs/curve.svg

Needs matplotlib (docs/requirements.txt), which training does not.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.record import RESULTS, read


def draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bits per byte of each evaluation against the tokens trained on, one curve per run."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        tokens, bits = zip(*line["curve"], strict=True)
        label = f"{line['name']}, {line['train_bytes'] / 1e6:.0f} MB of text"
        axes.plot([t / 1e6 for t in tokens], bits, marker="o", label=label)
    axes.set(
        xlabel="tokens trained on, millions", ylabel="validation bits per byte", ylim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """The same picture is the same file; its ground is white, in a dark page too."""
    matplotlib.rcParams["svg.hashsalt"] = "zhgpt"
    figure.savefig(path, metadata={"Date": None})


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.curve")
    parser.add_argument("names", nargs="+", help=f"runs in {RESULTS}")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    latest = {line["name"]: line for line in read(RESULTS)}
    for name in options.names:
        if name not in latest:
            raise InputError(f"{name}: no such run in {RESULTS}; there are: {', '.join(latest)}.")
    draw([latest[name] for name in options.names], options.output)
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
