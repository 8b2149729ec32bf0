"""Sweep files drive run_clm.py unchanged: their command lines, made by W&B's own agent code."""

import itertools
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import run_clm
from zhgpt import command, recipe

SWEEPS = sorted((ROOT / "recipes").glob("*/sweep.yaml"))


def commands(sweep: dict) -> list[list[str]]:
    """All command lines of a grid, without interpreter and program, as the agent makes them."""
    names, lists = zip(*((k, v["values"]) for k, v in sweep["parameters"].items()), strict=True)
    lines = []
    for values in itertools.product(*lists):
        chosen = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        arguments = create_sweep_command_args({"args": chosen})["args"]
        words = create_sweep_command(list(sweep["command"]))
        assert words[:3] == ["${env}", "${interpreter}", "${program}"] and words[-1] == "${args}"
        lines.append([*words[3:-1], *arguments])
    return lines


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
def test_each_run_of_a_sweep_is_a_run_of_its_own(path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert sweep["program"] == "run_clm.py" and sweep["metric"]["name"].startswith("eval/")
    lines = commands(sweep)
    asked = [command.read(line, recipe.ClmRecipe, run_clm.SECTIONS) for line in lines]
    assert len({one.run_name for one in asked}) == len(lines) > 1
    for one in asked:
        assert len(one.overrides) == len(sweep["parameters"])


def test_what_python_prints_of_a_value_is_read(tiny_recipe):
    """The agent writes True, None and lists as Python does."""
    values = {"bf16": False, "stop_file": None, "prompts": ["一", "二"], "weight_decay": 1e-4}
    arguments = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    asked = command.read(
        [str(tiny_recipe()), *arguments["args"]], recipe.ClmRecipe, run_clm.SECTIONS
    )
    assert asked.recipe.training_arguments["bf16"] is False
    assert asked.recipe.preemption.stop_file is None
    assert asked.recipe.samples.prompts == ("一", "二")
    assert asked.recipe.training_arguments["weight_decay"] == 1e-4


def test_there_is_one():
    assert SWEEPS
