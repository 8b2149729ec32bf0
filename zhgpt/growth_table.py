"""Recorded runs of several sizes and lengths, and the law of growth fitted to them, as Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

from zhgpt import growth
from zhgpt.benchmark_table import markdown
from zhgpt.growth import Fit, Point, Range

# What is asked of the law: the two sizes of the recipes, with texts of so many bytes read once.
PARAMETERS = (124e6, 300e6)
TEXTS = (1e9, 3e9, 10e9)
LEAST_STEPS = 512  # shorter runs end before there is a law: 128 steps are up to 4 % off
_RATES = ("training_arguments.learning_rate", "muon.matrix_learning_rate")
_FORETOLD = 4  # one run in so many, those of the most compute

Line = Mapping[str, Any]


def points(lines: Iterable[Line]) -> list[Point]:
    """Of each size and length the rates that came out best, the mean of their seeds."""
    tried: dict[tuple, dict[tuple, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["plan"]["max_steps"] >= LEAST_STEPS:
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
    """Both forms of the law beside each other; InputError for fewer runs than a fit takes."""
    ranked = sorted(found, key=lambda point: point.parameters * point.bytes)
    known = ranked[: -(len(ranked) // _FORETOLD)]
    laws = [growth.fit(found, form) for form in growth.FORMS]
    earlier = [growth.fit(known, form) for form in growth.FORMS]
    heads = [f"{form} unknown" for form in growth.FORMS]
    parts = [
        f"{len(found)} runs:",
        _runs(found, laws, heads),
        "The laws, with ranges of 95 %:",
        _laws(laws, heads),
        f"The {len(ranked) - len(known)} runs of the most compute, foretold from all others:",
        _runs(ranked[len(known) :], earlier, heads),
        "Carried on to the sizes of the recipes:",
        _expected(laws, heads),
    ]
    return "\n\n".join(parts)


def _runs(found: Sequence[Point], laws: Sequence[Fit], heads: Sequence[str]) -> str:
    rows = [("parameters", "MB of text", "bits/byte", *heads)]
    for point in found:
        said = [_ranged(law.bits(*point[:2]), 3) for law in laws]
        size, text = _millions(point.parameters), f"{point.bytes / 1e6:.2f}"
        rows.append((size, text, f"{point.bits:.4f}", *said))
    return _table(rows)


def _laws(laws: Sequence[Fit], heads: Sequence[str]) -> str:
    rows = [("", *heads)]
    rows += [
        (name, *(_ranged(law.unknowns()[name], 3) for law in laws)) for name in laws[0].unknowns()
    ]
    return _table([*rows, ("missed by, root mean square", *(f"{law.error:.2%}" for law in laws))])


def _expected(laws: Sequence[Fit], heads: Sequence[str]) -> str:
    rows = [("parameters", "GB of text", *heads)]
    for parameters, text in product(PARAMETERS, TEXTS):
        said = [_ranged(law.bits(parameters, text), 2) for law in laws]
        rows.append((_millions(parameters), f"{text / 1e9:.0f}", *said))
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return markdown([rows[0], ["--:" for _ in rows[0]], *rows[1:]])


def _ranged(one: Range, digits: int) -> str:
    """What is given and not found has no range."""
    if one.low == one.high:
        return f"{one.best:g}"
    return f"{one.best:.{digits}f} ({one.low:.{digits}f}–{one.high:.{digits}f})"


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:.3g}M"
