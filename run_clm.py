"""Pretrains a GPT-2 as a recipe says: python run_clm.py recipes/village.json

The same command again continues an interrupted run and leaves a finished one alone.
"""

import sys
from pathlib import Path

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
    machine,
    metrics,
    plan,
    recipe,
    report,
    session,
    tracking,
)
from zhgpt.errors import FINISHED, INTERRUPTED, exit_code
from zhgpt.order import stream

SECTIONS = {"model": GPT2Config, "training_arguments": TrainingArguments}
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FLAGS = {"output_dir": command.Flag(str, "folder of the run; runs/<name> unless given")}


def run(argv: list[str] | None) -> int:
    machine.quiet_libraries()
    main_process = machine.rank() == 0
    say = report.speaker(main_process)
    # What is asked, and whether it can be done here: nothing is written before all of it holds.
    asked = command.read(argv, recipe.ClmRecipe, SECTIONS, FLAGS, __doc__)
    pins = asked.recipe
    output_dir = Path(asked.flags["output_dir"] or Path("runs", asked.run_name))
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
        derived = {
            "output_dir": str(output_dir),
            "run_name": asked.run_name,
            "max_steps": steps.max_steps,
            "gradient_accumulation_steps": batches.accumulation,
            "train_sampling_strategy": "sequential",  # the stream is in its order already
            "logging_nan_inf_filter": False,  # it writes a NaN loss as the mean of earlier ones
            "dataloader_pin_memory": machine.has_gpu(),
            "ddp_find_unused_parameters": False,  # the search walks the graph at each step
            "disable_tqdm": True,
            "use_cpu": machine.use_cpu(pins.training_arguments),
        }
        args = TrainingArguments(**recipe.thawed(pins.training_arguments) | derived)
    machine.require_all_processes(args.world_size)
    set_seed(args.seed)
    with recipe.judged("model"):
        model = GPT2LMHeadModel(config)
    # Unset for GPT-2, and Trainer then divides by one token per block too many.
    model.loss_type = "ForCausalLM"

    stop = callbacks.StopOnSignal(say)
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
    segment = session.Session(output_dir, history, main_process)
    facts = {"inputs": inputs, "ledger": blocks.ledger, "plan": recipe.thawed(steps)}
    segment.begin(checkpoint.step(resume), machine=machine.describe(), **facts)
    say(report.banner(history, output_dir, checkpoint.step(resume)))
    tracking.start(segment, args.report_to, say)
    trained = trainer.train(resume_from_checkpoint=resume and str(resume))
    if stop.stopped and trainer.state.global_step < steps.max_steps:
        segment.end("interrupted", stop.reason, trainer.state.global_step)
        say(f"stopped at step {trainer.state.global_step}, saved; the same command continues")
        machine.end(trainer)
        return INTERRUPTED

    evaluation = callbacks.last_evaluation(trainer) or trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", trained.metrics)
    trainer.save_metrics("eval", evaluation)
    history["metrics"] = trained.metrics | evaluation
    if main_process:
        report.write_model_card(history, output_dir)
    segment.end("finished", "finished", steps.max_steps)
    say(report.summary(history, output_dir))
    machine.end(trainer)
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
