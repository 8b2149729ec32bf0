"""The document mask: a packed block is its documents side by side, in training and evaluation."""

import json
import math

import pytest
import torch
from test_training import TOLERANCE, constant_rate, direct_training, history, pieces, train
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    modeling_utils,
)

from zhgpt import bpe, collator, command, recipe, sampling

EOS, PAD, SIZE = 0, 1, 50
# An end at a row's first and last place, an empty document, a row of one document.
ROWS = [
    [5, 6, 7, EOS, 8, 9, EOS, EOS, 10, 11, 12, 13],
    [EOS, 20, 21, 22, 23, EOS, 24, 25, 26, 27, 28, EOS],
    list(range(30, 42)),
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tokenizer(tiny_files):
    return AutoTokenizer.from_pretrained(tiny_files["tokenizer"])


def masked(tokenizer, rows):
    plain = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return dict(collator.DocumentMask(plain, EOS)([{"input_ids": row} for row in rows]))


def model(implementation="sdpa"):
    """Weights so large that a leak is a hundred thousand times the rounding."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        vocab_size=SIZE,
        n_positions=12,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.1,
        use_cache=False,  # what Trainer sets
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation=implementation,
    )
    made = GPT2LMHeadModel(config)
    made.loss_type = "ForCausalLM"
    return made


def documents(row):
    """The row cut after every end of text."""
    parts = [[]]
    for token in row:
        parts[-1].append(token)
        if token == EOS:
            parts.append([])
    return [part for part in parts if part]


def alone(model, row):
    """(length, vocabulary) logits of the row's documents, each computed by itself."""
    return torch.cat([model(torch.tensor([part])).logits[0] for part in documents(row)])


def alone_loss(model, rows, reduction="mean"):
    """Cross-entropy of every next token in the rows, whose documents are computed by themselves."""
    logits = torch.cat([alone(model, row)[:-1] for row in rows])
    targets = torch.tensor([token for row in rows for token in row[1:]])
    return torch.nn.functional.cross_entropy(logits, targets, reduction=reduction)


def test_positions_restart_after_every_end_of_text(tokenizer):
    batch = masked(tokenizer, ROWS)
    assert sorted(batch) == ["input_ids", "labels", "position_ids"]
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == ROWS
    assert batch["position_ids"].tolist() == [
        [0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2, 3],
        [0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5],
        list(range(12)),
    ]


def test_without_the_mask_the_collator_is_the_librarys_own(tiny_recipe, tokenizer):
    plain = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    for wanted in (False, True):
        path = tiny_recipe(corpus__document_mask=wanted)
        pins = command.read([str(path)], recipe.ClmRecipe, constructors={}).recipe
        assert (collator.of(pins, plain) is plain) == (not wanted)
    assert collator.of(pins, plain) == collator.DocumentMask(plain, tokenizer.eos_token_id)


def compiled(made):
    return torch.compile(made, backend="aot_eager")


def checkpointed(made):
    made.activation_checkpointing_enable()
    return made.train()


@pytest.mark.parametrize(
    "implementation, change",
    [("eager", None), ("sdpa", None), ("sdpa", compiled), ("sdpa", checkpointed)],
)
def test_a_packed_block_equals_its_documents_one_by_one(tokenizer, implementation, change):
    """Logits, loss and gradients, also compiled and with activations computed twice."""
    packed, single = model(implementation), model("eager")
    run = change(packed) if change else packed
    output = run(**masked(tokenizer, ROWS))
    expected = torch.stack([alone(single, row) for row in ROWS])
    assert expected.std() > 0.3
    assert torch.allclose(output.logits, expected, rtol=0, atol=1e-6)
    loss = alone_loss(single, ROWS)
    assert output.loss.item() == pytest.approx(loss.item(), abs=1e-6)
    output.loss.backward()
    loss.backward()
    for (name, here), there in zip(packed.named_parameters(), single.parameters(), strict=True):
        assert torch.allclose(here.grad, there.grad, rtol=0, atol=1e-6), name


def crossing(made, batch, **changes):
    """How far logits after the first document move when a token of the first one is another."""
    other = batch["input_ids"].clone()
    other[0, 1] = 45
    there = made(**batch | changes).logits[0, 4:]
    here = made(**batch | changes | {"input_ids": other}).logits[0, 4:]
    return (there - here).abs().max().item()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_nothing_crosses_and_what_lets_it_cross_is_seen(tokenizer, implementation):
    """The law can fail: a cache or a mask of ones undoes the separation without a word."""
    made, batch = model(implementation).eval(), masked(tokenizer, ROWS)
    assert crossing(made, batch) == 0
    assert crossing(made, batch, use_cache=True) > 0.1
    assert crossing(made, batch, attention_mask=torch.ones_like(batch["input_ids"])) > 0.1
    assert crossing(made, batch, position_ids=None) > 0.1


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_neither_attended_to_nor_scored(tokenizer, side):
    """Not even left of the text; and no padding id is left, about which the library would warn."""
    tokenizer.padding_side = side
    short = [7, EOS, 8, 9, 10]
    batch = masked(tokenizer, [ROWS[0], short])
    text = slice(0, 5) if side == "right" else slice(7, 12)
    labels = torch.full((12,), -100)
    labels[text] = torch.tensor(short)
    assert batch["labels"][1].tolist() == labels.tolist()
    assert PAD not in batch["input_ids"] and "attention_mask" not in batch
    logits = model()(**batch).logits[1, text]
    assert torch.allclose(logits, alone(model(), short), rtol=0, atol=1e-6)


def test_a_run_learns_from_documents_one_by_one(tiny_recipe, tmp_path):
    """Every logged loss, with accumulation; evaluation of the whole split; token by token."""
    path = constant_rate(
        tiny_recipe, corpus__document_mask=True, training_arguments__per_device_train_batch_size=4
    )
    run = train(path, tmp_path / "run")
    tokenizer, blocks, made = pieces(path)
    expected = direct_training(made, blocks.train, 6, 8, loss_of=alone_loss)
    assert history(run, "loss") == pytest.approx(expected, abs=TOLERANCE)

    rows = [row["input_ids"] for row in blocks.validation]
    assert len(rows[-1]) < 32 and any(EOS in row[:-1] for row in rows)
    made = GPT2LMHeadModel.from_pretrained(run).eval()
    nats = alone_loss(made, rows, "none").detach()
    targets = [token for row in rows for token in row[1:]]
    ordinary = torch.tensor([token != EOS for token in targets])
    size = sum(len(bpe.token_bytes(tokenizer.backend_tokenizer)[token]) for token in targets)
    metrics = json.loads((run / "eval_results.json").read_text())
    assert metrics["eval_loss"] == pytest.approx(nats.mean().item(), abs=TOLERANCE)
    bits = nats[ordinary].sum().item() / math.log(2)
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)


