"""Ways to make training steps, each in a process of its own: python -m zhgpt.steppers JOB, a JSON
object from zhgpt.benchmark_step.

A job has `way`, `command` (what run_clm.py is called with), `max_steps` and `nanogpt`, a checkout's
folder. Each line of standard input is a number of steps to make; each answer is a line of JSON in
file descriptor `answers`: seconds, those of the processors, the loss of every step, and, apart from
the seconds, those of each evaluation and of each wait for a save. All ways begin with the same
weights and take the same blocks; where the input ends, so does the process.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from zhgpt import allocator, command, corpus, options, order, plan, recipe

Job = Mapping[str, Any]
_ROOT = Path(__file__).resolve().parent.parent
_MATMUL = 1024  # rows and columns: at their best on two cores, 2 GFLOP a product


class Turns:
    """Steps are made when they are asked for: the ways take turns, and none disturbs another."""

    def __init__(self, job: Job):
        self._answers = os.fdopen(job["answers"], "w")
        self._wait()

    def add_loss(self, share: torch.Tensor) -> None:
        """A micro-batch's share of the step's loss; it stays on its device until the turn ends."""
        self._step += share.detach()

    @contextmanager
    def apart(self, what: str) -> Iterator[None]:
        """Inside, time is noted as `what` and is none of the steps'."""
        _synchronize()
        before = self._clocks()
        yield
        _synchronize()
        spent = [now - then for now, then in zip(self._clocks(), before, strict=True)]
        self._began = tuple(then + more for then, more in zip(self._began, spent, strict=True))
        self._apart[what].append(spent[0])

    def end_step(self) -> bool:
        """Answers after the last step of a turn and waits for the next turn; then true."""
        self._losses.append(self._step)
        self._step, self._left = torch.zeros_like(self._step), self._left - 1
        if self._left == 0:
            _synchronize()
            clocks = self._clocks()
            spent = [now - before for now, before in zip(clocks, self._began, strict=True)]
            answer = {"seconds": spent[0], "cpu_seconds": spent[1]} | self._apart
            answer["losses"] = [loss.item() for loss in self._losses]
            print(json.dumps(answer), file=self._answers, flush=True)
            self._wait()
            return True
        return False

    def _wait(self) -> None:
        asked = sys.stdin.readline().strip()
        if not asked:
            os._exit(0)  # from within a training loop, whose end would cost time
        self._left, self._losses = int(asked), []
        self._apart: dict[str, list[float]] = {"evaluations": [], "saves": []}
        self._step = torch.zeros((), device="cuda" if torch.cuda.is_available() else "cpu")
        self._began = self._clocks()

    @staticmethod
    def _clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# What all ways share --------------------------------------------------------------------------


class Given:
    """What a run of the job's command has: recipe, blocks, model as the library builds it."""

    def __init__(self, job: Job):
        run_clm = script()
        self.pins = command.read(
            job["command"], recipe.ClmRecipe, run_clm.SECTIONS, options.FLAGS
        ).recipe
        self.tokenizer, self.config = run_clm.shape(self.pins)
        backend, eos = self.tokenizer.backend_tokenizer, self.tokenizer.eos_token_id
        self.blocks = corpus.prepare(self.pins.corpus, self.pins.cleaning, backend, eos)
        self.batches = plan.split_step(self.pins, 1)
        asked = recipe.thawed(self.pins.training_arguments)
        self.asked = {"seed": TrainingArguments.seed} | asked
        self.half = bool(self.asked.get("bf16"))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.blocks_per_step = self.pins.tokens_per_step // self.pins.corpus.block_size
        self.stream = order.Stream(
            self.blocks.train, job["max_steps"] * self.blocks_per_step, self.asked["seed"]
        )

    def model(self) -> GPT2LMHeadModel:
        set_seed(self.asked["seed"])
        model = GPT2LMHeadModel(self.config)
        model.loss_type = "ForCausalLM"  # as in run_clm.py; else another loss
        return model

    def micro_batches(self) -> Iterator[torch.Tensor]:
        """(blocks, length) ids, through torch's loader as the library's example has it."""
        yield from torch.utils.data.DataLoader(
            self.stream,
            batch_size=self.batches.micro_batch,
            collate_fn=lambda rows: torch.tensor([row["input_ids"] for row in rows]),
        )

    def precision(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16) if self.half else nullcontext()


