"""What differs between runs: recipe, corpus, tokenizer, plan, machine; who has what, and why."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zhgpt.ranking import one_tokenizer
from zhgpt.runs import Run, vocabulary

UNSET = "not set"

Row = dict[str, Any]  # {"key": dotted, "values": [{"value", "runs": [indices], "why": [texts]}]}


def contrast(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Section to its rows; only keys whose values are not all the same."""
    sections = {
        "recipe": [_recipe(run.record) for run in runs],
        "plan": [run.record["plan"] for run in runs],
        "ledger": [run.record["ledger"] for run in runs],
        "tokenizer": _tokenizers(runs),
        "machine": [_machine(run.record) for run in runs],
    }
    return {name: _rows(name, values, runs) for name, values in sections.items()}


def _recipe(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record["recipe"].items() if k not in ("name", "purpose", "why")}


def _machine(record: Mapping[str, Any]) -> dict[str, Any]:
    return record["machine"] | {"versions": record["versions"], "code": record["source"]}


def _tokenizers(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Entries are compared with those of the first run's tokenizer."""
    facts = [
        {
            "fingerprint": run.record["inputs"]["tokenizer"],
            "entries": run.record["plan"].get("vocab_size"),
            "bytes_per_token": run.record["ledger"]["validation"].get("bytes_per_token"),
        }
        for run in runs
    ]
    if one_tokenizer(runs):
        return facts
    sets = [vocabulary(run) for run in runs]
    if None in sets:
        return facts
    return [f | {"entries_of_first": len(s & sets[0])} for f, s in zip(facts, sets, strict=True)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _rows(section: str, sides: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> list[Row]:
    flat = [dict(_flat(side)) for side in sides]
    keys = dict.fromkeys(key for side in flat for key in side)
    rows = []
    for key in keys:
        exact = section == "recipe"
        texts = [_text(side[key], exact) if key in side else UNSET for side in flat]
        groups = {text: [n for n, other in enumerate(texts) if other == text] for text in texts}
        if len(groups) > 1:
            values = [_value(text, key, holders, runs, section) for text, holders in groups.items()]
            rows.append({"key": key, "values": values})
    return rows


def _text(value: Any, exact: bool) -> str:
    """What was computed is shown, and compared, in six digits; what was written as it stands."""
    if isinstance(value, float) and not exact:
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(text: str, key: str, holders: list[int], runs: Sequence[Run], section: str) -> Row:
    reasons = [_why(runs[number].record, key) for number in holders if section == "recipe"]
    return {"value": text, "runs": holders, "why": list(dict.fromkeys(filter(None, reasons)))}


def _why(record: Mapping[str, Any], key: str) -> str | None:
    """The recipe's reason for its own value: not for one that the command line put in its place."""
    overridden = any(key == o or key.startswith(f"{o}.") for o in record["overrides"])
    reasons = record["recipe"].get("why") or {}
    nearest = [r for r in reasons if key == r or key.startswith(f"{r}.")]
    return None if overridden or not nearest else str(reasons[max(nearest, key=len)])
