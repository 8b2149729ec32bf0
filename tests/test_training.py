"""What the training loop computes, against computations that share no code with it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, history
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    set_seed,
)

import run_clm
from zhgpt import bpe, command, corpus, order, recipe

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def train(path: Path, output_dir: Path, *arguments: str) -> Path:
    assert run_clm.run([str(path), "--output_dir", str(output_dir), *arguments]) == 0
    return output_dir


def pieces(path: Path):
    """The recipe's tokenizer, blocks and untrained model, built without the script."""
    pins = command.read([str(path)], recipe.ClmRecipe, constructors={}).recipe
    tokenizer = AutoTokenizer.from_pretrained(pins.tokenizer)
    blocks = corpus.prepare(
        pins.corpus, pins.cleaning, tokenizer.backend_tokenizer, tokenizer.eos_token_id
    )
    set_seed(42)
    config = GPT2Config(
        **pins.model, vocab_size=len(tokenizer), n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return tokenizer, blocks, GPT2LMHeadModel(config)


def direct_loss(model, rows, reduction="mean"):
    """Cross-entropy of every next token in rows of equal length."""
    ids = torch.tensor(rows)
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction=reduction)


def direct_training(model, blocks, steps, blocks_per_step, loss_of=direct_loss):
    """A loop of ten lines: the same optimizer at a constant rate, the same order of blocks."""
    decayed = [p for name, p in model.named_parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )
    losses = []
    numbers = order.block_order(len(blocks), range(steps * blocks_per_step), seed=42)
    for chosen in numbers.reshape(steps, blocks_per_step):
        loss = loss_of(model, [blocks[int(i)]["input_ids"] for i in chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def constant_rate(tiny_recipe, **changes):
    return tiny_recipe(
        training_arguments__lr_scheduler_type="constant",
        training_arguments__weight_decay=0.1,
        **changes,
    )


@pytest.mark.parametrize("micro_batch", [8, 4, 2])
def test_logged_losses_equal_a_direct_cross_entropy(tiny_recipe, tmp_path, micro_batch):
    """Accumulation 1, 2 and 4; evaluation over the whole split, its short last block included."""
    path = constant_rate(tiny_recipe, training_arguments__per_device_train_batch_size=micro_batch)
    run = train(path, tmp_path / "run")
    _, blocks, model = pieces(path)
    expected = direct_training(model, blocks.train, steps=6, blocks_per_step=8)
    assert history(run, "loss") == pytest.approx(expected, abs=TOLERANCE)

    rows = [row["input_ids"] for row in blocks.validation]
    assert len(rows[-1]) < 32
    total = sum(direct_loss(model.eval(), [row], "sum").item() for row in rows)
    mean = total / sum(len(row) - 1 for row in rows)
    assert history(run, "eval_loss")[-1] == pytest.approx(mean, abs=TOLERANCE)


def test_bits_per_byte_equals_an_independent_computation(tiny_recipe, tmp_path):
    """Token by token from the saved model; bytes from the decoded text, not from our table."""
    run = train(tiny_recipe(), tmp_path / "run")
    tokenizer, blocks, _ = pieces(tiny_recipe())
    model = GPT2LMHeadModel.from_pretrained(run).eval()
    bits, size = 0.0, 0
    for row in blocks.validation["input_ids"]:
        scores = torch.log_softmax(model(torch.tensor([row])).logits[0].double(), -1)
        for position, token in enumerate(row[1:]):
            if token != tokenizer.eos_token_id:
                bits -= scores[position, token].item() / math.log(2)
                size += len(bpe.token_bytes(tokenizer.backend_tokenizer)[token])
    metrics = json.loads((run / "eval_results.json").read_text())
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)


def test_the_split_of_a_step_does_not_change_the_curve(tiny_recipe, tmp_path):
    """Law 4, over an epoch's end: 8x1, 2x4 and 1x8, and other evaluation batches."""
    curves = []
    for micro_batch, evaluation in [(8, 4), (2, 3), (1, 64)]:
        path = tiny_recipe(
            training_arguments__max_steps=40,
            # At 1e-2 so small a model doubles rounding at every few steps.
            training_arguments__learning_rate=3e-3,
            training_arguments__eval_steps=20,
            training_arguments__per_device_train_batch_size=micro_batch,
            training_arguments__per_device_eval_batch_size=evaluation,
        )
        run = train(path, tmp_path / f"run{micro_batch}")
        curves.append(history(run, "loss") + history(run, "eval_bits_per_byte"))
        assert history(run, "epoch")[-1] > 1
    assert curves[1] == pytest.approx(curves[0], abs=TOLERANCE)
    assert curves[2] == pytest.approx(curves[0], abs=TOLERANCE)


SWITCHES = {
    "fused": ("optim", "adamw_torch_fused", "adamw_torch"),
    "attention": ("attn_implementation", "sdpa", "eager"),
    "recomputed": ("activation_checkpointing", "false", "true"),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_faster_way_gives_the_same_curve(tiny_recipe, tmp_path, switch):
    """What recipes switch for speed or memory alone; compiled steps are in test_compiled.py."""
    key, *values = SWITCHES[switch]
    path = tiny_recipe(training_arguments__learning_rate=3e-3)
    curves = []
    for value in values:
        run = train(path, tmp_path / value, f"--{key}", value)
        curves.append(history(run, "loss") + history(run, "eval_bits_per_byte"))
    assert curves[1] == pytest.approx(curves[0], abs=TOLERANCE)
    assert len(set(curves[0])) > 6


@pytest.mark.parametrize("use_cpu", [True, False])
def test_two_processes_give_the_curve_of_one(tiny_recipe, tmp_path, use_cpu):
    """Law 4 under torchrun, whether or not a recipe says that there is no GPU."""
    alone = train(tiny_recipe(), tmp_path / "alone")
    path = tiny_recipe(
        training_arguments__per_device_train_batch_size=2, training_arguments__use_cpu=use_cpu
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*torchrun, "--nproc_per_node=2", "run_clm.py", path, "--output_dir", tmp_path / "two"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    two = tmp_path / "two"
    for key in ("loss", "eval_loss", "eval_bits_per_byte", "eval_accuracy"):
        assert history(two, key) == pytest.approx(history(alone, key), abs=TOLERANCE)
    # What one process says is said once.
    assert result.stdout.count("evaluation at step 6") == 1


def test_sampling_does_not_change_training(tiny_recipe, tmp_path):
    """Bit for bit, with dropout, whose masks come from the same generator as samples would."""
    dropout = dict(model__resid_pdrop=0.1, model__attn_pdrop=0.1, model__embd_pdrop=0.1)
    silent = train(tiny_recipe(samples={"prompts": []}, **dropout), tmp_path / "silent")
    prompts = ["村民们都很高兴", "王大娘"]
    speaking = train(tiny_recipe(samples__prompts=prompts, **dropout), tmp_path / "speaking")
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(speaking, key) == history(silent, key)
    rows = [json.loads(x) for x in (speaking / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["prompt"]) for row in rows] == [
        (step, prompt) for step in (0, 3, 6) for prompt in prompts
    ]


def test_padding_is_never_learnt_from_and_eos_always_is(tiny_files):
    """Law 3."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_files["tokenizer"])
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collator([{"input_ids": [5, 6, eos, 7]}, {"input_ids": [8, eos]}])
    assert batch["input_ids"].tolist() == [[5, 6, eos, 7], [8, eos, pad, pad]]
    assert batch["labels"].tolist() == [[5, 6, eos, 7], [8, eos, -100, -100]]


def test_every_log_line_has_tokens_and_data_epochs(tiny_recipe, tmp_path):
    run = train(tiny_recipe(), tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    per_epoch = record["ledger"]["train"]["blocks"] * 32
    assert history(run, "tokens")[0] == 256
    assert history(run, "tokens")[-1] == record["plan"]["tokens"] == 6 * 256
    assert history(run, "epoch")[-1] == pytest.approx(6 * 256 / per_epoch)
