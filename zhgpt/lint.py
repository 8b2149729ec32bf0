"""What a recipe would do to its run, said before it starts.

`python -m zhgpt.lint` writes docs/lint.md anew.

`stop` is for a run that would not be worth its time; `warn` will probably cost the result, time
or money; `note` is worth knowing. A warning whose id stands in the recipe's `why` was meant, and
becomes a note.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.recipe import ClmRecipe
from zhgpt.rules import NOTE, RULES, STOP, WARN, Facts

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


def require(found: Sequence[Finding], accepted: Collection[str]) -> None:
    """InputError with every `stop` that was not accepted, and for an id that no rule has."""
    unknown = [name for name in accepted if name not in {rule.id for rule in RULES}]
    if unknown:
        raise InputError(f"--accept {unknown[0]}: no rule has this name; {PAGE} lists them.")
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


_PAGE = """# What is looked at before a run

A page made from the code: `python -m zhgpt.lint`. The shipped recipes are held to these rules by
tests; a training start does not ask them yet. `stop` is for runs that would not be worth their
time, `warn` for what will probably cost the result, time or money, `note` for what is worth
knowing. A recipe that means a value which warns says so in its `why`, by the rule's name:

```json
"why": {{"training_arguments.max_steps": "few-tokens is meant: a rehearsal of half an hour"}}
```

and the warning becomes a note. Rules that need the corpus, the machine or its speed say nothing
before these are known.

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
