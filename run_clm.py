"""Pretrains a GPT-2 as a recipe says: python run_clm.py recipes/village.json

The same command again continues an interrupted run and leaves a finished one alone.
"""

import sys
from pathlib import Path

from zhgpt import leaving

if __name__ == "__main__":
    leaving.listen()  # before the libraries, whose import takes seconds

from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from zhgpt import (
    bpe,
    callbacks,
    checkpoint,
    collator,
    command,
    corpus,
    facts,
    halving,
    initial,
    keeping,
    lint,
    lock,
    machine,
    metrics,
    micro_batch,
    muon,
    options,
    outlook,
    plan,
    recipe,
    report,
    schedule,
    session,
    stopping,
    tracking,
    vocabulary,
    watch,
)
from zhgpt.errors import FINISHED, exit_code
from zhgpt.order import stream

SECTIONS = {"model": GPT2Config, "training_arguments": TrainingArguments}


class Pretraining(callbacks.Observed, halving.Halving, keeping.Sealed, Trainer):
    """Trainer; its checkpoints are whole or do not count, and are continued from exactly."""


def run(argv: list[str] | None) -> int:
    machine.prepare()
    say = report.speaker(machine.rank() == 0)
    asked = command.read(argv, recipe.ClmRecipe, SECTIONS, options.FLAGS, __doc__)
    output_dir = Path(asked.flags["output_dir"] or Path("runs", asked.run_name))
    if asked.flags["plan"]:
        return outlook.show(asked, output_dir, *shape(asked.recipe), say)
    with machine.among_peers(), watch.Watch(asked.recipe.preemption, say) as watcher:
        with lock.alone(output_dir, machine.rank(), say):
            history = train(asked, output_dir, watcher, say)
    say(report.summary(history, output_dir))
    return FINISHED


def shape(pins: recipe.ClmRecipe) -> tuple:
    """Tokenizer and configuration of the model; InputError for what does not fit together."""
    corpus.require_files(pins.corpus)
    tokenizer = vocabulary.load(pins)
    with recipe.judged("model"):
        derived = vocabulary.model_arguments(tokenizer, pins)
        return tokenizer, GPT2Config(**recipe.thawed(pins.model), **derived)


def train(asked: command.Command, output_dir: Path, watcher: watch.Watch, say: report.Say) -> dict:
    pins = asked.recipe
    history = session.claim(output_dir, fresh := session.new(asked))
    accepted = lint.accepted(asked.flags["accept"], history)
    if session.is_repeated(history, asked):
        return history

    tokenizer, config = shape(pins)
    backend = tokenizer.backend_tokenizer
    machine.require(pins.training_arguments, output_dir, plan.checkpoint_bytes(pins, config))
    pins = micro_batch.settled(pins, config, history, say)
    known = facts.of_recipe(pins, config, tokenizer)
    if history["status"] != "finished":
        lint.judge(pins, known, accepted)

    blocks = corpus.prepare(pins.corpus, pins.cleaning, backend, tokenizer.eos_token_id, say)
    steps = plan.make(pins, config, machine.processes(), len(blocks.train))
    inputs = {"corpus": blocks.fingerprint, "tokenizer": bpe.fingerprint(backend)}
    inputs |= initial.inputs(pins.init_from, history)
    session.require_same(output_dir, history.get("inputs", inputs), inputs)
    if session.is_finished(history, steps.max_steps):
        return history
    found = lint.judge(pins, facts.with_text(known, steps, blocks, tokenizer), accepted)

    with recipe.judged("training_arguments"):
        args = TrainingArguments(**machine.arguments(pins, steps, output_dir, asked.run_name))
    machine.require_all_processes(args.world_size)
    origin = checkpoint.origin(recipe.lasting_hash(pins))
    resume = keeping.newest(output_dir, origin, say)
    schedule.require_length(history, args, checkpoint.step(resume), output_dir)
    set_seed(args.seed)
    with recipe.judged("model"):
        model = initial.ready(GPT2LMHeadModel(config), pins)
    initial.load(model, pins.init_from, backend, resume)

    segment = session.Session(output_dir, session.renew(history, fresh), machine.rank() == 0)
    stop = stopping.LeaveInTime(pins.preemption, segment, watcher)
    with recipe.judged("training_arguments"):
        trainer = Pretraining(
            model=model,
            args=args,
            data_collator=collator.of(pins, DataCollatorForLanguageModeling(tokenizer, mlm=False)),
            train_dataset=stream(pins, steps, blocks.train, args.seed, checkpoint.tokens(resume)),
            eval_dataset=blocks.validation,
            processing_class=tokenizer,
            **metrics.arguments(bpe.token_bytes(backend)),
            optimizer_cls_and_kwargs=muon.chosen(pins, args),
            callbacks=[*callbacks.observers(pins, blocks.ledger, segment, say), stop],
        )
        machine.try_parts(callbacks.arrange(trainer))
        trainer.keep(origin, pins.tokens_per_step, watcher, say, segment.note)

    kept = {"inputs": inputs, "ledger": blocks.ledger, "plan": recipe.thawed(steps)}
    kept["lint"] = lint.record(found, accepted)
    step, reached = checkpoint.step(resume), checkpoint.last_step(output_dir)
    with segment.open(step, reached, machine.describe(), **kept), machine.together(trainer):
        say(report.banner(history, output_dir, step))
        tracking.start(trainer, segment, say)
        trained = trainer.train(resume_from_checkpoint=resume and str(resume))
        stop.require_stayed()
        segment.finish(trainer.finish(trained.metrics))
    return history


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
