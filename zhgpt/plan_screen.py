"""plan.json as one screen: at most 50 lines of 100 columns."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhgpt.cards import EFFICIENCY
from zhgpt.report import count

LINES, COLUMNS = 50, 100
_INDENT = " " * 12
_MANY_HOURS = 100
_HARDLY = 10  # times the run itself

Plan = Mapping[str, Any]


def screen(plan: Plan, folder: Path) -> str:
    """What a person reads of a plan; findings are shortened first where there are many."""
    rows = [
        ("plan", f"{plan['name']}: nothing was trained; all figures are in {folder}/plan.json"),
        *_corpus(plan),
        *_run(plan),
        *_here(plan),
        *_preemption(plan),
        *_memory(plan),
        *_disk(plan),
    ]
    lines = [line for name, text in rows for line in _wrapped(name, text)]
    lines += _cards(plan)
    return "\n".join(lines + _lint(plan["lint"], LINES - len(lines)))


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=f"{name:>10}  ", subsequent_indent=_INDENT)


def _clipped(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 3] + "..."


def size(bytes: float) -> str:
    """1234567 -> 1.23 MB"""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if bytes >= 0.995 * one:
            return f"{bytes / one:.3g} {unit}"
    return f"{bytes / 1e3:.3g} kB"


def hours(number: float | None) -> str:
    """Seconds or minutes where these are easier to read."""
    if number is None:
        return "without end"
    if number < 2 / 60:
        return f"{3600 * number:.2g} s"
    if number < 2:
        return f"{60 * number:.3g} min"
    return f"{number:,.3g} h" if number < _MANY_HOURS else f"{number:,.0f} h"


def money(number: float) -> str:
    return f"{number:,.2f}" if number < _MANY_HOURS else f"{number:,.0f}"


def _corpus(plan: Plan) -> list[tuple[str, str]]:
    corpus = plan["corpus"]
    train, validation = corpus["train"], corpus["validation"]
    text = (
        f"{train['documents']:,} documents, {size(train['bytes'])} of text,"
        f" {count(train['tokens'] + train['eos_tokens'])} tokens; validation"
        f" {size(validation['bytes'])}"
    )
    if corpus["mode"] == "quick":
        sample = corpus["sample"]
        error = sample["error"]
        within = "unknown" if error is None else f"{error:.1%}"
        text += (
            f"; from a sample of {size(sample['bytes'])}, error of the tokens {within} (twice the"
            " standard error over places; repeated text is not looked for)"
        )
    rows = [("corpus", text)]
    claimed = corpus["claimed_bytes"]
    if claimed:
        rows.append(("claimed", f"{size(claimed)}; found is {train['bytes'] / claimed:.0%} of it"))
    return rows


def _run(plan: Plan) -> list[tuple[str, str]]:
    made, laws = plan["plan"], plan["scaling"]
    shape = "{n_layer} layers x {n_embd} wide, {n_head} heads, {block_size} positions"
    return [
        ("model", f"GPT-2, {count(made['parameters'])} parameters: {shape.format(**made)}"),
        (
            "steps",
            f"{made['max_steps']:,} of {made['tokens'] // made['max_steps']:,} tokens ="
            f" {made['micro_batch']} blocks x {made['gradient_accumulation_steps']} accumulated x"
            f" {plan['machine']['processes']} process(es)",
        ),
        (
            "tokens",
            f"{count(made['tokens'])} = {made['epochs']:.2f} epochs, worth"
            f" {laws['worth_in_epochs']:.2f} of new text (the last one {laws['last_epoch']:.2g};"
            f" Muennighoff et al. 2023); {made['tokens_per_parameter']:.2g} per parameter,"
            f" compute-optimal is about {laws['optimal_ratio']}: with this compute"
            f" {count(laws['optimal_parameters'])} parameters and {count(laws['optimal_tokens'])}"
            " tokens (Hoffmann et al. 2022)",
        ),
        ("compute", f"{made['flops']:.2e} operations (6 N + 12 L d T a token: PaLM, appendix B)"),
    ]


def _here(plan: Plan) -> list[tuple[str, str]]:
    here, price = plan["here"], plan["price_per_hour"]
    device = plan["machine"]["device"]
    if "reason" in here:
        return [("here", f"{device}: not timed: {here['reason']}")]
    probe, made = here["probe"], plan["plan"]
    text = (
        f"{device}: {hours(here['hours'])} ({_spread(here)}),"
        f" {here['tokens_per_second']:,.0f} tokens/s, {here['flops_per_second'] / 1e12:.3g} TFLOPS"
    )
    if price:
        text += f"; {money(price * here['hours'])} at {price:g} an hour, in the currency you wrote"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in here["shares"].items())
    if probe["micro_batch"] != made["micro_batch"]:
        shares += f"; timed with {probe['micro_batch']} block(s) at a time"
    return [("here", text), ("", shares)]


def _spread(here: Plan) -> str:
    number = len(here["probe"]["steps"])
    if number == 1:
        return "from one step, so its spread is not known"
    kind = "quartiles" if number > 3 else "extremes"
    return f"{hours(here['low_hours'])} to {hours(here['high_hours'])}, {kind} of {number} steps"


def _preemption(plan: Plan) -> list[tuple[str, str]]:
    made = plan["preemption"]
    if "best_save_minutes" not in made:
        return []
    own, price = made["save_minutes"], plan["price_per_hour"]
    every = "never" if own is None else f"every {hours(own / 60)}"
    text = (
        f"a kill each {made['kills_every_hours']:g} h{' (assumed)' if made['assumed'] else ''}:"
        f" saves {every}, {_loss(plan)}; --save_minutes {made['best_save_minutes']:.2g} costs"
        f" least, {hours(made['best_lost_hours'])}{_paid(made['best_lost_hours'], price)}"
        f" (Young 1974; a save stalls up to {made['save_seconds']:.2g} s and is written in"
        f" {made['write_seconds']:.2g} s)"
    )
    return [("kills", text)]


def _loss(plan: Plan) -> str:
    lost = plan["preemption"]["lost_hours"]
    if lost is None or lost > _HARDLY * plan["here"]["hours"]:
        return "so it would hardly ever end"
    return f"which costs {hours(lost)}{_paid(lost, plan['price_per_hour'])} in all"


def _paid(number: float | None, price: float | None) -> str:
    return f" = {money(number * price)}" if number is not None and price else ""


def _memory(plan: Plan) -> list[tuple[str, str]]:
    made = plan["memory"]
    parts = (
        "weights",
        "gradients",
        "optimizer",
        "layers",
        "attention",
        "logits",
        "heap",
        "process",
    )
    whole = sum(made[name] for name in parts)
    shares = ", ".join(f"{name} {size(made[name])}" for name in parts if made[name])
    fits = made["largest_micro_batch"]
    text = (
        f"{size(made['total'])} estimated of {size(made['available'])}"
        f" ({'GPU' if made['is_gpu'] else 'main memory'}); {shares}; logits are"
        f" {made['logits'] / whole:.0%}, attention is {made['attention_kind']}; largest"
        f" micro-batch that fits: {fits or 'none'}"
    )
    if made["peak_bytes"]:
        text += f"; measured peak {size(made['peak_bytes'])}"
    return [("memory", text)]


def _disk(plan: Plan) -> list[tuple[str, str]]:
    made = plan["disk"]
    text = (
        f"{size(made['run'])} of {size(made['free'])} free: {made['kept']} checkpoint(s) of"
        f" {size(made['checkpoint'])}, model {size(made['model'])}, W&B {size(made['tracking'])};"
        f" cache {size(made['corpus'])} (and {size(made['making'])} while it is made) of"
        f" {size(made['cache_free'])}"
    )
    return [("disk", text)]


def _cards(plan: Plan) -> list[str]:
    price = plan["price_per_hour"]
    words = f"at {EFFICIENCY:.0%} of the peak in 16 bits: assumed, small models reach less"
    head = f"{'cards':>10}  {words}"
    titles = f"{'':>12}{'':<6}{'TFLOPS':>7}{'time':>12}" + (f"{'cost':>12}" if price else "")
    rows = [head, titles + f"{'GB':>5}{'needed':>8}{'largest micro-batch':>21}"]
    for card in plan["cards"]:
        row = f"{'':>12}{card['name']:<6}{card['tflops']:>7g}{hours(card['hours']):>12}"
        row += f"{money(card['hours'] * price):>12}" if price else ""
        row += f"{card['gb']:>5}{card['memory_gb']:>8.1f}"
        row += f"{card['largest_micro_batch'] or 'none':>21}"
        rows.append(row + ("" if card["bf16"] else "  no bf16: fp16"))
    return rows


def _lint(found: list[Mapping[str, Any]], room: int) -> list[str]:
    """Of each stop and warning a line, and its effect while there is room."""
    if not found:
        return [f"{'lint':>10}  nothing found"]
    grave = [f for f in found if f["severity"] != "note"]
    notes = ", ".join(f"{f['id']} ({f['value']})" for f in found if f["severity"] == "note")
    last = _wrapped("note", notes)[:2] if notes else []
    shown, lines = grave[: room - len(last)], []
    for number, f in enumerate(shown, 1):
        severity, key = "accepted" if f["accepted"] else f["severity"], f["key"].split(".")[-1]
        head = f"{f['id']}: {key} = {f['value']}; instead: {f['instead']}"
        lines.append(_clipped(f"{severity:>10}  {head}"))
        free = room - len(last) - len(lines) - (len(shown) - number)
        lines += _wrapped("", f["effect"])[: min(2, max(0, free))]
    return lines + last
