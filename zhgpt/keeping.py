"""What a checkpoint holds, and how a run goes on from it as if it had never stopped.

`Sealed` is put before Trainer: it keeps the files and formats of Trainer's checkpoints, from which
Trainer itself loads. It changes how they are written (from a copy in memory, beside the training,
sealed), and adds to them what Trainer forgets: continuation.json.
"""

import dataclasses
import errno
import json
import pickle
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import safe_globals

from zhgpt import checkpoint, peers, randomness, sharding
from zhgpt.errors import InputError, Left
from zhgpt.memory import Memory
from zhgpt.watch import Watch
from zhgpt.writer import Say, Writer

CONTINUATION = "continuation.json"
# torch says of a full disk: RuntimeError, unexpected position in a file; safetensors has its own.
REFUSALS = (OSError, RuntimeError, safetensors.SafetensorError)
_MARGIN_BYTES = 16_000_000  # the files beside the tensors, log history and tokenizer above all


class Sealed(sharding.Sharded):
    """A mixin for Trainer: sealed checkpoints, written in the background and continued exactly.

    Overridden of Trainer, beside public methods: `_save_checkpoint`, `_save`,
    `_maybe_log_save_evaluate`, `_evaluate`, `_load_rng_state`, `_issue_warnings_after_load`,
    `_finalize_training`. A test holds the source of each, and of what they rely on, against the
    version that they were written for.
    """

    def keep(self, origin: checkpoint.Origin, tokens_per_step: int, watch: Watch, say: Say) -> None:
        """Whose checkpoints these are, and who is told of their seconds and of their trouble.

        Call it before train().
        """
        self.origin, self.tokens_per_step, self._watch = origin, tokens_per_step, watch
        self._writer = Writer(say, REFUSALS)
        self._memory = Memory()
        self._evaluation_due = False
        self._seconds_before = 0.0
        self._source: Path | None = None

    # Training ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As Trainer's; ends when the last checkpoint is on the disk. Left if it cannot be."""
        self._source = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.add_callback(_Continuation(self))
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self._writer.free()

    @property
    def seconds(self) -> float:
        """Wall clock of the training up to now, over all starts; what a kill has lost is not in."""
        return self._seconds_before + time.time() - self._began

    def go_on(self) -> None:
        """Takes up what Trainer resets at the start of training; without a checkpoint, nothing."""
        self._began = time.time()
        # Trainer goes on with the checkpoint's intervals whatever is asked for now.
        self.state.compute_steps(self.args, self.state.max_steps)
        if not self._source:
            return
        kept = json.loads((self._source / CONTINUATION).read_text(encoding="utf-8"))
        losses = kept["losses"]
        same = len(losses) == self.args.world_size
        self._tr_loss += losses[self.args.process_index] if same else float(np.mean(losses))
        self._total_loss_scalar = kept["total_loss"]
        self._globalstep_last_logged = kept["last_logged_step"]
        self._initial_global_step = self._initial_num_input_tokens_seen = 0
        self._seconds_before = kept["seconds"]
        if kept["evaluation_due"]:
            self.control.should_evaluate = True
            super()._maybe_log_save_evaluate(
                self._tr_loss, None, self.model_wrapped, None, 0, None, self._began
            )

    def take_random_state(self) -> None:
        """The checkpoint's, once the first batch is there: to fetch it took random numbers."""
        if self._source:
            self._load_rng_state(str(self._source))
            self._source = None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Each process its own; where their number has changed, new ones of seed, step and rank."""
        if checkpoint and not Path(checkpoint, randomness.file_name(self.args)).exists():
            randomness.begin_anew(self.args, self.state.global_step)
        else:
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result) -> None:
        """Tied weights are in a file once: no reason for a warning at each start."""
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [k for k in load_result.missing_keys if k not in tied]
        super()._issue_warnings_after_load(load_result)

    def _finalize_training(self, trial, num_train_samples, start_time):
        """The runtime is that of all segments; the last checkpoint is waited for."""
        self._require_saved()
        self._mark_best()
        return super()._finalize_training(
            trial, num_train_samples, start_time - self._seconds_before
        )

    def _require_saved(self) -> None:
        refusal = self._writer.finish() if self.args.should_save else None
        refusal = peers.from_first(str(refusal) if refusal else None)
        if refusal:
            told = f"step {self.state.global_step} could not be saved: {refusal}"
            raise Left("the last checkpoint could not be saved", told)

    def finish(self, train_metrics: dict[str, float]) -> dict[str, float]:
        """The last evaluation, if it is not made yet, and the final files; gives all figures.

        Left if the disk refuses a file.
        """
        evaluation = self._last_evaluation() or self.evaluate()
        try:
            self._save_result()
            self.save_state()
            if self.args.should_save:  # Trainer adds to what a killed process may have half written
                Path(self.args.output_dir, "all_results.json").unlink(missing_ok=True)
            self.save_metrics("train", train_metrics)
            self.save_metrics("eval", evaluation)
        except REFUSALS as refusal:
            told = f"the trained model could not be saved: {refusal}"
            raise Left("the model could not be saved", told) from refusal
        return train_metrics | evaluation

    def _save_result(self) -> None:
        """The model's files, each in one rename; the next start removes what a kill left half."""
        output_dir = Path(self.args.output_dir)
        folder = checkpoint.begin_result(output_dir) if self.args.should_save else output_dir
        self.save_model(str(folder))  # a sharded model is gathered from all processes
        if self.args.should_save:
            checkpoint.publish_result(folder)

    def _last_evaluation(self) -> dict[str, float] | None:
        """The metrics of an evaluation of the present weights, if there was one."""
        if self.args.load_best_model_at_end:
            return None
        for entry in reversed(self.state.log_history):
            if entry["step"] != self.state.global_step:
                return None
            if "eval_loss" in entry:
                return {key: value for key, value in entry.items() if key != "step"}
        return None

    # Evaluation ----------------------------------------------------------------------------------

    def evaluate(self, *args, **kwargs):
        """As Trainer's; random numbers go on as if there had been no evaluation."""
        with randomness.kept():
            return super().evaluate(*args, **kwargs)

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        """Trainer repeats the evaluation before the first step (`eval_on_start`) at each start."""
        if skip_scheduler and self.state.global_step > 0:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        """An evaluation that is left, or due when the run is left, is made at the next start."""
        self._evaluation_due = False
        leaving = (
            self.control.should_training_stop and self.state.global_step < self.state.max_steps
        )
        if leaving and self.control.should_evaluate:
            self._put_off_evaluation()
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except Left:
            self._put_off_evaluation()
            self.control.should_training_stop = self.control.should_save = True
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _put_off_evaluation(self) -> None:
        self._evaluation_due, self.control.should_evaluate = True, False
        here = self.state.global_step
        history = self.state.log_history
        self.state.log_history = [e for e in history if e["step"] != here or "eval_loss" not in e]

    # Saving --------------------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        """A thread copies all that the continuation needs to memory, and writes it to the disk.

        Tensors are copied beside the next forward and backward pass; the optimizer waits for that.
        """
        self.store_flos()
        ranks = peers.gathered({"rng": randomness.states(self.args), "loss": self._tr_loss.item()})
        states = self.states()
        if not self.args.should_save:
            return
        self._writer.free()
        self._mark_best()
        write = partial(self._write, self._snapshot(states, ranks))
        self._writer.start(f"checkpoint-{self.state.global_step}", write)

    def wait_for_copy(self) -> None:
        """Before anything changes weights or optimizer."""
        self._memory.wait()

    def _snapshot(self, states: dict[str, Any], ranks: list[dict[str, Any]]) -> dict[str, Any]:
        """File name to content, a copy; tensors are to be filled before the optimizer's step."""
        states["scheduler.pt"] = self.lr_scheduler.state_dict()
        if self.accelerator.scaler is not None:
            states["scaler.pt"] = self.accelerator.scaler.state_dict()
        content = self._memory.begin(states)
        for rank, each in enumerate(ranks):
            content[randomness.file_name(self.args, rank)] = each["rng"]
        history = list(self.state.log_history)
        content["trainer_state.json"] = dataclasses.replace(self.state, log_history=history)
        content[CONTINUATION] = {
            "tokens": self.state.global_step * self.tokens_per_step,
            "seconds": self.seconds,
            "losses": [each["loss"] for each in ranks],
            "total_loss": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "evaluation_due": self._evaluation_due,
        }
        return content

    def _write(self, content: dict[str, Any]) -> None:
        """One attempt, in the background; what it leaves half done is removed."""
        began = time.perf_counter()
        self._memory.fill()
        state, root = content["trainer_state.json"], Path(self.args.output_dir)
        _require_space(root, self._memory.nbytes + _MARGIN_BYTES)
        folder = checkpoint.begin(root, state.global_step)
        try:
            self._save(str(folder), content["model.safetensors"])
            for name in content:
                if name.endswith((".pt", ".pth")):
                    torch.save(content[name], folder / name)
            state.save_to_json(str(folder / "trainer_state.json"))
            (folder / CONTINUATION).write_text(json.dumps(content[CONTINUATION], indent=1))
            sealed = checkpoint.publish(folder, self.origin, content[CONTINUATION]["tokens"])
        except Exception:
            checkpoint.abandon(folder)
            raise
        checkpoint.rotate(sealed, self.args.save_total_limit, state.best_global_step)
        self._watch.saved(time.perf_counter() - began)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights, configuration and tokenizer as Trainer's; no training_args.bin, a pickle."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder, state_dict=state_dict and self.untied(state_dict))
        _save_tokenizer(self.processing_class, folder)
        (folder / "model.safetensors").chmod(0o644)  # the library's is for its owner alone

    def _mark_best(self) -> None:
        """Where load_best_model_at_end will find it, also if the output folder was moved."""
        best, here = self.state.best_global_step, self.state.global_step
        folder = Path(self.args.output_dir, f"checkpoint-{best}")
        kept = best and (best == here or folder.is_dir())
        self.state.best_model_checkpoint = str(folder) if kept else None


