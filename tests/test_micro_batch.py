"""The micro-batch "auto": which one is taken, when it is looked for, and that the curve stays."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import history
from transformers import GPT2Config

import run_clm
from zhgpt import command, machine, micro_batch, recipe
from zhgpt.errors import InputError


def run(path, folder, *arguments) -> dict:
    assert run_clm.run([str(path), "--output_dir", str(folder), *arguments]) == 0
    return json.loads((folder / "run.json").read_text())


@pytest.fixture
def speeds(monkeypatch):
    """Seconds of each size, in the place of measured ones; those asked for are noted."""
    table, asked = {}, []

    def seconds(self, size):
        asked.append(size)
        return table[size], float(len(asked))

    monkeypatch.setattr(micro_batch.Trial, "seconds", seconds)
    return SimpleNamespace(table=table, asked=asked)


@pytest.mark.parametrize(
    "seconds, taken, asked",
    [
        ({1: 1.0, 2: 1.5, 4: 2.8, 8: 5.0}, 8, [1, 2, 4, 8]),
        ({1: 1.0, 2: 1.9, 4: 3.98, 8: 9.0}, 2, [1, 2, 4, 8]),
        ({1: 1.0, 2: 1.96, 4: 4.0, 8: 8.0}, 1, [1, 2, 4, 8]),
        ({1: 1.0, 2: 2.1, 4: 4.4}, 1, [1, 2, 4]),
        ({1: 1.0, 2: 1.5, 4: math.inf}, 2, [1, 2, 4]),
        ({1: math.inf}, 1, [1]),
    ],
    ids=[
        "larger is faster",
        "not beyond 2",
        "2 % are not worth it",
        "none is faster",
        "4 do not fit",
        "nothing does",
    ],
)
def test_the_fastest_that_fits_is_taken_and_no_more_are_tried(
    tiny_recipe, speeds, seconds, taken, asked, capsys
):
    speeds.table.update(seconds)
    pins = pins_of(tiny_recipe(training_arguments__per_device_train_batch_size="auto"))
    found = micro_batch.settled(pins, CONFIG, {}, print)
    assert found.training_arguments["per_device_train_batch_size"] == taken
    assert speeds.asked == asked
    assert f'"auto": {taken}; tokens/s of blocks at a time 1: ' in capsys.readouterr().out


def test_the_curve_stays_and_a_run_that_goes_on_keeps_its_number(tiny_recipe, tmp_path, speeds):
    constant = {"training_arguments__lr_scheduler_type": "constant"}
    whole = run(tiny_recipe(**constant), tmp_path / "whole")
    speeds.table.update({1: 1.0, 2: 1.0, 4: 4.0, 8: 8.0})
    path = tiny_recipe(training_arguments__per_device_train_batch_size="auto", **constant)
    part = run(path, tmp_path / "auto", "--max_steps", "3")
    assert part["plan"]["micro_batch"] == 2
    assert part["recipe"]["training_arguments"]["per_device_train_batch_size"] == "auto"
    speeds.asked.clear()
    record = run(path, tmp_path / "auto", "--max_steps", "6", "--per_device_train_batch_size=auto")
    assert record["plan"]["micro_batch"] == 2 and len(record["segments"]) == 2
    assert not speeds.asked
    assert record["recipe_hash"] == whole["recipe_hash"]
    assert history(tmp_path / "auto", "loss") == pytest.approx(
        history(tmp_path / "whole", "loss"), abs=1e-5
    )


def pins_of(path) -> recipe.ClmRecipe:
    return command.read([str(path)], recipe.ClmRecipe, run_clm.SECTIONS).recipe


CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=400, n_positions=32)
LARGE = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=10**6, n_positions=32)


def test_only_what_fits_the_memory_is_tried(tiny_recipe, monkeypatch):
    pins = pins_of(tiny_recipe(training_arguments__per_device_train_batch_size="auto"))
    assert micro_batch.fitting(pins, CONFIG) == [1, 2, 4, 8]
    needed = micro_batch.step_memory.estimate(pins, LARGE, 4, 1, False).total
    monkeypatch.setattr(machine, "memory_bytes", lambda asked: 1.01 * needed / 0.85)
    assert micro_batch.fitting(pins, LARGE) == [1, 2, 4]
    monkeypatch.setattr(machine, "memory_bytes", lambda asked: 1000)
    assert micro_batch.fitting(pins, CONFIG) == [1]
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="not a multiple of 96 .* 3 process"):
        micro_batch.fitting(pins, CONFIG)


def test_a_trial_is_timed_and_one_that_does_not_fit_is_endless(tiny_recipe, monkeypatch):
    pins = pins_of(tiny_recipe(training_arguments__per_device_train_batch_size="auto"))
    trial = micro_batch.Trial(pins, CONFIG)
    seconds, spent = trial.seconds(2)
    assert 0 < seconds < spent < 60
    size = sum(p.numel() for p in trial.model.parameters())
    assert sum(moment.numel() for moment in trial.moments) == 2 * size

    def full(**inputs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(trial.model, "forward", full)
    assert trial.seconds(4)[0] == math.inf


@pytest.mark.parametrize("value", ["Auto", 0, 1.5, None])
def test_other_values_are_refused(tiny_recipe, value):
    path = tiny_recipe(training_arguments__per_device_train_batch_size=value)
    with pytest.raises(InputError, match="per_device_train_batch_size"):
        micro_batch.fitting(pins_of(path), CONFIG)
