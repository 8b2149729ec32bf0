"""A run as a person reads it while it goes on: a table of log lines, a line per evaluation."""

import time
from collections.abc import Callable

from transformers import TrainerCallback

from zhgpt.report import count

Say = Callable[[str], None]


class Console(TrainerCallback):
    """One line per log and per evaluation, the same in a terminal and in a log file.

    Training lines are rows of a table, whose head is repeated after anything else and now and then.
    """

    def __init__(self, say: Say):
        self.say, self.rows = say, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.began, self.first_step = time.perf_counter(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "eval_loss" in logs:
            self.say(evaluation_line(state.global_step, logs))
            self.rows = 0
        elif "loss" in logs:
            cells = _cells(self._progress(state), logs)
            if self.rows % ROWS_PER_HEAD == 0:
                self.say(_row(cells, list(cells)))
            self.say(_row(cells, list(cells.values())))
            self.rows += 1

    def on_evaluate(self, args, state, control, **kwargs):
        self.rows = 0  # samples came in between

    def _progress(self, state) -> dict[str, str]:
        done = state.global_step - self.first_step
        left = (time.perf_counter() - self.began) / done * (state.max_steps - state.global_step)
        step = f"{state.global_step}/{state.max_steps}"
        # As wide as the run's last line, so that columns stay where they are.
        return {"step".rjust(2 * len(str(state.max_steps)) + 1): step, "   left": clock(left)}


ROWS_PER_HEAD = 20


def _cells(progress: dict[str, str], logs: dict[str, float]) -> dict[str, str]:
    """Column's name, as wide as the column, to what stands in it; at most 98 characters in all."""
    cells = progress | {
        "   loss": f"{logs['loss']:.4f}",
        "      lr": f"{logs['learning_rate']:.2e}",
        "  grad": f"{logs['grad_norm']:.2f}",
        "  update": f"{logs['update_ratio']:.1e}" if "update_ratio" in logs else "-",
        "tokens": count(logs["tokens"]),
        "tokens/s": count(logs["tokens_per_second"]),
        " epoch": f"{logs['epoch']:.2f}",
        "memory": f"{logs['memory_gb']:.1f}G",
    }
    if "share_of_peak" in logs:
        cells["peak"] = f"{logs['share_of_peak']:.0%}"
    return cells


def _row(cells: dict[str, str], texts: list[str]) -> str:
    return "  ".join(text.rjust(len(name)) for name, text in zip(cells, texts, strict=True))


def evaluation_line(step: int, metrics: dict[str, float]) -> str:
    return (
        f"evaluation at step {step}: {metrics['eval_bits_per_byte']:.4f} bits/byte"
        f"  loss {metrics['eval_loss']:.4f}  perplexity {metrics['eval_perplexity']:.2f}"
        f"  accuracy {metrics['eval_accuracy']:.1%}"
        f"  {metrics['eval_nats_per_character']:.3f} nats/character"
    )


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
