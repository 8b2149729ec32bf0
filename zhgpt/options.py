"""The options of run_clm.py itself, beside the keys of its recipe."""

from collections.abc import Mapping
from typing import Any, Literal

from zhgpt.command import Flag
from zhgpt.errors import InputError
from zhgpt.recipe import Texts

FLAGS = {
    "output_dir": Flag(str, "folder of the run; runs/<name> unless given"),
    "accept": Flag(Texts, "findings (docs/lint.md) in spite of which the run starts"),
    "plan": Flag(
        Literal["full", "quick"],
        "trains nothing; says what the run will be and cost (quick: from a sample of the text)",
        alone="full",
    ),
    "price_per_hour": Flag(float, "with --plan: of the machine, in your currency"),
    "kills_every_hours": Flag(float, "with --plan: mean time until the machine is taken away"),
}


def require(flags: Mapping[str, Any]) -> None:
    """InputError for an option of the plan without one: it would have no effect."""
    for name in ("price_per_hour", "kills_every_hours"):
        if flags[name] is not None and not flags["plan"]:
            raise InputError(
                f"--{name}: has a meaning only with --plan; add it, or leave this out."
            )
