"""A comparison of runs as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from zhgpt.contrast import Row
from zhgpt.phrases import WORDS, english
from zhgpt.ranking import Candidate, Ranking
from zhgpt.report import count, printable
from zhgpt.runs import Run
from zhgpt.survey_table import aligned, one_line

COLUMNS = 100  # of a line; values and reasons are cut there, the page has them whole

_HEADS = ("run", "state", "bits/byte", "loss", "perplexity", "accuracy", "tokens", "FLOPs")
_HEADS += ("hours", "starts")


def table(
    runs: Sequence[Run], rankings: Sequence[Ranking], differences: Mapping[str, Sequence[Row]]
) -> str:
    """Results, best first; what ranks them; what differs."""
    order = [number for ranking in rankings for c in ranking.candidates for number in c.runs]
    order += [number for number in range(len(runs)) if number not in order]
    parts = [aligned([_HEADS, *(_result(runs[number]) for number in order)], left=2)]
    parts += [_ranked(runs, ranking) for ranking in rankings if len(ranking.candidates) > 1]
    parts += [_section(runs, name, rows) for name, rows in differences.items() if rows]
    return "\n\n".join(parts)


def _result(run: Run) -> tuple[str, ...]:
    metrics, hours = run.evaluation, run.hours
    return (
        one_line(run.name, 48),
        "finished" if run.finished else f"{run.step:,}/{run.record['plan']['max_steps']:,}",
        f"{metrics['eval_bits_per_byte']:.4f}",
        _figure(metrics.get("eval_loss"), ".4f"),
        _figure(metrics.get("eval_perplexity"), ".2f"),
        _figure(metrics.get("eval_accuracy"), ".1%"),
        count(run.tokens),
        f"{run.flops:.2e}",
        _figure(hours, ".3g"),
        f"{len(run.record['segments'])}",
    )


def _figure(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ranked(runs: Sequence[Run], ranking: Ranking) -> str:
    lines = [_candidate(runs, place, c) for place, c in enumerate(ranking.candidates, 1)]
    return "best first, by bits per byte of the same validation text\n" + aligned(lines, left=4)


def _candidate(runs: Sequence[Run], place: int, candidate: Candidate) -> tuple[str, ...]:
    names = ", ".join(runs[number].name for number in candidate.runs)
    spread = f"{candidate.low:.4f} to {candidate.high:.4f}" if len(candidate.runs) > 1 else ""
    behind = f"+{candidate.difference:.4f}  " if candidate.verdict != "best" else ""
    verdict = behind + WORDS["en"][candidate.verdict]
    return (f"{place:3}.", one_line(names, 48), f"{candidate.mean:.4f}", spread, verdict)


def _section(runs: Sequence[Run], name: str, rows: Sequence[Row]) -> str:
    lines = [f"{WORDS['en'][f'section_{name}'].lower()}:"]
    for row in rows:
        lines.append(f"  {printable(row['key'])}")
        for value in row["values"]:
            names = ", ".join(runs[number].name for number in value["runs"])
            why = f"  ({'; '.join(value['why'])})" if value["why"] else ""
            lines.append("    " + one_line(f"{value['value'] or '(empty)'}  {names}{why}", COLUMNS))
    return "\n".join(lines)


def remarks(notes: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(one_line(english(note), 4 * COLUMNS) for note in notes)