def script() -> Any:
    """run_clm.py itself: what is measured is what the command does, not a second version of it."""
    sys.path.insert(0, str(_ROOT))
    return import_module("run_clm")


# The ways -------------------------------------------------------------------------------------


def bare(job: Job, compiled: bool = False, evaluates: bool = False) -> None:
    """The library's model in a loop of ten lines."""
    given = Given(job)
    model = given.model().to(given.device).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": given.asked.get("weight_decay", 0.0)},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, fused=True, **_adam(given))
    called = torch.compile(model) if compiled else model
    evaluate = partial(_evaluate, given, called) if evaluates else None
    _loop(
        job, given, model, optimizer, lambda ids: called(input_ids=ids, labels=ids).loss, evaluate
    )


def bare_compiled(job: Job) -> None:
    bare(job, compiled=True)


def bare_evaluated(job: Job) -> None:
    """With an evaluation after each turn, and with run_clm.py's memory and compilation."""
    allocator.keep_freed()
    bare(job, bool(Given(job).asked.get("torch_compile")), evaluates=True)


@torch.no_grad()
def _evaluate(given: Given, model: torch.nn.Module) -> float:
    """The mean loss of the validation blocks' tokens."""
    size = given.asked.get("per_device_eval_batch_size", 8)
    ids = [torch.tensor(row["input_ids"]) for row in given.blocks.validation]
    total = scored = 0
    for start in range(0, len(ids), size):
        rows = torch.nn.utils.rnn.pad_sequence(ids[start : start + size], True, -100)
        rows = rows.to(given.device)
        with given.precision():
            logits = model(input_ids=rows.clamp(min=0)).logits[:, :-1]
        targets = rows[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy
        total += loss(logits.float().flatten(0, 1), targets, reduction="sum").item()
        scored += (targets != -100).sum().item()
    return total / scored


def nanogpt(job: Job, compiled: bool = True) -> None:
    """nanoGPT's model and optimizer from a checkout, compiled as its train.py does by default.

    Its weights are those of all ways; its GELU is the exact one, so losses differ a little.
    """
    sys.path.insert(0, job["nanogpt"])
    module = import_module("model")
    given = Given(job)
    names = {"block_size": "n_positions", "vocab_size": "vocab_size", "n_layer": "n_layer"}
    names |= {"n_head": "n_head", "n_embd": "n_embd"}
    shape = {theirs: getattr(given.config, ours) for theirs, ours in names.items()}
    model = module.GPT(module.GPTConfig(**shape, dropout=0.0, bias=True))
    _take_weights(model, given.model())
    model = model.to(given.device).train()
    adam, decay = _adam(given), given.asked.get("weight_decay", 0.0)
    optimizer = model.configure_optimizers(decay, adam["lr"], adam["betas"], given.device)
    called = torch.compile(model) if compiled else model

    def loss(ids: torch.Tensor) -> torch.Tensor:
        # A block of n tokens has n - 1 targets; nanoGPT ignores -1.
        return called(ids, torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-1))[1]

    _loop(job, given, model, optimizer, loss)


def _take_weights(model: torch.nn.Module, ours: GPT2LMHeadModel) -> None:
    """Its linear layers keep their matrices the other way round than the library's Conv1D."""
    theirs = model.state_dict()
    with torch.no_grad():
        for name, weight in ours.state_dict().items():
            theirs[name].copy_(weight.t() if name.endswith(_TURNED) else weight)


_TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def _adam(given: Given) -> dict[str, Any]:
    asked = given.asked
    betas = (asked.get("adam_beta1", 0.9), asked.get("adam_beta2", 0.999))
    return {"lr": asked["learning_rate"], "betas": betas, "eps": asked.get("adam_epsilon", 1e-8)}


