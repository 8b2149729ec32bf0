"""What happens beside the training loop: one class, one concern, public hooks of Trainer only."""

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback

from zhgpt import leaving, tracking
from zhgpt.console import Console
from zhgpt.errors import Left
from zhgpt.figures import Figures
from zhgpt.guarding import Guards, finite
from zhgpt.peers import agreed
from zhgpt.recipe import ClmRecipe, SamplesSection
from zhgpt.repetition import Usual, Verdict, line
from zhgpt.report import printable, train_tokens
from zhgpt.sampling import continuations
from zhgpt.session import Session
from zhgpt.sharding import whole

Say = Callable[[str], None]


def arrange(trainer: Trainer) -> Trainer:
    """Lets reporters (W&B ...) see log lines after our callbacks completed them."""
    for observer in trainer.callback_handler.callbacks:
        if hasattr(observer, "attach"):
            observer.attach(trainer)
    trainer.remove_callback(PrinterCallback)
    for reporter in get_reporting_integration_callbacks(trainer.args.report_to):
        trainer.add_callback(trainer.pop_callback(reporter))
    return trainer


class Observed:
    """A mixin for Trainer: tells Guards what it tells no callback, and asks it before a save.

    Overridden beside the public `training_step`: `_get_grad_norm`, `_save_checkpoint`.
    """

    guards: Guards

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.guards.note_loss(self.state.global_step + 1, loss)
        return loss

    def _get_grad_norm(self, *args, **kwargs):
        norm = super()._get_grad_norm(*args, **kwargs)
        self.guards.note_norm(self.state.global_step + 1, norm)
        return norm

    def _save_checkpoint(self, model, trial) -> None:
        """Weights that are no numbers are not sealed: the checkpoint before them counts."""
        if self.guards.weights_are_finite(self.model):
            super()._save_checkpoint(model, trial)
        else:
            handler = self.callback_handler
            self.guards.refuse(
                self.args,
                self.state,
                self.control,
                train_dataloader=handler.train_dataloader,
                processing_class=handler.processing_class,
            )


def observers(recipe: ClmRecipe, ledger: Mapping[str, Any], segment: Session, say: Say) -> list:
    """What is logged, printed, sampled and guarded of a run; Figures completes what others show."""
    return [
        Figures(recipe.tokens_per_step, train_tokens(ledger)),
        Console(say),
        Samples(recipe.samples, segment.folder, say),
        Guards(recipe.guards, recipe.tokens_per_step, segment, say),
    ]


class Samples(TrainerCallback):
    """Continues the recipe's prompts at the start and at every evaluation.

    Printed, appended to samples.jsonl and, where the run reports there, sent to W&B as a table.
    Random numbers come from a generator state of their own: training is the same without samples.
    """

    def __init__(self, section: SamplesSection, output_dir: Path, say: Say):
        self.section, self.say, self.usual = section, say, None
        self.settings = {k: v for k, v in asdict(section).items() if k != "prompts"}
        self.path = output_dir / "samples.jsonl"
        self.unwritten = b""

    def attach(self, trainer: Trainer) -> None:
        self.log = trainer.log

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            forget_samples_from(self.path, state.global_step + 1 if state.global_step else 0)
        if state.global_step == 0:
            self._take_in_first(args, state, **kwargs)

    def on_evaluate(self, args, state, control, **kwargs):
        """All of an evaluation's samples, or none and `Left` in every process."""
        left = False
        if state.is_world_process_zero:
            forget_samples_from(self.path, state.global_step)  # of an evaluation that was left
        try:
            self._take_in_first(args, state, **kwargs)
        except Left:
            left = True
        (left,) = agreed(left)
        if left:
            raise Left(leaving.asked() or "told to another process")

    def _take_in_first(self, args, state, model, **kwargs):
        """By the first process alone. To draw from numbers that are none would end it on a GPU."""
        model = whole(model)
        if not state.is_world_process_zero:
            return
        if finite(model):
            self._take(args, state, model, **kwargs)
        else:
            self.say("no samples: there are weights that are no numbers")

    def _take(self, args, state, model, processing_class, eval_dataloader=None, **kwargs):
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
        self._write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        for row in rows:
            text = printable(row["text"]).replace("\n", " / ")
            self.say(f"  | {row['prompt']}|{text}")
        if state.global_step and rows:
            self._judge([row["text"] for row in rows], processing_class, eval_dataloader)
        if "wandb" in args.report_to:
            tracking.samples_table(rows)

    def _write(self, lines: bytes) -> None:
        """A disk that refuses them stops no training: they are kept for the next time."""
        refused, self.unwritten = self.unwritten, self.unwritten + lines
        try:
            append(self.path, self.unwritten)
            self.unwritten = b""
        except OSError as refusal:
            if not refused:
                self.say(
                    f"{self.path.name} could not be written: {refusal.strerror}; training goes on,"
                    " and it is tried again with the next samples"
                )

    def on_train_end(self, args, state, control, **kwargs):
        if self.unwritten:
            self._write(b"")
        if self.unwritten:
            self.say(f"{self.path.name} lacks {self.unwritten.count(10)} samples, shown above")

    def _judge(self, texts: list[str], tokenizer, eval_dataloader) -> None:
        """How much they repeat themselves, beside the validation text."""
        self.usual = self.usual or Usual(_some_text(tokenizer, eval_dataloader.dataset))
        verdict = self.usual.judge(texts)
        if verdict:
            self.say(f"  samples: {line(verdict)}")
            self.log(repetition_figures(verdict))


BLOCKS_OF_TEXT = 512  # of validation, that samples are measured against


def _some_text(tokenizer, blocks) -> str:
    """Of the validation split: blocks from all of it."""
    every = max(1, len(blocks) // BLOCKS_OF_TEXT)
    ids = blocks[list(range(0, len(blocks), every))]["input_ids"]
    return "".join(tokenizer.batch_decode(ids, skip_special_tokens=True))


def repetition_figures(verdict: Verdict) -> dict[str, float]:
    """As metrics of an evaluation: of the samples, of the text, and the share that repeats."""
    found = {f"eval_samples_{key}": value for key, value in verdict.samples.items()}
    found |= {f"eval_text_{key}": value for key, value in verdict.text.items()}
    return found | {"eval_samples_repeating": verdict.repeating / verdict.scored}


def append(path: Path, lines: bytes) -> None:
    """All of them, on the disk, or none; OSError where the disk refuses them."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def forget_samples_from(path: Path, step: int) -> None:
    """Cuts off the samples of this step and of later ones, which are about to be made again.

    They are the file's end, as is a line that was being written when the process was killed.
    """
    kept = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or _step_of(line) >= step:
                os.truncate(path, kept)
                return
            kept += len(line)


def _step_of(line: bytes) -> float:
    """Infinite for a line that is damaged, as after a power cut."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
