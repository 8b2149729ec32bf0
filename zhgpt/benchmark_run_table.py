"""The records of what a run pays beside its steps, its saves and its start, as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from zhgpt.benchmark_table import head, markdown, spread, target_rows

Record = Mapping[str, Any]
Target = tuple[str, Sequence[float], float, bool]

SAVES = {
    "trainer": "Trainer, as it is: in the page cache",
    "trainer_on_disk": "Trainer, then fsync of each file",
    "ours": "ours: copied, hashed, sealed, fsync",
}
_OF_PLAIN, _TO_FIRST_STEP = 0.15, 12.0


def save(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what save."""
    about = (
        f"A model of {record['parameters'] / 1e6:.1f} M parameters, checkpoints of"
        f" {record['bytes'] / 1e9:.2f} GB; {record['repeats']} saves of each way in turn in one"
        f" process, {record['machine']['torch_threads']} thread(s), steps of"
        f" {record['tokens_per_step']} tokens, {spread([record['quiet_step']])} s without a save;"
        f" {head(record)}"
    )
    return "\n\n".join([about, _saves(record), target_rows(save_targets(record))])


def _saves(record: Record) -> str:
    heads = ["median (lowest–highest)", "training waits, s", "until it is on the disk, s"]
    heads += ["added to this and the next steps, s"]
    rows = [heads, ["---", *("--:" for _ in heads[1:])]]
    for way, name in SAVES.items():
        turns = record["ways"][way]
        done = [turn.get("sealed", turn["stall"]) for turn in turns]
        until = "—" if way == "trainer" else spread(done)
        rows.append([name, spread(_stalls(record, way)), until, spread(_added(record, turns))])
    first = record["first"]
    rows.append(["ours, the first of a run", *_first(record, first)])
    return markdown(rows)


def _first(record: Record, turn: Record) -> list[str]:
    added = _added(record, [turn])
    return [spread([turn["stall"]]), spread([turn["sealed"]]), spread(added)]


def _stalls(record: Record, way: str) -> list[float]:
    return [turn["stall"] for turn in record["ways"][way]]


def _added(record: Record, turns: Sequence[Record]) -> list[float]:
    """What the save and the steps after it took beyond so many steps without one.

    The wait of ours for the copy lies in the first of these steps, the rest of its stall before.
    """
    quiet = record["quiet_step"]
    return [turn["call"] + sum(turn["steps"]) - quiet * len(turn["steps"]) for turn in turns]


def save_targets(record: Record) -> list[Target]:
    """Ratios within a repeat: what slows all of them down cancels."""
    ours, found = _stalls(record, "ours"), []
    for way, name in list(SAVES.items())[:2]:
        pairs = zip(ours, _stalls(record, way), strict=True)
        ratios = [mine / theirs for mine, theirs in pairs]
        found.append((f"ours waits at most {_OF_PLAIN} of: {name}", ratios, _OF_PLAIN, True))
    return found


def startup(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what startup."""
    about = (
        f"`{record['recipe']}` with a prepared corpus of {record['corpus_bytes'] / 1e6:.1f} MB;"
        f" {record['repeats']} starts of each kind in turn; {head(record)}"
    )
    parts = [about, _starts(record), _imports(record), target_rows(startup_targets(record))]
    return "\n\n".join(parts)


def _starts(record: Record) -> str:
    kinds = list(record["starts"])
    rows = [["seconds, median (lowest–highest)", *kinds], ["---", *("--:" for _ in kinds)]]
    for part in record["starts"][kinds[0]][0]:
        cells = [spread([start[part] for start in record["starts"][kind]]) for kind in kinds]
        rows.append([part, *cells])
    return markdown(rows)


def _imports(record: Record) -> str:
    rows = [["imports, by what asks for them", "seconds"], ["---", "--:"]]
    return markdown(rows + [[name, spread([s])] for name, s in record["imports"].items()])


def startup_targets(record: Record) -> list[Target]:
    whole = {kind: [sum(start.values()) for start in s] for kind, s in record["starts"].items()}
    name = "command to the end of the first step, at most 12 s"
    found = [(f"{name}, {kind}", seconds, _TO_FIRST_STEP, True) for kind, seconds in whole.items()]
    first, last = (median(whole[kind]) for kind in (list(whole)[0], list(whole)[-1]))
    return [*found, (f"{list(whole)[-1]} as fast as {list(whole)[0]}", [last / first], 1.1, True)]
