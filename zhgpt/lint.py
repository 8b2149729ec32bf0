"""What a recipe would do to its run, said before it starts.

`python -m zhgpt.lint` writes docs/lint.md anew.

`stop` is for a run that would not be worth its time; `warn` will probably cost the result, time
or money; `note` is worth knowing. A warning whose id stands in the recipe's `why` was meant, and
becomes a note.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zhgpt import rules_machine, rules_optimizer, rules_text
from zhgpt.check import suggestion
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.recipe import ClmRecipe
from zhgpt.rule import NOTE, STOP, WARN, Facts

RULES = (*rules_optimizer.RULES, *rules_text.RULES, *rules_machine.RULES)
PAGE = Path("docs/lint.md")


@dataclass(frozen=True)
class Finding:
    id: str
    severity: str
    key: str
    value: str
    effect: str
    instead: str
    source: str

    def line(self) -> str:
        return (
            f"{self.severity} {self.id}: {self.key} = {self.value}: {self.effect}.\n"
            f"     Instead: {self.instead}. ({self.source})"
        )


def check(recipe: ClmRecipe, facts: Facts) -> list[Finding]:
    """All findings, the gravest first."""
    found = []
    for rule in RULES:
        verdict = rule.judge(recipe, facts)
        if verdict:
            severity, *rest = verdict
            finding = Finding(rule.id, severity, rule.key, *rest, rule.source)
            found.append(_seen(recipe, finding))
    return sorted(found, key=lambda finding: (STOP, WARN, NOTE).index(finding.severity))


def _seen(recipe: ClmRecipe, finding: Finding) -> Finding:
    meant = any(finding.id in reason for reason in recipe.why.values())
    return replace(finding, severity=NOTE) if meant and finding.severity == WARN else finding


def accepted(asked: Collection[str] | None, record: Mapping[str, Any]) -> set[str]:
    """Ids that this start accepts, and those that the run was started with before.

    InputError for an id that no rule has.
    """
    known = [rule.id for rule in RULES]
    for name in asked or ():
        if name not in known:
            near = suggestion(name, known)
            raise InputError(f"--accept {name}: no rule has this name{near}; {PAGE} lists them.")
    return {*(asked or ()), *(f["id"] for f in record.get("lint", ()) if f["accepted"])}


def judge(recipe: ClmRecipe, facts: Facts, accepted: Collection[str]) -> list[Finding]:
    """What `check` finds, unless `require` ends it."""
    found = check(recipe, facts)
    require(found, accepted)
    return found


def require(found: Sequence[Finding], accepted: Collection[str]) -> None:
    """InputError with every `stop` that was not accepted."""
    left = [f for f in found if f.severity == STOP and f.id not in accepted]
    if left:
        lines = "\n".join(finding.line() for finding in left)
        names = " ".join(finding.id for finding in left)
        raise InputError(
            f"this run would not be worth its time:\n{lines}\n"
            f"If you mean it all the same, add: --accept {names}"
        )


def record(found: Sequence[Finding], accepted: Collection[str]) -> list[dict[str, Any]]:
    """The findings as run.json and plan.json keep them."""
    return [asdict(finding) | {"accepted": finding.id in accepted} for finding in found]


def summary(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of what `record` keeps, a line for each stop and warning, and one for all notes."""
    lines = [
        f"{'accepted' if f['accepted'] else f['severity']} {f['id']}: {f['key']} = {f['value']};"
        f" instead: {f['instead']}"
        for f in entries
        if f["severity"] != NOTE
    ]
    notes = [f"{f['id']} ({f['value']})" for f in entries if f["severity"] == NOTE]
    return lines + ([f"note {', '.join(notes)}"] if notes else [])


_PAGE = """# What is looked at before a run

A page made from the code: `python -m zhgpt.lint`. Every training start and every
[plan](plan.md) look at the recipe by these rules, and `run.json` and `plan.json` keep what they
found. `stop` is for runs that would not be worth their time, `warn` for what will probably cost
the result, time or money, `note` for what is worth knowing.

A `stop` ends the start with exit code 2; what can be judged without the text is judged before it is
prepared. If you mean it all the same, say so by its name; the run keeps that for the next starts:

```
python run_clm.py recipes/diary/diary_0301.json --accept many-epochs
```

A recipe that means a value which warns says so in its `why`, by the rule's name:

```json
"why": {{"training_arguments.max_steps": "few-tokens is meant: a rehearsal of half an hour"}}
```

and the warning becomes a note. Rules that need the corpus say nothing before it is prepared,
those that need the machine's speed nothing without `--plan`, which measures it.

| rule | looks at | when | source |
|---|---|---|---|
{rows}
"""


def page() -> str:
    """docs/lint.md."""
    cells = ((f"`{rule.id}`", f"`{rule.key}`", rule.when, rule.source) for rule in RULES)
    return _PAGE.format(rows="\n".join(f"| {' | '.join(row)} |" for row in cells))


def run(argv: Sequence[str] | None) -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
