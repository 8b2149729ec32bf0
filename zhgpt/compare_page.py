"""A comparison of runs as one page: data, phrases, script and style in one file, for no network.

What runs wrote (names, samples, reasons) reaches the page as JSON that no text can leave, and the
script shows it as text. A Content-Security-Policy allows the page's own scripts and nothing else.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zhgpt import page_file
from zhgpt.contrast import Row
from zhgpt.errors import InputError
from zhgpt.phrases import WEB, WORDS
from zhgpt.ranking import Ranking, one_tokenizer
from zhgpt.report import printable
from zhgpt.runs import Note, Run

_WHAT = "runs compared"
UPLOT = "1.6.32"  # web/uplot/ holds dist/ and LICENSE of this version as npm publishes it
MAX_BYTES = 5_000_000
# What all runs together may have, so that a page stays below MAX_BYTES: a log line takes some 60
# bytes, a character of Chinese three.
LOG_LINES = 40_000
SAMPLE_CHARACTERS = 400_000
DIGITS = 6  # significant ones, of figures on the page

CURVES = ("eval_bits_per_byte", "eval_loss", "eval_perplexity", "eval_accuracy")
CURVES += ("eval_nats_per_character", "eval_samples_repeating", "eval_samples_distinct_4")
CURVES += ("eval_samples_longest_run", "eval_samples_punctuation", "eval_samples_zip")
CURVES += ("loss", "learning_rate", "grad_norm", "update_ratio", "tokens_per_second")
CURVES += ("share_of_peak", "memory_gb")

_PAGE = """{beginning}<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {policy}">
<title>zhgpt</title>
{styles}
</head>
<body>
<main></main>
<script type="application/json" id="data">{data}</script>
<script type="application/json" id="words">{words}</script>
{scripts}
</body>
</html>
"""


def write(
    path: Path,
    runs: Sequence[Run],
    rankings: Sequence[Ranking],
    differences: Mapping[str, Sequence[Row]],
    notes: Sequence[Note],
    overwrite: bool,
) -> None:
    """Complete or not at all. InputError if so many runs do not fit on a page."""
    thinned: list[Note] = []
    data = {
        "runs": [_run(run, len(runs), thinned) for run in runs],
        "rankings": [_ranking(runs, ranking) for ranking in rankings],
        "one_tokenizer": one_tokenizer(runs),
        "differences": differences,
        "notes": [*notes, *thinned],
        "uplot": UPLOT,
    }
    content = page(data)
    size = len(content.encode("utf-8"))
    if size > MAX_BYTES:
        raise InputError(
            f"--output {path}: a page of {len(runs)} runs would take {size / 1e6:.1f} MB,"
            f" more than {MAX_BYTES / 1e6:.0f}.\nCompare fewer of them at once."
        )
    page_file.write(path, _WHAT, content, overwrite)


def require_free(path: Path, overwrite: bool) -> None:
    """InputError unless a page may and can be written there; nothing is touched."""
    page_file.require_free(path, _WHAT, overwrite)


def page(data: Mapping[str, Any]) -> str:
    """The HTML; every part of it stands in the file itself."""
    styles = [_asset("uplot/uPlot.min.css"), _asset("compare.css")]
    scripts = [_asset("uplot/uPlot.iife.min.js"), _asset("compare.js")]
    return _PAGE.format(
        beginning=page_file.beginning(_WHAT),
        policy=f"style-src {page_file.sources(*styles)}; script-src {page_file.sources(*scripts)}",
        styles="\n".join(f"<style>{style}</style>" for style in styles),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        data=_json(_shown(data)),
        words=_json(WORDS),
    )


def _asset(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """Inside a script element only `<` could begin something else than text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _shown(value: Any) -> Any:
    """For JSON and eyes: control characters as U+FFFD, what is not finite as null, rounded."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {printable(str(key)): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def _run(run: Run, runs: int, notes: list[Note]) -> dict[str, Any]:
    plan, record = run.record["plan"], run.record
    entries = _thinned(run, LOG_LINES // runs, notes)
    return {
        "name": run.name,
        "purpose": record["recipe"].get("purpose", ""),
        "status": record["status"],
        "step": run.step,
        "steps": plan["max_steps"],
        "tokens_per_step": record["recipe"]["tokens_per_step"],
        "flops_per_token": plan["flops"] / plan["tokens"],
        "parameters": plan.get("parameters"),
        "device": record["machine"].get("device", ""),
        "tokens": run.tokens,
        "flops": run.flops,
        "hours": run.hours,
        "metrics": {key: run.evaluation.get(key) for key in CURVES if key.startswith("eval_")},
        "log": _columns(entries),
        "segments": record["segments"],
        "alarms": run.alarms,
        "samples": _samples(run, SAMPLE_CHARACTERS // runs, notes),
    }


def _columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Of step, hours, and each curve that the run has."""
    had = [key for key in CURVES if any(key in entry for entry in entries)]
    return {key: [entry.get(key) for entry in entries] for key in ("step", "hours", *had)}


def _ranking(runs: Sequence[Run], ranking: Ranking) -> dict[str, Any]:
    validation = runs[ranking.candidates[0].runs[0]].record["ledger"]["validation"]
    text = {"documents": validation.get("documents"), "bytes": validation.get("bytes")}
    return text | {"candidates": [asdict(candidate) for candidate in ranking.candidates]}


def _thinned(run: Run, limit: int, notes: list[Note]) -> Sequence[Mapping[str, Any]]:
    """All evaluations; of too many training lines the lowest and highest of equal stretches."""
    trained = [e for e in run.entries if "loss" in e]
    if len(trained) <= limit:
        return run.entries
    size = math.ceil(len(trained) / max(1, limit // 2))
    kept = {e["step"] for e in _extremes(trained, size)}
    notes.append({"key": "thinned_curve", "run": run.name, "all": len(trained), "kept": len(kept)})
    return [e for e in run.entries if "loss" not in e or e["step"] in kept]


def _extremes(entries: Sequence[Mapping[str, Any]], size: int) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(entries), size):
        stretch = entries[start : start + size]
        yield min(stretch, key=lambda e: e["loss"])
        yield max(stretch, key=lambda e: e["loss"])


def _samples(run: Run, characters: int, notes: list[Note]) -> list[Mapping[str, Any]]:
    """Every 2nd, 4th, 8th ... step and the last, until they fit."""
    steps = sorted({row["step"] for row in run.samples})
    rows, kept = list(run.samples), steps
    while len(kept) > 2 and sum(len(r["prompt"]) + len(r["text"]) for r in rows) > characters:
        kept = sorted({*kept[::2], steps[-1]})
        rows = [row for row in run.samples if row["step"] in kept]
    if kept != steps:
        counts = {"all": len(steps), "kept": len(kept)}
        notes.append({"key": "thinned_samples", "run": run.name} | counts)
    return rows
