"""FSDP: the curve, the files and the continuation of one process, from any number of them."""

import json
import signal
from pathlib import Path

import attempts
import pytest
import safetensors.torch
import torch
from attempts import Blow, Moment, Run

STILL = {f"model__{key}": 0.0 for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
SMALL = {"training_arguments__per_device_train_batch_size": 2, "model__n_layer": 2}
FIGURES = ("loss", "eval_loss", "eval_bits_per_byte", "eval_accuracy", "grad_norm")


@pytest.fixture(scope="module", autouse=True)
def warm():
    attempts.warm_up()


def run(recipe: Path, folder: Path, processes: int, *words: str) -> Run:
    """As a command; sharded where it has several processes."""
    made = Run(recipe, folder, processes=processes)
    sharded = ["--fsdp", "true"] if processes > 1 else []
    made.command = lambda: [*Run.command(made), *sharded, *words]
    return made


def finish(one: Run, fresh: bool = False) -> Path:
    end = one.attempt(fresh=fresh)
    assert end.code == 0, end.output
    return one.folder


def figures(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [line[key] for line in history for key in FIGURES if key in line]


def moments(folder: Path) -> dict:
    return torch.load(folder / "optimizer.pt", weights_only=True)


def test_curve_samples_and_files_are_those_of_one_process(tmp_path):
    recipe = attempts.write_recipe(tmp_path, **STILL, **SMALL)
    alone = finish(run(recipe, tmp_path / "alone", 1))
    shared = finish(run(recipe, tmp_path / "shared", 2))
    assert figures(shared) == pytest.approx(figures(alone), abs=1e-5)
    assert (shared / "samples.jsonl").read_text() == (alone / "samples.jsonl").read_text()
    here, there = (moments(folder / "checkpoint-12") for folder in (shared, alone))
    assert here["param_groups"] == there["param_groups"]
    torch.testing.assert_close(here["state"], there["state"], atol=1e-5, rtol=0)
    for place in (".", "checkpoint-12"):
        ours, theirs = (
            safetensors.torch.load_file(folder / place / "model.safetensors")
            for folder in (shared, alone)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        assert (shared / place / "config.json").read_text() == (
            alone / place / "config.json"
        ).read_text()


@pytest.mark.slow
def test_killed_and_told_to_go_it_ends_as_its_twin(tmp_path):
    """Bit for bit, with dropout: in a step, while saving, in an evaluation."""
    recipe = attempts.write_recipe(tmp_path, **SMALL)
    twin = attempts.result(finish(run(recipe, tmp_path / "twin", 2)))
    broken = run(recipe, tmp_path / "run", 2)
    for blow in (
        Blow(signal.SIGKILL, Moment("training", seconds=0.05)),
        Blow(signal.SIGTERM, Moment("evaluating")),
        Blow(signal.SIGKILL, Moment("evaluating")),
        Blow(signal.SIGKILL, Moment(attempts.SAVING, 2, seconds=0.005)),
    ):
        end = broken.attempt(blow)
        assert end.where, end.output
    finish(broken)
    attempts.require_equal(broken.folder, twin)
