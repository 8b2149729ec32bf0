"""A comparison of runs as text for a terminal; what is cut there is whole on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from zhgpt.contrast import Row
from zhgpt.phrases import WORDS, english
from zhgpt.ranking import Candidate, Ranking
from zhgpt.report import count, printable
from zhgpt.runs import Run
from zhgpt.survey_table import aligned, one_line

_HEADS = ("", "run", "state", "bits/byte", "loss", "perplexity", "accuracy", "tokens", "FLOPs")
_HEADS += ("hours", "starts")


def table(
    runs: Sequence[Run], rankings: Sequence[Ranking], differences: Mapping[str, Sequence[Row]]
) -> str:
    """Results, best first; what ranks them; what differs."""
    order = [number for ranking in rankings for c in ranking.candidates for number in c.runs]
    order += [number for number in range(len(runs)) if number not in order]
    results = [(_letters([number]), *_result(runs[number])) for number in order]
    parts = [aligned([_HEADS, *results], left=3)]
    parts += [_ranked(ranking) for ranking in rankings if len(ranking.candidates) > 1]
    parts += [_section(name, rows) for name, rows in differences.items() if rows]
    return "\n\n".join(parts)


def _letters(numbers: Sequence[int]) -> str:
    """A, B, ... Z, A1, B1, ...: names of runs are long and begin alike."""
    return " ".join(chr(ord("A") + n % 26) + (str(n // 26) if n > 25 else "") for n in numbers)


def _result(run: Run) -> tuple[str, ...]:
    metrics, hours = run.evaluation, run.hours
    return (
        one_line(run.name, 64),
        _state(run),
        f"{metrics['eval_bits_per_byte']:.4f}",
        _figure(metrics.get("eval_loss"), ".4f"),
        _figure(metrics.get("eval_perplexity"), ".2f"),
        _figure(metrics.get("eval_accuracy"), ".1%"),
        count(run.tokens),
        f"{run.flops:.2e}",
        _figure(hours, ".3g"),
        f"{len(run.record['segments'])}",
    )


def _state(run: Run) -> str:
    status, steps = printable(run.record["status"]), run.record["plan"]["max_steps"]
    return status if run.finished else f"{status} {run.step:,}/{steps:,}"


def _figure(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ranked(ranking: Ranking) -> str:
    lines = [_candidate(place, c) for place, c in enumerate(ranking.candidates, 1)]
    return "best first, by bits per byte of the same validation text:\n" + aligned(lines, left=5)


def _candidate(place: int, candidate: Candidate) -> tuple[str, ...]:
    best, seeded = candidate.verdict == "best", len(candidate.runs) > 1
    return (
        f"{place:3}.",
        _letters(candidate.runs),
        f"{candidate.mean:.4f}" + (f" ({candidate.low:.4f} to {candidate.high:.4f})" * seeded),
        "" if best else f"+{candidate.difference:.4f}",
        WORDS["en"][candidate.verdict],
    )


def _section(name: str, rows: Sequence[Row]) -> str:
    lines = [f"{WORDS['en'][f'section_{name}'].lower()}:"]
    for row in rows:
        lines += [f"  {printable(row['key'])}", aligned([_value(v) for v in row["values"]], left=4)]
    return "\n".join(lines)


def _value(value: Row) -> tuple[str, ...]:
    why = one_line("; ".join(value["why"]), 80)
    return ("  ", _letters(value["runs"]), one_line(value["value"], 60) or "(empty)", why)


def remarks(notes: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(one_line(english(note), 400) for note in notes)
