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
    lock,
    machine,
    metrics,
    plan,
    recipe,
    report,
    session,
    stopping,
    tracking,
    watch,
)
from zhgpt.errors import FINISHED, exit_code
from zhgpt.order import stream

SECTIONS = {"model": GPT2Config, "training_arguments": TrainingArguments}
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FLAGS = {"output_dir": command.Flag(str, "folder of the run; runs/<name> unless given")}


def run(argv: list[str] | None) -> int:
    machine.quiet_libraries()
    say = report.speaker(machine.rank() == 0)
    # What is asked, and whether it can be done here: nothing is written before all of it holds.
    asked = command.read(argv, recipe.ClmRecipe, SECTIONS, FLAGS, __doc__)
    pins = asked.recipe
    output_dir = Path(asked.flags["output_dir"] or Path("runs", asked.run_name))
    with watch.Watch(pins.preemption, say) as watcher, lock.alone(output_dir, machine.rank(), say):
        return train(asked, output_dir, watcher, say)


def train(asked: command.Command, output_dir: Path, watcher: watch.Watch, say: report.Say) -> int:
    pins, main_process = asked.recipe, machine.rank() == 0
    history = session.claim(output_dir, session.new(asked))
    if session.is_repeated(history, asked):
        say(report.summary(history, output_dir))
        return FINISHED

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
            **{key: getattr(tokenizer, key) for key in SPECIAL_IDS},
        )
    machine.require(pins.training_arguments, output_dir, plan.checkpoint_bytes(config))
    batches = plan.split_step(pins, machine.processes())

    # Text to blocks of tokens, and what follows from their number.
    blocks = corpus.prepare(pins.corpus, pins.cleaning, backend, tokenizer.eos_token_id, say)
    steps = plan.make(pins, config, batches, len(blocks.train))
    inputs = {"corpus": blocks.fingerprint, "tokenizer": bpe.fingerprint(backend)}
    session.require_same(output_dir, history.get("inputs", inputs), inputs)
    if history["status"] == "finished":
        say(report.summary(history, output_dir))
        return FINISHED

    with recipe.judged("training_arguments"):
        derived = machine.fixed_arguments(pins.training_arguments) | {
            "output_dir": str(output_dir),
            "run_name": asked.run_name,
            "max_steps": steps.max_steps,
            "gradient_accumulation_steps": batches.accumulation,
        }
        args = TrainingArguments(**recipe.thawed(pins.training_arguments) | derived)
    machine.require_all_processes(args.world_size)
    set_seed(args.seed)
    with recipe.judged("model"):
        model = GPT2LMHeadModel(config)
    # Unset for GPT-2, and Trainer then divides by one token per block too many.
    model.loss_type = "ForCausalLM"

    segment = session.Session(output_dir, history, main_process)
    stop = stopping.LeaveInTime(pins.preemption, segment, watcher)
    with recipe.judged("training_arguments"):
        trainer = Trainer(
            model=model,
            args=args,
            data_collator=collator.of(pins, DataCollatorForLanguageModeling(tokenizer, mlm=False)),
            train_dataset=stream(blocks.train, steps.max_steps * steps.blocks_per_step, args.seed),
            eval_dataset=blocks.validation,
            processing_class=tokenizer,
            compute_metrics=metrics.computer(bpe.token_bytes(backend)),
            preprocess_logits_for_metrics=metrics.keep_scores,
            callbacks=[
                callbacks.Position(pins.tokens_per_step, report.train_tokens(blocks.ledger)),
                callbacks.Console(say),
                callbacks.Samples(pins.samples, output_dir, say),
                stop,
            ],
        )
        callbacks.arrange(trainer)
        machine.try_parts(trainer)

    with args.main_process_first():
        resume = checkpoint.newest(output_dir, say)
    facts = {"inputs": inputs, "ledger": blocks.ledger, "plan": recipe.thawed(steps)}
    step = checkpoint.step(resume)
    with segment.open(step, machine.describe(), **facts), machine.together(trainer):
        say(report.banner(history, output_dir, step))
        tracking.start(segment, args.report_to, say)
        trained = trainer.train(resume_from_checkpoint=resume and str(resume))
        stop.require_stayed()

        evaluation = callbacks.last_evaluation(trainer) or trainer.evaluate()
        callbacks.save_results(trainer, trained.metrics, evaluation)
        history["metrics"] = trained.metrics | evaluation
        if main_process:
            report.write_model_card(history, output_dir)
        segment.end("finished", "finished")
        say(report.summary(history, output_dir))
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