def _loop(
    job: Job,
    given: Given,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    evaluate: Callable[[], float] | None = None,
) -> None:
    """Forward, backward, gradients cut to their norm, optimizer: steps without an end."""
    turns, batches = Turns(job), given.micro_batches()
    accumulation = given.batches.accumulation
    while True:
        for ids in islice(batches, accumulation):
            ids = ids.to(given.device, non_blocking=True)
            with given.precision():
                loss = loss_of(ids) / accumulation
            loss.backward()
            turns.add_loss(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.asked.get("max_grad_norm", 1.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if turns.end_step() and evaluate:
            model.eval()
            with turns.apart("evaluations"):
                evaluate()
            model.train()


def example(job: Job) -> None:
    """The Trainer of transformers' run_clm.py: rows of ids, mask and labels, its collator, its
    defaults. Only what would make the work unequal is set: rate, decay, betas, precision, batches
    and their order, and no dropout.
    """
    given = Given(job)
    arguments = TrainingArguments(
        output_dir=job["folder"],
        max_steps=job["max_steps"],
        per_device_train_batch_size=given.batches.micro_batch,
        gradient_accumulation_steps=given.batches.accumulation,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        save_strategy="no",
        use_cpu=given.device == "cpu",
        **{key: given.asked[key] for key in _OF_THE_STEP if key in given.asked},
    )
    set_seed(given.asked["seed"])
    names = "vocab_size n_positions bos_token_id eos_token_id".split()
    shape = {key: given.pins.model[key] for key in _SHAPE if key in given.pins.model}
    model = GPT2LMHeadModel(GPT2Config(**shape, **{n: getattr(given.config, n) for n in names}))
    model.loss_type = "ForCausalLM"
    timed(Trainer, Turns(job))(
        model=model,
        args=arguments,
        train_dataset=_rows_of_the_example(given),
        processing_class=given.tokenizer,
        data_collator=default_data_collator,
    ).train()


_SHAPE = "n_layer n_head n_embd n_inner resid_pdrop embd_pdrop attn_pdrop".split()
_OF_THE_STEP = "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm".split()
_OF_THE_STEP += ["seed", "bf16"]


def _rows_of_the_example(given: Given) -> datasets.Dataset:
    ids = [row["input_ids"] for row in given.stream.__getitems__(range(len(given.stream)))]
    masks = [[1] * len(row) for row in ids]
    return datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": masks, "labels": ids})


def ours(job: Job, *more: str) -> None:
    """run_clm.py as it is started, its trainer timed."""
    run_clm = script()
    run_clm.Pretraining = timed(run_clm.Pretraining, Turns(job))
    run_clm.run([*job["command"], *more])


def ours_compiled(job: Job) -> None:
    ours(job, "--training_arguments.torch_compile", "true")


def timed(kind: type, turns: Turns) -> type:
    """A Trainer that takes its steps in turns."""

    class EndOfStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            turns.end_step()

    class Timed(kind):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(EndOfStep())

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            turns.add_loss(loss)
            return loss

        def evaluate(self, *args, **kwargs):
            with turns.apart("evaluations"):
                return super().evaluate(*args, **kwargs)

        def _save_checkpoint(self, *args, **kwargs):
            with turns.apart("saves"):
                return super()._save_checkpoint(*args, **kwargs)

    return Timed


def matmul(job: Job) -> None:
    """Products of two square matrices, one a step: what the machine can do in this precision."""
    given = Given(job)
    kind = torch.bfloat16 if given.half else torch.float32
    left, right = torch.randn(2, _MATMUL, _MATMUL, device=given.device).to(kind)
    product = torch.empty_like(left)
    turns = Turns(job)
    while True:
        torch.mm(left, right, out=product)
        turns.end_step()


MATMUL_FLOPS = 2 * _MATMUL**3

WAYS: dict[str, Callable[[Job], None]] = {
    way.__name__: way
    for way in (bare, bare_compiled, example, nanogpt, ours, ours_compiled, matmul)
}
EVALUATED = {way.__name__: way for way in (bare_evaluated, ours)}


if __name__ == "__main__":
    given_job = json.loads(sys.argv[1])
    (WAYS | EVALUATED)[given_job["way"]](given_job)
