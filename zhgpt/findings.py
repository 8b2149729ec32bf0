"""Tables of experiments: python -m zhgpt.findings recipes/proxy/README.md

Written anew from the results.jsonl that lies beside the page. A table stands between

    <!-- runs of baseline: learning_rate, n_embd, tokens_per_step=2048 -->
    <!-- end of runs -->

and has a row for every set of runs of that recipe whose overrides are of the keys named, or none;
`key=value` asks for that value, `key=!` for any, `key=*` hides what there is; `tokens=N` asks for
runs of so many tokens; `*` is any recipe. Runs that differ in their seeds alone are one row. A run
on another text than most of them is in a table that names the key `train_bytes`.
With `growth of` in the place of `runs of` a law of growth is fitted to the same choice of runs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, multimode
from typing import Any

from zhgpt import disk, growth_table, record
from zhgpt.benchmark_table import markdown
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.ranking import SEEDS
from zhgpt.recipe import changes_result

_TABLE = re.compile(
    r"(<!-- (?P<kind>runs|growth) of (?P<recipes>[^:]+):(?P<keys>[^>]*)-->\n)"
    r".*?(<!-- end of (?P=kind) -->)",
    re.S,
)

Line = Mapping[str, Any]


@dataclass(frozen=True)
class _Mark:
    """What is asked for: which table, of which recipes, with which keys and values."""

    kind: str
    recipes: list[str]
    wanted: dict[str, str | None]

    @classmethod
    def of(cls, found: re.Match) -> "_Mark":
        keys = [_key(word) for word in found["keys"].split(",") if word.strip()]
        return cls(found["kind"], found["recipes"].strip().split(", "), dict(keys))

    def chosen(self, lines: Sequence[Line]) -> list[Line]:
        """Runs that change no more than the named keys, and have the values asked for."""
        fitting = [line for line in lines if _is_of(line, self.recipes, self.wanted)]
        if not fitting:
            raise InputError(f"no run for the table of {', '.join(self.recipes)}: {self.wanted}")
        return fitting

    def columns(self, *values: str | None) -> list[str]:
        return [key for key, value in self.wanted.items() if value in values]


def page(text: str, lines: Sequence[Line]) -> str:
    """`text` with each of its tables written anew; InputError for one that no run belongs to."""
    lines = _with_other_texts(lines)
    return _TABLE.sub(lambda found: f"{found[1]}{_table(_Mark.of(found), lines)}\n{found[5]}", text)


def growing(text: str, lines: Sequence[Line]) -> list[Line]:
    """The runs of the page's law of growth; InputError where it has none."""
    for mark in map(_Mark.of, _TABLE.finditer(text)):
        if mark.kind == "growth":
            return mark.chosen(_with_other_texts(lines))
    raise InputError("no law of growth stands in the page: <!-- growth of RECIPE: KEYS -->")


def _with_other_texts(lines: Sequence[Line]) -> list[Line]:
    """The bytes of a text that is not the one of most runs as an override: paths say nothing."""
    usual = multimode(line["train_bytes"] for line in lines)[:1]  # of no lines none
    return [
        line
        if line["train_bytes"] in usual
        else {**line, "overrides": {**line["overrides"], "train_bytes": line["train_bytes"]}}
        for line in lines
    ]


def _table(mark: _Mark, lines: Sequence[Line]) -> str:
    chosen = mark.chosen(lines)
    if mark.kind == "growth":
        return growth_table.tables(growth_table.points(chosen))
    columns, hidden = mark.columns(None, "!"), mark.columns("*")
    return markdown([*_heads(columns), *_rows(chosen, mark.recipes, columns, hidden)])


def _key(word: str) -> tuple[str, str | None]:
    key, _, value = word.strip().partition("=")
    return key, value or None


def _is_of(line: Line, recipes: Sequence[str], wanted: Mapping[str, str | None]) -> bool:
    changed, made = overrides(line), {"tokens": f"{line['plan']['tokens']}"}
    if recipes != ["*"] and Path(line["recipe_file"]).stem not in recipes:
        return False
    return set(changed) <= set(wanted) and all(
        _fits((changed | made).get(key, ""), value) for key, value in wanted.items()
    )


def _fits(value: str, asked: str | None) -> bool:
    if asked == "!":
        return bool(value)
    return asked in (None, "*") or _sortable(value) == _sortable(asked)


def overrides(line: Line) -> dict[str, str]:
    """Last part of the key to value as text, of what changes the result; the seed apart."""
    return {
        key.rpartition(".")[2]: value if isinstance(value, str) else json.dumps(value)
        for key, value in line["overrides"].items()
        if changes_result(key) and key not in SEEDS
    }


def _heads(columns: Sequence[str]) -> Iterator[list[str]]:
    heads = ["recipe", *(f"`{key}`" for key in columns)]
    heads += ["bits/byte", "seeds", "lowest–highest", "less the first"]
    yield heads
    yield ["---", *("--:" for _ in heads[1:])]


def _rows(
    lines: Sequence[Line], recipes: Sequence[str], columns: Sequence[str], hidden: Sequence[str]
) -> Iterator[list[str]]:
    """The run without changes first, then by values."""
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        changed = overrides(line)
        values = [changed.get(key, "") for key in (*columns, *hidden)]
        groups.setdefault((Path(line["recipe_file"]).stem, *values), []).append(line)
    order = sorted(groups, key=lambda group: (_place(group[0], recipes), *map(_sortable, group)))
    first = mean(map(_bits, groups[order[0]]))
    for group in order:
        shown = [value or "·" for value in group[1 : 1 + len(columns)]]
        yield [group[0], *shown, *_figures(groups[group], first)]


def _place(name: str, recipes: Sequence[str]) -> int:
    return recipes.index(name) if name in recipes else 0


def _sortable(value: str) -> tuple[bool, float, str]:
    """Unchanged before changed, numbers as numbers."""
    try:
        return bool(value), float(value), ""
    except ValueError:
        return bool(value), 0.0, value


def _bits(line: Line) -> float:
    return line["metrics"]["eval_bits_per_byte"]


def _figures(lines: Sequence[Line], first: float) -> list[str]:
    bits = [_bits(line) for line in lines]
    several = f"{min(bits):.4f}–{max(bits):.4f}" if len(bits) > 1 else ""
    seeds = len({repr([line["overrides"].get(key) for key in SEEDS]) for line in lines})
    return [f"{mean(bits):.4f}", f"{seeds}", several, f"{mean(bits) - first:+.4f}"]


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m zhgpt.findings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("page", nargs="+", type=Path, help="a README.md beside its results.jsonl")
    for path in parser.parse_args(argv).page:
        lines = record.read(path.parent / "results.jsonl")
        try:
            disk.write_whole(path, page(path.read_text(encoding="utf-8"), lines))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.") from None
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
