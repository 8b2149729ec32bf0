"""The options of run_clm.py itself, beside the keys of its recipe."""

from typing import Literal

from zhgpt.command import Flag
from zhgpt.recipe import Texts

FLAGS = {
    "output_dir": Flag(str, "folder of the run; runs/<name> unless given"),
    "accept": Flag(Texts, "findings (docs/lint.md) in spite of which the run starts"),
    "plan": Flag(
        Literal["full", "quick"],
        "trains nothing; says what the run will be and cost (quick: from a sample of the text)",
        alone="full",
    ),
    "price_per_hour": Flag(
        float, "with --plan: of the machine, in your currency", only_with="plan"
    ),
    "kills_every_hours": Flag(
        float, "with --plan: mean time until the machine is taken away", only_with="plan"
    ),
}
