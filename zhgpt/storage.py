"""Room on the disk that a run takes: text as blocks, checkpoints, the model, W&B."""

from dataclasses import dataclass
from typing import Any

from zhgpt import plan

# Offline; measured with wandb 0.31: 0.75 kB for each log line, 30 kB for each start. The machine's
# own figures, four times a minute, come on top.
_LINE_BYTES, _START_BYTES = 1_000, 50_000


@dataclass(frozen=True)
class Disk:
    """Bytes. `making` is what lies in the cache beside `corpus` while it is prepared, at the most
    (docs/speed.md: a peak of 4.05 bytes per token, and 2.00 at the end).
    """

    corpus: int
    making: int
    checkpoint: int
    checkpoints: int
    kept: int
    model: int
    tracking: int

    @property
    def run(self) -> int:
        """Of the output folder."""
        return self.checkpoints + self.model + self.tracking


def estimate(pins: Any, config: Any, tokens: int, saves: float, lines: float) -> Disk:
    """Of a ClmRecipe; `tokens` of both splits, `saves` and log `lines` of the whole run.

    save_total_limit checkpoints are kept, all without it, and one more lies there until an older
    one is deleted (zhgpt.checkpoint).
    """
    corpus = tokens * (2 if config.vocab_size <= 2**16 else 4)
    checkpoint = plan.checkpoint_bytes(pins, config)
    limit = pins.training_arguments.get("save_total_limit")
    kept = int(saves) + 1 if limit is None else min(int(saves) + 1, max(limit, 2) + 1)
    tracked = "wandb" in (pins.training_arguments.get("report_to") or ())
    return Disk(
        corpus=corpus,
        making=corpus,
        checkpoint=checkpoint,
        checkpoints=kept * checkpoint,
        kept=kept,
        model=4 * plan.count_parameters(config),
        tracking=int(_START_BYTES + lines * _LINE_BYTES) if tracked else 0,
    )
