"""Compares runs by their own files: python -m zhgpt.compare RUN RUN... [--output page.html]

Finished or not, in the terminal; with --output also as one page that needs no network.
"""

import argparse
import glob
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from zhgpt import compare_page, compare_table, ranking, runs
from zhgpt.contrast import contrast
from zhgpt.errors import FINISHED, InputError, exit_code


def folders(names: Sequence[str]) -> Iterator[Path]:
    """Also patterns that no shell has expanded; of what these match, the folders with a record."""
    for name in names:
        if Path(name).exists() or not glob.has_magic(name):
            yield Path(name)
            continue
        found = [
            path for path in map(Path, sorted(glob.glob(name))) if (path / "run.json").exists()
        ]
        if not found:
            raise InputError(f"{name}: no run matches.")
        yield from found


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.compare", description=__doc__)
    parser.add_argument("run", nargs="+", help="output folder of a run, or a pattern of them")
    parser.add_argument("--output", type=Path, help="the page, such as page.html")
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    options = parser.parse_args(argv)
    if options.output:
        compare_page.require_free(options.output, options.overwrite)
    compared = runs.read(list(folders(options.run)))
    rankings, differences = ranking.rankings(compared), contrast(compared)
    notes = ranking.remarks(compared, rankings) + [n for one in compared for n in one.notes]
    print(compare_table.table(compared, rankings, differences))
    print("\n" + compare_table.remarks(notes), file=sys.stderr)
    if options.output:
        compare_page.write(
            options.output, compared, rankings, differences, notes, options.overwrite
        )
        print(f"written: {options.output}")
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