class _Continuation(TrainerCallback):
    """The moments of the training loop at which `Sealed` has something to do; the last callback."""

    def __init__(self, trainer: Sealed):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = checkpoint.LastStep(Path(args.output_dir)) if args.should_save else None
        self.trainer.go_on()

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.take_random_state()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.wait_for_copy()

    def on_step_end(self, args, state, control, **kwargs):
        if self.steps:
            self.steps.note(state.global_step)


def newest(output_dir: Path, origin: checkpoint.Origin, say: Say) -> Path | None:
    """checkpoint.newest, found by the first process; InputError if there is code in it."""
    found = checkpoint.newest(output_dir, origin, say) if peers.is_first() else None
    found = peers.from_first(found)
    if found:
        _require_data(found)
    return found


def _save_tokenizer(tokenizer, folder: Path) -> None:
    """OSError where the disk refuses it: tokenizers raises a bare Exception with Rust's words."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if "(os error " not in str(error):
            raise
        raise OSError(str(error)) from error


def _require_data(folder: Path) -> None:
    """InputError if a file of a checkpoint holds more than data; nothing in it is executed."""
    for path in sorted(folder.glob("*.pt*")):
        try:
            with safe_globals():
                torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{path}: holds something else than data and was not executed: {reason}\n"
                f"Somebody put it there: its seal is valid. Move {folder} away to continue from the"
                " checkpoint before it."
            ) from None


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, f"the disk is full, {sizes}")
