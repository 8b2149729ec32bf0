"""The record of a benchmark of training steps as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from zhgpt.benchmark_table import head, markdown, spread, target_rows

Record = Mapping[str, Any]

NAMES = {
    "bare": "bare loop",
    "bare_compiled": "bare loop, compiled",
    "example": "transformers' example",
    "nanogpt": "nanoGPT, compiled",
    "ours": "`run_clm.py`",
    "ours_compiled": "`run_clm.py`, compiled",
}


def step(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what step."""
    asked = [target_rows(found)] if (found := targets(record)) else []
    return "\n\n".join([_head(record), _ways(record), *asked])


def _head(record: Record) -> str:
    shape = f"{record['n_layer']} layers × {record['n_embd']}, blocks of {record['block_size']}"
    changed = " ".join(record["overrides"])
    return (
        f"`{record['recipe']}`{f' with `{changed}`' if changed else ''}: {shape},"
        f" {record['vocab_size']:,} entries, {record['parameters'] / 1e6:.1f} M parameters;"
        f" {record['tokens_per_step']:,} tokens a step in micro-batches of"
        f" {record['micro_batch']} blocks, {record['precision']}; {record['repeats']} turns of"
        f" {record['steps']} steps each; {head(record)}"
    )


def _ways(record: Record) -> str:
    rows = [["median (lowest–highest)", "tokens/s", "share of matmul", "processor seconds/step"]]
    base = "example" if "example" in record["turns"] else "bare"
    rows[0] += [f"× {NAMES[base]}"]
    rows += [["---", *("--:" for _ in rows[0][1:])]]
    for way in (way for way in NAMES if way in record["turns"]):
        seconds, busy = _seconds(record, way), _seconds(record, way, "cpu_seconds")
        speed = [record["tokens_per_step"] / each for each in seconds]
        cells = [spread(x) for x in (speed, _shares(record, seconds), busy)]
        rows.append([NAMES[way], *cells, spread(faster(record, base, way))])
    return markdown(rows)


def overhead(record: Record) -> str:
    """All tables of python -m zhgpt.benchmark --what overhead."""
    rows = [["median (lowest–highest), seconds", "bare loop", "`run_clm.py`", "in an hour"]]
    rows += [["---", "--:", "--:", "--:"]]
    hour = in_an_hour(record)
    for name, what in (("step, log lines in it", "steps"), *_EVENTS.items()):
        costs = [_costs(record, way, what) for way in ("bare_evaluated", "ours")]
        rows.append([name, *(spread(cost) if cost else "" for cost in costs), f"{hour[what]:,.0f}"])
    asked = [("at most 3 % over the bare loop in an hour", overheads(record), 0.03, True)]
    return "\n\n".join([_head(record), markdown(rows), target_rows(asked)])


_EVENTS = {"evaluation, samples in it": "evaluations", "wait for a save": "saves"}


def _costs(record: Record, way: str, what: str) -> list[float]:
    """Seconds of one step, evaluation or save, turn by turn."""
    if what == "steps":
        return _seconds(record, way)
    return [found for turn in record["turns"][way] for found in turn[what]]


def in_an_hour(record: Record) -> dict[str, float]:
    """How many steps, evaluations and saves a run of an hour has: intervals below 1 are its shares.

    Of steps as fast as the bare loop's, so that what is beside them weighs what it does there.
    """
    steps = 3600 / median(_seconds(record, "bare_evaluated"))
    intervals = {what: record["events"][what] for what in _EVENTS.values()}
    return {"steps": steps} | {
        what: 0 if not every else 1 / every if every < 1 else steps / every
        for what, every in intervals.items()
    }


def overheads(record: Record) -> list[float]:
    """Turn by turn: what ours takes longer for an hour's steps, evaluations and saves, as a share
    of what the bare loop takes for the same steps and evaluations.
    """
    hour, found = in_an_hour(record), []
    for bare, ours in zip(
        *(record["turns"][way] for way in ("bare_evaluated", "ours")), strict=True
    ):
        base = hour["steps"] * bare["seconds"] / record["steps"]
        base += hour["evaluations"] * median(bare["evaluations"])
        whole = hour["steps"] * ours["seconds"] / record["steps"]
        whole += sum(hour[what] * median(ours[what]) for what in _EVENTS.values())
        found.append(whole / base - 1)
    return found


def _seconds(record: Record, way: str, clock: str = "seconds") -> list[float]:
    """Of a step, turn by turn."""
    return [turn[clock] / record["steps"] for turn in record["turns"][way]]


def _shares(record: Record, seconds: Sequence[float]) -> list[float]:
    """Of the rate of a large matrix product in the same repeat."""
    pairs = zip(seconds, _seconds(record, "matmul"), strict=True)
    work, product = record["flops_per_step"], record["matmul_flops"]
    return [(work / step) / (product / alone) for step, alone in pairs]


def faster(record: Record, other: str, way: str, clock: str = "seconds") -> list[float]:
    """How many times as fast as another way, turn by turn."""
    pairs = zip(_seconds(record, other, clock), _seconds(record, way, clock), strict=True)
    return [theirs / ours for theirs, ours in pairs]


_TARGETS = {
    ("example", "ours"): ("at least 1.25 × as fast as transformers' example", 1.25),
    ("nanogpt", "ours_compiled"): ("compiled, at least as fast as nanoGPT compiled", 1),
}


def targets(record: Record) -> list[tuple[str, list[float], float, bool]]:
    """As benchmark_table.targets; on a CPU by the processors' time too, which other work on the
    machine moves less.
    """
    clocks = {"seconds": ""}
    if record["machine"]["device"].startswith("CPU"):
        clocks["cpu_seconds"] = ", by processor seconds"
    return [
        (name + words, faster(record, other, way, clock), bound, False)
        for (other, way), (name, bound) in _TARGETS.items()
        if {other, way} <= set(record["turns"])
        for clock, words in clocks.items()
    ]
