"""A step that does not fit into the memory: the curve is that of the run for which it would fit."""

import json
from functools import wraps

import pytest
import torch
from conftest import history
from transformers import GPT2LMHeadModel

import run_clm
from zhgpt import halving, leaving
from zhgpt.errors import InputError, Left

TOLERANCE = 1e-5


@pytest.fixture
def card(monkeypatch):
    """A memory for `blocks` at a time, once `full_at` micro-batches are made."""
    forward, room = GPT2LMHeadModel.forward, {"blocks": 64, "calls": 0, "full_at": 0}

    @wraps(forward)
    def with_limit(self, *args, **kwargs):
        if self.training and torch.is_grad_enabled():
            room["calls"] += 1
            if room["calls"] > room["full_at"] and len(kwargs["input_ids"]) > room["blocks"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", with_limit)
    return room


def start(path, folder, *arguments) -> dict:
    assert run_clm.run([str(path), "--output_dir", str(folder), *arguments]) == 0
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("micro_batch", [8, 4])
@pytest.mark.parametrize("full_at", [0, 1])
def test_the_curve_is_that_of_the_run_that_fits(
    tiny_recipe, tmp_path, card, capsys, micro_batch, full_at
):
    """At the first micro-batch, and at one after which gradients are there already."""
    path = tiny_recipe(training_arguments__per_device_train_batch_size=micro_batch)
    start(path, tmp_path / "whole")
    card.update(blocks=2, calls=0, full_at=full_at)
    record = start(path, tmp_path / "halved")
    found, expected = (history(tmp_path / run, "loss") for run in ("halved", "whole"))
    # A step begun with whole micro-batches has added their losses already.
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert history(tmp_path / "halved", "grad_norm") == pytest.approx(
        history(tmp_path / "whole", "grad_norm"), abs=1e-4
    )
    assert record["halved"]["to"] == 2 and record["status"] == "finished"
    assert "2 from now on; a step stays 256 tokens" in capsys.readouterr().out


def test_later_it_is_saved_and_left_and_the_same_command_continues(
    tiny_recipe, tmp_path, card, monkeypatch
):
    monkeypatch.setattr(halving, "FIRST_STEPS", 2)
    start(tiny_recipe(), tmp_path / "whole")
    card.update(blocks=4, calls=0, full_at=4)
    with pytest.raises(Left, match="stopped at step 5, saved"):
        start(tiny_recipe(), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["segments"][-1]["reason"] == "out of memory"
    assert (tmp_path / "run" / "checkpoint-5").is_dir()
    leaving.forget()
    card.update(blocks=8)
    start(tiny_recipe(), tmp_path / "run")
    assert history(tmp_path / "run", "loss") == pytest.approx(
        history(tmp_path / "whole", "loss"), abs=TOLERANCE
    )


def test_where_not_even_one_block_fits_it_is_said(tiny_recipe, tmp_path, card):
    card.update(blocks=0)
    with pytest.raises(InputError, match="step 1 with 1 block.*\nTry --activation_checkpointing"):
        start(tiny_recipe(), tmp_path / "run")


def test_other_errors_are_not_of_memory():
    assert halving.is_refusal(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    assert not halving.is_refusal(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
