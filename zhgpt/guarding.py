"""Guards of a run: looks at what it does, says once what is wrong, and does what the recipe says.

Rules are in zhgpt/guards.py. Losses and norms of each micro-batch and step stay on the device until
a line is logged, when Trainer waits for it anyhow; a step costs no wait of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import get_total_norm
from transformers import Trainer, TrainerCallback

from zhgpt import culprit, guards, leaving, tracking, unigram
from zhgpt.errors import Left, Stopped
from zhgpt.peers import agreed, gathered
from zhgpt.recipe import GuardsSection
from zhgpt.session import Session, now
from zhgpt.sharding import own
from zhgpt.stillness import Stillness

Say = Callable[[str], None]

MOST_KEPT = 1024  # losses that wait for a line; then they are looked at between two lines
MOST_DOCUMENTS = 200  # recorded of a batch; the others are counted
ADVICE = {
    "not_finite": "A lower learning_rate, a longer warm-up or bf16 in place of fp16 may help.",
    "loss_jump": "If it does not come back, go on from an earlier checkpoint with a lower rate.",
    "gradient_explosion": "A lower learning_rate or a longer warm-up may help.",
    "unigram_plateau": "Look at learning_rate first: --plan says what it finds unusual.",
    "throughput_drop": "Another process on the machine, heat, or a slow disk?",
    "no_progress": "A dead process of the group, a disk or a network that does not answer?",
    "repetition": "Look at the samples; too high or too low a rate, or too few tokens so far.",
}

AFTER = (
    "It is saved. The same command goes on from there and does not stop for this again.",
    "The last checkpoint is of before that. The same command would come to the same.",
)


@dataclass(frozen=True)
class Fault:
    """The first number that is none: `what` it is of; step and place, where these are known."""

    step: int
    micro_batch: int | None
    process: int | None
    what: str


class Guards(TrainerCallback):
    """Alarms are in run.json under `alarms`: guard, step, tokens, text, action, time, and `batch`.

    With `stop` training ends after the step, saved: by `Stopped` (2) where the same command would
    come to the same, by `Left` (75) where another machine may do better.
    """

    def __init__(self, section: GuardsSection, tokens_per_step: int, segment: Session, say: Say):
        self.section, self.tokens_per_step = section, tokens_per_step
        self.segment, self.say = segment, say
        self.losses: list[tuple[int, torch.Tensor]] = []
        self.norms: list[tuple[int, torch.Tensor]] = []
        self.fired: set[str] = set()
        self.highest, self.norms_count = 0.0, True
        self.stopped: str | None = None
        self.verdict = ""
        self.stillness = Stillness(section.no_progress_minutes, self._stands_still)

    def attach(self, trainer: Trainer) -> None:
        trainer.guards = self
        # With a loss scale, an infinite norm is how fp16 finds its scale: that step is skipped.
        self.norms_count = trainer.accelerator.scaler is None

    # What it is told -----------------------------------------------------------------------------

    def note_loss(self, step: int, loss: torch.Tensor) -> None:
        self.losses.append((step, loss.detach()))

    def note_norm(self, step: int, norm: torch.Tensor | float) -> None:
        if self.norms_count:
            self.norms.append((step, torch.as_tensor(norm).detach()))

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.first_step, self.entropy = state.global_step, None
        if self.section.unigram_plateau != "off" and not args.label_smoothing_factor:
            self.entropy = unigram.entropy(train_dataloader.dataset.blocks)
        if self.section.no_progress != "off":
            self.stillness.start()

    def on_step_begin(self, args, state, control, **kwargs):
        self.stillness.mark()

    def on_substep_end(self, args, state, control, **kwargs):
        self.stillness.mark()

    def on_prediction_step(self, args, state, control, **kwargs):
        self.stillness.mark()

    def on_save(self, args, state, control, **kwargs):
        self.stillness.mark()

    # When it looks -------------------------------------------------------------------------------

    def on_step_end(self, args, state, control, **kwargs):
        self.stillness.mark(step=True)
        if len(self.losses) >= MOST_KEPT:
            self._look_at_numbers(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.stillness.mark()
        if "loss" in logs:
            self._look_at_numbers(args, state, control, **kwargs)
            if not self.stopped and state.is_world_process_zero:
                self._look_at_lines(args, state)
            self.highest = 0.0
            self._stop_together(control)

    def on_evaluate(self, args, state, control, **kwargs):
        self.stillness.mark()
        broken = not self.weights_are_finite(kwargs["model"])
        self._look_at_numbers(args, state, control, weights=broken, **kwargs)
        found = [e["eval_samples_repeating"] for e in _evaluations(args, state)]
        if state.is_world_process_zero and (text := guards.repetition(found)):
            self._alarm("repetition", text, state.global_step)
        self._stop_together(control)

    def on_train_end(self, args, state, control, **kwargs):
        self.stillness.end()
        broken = not self.weights_are_finite(kwargs["model"])
        self._look_at_numbers(args, state, control, weights=broken, **kwargs)
        told = f"{self.stopped}: stopped at step {state.global_step}"
        if self.stopped in guards.OF_THE_MACHINE:
            raise Left(f"guard {self.stopped}", f"{told}, saved")
        if self.stopped:
            raise Stopped(f"{told}. {self.verdict}\n{AFTER[self.stopped == 'not_finite']}")

    def _look_at_lines(self, args, state) -> None:
        lines = [e for e in state.log_history if "loss" in e]
        warm = args.get_warmup_steps(state.max_steps)
        losses = guards.figures(lines, "loss", warm)
        norms = guards.figures(lines, "grad_norm", warm)[:-1]
        rates = guards.figures(lines, "tokens_per_second", self.first_step)
        found = {
            "loss_jump": guards.loss_jump(losses),
            "gradient_explosion": guards.gradient_explosion(norms, self.highest),
            "throughput_drop": guards.throughput_drop(rates),
        }
        if self.entropy:
            steps = guards.figures(lines, "step", warm)
            found["unigram_plateau"] = guards.unigram_plateau(
                losses, steps, self.entropy, state.max_steps
            )
        for guard, text in found.items():
            if text:
                self._alarm(guard, text, state.global_step)

    def _stop_together(self, control) -> None:
        """The first process decides; all of them stop after the same step."""
        stop, of_machine = agreed(self.stopped is not None, self.stopped in guards.OF_THE_MACHINE)
        if stop:
            self.stopped = self.stopped or ("throughput_drop" if of_machine else "a guard")
            control.should_training_stop = True
            control.should_save = self.stopped != "not_finite"

    # Numbers that are none -----------------------------------------------------------------------

    def weights_are_finite(self, model: torch.nn.Module) -> bool:
        """In all processes."""
        (broken,) = agreed(not finite(model))
        return not broken

    def refuse(self, args, state, control, **kwargs) -> None:
        """A checkpoint was due of weights that are none."""
        self.say(f"step {state.global_step} is not saved: there are weights that are no numbers")
        self._look_at_numbers(args, state, control, weights=True, **kwargs)

    def _look_at_numbers(self, args, state, control, weights=False, **kwargs) -> None:
        """All processes come here together; what each has found is put together."""
        mine = self._first_fault(args)
        (bad,) = agreed(mine is not None or weights)
        if not bad or "not_finite" in self.fired or self.section.not_finite == "off":
            return
        faults = [fault for fault in gathered(mine) if fault]
        unknown = Fault(state.global_step, None, None, "weights")
        # A loss that is none in one process makes the gradient so in all of them.
        fault = min(faults, key=lambda f: (f.step, f.micro_batch is None), default=unknown)
        self._broken(fault, args, **kwargs)
        if self.section.not_finite == "stop":
            self.stopped = "not_finite"
            control.should_training_stop = True
            # Nothing of it is worth an evaluation; the checkpoint before it counts.
            control.should_save = control.should_evaluate = False

    def _first_fault(self, args) -> Fault | None:
        """Of this process, and the highest norm; waits for the device."""
        losses, norms = _fetched(self.losses), _fetched(self.norms)
        kept_losses, kept_norms = self.losses, self.norms
        self.losses, self.norms = [], []
        self.highest = max([self.highest, *(n for n in norms if n == n)])
        place, norm = guards.not_finite(losses), guards.not_finite(norms)
        found = []
        if place is not None:
            step = kept_losses[place][0]
            first = next(n for n, (s, _) in enumerate(kept_losses) if s == step)
            found.append(Fault(step, place - first, args.process_index, "loss"))
        if norm is not None:
            found.append(Fault(kept_norms[norm][0], None, None, "gradient"))
        return min(found, key=lambda fault: fault.step, default=None)

    def _broken(self, fault: Fault, args, **kwargs) -> None:
        batch = self._batch(fault, args, **kwargs)
        where = "" if fault.micro_batch is None else f", micro-batch {fault.micro_batch}"
        documents = len(batch.get("documents", ())) + batch.get("documents_left_out", 0)
        text = f"the {fault.what} of step {fault.step}{where} is not a number"
        if documents:
            text += f"; its {documents} documents are in run.json"
        self._alarm("not_finite", text, fault.step, batch=batch)

    def _batch(
        self, fault: Fault, args, train_dataloader=None, processing_class=None, **kwargs
    ) -> dict[str, Any]:
        """The step's or micro-batch's blocks, and the documents in them."""
        batch = {"step": fault.step}
        if fault.what == "weights":
            return batch
        stream, tokenizer = train_dataloader.dataset, processing_class
        shape = culprit.Shape(
            args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
        )
        if fault.micro_batch is None:
            at = shape.of_step(fault.step)
        else:
            batch |= {"process": fault.process, "micro_batch": fault.micro_batch}
            at = shape.of_micro_batch(fault.step, fault.micro_batch, fault.process)
        found = culprit.trace(
            stream.blocks, at, stream.seed, tokenizer.backend_tokenizer, tokenizer.eos_token_id
        )
        documents = found["documents"]
        batch |= {"blocks": found["blocks"], "documents": documents[:MOST_DOCUMENTS]}
        if len(documents) > MOST_DOCUMENTS:
            batch["documents_left_out"] = len(documents) - MOST_DOCUMENTS
        return batch

    # Alarms --------------------------------------------------------------------------------------

    def _alarm(self, guard: str, text: str, step: int, **facts: Any) -> None:
        action = getattr(self.section, guard)
        if action == "off" or not self._is_new(guard):
            return
        self.fired.add(guard)
        alarm = {"guard": guard, "step": step, "tokens": step * self.tokens_per_step}
        alarm |= {"text": text, "action": action, "time": now(), **facts}
        self.segment.note(alarms=[*self.segment.record.get("alarms", []), alarm])
        self.say(f"ALARM {guard} at step {step}: {text}.\n  {ADVICE[guard]}")
        tracking.alert(guard, f"step {step}: {text}. {ADVICE[guard]}")
        if action == "stop":
            self.stopped, self.verdict = guard, f"{text}. {ADVICE[guard]}"

    def _is_new(self, guard: str) -> bool:
        said = {alarm["guard"] for alarm in self.segment.record.get("alarms", [])}
        return guard not in self.fired and (guard in guards.EACH_START or guard not in said)

    def _stands_still(self, minutes: float) -> None:
        """From the thread: the main one may never come back."""
        text = f"nothing was done for {minutes:.1f} minutes"
        self._alarm("no_progress", text, self.segment.step)
        if self.section.no_progress == "stop":
            leaving.at_once()
            leaving.ask("guard no_progress", "no_progress: the last checkpoint counts")


def finite(model: torch.nn.Module) -> bool:
    """Whether all weights, or this process's share of them, are numbers: one pass over them."""
    return bool(torch.isfinite(get_total_norm([own(p.detach()) for p in model.parameters()])))


def _evaluations(args, state) -> list[dict[str, Any]]:
    """Lines about samples, after the warm-up."""
    warm = args.get_warmup_steps(state.max_steps)
    lines = [e for e in state.log_history if "eval_samples_repeating" in e]
    return [line for line in lines if line["step"] > warm]


def _fetched(kept: list[tuple[int, torch.Tensor]]) -> list[float]:
    """The numbers, in one transfer."""
    return torch.stack([value.float() for _, value in kept]).tolist() if kept else []
