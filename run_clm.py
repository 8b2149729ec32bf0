"""Pretrains a GPT-2 as a recipe says: python run_clm.py recipes/village.json

The same command again continues an interrupted run and leaves a finished one alone.
"""

import sys
from pathlib import Path

from zhgpt import leaving

if __name__ == "__main__":
    leaving.listen()  # before the libraries, whose import takes seconds

from transformers import (
    AutoTokenizer,
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
    halving,
    initial,
    keeping,
    lock,
    machine,
    metrics,
    plan,
    recipe,
    report,
    schedule,
    session,
    stopping,
    tracking,
    watch,
)
from zhgpt.errors import FINISHED, exit_code
from zhgpt.order import Stream

SECTIONS = {"model": GPT2Config, "training_arguments": TrainingArguments}
FLAGS = {"output_dir": command.Flag(str, "folder of the run; runs/<name> unless given")}


class Pretraining(halving.Halving, keeping.Sealed, Trainer):
    """Trainer; its checkpoints are whole or do not count, and are continued from exactly."""


def run(argv: list[str] | None) -> int:
    machine.prepare()
    say = report.speaker(machine.rank() == 0)
    asked = command.read(argv, recipe.ClmRecipe, SECTIONS, FLAGS, __doc__)
    pins = asked.recipe
    output_dir = Path(asked.flags["output_dir"] or Path("runs", asked.run_name))
    with machine.among_peers(), watch.Watch(pins.preemption, say) as watcher:
        with lock.alone(output_dir, machine.rank(), say):
            history = train(asked, output_dir, watcher, say)
    say(report.summary(history, output_dir))
    return FINISHED


def train(asked: command.Command, output_dir: Path, watcher: watch.Watch, say: report.Say) -> dict:
    pins = asked.recipe
    history = session.claim(output_dir, fresh := session.new(asked))
    if session.is_repeated(history, asked):
        return history

    corpus.require_files(pins.corpus)
    bpe.require_folder(pins.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(pins.tokenizer)
    backend = tokenizer.backend_tokenizer
    bpe.require_usable(tokenizer, pins)
    with recipe.judged("model"):
        config = GPT2Config(
            **recipe.thawed(pins.model),
            vocab_size=len(tokenizer),
            n_positions=pins.corpus.block_size,
            **bpe.special_ids(tokenizer),
        )
    machine.require(pins.training_arguments, output_dir, plan.checkpoint_bytes(config))
    batches = plan.split_step(pins, machine.processes())

    # Text to blocks of tokens, and what follows from their number.
    blocks = corpus.prepare(pins.corpus, pins.cleaning, backend, tokenizer.eos_token_id, say)
    steps = plan.make(pins, config, batches, len(blocks.train))
    inputs = {"corpus": blocks.fingerprint, "tokenizer": bpe.fingerprint(backend)}
    inputs |= initial.inputs(pins.init_from, history)
    session.require_same(output_dir, history.get("inputs", inputs), inputs)
    if session.is_finished(history, steps.max_steps):
        return history

    with recipe.judged("training_arguments"):
        derived = machine.fixed_arguments(pins.training_arguments) | {
            "output_dir": str(output_dir),
            "run_name": asked.run_name,
            "max_steps": steps.max_steps,
            "gradient_accumulation_steps": batches.accumulation,
        }
        args = TrainingArguments(**recipe.thawed(pins.training_arguments) | derived)
    machine.require_all_processes(args.world_size)
    origin = checkpoint.origin(recipe.lasting_hash(pins))
    resume = keeping.newest(output_dir, origin, say)
    schedule.require_length(history, args, checkpoint.step(resume), output_dir)
    seen = checkpoint.tokens(resume) // pins.corpus.block_size
    set_seed(args.seed)
    with recipe.judged("model"):
        model = GPT2LMHeadModel(config)
    # Unset for GPT-2, and Trainer then divides by one token per block too many.
    model.loss_type = "ForCausalLM"
    initial.load(model, pins.init_from, backend, resume)

    segment = session.Session(output_dir, session.renew(history, fresh), machine.rank() == 0)
    stop = stopping.LeaveInTime(pins.preemption, segment, watcher)
    with recipe.judged("training_arguments"):
        trainer = Pretraining(
            model=model,
            args=args,
            data_collator=collator.of(pins, DataCollatorForLanguageModeling(tokenizer, mlm=False)),
            train_dataset=Stream(blocks.train, steps.blocks, args.seed, start=seen),
            eval_dataset=blocks.validation,
            processing_class=tokenizer,
            compute_metrics=metrics.computer(bpe.token_bytes(backend)),
            preprocess_logits_for_metrics=metrics.keep_scores,
            callbacks=[*callbacks.observers(pins, blocks.ledger, output_dir, say), stop],
        )
        callbacks.arrange(trainer)
        machine.try_parts(trainer)
        trainer.keep(origin, pins.tokens_per_step, say, segment.note)

    facts = {"inputs": inputs, "ledger": blocks.ledger, "plan": recipe.thawed(steps)}
    step, reached = checkpoint.step(resume), checkpoint.last_step(output_dir)
    with segment.open(step, reached, machine.describe(), **facts), machine.together(trainer):
        say(report.banner(history, output_dir, step))
        tracking.start(trainer, segment, say)
        trained = trainer.train(resume_from_checkpoint=resume and str(resume))
        stop.require_stayed()
        segment.finish(trainer.finish(trained.metrics))
    return history


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
