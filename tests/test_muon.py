"""Muon for the matrices: what torch's own would do, in an optimizer that Trainer can keep."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import history
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import run_clm
from zhgpt import command, muon, plan, recipe
from zhgpt.errors import InputError


def built(tmp_path, model, **section):
    args = TrainingArguments(
        str(tmp_path), learning_rate=1e-2, weight_decay=0.1, use_cpu=True, report_to="none"
    )
    factory, kwargs = muon.chosen(SimpleNamespace(muon=recipe.MuonSection(**section)), args)
    return factory()(model, **kwargs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config)


def step(model, optimizers, seed) -> None:
    ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(seed))
    model.eval()
    model(input_ids=ids, labels=ids).loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def test_matrices_go_as_torchs_muon_moves_them_and_all_else_as_adamw(tmp_path, model):
    other = copy.deepcopy(model)
    optimizer = built(tmp_path, model, matrix_learning_rate=0.02, momentum=0.9)
    named = dict(other.named_parameters())
    matrices = [p for n, p in named.items() if ".h." in n and p.ndim == 2]
    rest = [p for p in named.values() if all(p is not m for m in matrices)]
    assert len(matrices) == 8
    assert sum(p.numel() for p in matrices) == plan.matrix_parameters(model.config)
    parts = [
        torch.optim.Muon(
            matrices, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim == 2], "weight_decay": 0.1},
                {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
            ],
            lr=1e-2,
            fused=True,
        ),
    ]
    for seed in range(3):
        step(model, [optimizer], seed)
        step(other, parts, seed)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, named[name]), name


def test_its_state_goes_on_where_it_was_saved(tmp_path, model):
    optimizer = built(tmp_path, model, matrix_learning_rate=0.02)
    step(model, [optimizer], 0)
    twin = copy.deepcopy(model)
    resumed = built(tmp_path, twin, matrix_learning_rate=0.5)  # the saved rate counts
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        step(model, [optimizer], seed)
        step(twin, [resumed], seed)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("rate", [None, 0.02])
def test_its_checkpoint_is_as_large_as_the_plan_says(tmp_path, model, rate):
    optimizer = built(tmp_path, model, matrix_learning_rate=0.02)
    if rate is None:
        optimizer = torch.optim.AdamW(model.parameters())
    step(model, [optimizer], 0)
    values = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    kept = 4 * sum(value.numel() for value in [*model.parameters(), *values])
    pins = SimpleNamespace(muon=recipe.MuonSection(matrix_learning_rate=rate))
    assert plan.checkpoint_bytes(pins, model.config) == kept


def test_a_schedule_moves_both_rates(tmp_path, model):
    optimizer = built(tmp_path, model, matrix_learning_rate=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 1 / (1 + at))
    step(model, [optimizer], 0)
    schedule.step()
    rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
    assert rates == pytest.approx([0.005, 0.005, 0.01])


def test_a_run_with_it_is_another_run_and_learns(tiny_recipe, tmp_path):
    path = tiny_recipe(training_arguments__max_steps=12)
    for name, words in {"plain": [], "muon": ["--matrix_learning_rate", "0.02"]}.items():
        assert run_clm.run([str(path), "--output_dir", str(tmp_path / name), *words]) == 0
    records = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("plain", "muon")]
    assert records[0]["recipe_hash"] != records[1]["recipe_hash"]
    assert not any(key.startswith("muon") for key in records[0]["content"])
    losses = history(tmp_path / "muon", "loss")
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"matrix_learning_rate": 0}, "above 0"),
        ({"momentum": 1.0}, "below 1"),
        ({"momentum": 0.9}, "no effect without muon.matrix_learning_rate"),
        ({"learning_rate": 0.02}, "is not known"),
    ],
)
def test_wrong_values_are_refused(tiny_recipe, section, said):
    with pytest.raises(InputError, match=said):
        command.read([str(tiny_recipe(muon=section))], recipe.ClmRecipe, run_clm.SECTIONS)
