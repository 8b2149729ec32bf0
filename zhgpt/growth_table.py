"""Recorded runs of several sizes and lengths, and the law of growth fitted to them, as Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from zhgpt import growth
from zhgpt.benchmark_table import markdown
from zhgpt.growth import Fit, Point, Range

# What is asked of the law: the two sizes of the recipes, with texts of so many bytes read once.
PARAMETERS = (124e6, 300e6)
TEXTS = (1e9, 3e9, 10e9)
_RATES = ("training_arguments.learning_rate", "muon.matrix_learning_rate")
_FORETOLD = 4  # one run in so many, those of the most compute

Line = Mapping[str, Any]


def points(lines: Iterable[Line]) -> list[Point]:
    """Of each size and length the rates that came out best, the mean of their seeds."""
    tried: dict[tuple, dict[tuple, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        rates = tuple(line["overrides"].get(key) for key in _RATES)
        tried[_place(line)][rates].append(line["metrics"]["eval_bits_per_byte"])
    return [
        Point(*place, min(map(fmean, of_rates.values())))
        for place, of_rates in sorted(tried.items())
    ]


def _place(line: Line) -> tuple[float, float]:
    """Parameters, and bytes of text trained on."""
    text = line["plan"]["tokens"] * line["train_bytes"] / line["train_tokens"]
    return line["plan"]["parameters"], text


def tables(found: Sequence[Point]) -> str:
    """InputError for fewer runs than a fit takes."""
    law = growth.fit(found)
    parts = [_runs(found, law), _law(law, len(found)), _foretold(found), _expected(law)]
    return "\n\n".join(parts)


def _runs(found: Sequence[Point], law: Fit) -> str:
    rows = [("parameters", "MB of text", "bits/byte", "the law's")]
    for point in found:
        said = law.bits(*point[:2])
        rows.append((*_shown(point), f"{point.bits:.4f}", f"{said.best:.4f}"))
    return _table(rows)


def _law(law: Fit, runs: int) -> str:
    rows = [("bits = floor + a N^-alpha + b D^-beta", "best", "95 %")]
    rows += [(name, f"{one.best:.3f}", _between(one, 3)) for name, one in law.exponents().items()]
    missed = f"{runs} runs; the law misses them by {law.error:.2%} (root mean square)."
    return f"{_table(rows)}\n\n{missed}"


def _foretold(found: Sequence[Point]) -> str:
    """What a fit to the other runs says of those that took the most compute."""
    ranked = sorted(found, key=lambda point: point.parameters * point.bytes)
    known = ranked[: -(len(ranked) // _FORETOLD)]
    law = growth.fit(known)
    rows = [("parameters", "MB of text", "bits/byte", "foretold", "95 %")]
    for point in ranked[len(known) :]:
        said = law.bits(*point[:2])
        rows.append((*_shown(point), f"{point.bits:.4f}", f"{said.best:.4f}", _between(said, 4)))
    return f"Foretold from the {len(known)} runs of less compute:\n\n{_table(rows)}"


def _expected(law: Fit) -> str:
    rows = [("parameters", *(f"{text / 1e9:.0f} GB of text" for text in TEXTS))]
    for parameters in PARAMETERS:
        said = [law.bits(parameters, text) for text in TEXTS]
        cells = (f"{one.best:.2f} ({_between(one, 2)})" for one in said)
        rows.append((_millions(parameters), *cells))
    return f"Carried on to the sizes of the recipes:\n\n{_table(rows)}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return markdown([rows[0], ["--:" for _ in rows[0]], *rows[1:]])


def _between(one: Range, digits: int) -> str:
    return f"{one.low:.{digits}f}–{one.high:.{digits}f}"


def _shown(point: Point) -> tuple[str, str]:
    return _millions(point.parameters), f"{point.bytes / 1e6:.2f}"


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:.3g}M"
