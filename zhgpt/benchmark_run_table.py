"""The records of what a run pays beside its steps, its saves and its start, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from zhgpt.benchmark_table import head, markdown, spread, target_rows

Record = Mapping[str, Any]
Target = tuple[str, Sequence[float], float, bool]

SAVES = {
    "trainer": "Trainer, as it is: in the page cache",
    "trainer_on_disk": "Trainer, then fsync of each file",
    "ours": "ours: copied, hashed, sealed, fsync",
}
_OF_PLAIN, _TO_FIRST_STEP = 15, 12
_BUSY = "processor_seconds"


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
    heads += ["added to this step and the next ones, s"]
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
    """What the steps from a save on took beyond so many without one; the first holds the save."""
    quiet = record["quiet_step"]
    return [sum(turn["steps"]) - quiet * len(turn["steps"]) for turn in turns]


def save_targets(record: Record) -> list[Target]:
    """Ratios within a repeat: what slows all of them down cancels."""
    ours, found = _stalls(record, "ours"), []
    for way, name in list(SAVES.items())[:2]:
        pairs = zip(ours, _stalls(record, way), strict=True)
        shares = [100 * mine / theirs for mine, theirs in pairs]
        found.append((f"ours waits at most {_OF_PLAIN} % of: {name}", shares, _OF_PLAIN, True))
    return found


def startup(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what startup."""
    about = (
        f"`{record['recipe']}` with a prepared corpus of {record['corpus_bytes'] / 1e6:.1f} MB;"
        f" {record['repeats']} starts of each kind in turn, on a machine with"
        f" {spread(_loads(record))} processes waiting or running; {head(record)}"
    )
    parts = [about, _starts(record), _imports(record), target_rows(startup_targets(record))]
    return "\n\n".join(parts)


def _loads(record: Record) -> list[float]:
    """The system's own average of one minute, at the end of each start."""
    return [start["load"] for starts in record["starts"].values() for start in starts]


def _starts(record: Record) -> str:
    kinds = list(record["starts"])
    heads = ["processor seconds, median (lowest–highest)", *kinds]
    rows = [heads, ["---", *("--:" for _ in kinds)]]
    for part in record["starts"][kinds[0]][0]["parts"]:
        starts = (record["starts"][kind] for kind in kinds)
        rows.append([part, *(spread([s["parts"][part][_BUSY] for s in of]) for of in starts)])
    for name, clock in (("all", _BUSY), ("all, seconds of the wall's clock", "seconds")):
        rows.append([name, *(spread(_whole(record, kind, clock)) for kind in kinds)])
    return markdown(rows)


def _whole(record: Record, kind: str, clock: str) -> list[float]:
    return [sum(part[clock] for part in s["parts"].values()) for s in record["starts"][kind]]


def _imports(record: Record) -> str:
    rows = [["imports, by what asks for them", "seconds"], ["---", "--:"]]
    return markdown(rows + [[name, spread([s])] for name, s in record["imports"].items()])


def startup_targets(record: Record) -> list[Target]:
    """The clock of a machine that does other things too says little of what a start takes."""
    kinds, found = list(record["starts"]), []
    for clock, name in (("seconds", "12 s"), (_BUSY, "12 processor seconds")):
        whole = {kind: _whole(record, kind, clock) for kind in kinds}
        for kind, seconds in whole.items():
            asked = f"{kind}: from command to first step in {name}"
            found.append((asked, seconds, _TO_FIRST_STEP, True))
    early, late = kinds[1:]
    ratios = [b / a for a, b in zip(whole[early], whole[late], strict=True)]
    return [*found, (f"{late} at most 1.1 times {early}, processor seconds", ratios, 1.1, True)]
