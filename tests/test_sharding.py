"""FSDP: the curve, the files and the continuation of one process, from any number of them."""

import signal
from pathlib import Path
from types import SimpleNamespace

import attempts
import pytest
import safetensors.torch
import torch
from attempts import STILL, Blow, Moment, Run
from conftest import history
from transformers import GPT2Config

import run_clm
from zhgpt import recipe, step_memory
from zhgpt.errors import exit_code
from zhgpt.plan import count_parameters

SMALL = {"training_arguments__per_device_train_batch_size": 2, "model__n_layer": 2}
FIGURES = ("loss", "eval_loss", "eval_bits_per_byte", "eval_accuracy", "grad_norm")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Up to four processes on two cores, which may have other work as well."""
    attempts.warm_up()
    monkeypatch.setattr(attempts, "PATIENCE", 600)


def run(pins: Path, folder: Path, processes: int, *words: str, fsdp: str = "true") -> Run:
    return Run(pins, folder, processes, ["--fsdp", fsdp, *words])


def finish(one: Run) -> Path:
    end = one.attempt()
    assert end.code == 0, end.output
    return one.folder


def moments(folder: Path) -> dict:
    return torch.load(folder / "optimizer.pt", weights_only=True)


def test_curve_samples_and_files_are_those_of_one_process(tmp_path):
    pins = attempts.write_recipe(tmp_path, **STILL, **SMALL)
    alone = finish(run(pins, tmp_path / "alone", 1))
    shared = finish(run(pins, tmp_path / "shared", 2))
    assert history(shared, *FIGURES) == pytest.approx(history(alone, *FIGURES), abs=1e-5)
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
    pins = attempts.write_recipe(tmp_path, **SMALL)
    twin = attempts.result(finish(run(pins, tmp_path / "twin", 2)))
    broken = run(pins, tmp_path / "run", 2)
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


@pytest.mark.slow
def test_a_checkpoint_is_continued_by_more_and_by_fewer(tmp_path):
    """Real commands: two, one, four, two without FSDP, two with it, each from the one before."""
    constant = {"lr_scheduler_type": "constant", "logging_steps": 1, "eval_steps": 4}
    constant = {f"training_arguments__{key}": value for key, value in constant.items()}
    pins = attempts.write_recipe(tmp_path, **STILL, **SMALL, **constant)
    alone, changed = tmp_path / "alone", tmp_path / "changed"
    starts = [(4, 2, "true"), (8, 1, "true"), (12, 4, "true"), (16, 2, "false"), (20, 2, "true")]
    for steps, processes, fsdp in [(20, 1, "true"), *starts]:
        folder = changed if alone.exists() else alone
        one = run(pins, folder, processes, f"--max_steps={steps}", fsdp=fsdp)
        end = one.attempt(fresh=True)
        assert end.code == 0, end.output
    keys = ("loss", "eval_loss")
    assert history(changed, *keys) == pytest.approx(history(alone, *keys), abs=1e-5)
    assert len(history(changed, *keys)) == 20 + 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, within",
    [
        (["--bf16", "true"], 1e-2),
        (["--torch_compile", "true"], 1e-5),
        (["--activation_checkpointing", "true"], 1e-5),
        (["--model.tie_word_embeddings", "false"], 1e-5),
        (["--load_best_model_at_end", "true", "--eval_steps", "4"], 1e-5),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_it_works_with(tmp_path, words, within):
    pins = attempts.write_recipe(tmp_path, **STILL, **SMALL)
    folders = []
    for processes in (1, 2):
        folders.append(finish(run(pins, tmp_path / str(processes), processes, *words)))
    alone, shared = folders
    assert history(shared, *FIGURES) == pytest.approx(history(alone, *FIGURES), abs=within)
    assert (shared / "samples.jsonl").read_text() == (alone / "samples.jsonl").read_text()
    final, theirs = (safetensors.torch.load_file(f / "model.safetensors") for f in folders)
    torch.testing.assert_close(final, theirs, atol=within, rtol=0)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--fp16", "true"], "training_arguments.fp16 = true: training_arguments.fsdp needs bf16"),
        (["--optim", "adafactor"], "what another optimizer remembers"),
        (["--matrix_learning_rate", "0.01"], "Muon needs whole matrices"),
        (["--fsdp_config", '{"version": 1}'], "has to be unset: fsdp has no settings here"),
        (["--fsdp", "full_shard"], "expected true or false or null"),
        (["--deepspeed", "x.json"], "has to be unset; fsdp: true shares out a model"),
    ],
)
def test_what_it_does_not_work_with_is_refused(tmp_path, capsys, words, told):
    pins = attempts.write_recipe(tmp_path)
    sharded = [] if "--fsdp" in words else ["--fsdp", "true"]
    command = [str(pins), "--output_dir", str(tmp_path / "run"), *sharded, *words]
    assert exit_code(run_clm.run, command) == 2
    assert told in capsys.readouterr().err


def test_a_share_needs_less_memory():
    config = GPT2Config(n_layer=24, n_embd=1024, vocab_size=32_000, n_positions=1024)

    def estimate(fsdp: bool, processes: int) -> step_memory.Memory:
        asked = SimpleNamespace(
            training_arguments={"bf16": True, "fsdp": fsdp},
            model={},
            corpus=SimpleNamespace(document_mask=False),
            muon=recipe.MuonSection(),
            tokens_per_step=8192 * processes,
        )
        return step_memory.estimate(asked, config, 1, processes, gpu=True)

    whole, shared = estimate(False, 8), estimate(True, 8)
    size = count_parameters(config)
    assert shared.optimizer == size and whole.optimizer == 8 * size
    assert size < shared.weights < 1.6 * size and whole.weights == 4 * size
    assert shared.gradients == 4 * size and whole.gradients == 8 * size
    assert estimate(True, 1) == estimate(False, 1)