def test_a_run_repeats_itself_and_its_model_writes_as_any_other(tiny_recipe, tmp_path, monkeypatch):
    """Bit for bit, and the library warns of nothing; only the weights tell of the mask."""
    warnings = []
    monkeypatch.setattr(modeling_utils.logger, "warning_once", warnings.append)
    unmasked = train(tiny_recipe(), tmp_path / "unmasked")
    path = tiny_recipe(corpus__document_mask=True)
    run, again = train(path, tmp_path / "run"), train(path, tmp_path / "again")
    assert warnings == []
    for name in ("model.safetensors", "samples.jsonl"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    assert history(run, "loss") != history(unmasked, "loss")

    for name in ("config.json", "generation_config.json"):
        assert (run / name).read_bytes() == (unmasked / name).read_bytes()
    # The same untrained model wrote the first sample; the saved one still writes the last.
    first, last = (json.loads((run / "samples.jsonl").read_text().splitlines()[i]) for i in (0, -1))
    assert first == json.loads((unmasked / "samples.jsonl").read_text().splitlines()[0])
    pins = command.read([str(path)], recipe.ClmRecipe, constructors={}).recipe
    saved = GPT2LMHeadModel.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert sampling.continuations(saved, tokenizer, pins.samples)[0][1] == last["text"]
