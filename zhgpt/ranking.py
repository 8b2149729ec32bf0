"""Which recipe came out better, as far as these runs can tell.

Ranked are finished runs, by bits per byte, within the same validation text. Runs that differ only
in their seeds are one candidate, with the mean of its runs. A difference counts when it exceeds the
spread of three seeds.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from zhgpt.runs import Note, Run

SEEDS = ("training_arguments.seed", "training_arguments.data_seed")
SEEDS_FOR_A_SPREAD = 3


@dataclass(frozen=True)
class Candidate:
    """Runs of one recipe, as indices; figures in bits per byte of validation text.

    `difference` is that of the means to the best; `verdict` is best, diverged, within or beyond the
    seeds' spread, or unknown where there is none.
    """

    runs: tuple[int, ...]
    mean: float
    low: float
    high: float
    difference: float = 0.0
    verdict: str = "best"


@dataclass(frozen=True)
class Ranking:
    """Candidates on one validation text, best first.

    `spread` is the widest range of any that has three seeds, `spread_of` that candidate's runs.
    """

    candidates: tuple[Candidate, ...]
    spread: float | None
    spread_of: tuple[int, ...]


def rankings(runs: Sequence[Run]) -> list[Ranking]:
    """One for each validation text that finished runs were evaluated on."""
    finished = [number for number, run in enumerate(runs) if run.finished]
    known = validation_texts(runs)
    texts = _grouped(finished, lambda number: known[number])
    return [_ranking(runs, numbers) for numbers in texts]


def validation_texts(runs: Sequence[Run]) -> list[Hashable]:
    """Of each run; equal for those on the same validation text, whatever cut it into tokens.

    Where a record is of a time without a hash of that text, documents, bytes and characters stand
    for it.
    """
    keys = ("text_hash",) if _hashed(runs) else ("documents", "bytes", "characters")
    splits = (run.record["ledger"]["validation"] for run in runs)
    return [tuple(split.get(key) for key in keys) for split in splits]


def _hashed(runs: Sequence[Run]) -> bool:
    return all(run.record["ledger"]["validation"].get("text_hash") for run in runs)


def one_tokenizer(runs: Sequence[Run]) -> bool:
    return len({run.record["inputs"]["tokenizer"] for run in runs}) <= 1


def bits_per_byte(run: Run) -> float:
    return run.evaluation["eval_bits_per_byte"]


def _grouped(numbers: Sequence[int], key) -> list[tuple[int, ...]]:
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        groups.setdefault(key(number), []).append(number)
    return [tuple(group) for group in groups.values()]


def _ranking(runs: Sequence[Run], numbers: Sequence[int]) -> Ranking:
    groups = _grouped(numbers, lambda number: _recipe_without_seeds(runs[number].record))
    candidates = sorted((_candidate(runs, group) for group in groups), key=_best_first)
    seeded = [c for c in candidates if _seeds(runs, c.runs) >= SEEDS_FOR_A_SPREAD]
    finite = [c for c in seeded if math.isfinite(c.mean)]
    widest = max(finite, key=lambda c: c.high - c.low, default=None)
    spread = widest and widest.high - widest.low
    return Ranking(
        candidates=(candidates[0], *(_judged(c, candidates[0], spread) for c in candidates[1:])),
        spread=spread,
        spread_of=widest.runs if widest else (),
    )


def _recipe_without_seeds(record: Mapping[str, Any]) -> Hashable:
    content = {key: value for key, value in record["content"].items() if key not in SEEDS}
    return repr((sorted(content.items()), sorted(record["inputs"].items())))


def _seeds(runs: Sequence[Run], numbers: Sequence[int]) -> int:
    return len({repr([runs[n].record["content"].get(key) for key in SEEDS]) for n in numbers})


def _candidate(runs: Sequence[Run], numbers: tuple[int, ...]) -> Candidate:
    figures = [bits_per_byte(runs[number]) for number in numbers]
    return Candidate(numbers, mean(figures), min(figures), max(figures))


def _best_first(candidate: Candidate) -> tuple[bool, float]:
    """A diverged run, whose figure is no number, comes last."""
    return not math.isfinite(candidate.mean), candidate.mean


def _judged(candidate: Candidate, best: Candidate, spread: float | None) -> Candidate:
    difference = candidate.mean - best.mean
    if not math.isfinite(difference):
        verdict = "diverged"
    elif spread is None:
        verdict = "unknown"
    else:
        verdict = "within" if difference <= spread else "beyond"
    return replace(candidate, difference=difference, verdict=verdict)


def remarks(runs: Sequence[Run], found: Sequence[Ranking]) -> list[Note]:
    """What has to be said beside the rankings."""
    notes: list[Note] = []
    if len(set(validation_texts(runs))) > 1:
        notes.append({"key": "texts_differ"})
    if len(runs) > 1 and not _hashed(runs):
        notes.append({"key": "texts_by_size"})
    if len({run.clocked for run in runs}) > 1:
        clocked = ", ".join(run.name for run in runs if run.clocked)
        notes.append({"key": "hours_differ", "runs": clocked})
    if not one_tokenizer(runs):
        notes.append({"key": "tokenizers_differ"})
    for ranking in found:
        names = ", ".join(runs[number].name for number in ranking.spread_of)
        if ranking.spread is not None:
            notes.append({"key": "spread", "spread": f"{ranking.spread:.4f}", "runs": names})
        elif len(ranking.candidates) > 1:
            notes.append({"key": "no_spread"})
    for run in runs:
        if not run.finished:
            steps = {"step": run.step, "steps": run.record["plan"]["max_steps"]}
            notes.append({"key": "unfinished", "run": run.name} | steps)
        notes += [{"key": "alarm", "run": run.name} | alarm for alarm in run.alarms]
    return notes
