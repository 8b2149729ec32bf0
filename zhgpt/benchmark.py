"""How fast it is, beside other ways to the same result, in one run on one machine:

python -m zhgpt.benchmark --what preparation --files FILE ... --output RECORD.json
python -m zhgpt.benchmark --what save --output RECORD.json
python -m zhgpt.benchmark --what step|overhead --recipe RECIPE [--key value]... --output RECORD.json
python -m zhgpt.benchmark --what scale --files FILE ... --output RECORD.json
python -m zhgpt.benchmark --what all --output FOLDER
python -m zhgpt.benchmark --table RECORD.json
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import GPT2Config

from zhgpt import (
    benchmark_run_table,
    benchmark_scale,
    benchmark_scale_table,
    benchmark_step_table,
    benchmark_table,
    machine,
    marks,
    report,
    session,
)
from zhgpt.benchmark_preparation import Preparation
from zhgpt.benchmark_save import Saves
from zhgpt.benchmark_scale import Scale
from zhgpt.benchmark_startup import Starts
from zhgpt.benchmark_step import Steps
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.steppers import EVALUATED, WAYS

BEGIN = "<!-- figures: written by python -m zhgpt.benchmark --table {} -->"
END = "<!-- end of figures -->"
_FILES = [Path("recipes/village/train.jsonl")]
_TOKENIZER = Path("tokenizer/32k_v1")
_RECIPE = Path("recipes/village.json")
_ALL = "all"
# Of scale: option, what it is unless given, and its unit.
_SIZES = {
    "megabytes": (benchmark_scale.MEGABYTES, "MB of text"),
    "millions": (benchmark_scale.MILLIONS, "millions of parameters"),
    "processes": (benchmark_scale.PROCESSES, "processes of one run"),
}
_LIBRARIES = "datasets tokenizers tiktoken torch transformers".split()


def run(argv: Sequence[str] | None) -> int:
    options = _options(argv)
    if options.table:
        print(tables(read(options.table)))
        return FINISHED
    _require(options)
    for what in MEASURES if options.what == _ALL else [options.what]:
        record = _record(what, options)
        print(tables(record), flush=True)
        if options.output:
            text = json.dumps(record, indent=1) + "\n"
            _place(what, options).write_text(text, encoding="utf-8")
    return FINISHED


def _record(what: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="zhgpt-benchmark-") as scratch:
        measured = MEASURES[what](options, Path(scratch))
    return _described(what) | measured | {"finished": session.now()}


def _place(what: str, options: argparse.Namespace) -> Path:
    """A file; of all measurements, each its own in a folder."""
    if options.what != _ALL:
        return options.output
    return options.output / f"benchmark_{what}.json"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """What is left over are options of run_clm.py, where it is measured."""
    parser = _parser()
    options, overrides = parser.parse_known_args(argv)
    if overrides and options.what not in ("step", "overhead", _ALL):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m zhgpt.benchmark",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--what", choices=(*MEASURES, _ALL), help="what is measured")
    what.add_argument("--table", type=Path, metavar="RECORD", help="print a record's tables")
    parser.add_argument("--files", type=Path, nargs="+", default=_FILES, help="JSON lines")
    parser.add_argument("--tokenizer", type=Path, help=f"default {_TOKENIZER}, or the recipe's")
    parser.add_argument("--repeats", type=int, default=5, help="default 5")
    parser.add_argument("--large", action="store_true", help="texts of up to 1 GB too; minutes")
    parser.add_argument("--recipe", type=Path, default=_RECIPE, help=f"default {_RECIPE}")
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn, default 10")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="default all")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of it")
    for name, (default, unit) in _SIZES.items():
        said = f"of scale, in {unit}; default {' '.join(map(str, default))}"
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default, help=said)
    parser.add_argument("--output", type=Path, help="file for the record; of all, a folder")
    return parser


def _require(options: argparse.Namespace) -> None:
    """InputError for numbers below 1, and for a file in the place of a folder."""
    for name in ("repeats", "steps", *_SIZES):
        value = getattr(options, name)
        if min(value if isinstance(value, Sequence) else [value]) < 1:
            raise InputError(f"--{name}: {value}; at least 1 is needed.")
    if options.what == _ALL and options.output:
        if options.output.is_file():
            raise InputError(f"--output: {options.output} is a file; --what all needs a folder.")
        options.output.mkdir(parents=True, exist_ok=True)


def _described(what: str) -> dict[str, Any]:
    return {
        "what": what,
        "machine": machine.describe(),
        "versions": {library: version(library) for library in _LIBRARIES},
        **session.source(),
    }


def _preparation(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    measured = Preparation(
        files=options.files,
        tokenizer=options.tokenizer or _TOKENIZER,
        repeats=options.repeats,
        scratch=scratch,
        say=report.speaker(True),
    )
    return measured.measure(options.large)


def _save(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Of GPT-2 small as the library has it, 124 M parameters."""
    measured = Saves(
        config=GPT2Config(),
        tokenizer=options.tokenizer or _TOKENIZER,
        repeats=options.repeats,
        scratch=scratch,
        say=report.speaker(True),
    )
    return measured.measure()


def _startup(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    measured = Starts(_RECIPE, options.repeats, scratch, report.speaker(True))
    return measured.measure()


def _step(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    ways = [way for way in WAYS if way in ("bare", "matmul") or way in options.ways]
    return _steps(options, scratch, ways).measure()


def _overhead(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    return _steps(options, scratch, list(EVALUATED), whole=True).measure()


def _scale(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    measured = Scale(
        files=options.files,
        tokenizer=options.tokenizer or _TOKENIZER,
        megabytes=options.megabytes,
        millions=options.millions,
        processes=options.processes,
        scratch=scratch,
        say=report.speaker(True),
    )
    return measured.measure()


def _steps(options: argparse.Namespace, scratch: Path, ways: list[str], whole=False) -> Steps:
    tokenizer = ["--tokenizer", str(options.tokenizer)] if options.tokenizer else []
    return Steps(
        recipe=options.recipe,
        overrides=[*options.overrides, *tokenizer],
        files=options.files,
        steps=options.steps,
        repeats=options.repeats,
        ways=ways,
        nanogpt=options.nanogpt,
        scratch=scratch,
        say=report.speaker(True),
        whole=whole,
    )


MEASURES = {
    "preparation": _preparation,
    "save": _save,
    "startup": _startup,
    "step": _step,
    "overhead": _overhead,
    "scale": _scale,
}
TABLES = {
    "preparation": benchmark_table.preparation,
    "save": benchmark_run_table.save,
    "startup": benchmark_run_table.startup,
    "step": benchmark_step_table.step,
    "overhead": benchmark_step_table.overhead,
    "scale": benchmark_scale_table.scale,
}


def tables(record: dict[str, Any]) -> str:
    """Markdown of a record of any kind."""
    return TABLES[record["what"]](record)


def read(path: Path) -> dict[str, Any]:
    """InputError for what is no record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["what"] else {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no record of a benchmark ({error!r}).") from None


def with_tables(page: str, name: str, record: dict[str, Any]) -> str:
    """`page` with what stands between the marks of that record replaced."""
    return marks.with_content(page, name, (BEGIN.format(name), END), tables(record))


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
