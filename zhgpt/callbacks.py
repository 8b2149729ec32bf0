"""What happens beside the training loop: one class, one concern, public hooks of Trainer only."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback

from zhgpt import leaving, tracking
from zhgpt.errors import Left
from zhgpt.recipe import ClmRecipe, SamplesSection
from zhgpt.report import count, printable, train_tokens
from zhgpt.sampling import continuations
from zhgpt.stopping import agreed

Say = Callable[[str], None]


def arrange(trainer: Trainer) -> Trainer:
    """Lets reporters (W&B ...) see log lines after our callbacks completed them."""
    trainer.remove_callback(PrinterCallback)
    for reporter in get_reporting_integration_callbacks(trainer.args.report_to):
        trainer.add_callback(trainer.pop_callback(reporter))
    return trainer


def observers(recipe: ClmRecipe, ledger: Mapping[str, Any], output_dir: Path, say: Say) -> list:
    """What is logged, printed and sampled of a run; Position completes what the others show."""
    return [
        Position(recipe.tokens_per_step, train_tokens(ledger)),
        Console(say),
        Samples(recipe.samples, output_dir, say),
    ]


class Position(TrainerCallback):
    """Adds tokens, data epochs and tokens per second to every log line.

    Trainer sees the whole run as one epoch (zhgpt.order); `epoch` is put right here. The rate
    counts the time inside steps, not evaluation, samples or saves.
    """

    def __init__(self, tokens_per_step: int, tokens_per_epoch: int):
        self.tokens_per_step = tokens_per_step
        self.tokens_per_epoch = tokens_per_epoch
        self.seconds = 0.0
        self.steps = 0
        self.began = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self.began
        self.steps += 1
        state.epoch = state.global_step * self.tokens_per_step / self.tokens_per_epoch

    def on_log(self, args, state, control, logs=None, **kwargs):
        extra = {"tokens": state.global_step * self.tokens_per_step}
        if "loss" in logs and self.steps:
            extra["tokens_per_second"] = round(self.steps * self.tokens_per_step / self.seconds)
            self.seconds, self.steps = 0.0, 0
        logs.update(extra)
        state.log_history[-1].update(extra)


class Console(TrainerCallback):
    """One readable line per log and per evaluation, the same in a terminal and in a log file."""

    def __init__(self, say: Say):
        self.say = say

    def on_train_begin(self, args, state, control, **kwargs):
        self.began, self.first_step = time.perf_counter(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "eval_loss" in logs:
            self.say(evaluation_line(state.global_step, logs))
        elif "loss" in logs:
            self.say(f"{self._progress(state)}  {_training_figures(logs)}")

    def _progress(self, state) -> str:
        done = state.global_step - self.first_step
        left = (time.perf_counter() - self.began) / done * (state.max_steps - state.global_step)
        step, end = state.global_step, state.max_steps
        return f"step {step:{len(str(end))}}/{end} {step / end:4.0%}  {clock(left)} left"


def _training_figures(logs: dict[str, float]) -> str:
    return (
        f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}  grad {logs['grad_norm']:.2f}"
        f"  {count(logs['tokens'])} tokens  {logs['tokens_per_second']:,} tokens/s"
    )


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


class Samples(TrainerCallback):
    """Continues the recipe's prompts at the start and at every evaluation.

    Printed, appended to samples.jsonl and, where the run reports there, sent to W&B as a table.
    Random numbers come from a generator state of their own: training is the same without samples.
    """

    def __init__(self, section: SamplesSection, output_dir: Path, say: Say):
        self.section, self.say = section, say
        self.settings = {k: v for k, v in asdict(section).items() if k != "prompts"}
        self.path = output_dir / "samples.jsonl"

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        forget_samples_from(self.path, state.global_step + 1 if state.global_step else 0)
        if state.global_step == 0:
            self._take(args, state, **kwargs)

    def on_evaluate(self, args, state, control, **kwargs):
        """All of an evaluation's samples, or none and `Left` in every process."""
        left = False
        if state.is_world_process_zero:
            forget_samples_from(self.path, state.global_step)  # of an evaluation that was left
            try:
                self._take(args, state, **kwargs)
            except Left:
                left = True
        (left,) = agreed(left)
        if left:
            raise Left(leaving.asked() or "told to another process")

    def _take(self, args, state, model, processing_class, **kwargs):
        rows = [
            {
                "step": state.global_step,
                "tokens": state.log_history[-1]["tokens"] if state.log_history else 0,
                "prompt": prompt,
                "text": text,
                "settings": self.settings | {"seed": self.section.seed + number},
            }
            for number, (prompt, text) in enumerate(
                continuations(model, processing_class, self.section)
            )
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for row in rows:
            text = printable(row["text"]).replace("\n", " / ")
            self.say(f"  | {row['prompt']}|{text}")
        if "wandb" in args.report_to:
            tracking.samples_table(rows)


def forget_samples_from(path: Path, step: int) -> None:
    """Drops the samples of this step and of later ones, which are about to be made again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A line without its end was being written when the process was killed.
    kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] < step]
    if kept != lines:
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)
