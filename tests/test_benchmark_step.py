"""The benchmark of training steps: equal work or no figure, and tables that say what was measured.

What needs other processes is slow, because each of them imports the libraries.
"""

import pytest
import torch
from conftest import ROOT
from transformers import GPT2Config, GPT2LMHeadModel

from zhgpt import benchmark, benchmark_step_table, steppers
from zhgpt.benchmark_step import UnequalWork, require_equal
from zhgpt.errors import InputError

PAGE, KINDS = ROOT / "docs" / "speed.md", ["step"]


def turn(seconds: float) -> dict:
    return {"seconds": seconds, "cpu_seconds": 2 * seconds, "losses": [5.0]}


def record(**turns) -> dict:
    described = {
        "what": "step",
        "machine": {"device": "CPU", "cpu_cores": 2, "python": "3.11"},
        "versions": {"torch": "2.13"},
        "commit": "0123456789",
        "modified": False,
        "finished": "2026-11-26T00:00:00",
        "recipe": "tiny",
        "overrides": ["--n_layer", "1"],
        "steps": 4,
        "repeats": 2,
        "n_layer": 1,
        "n_embd": 32,
        "block_size": 32,
        "vocab_size": 400,
        "parameters": 20_000,
        "tokens_per_step": 256,
        "micro_batch": 2,
        "precision": "float32",
        "flops_per_step": 3e9,
        "matmul_flops": 2e9,
    }
    return described | {"turns": {way: list(map(turn, found)) for way, found in turns.items()}}


FOUND = record(
    bare=[4.0, 4.0], example=[4.4, 8.8], ours=[4.0, 6.4], ours_compiled=[2.0, 4.0],
    nanogpt=[1.9, 4.2], matmul=[0.8, 1.6],
)  # fmt: skip


def test_speeds_are_compared_turn_by_turn():
    found = {name: figures for name, figures, *_ in benchmark_step_table.targets(FOUND)}
    example, nanogpt = (name for name in found if "processor" not in name)
    assert found[example] == pytest.approx([1.1, 1.375])
    assert found[nanogpt] == pytest.approx([0.95, 1.05])
    assert len(found) == 4
    gpu = FOUND | {"machine": {"device": "NVIDIA L20"}}  # whose time is not the processors'
    assert len(benchmark_step_table.targets(gpu)) == 2
    # A step of 3e9 in a second, beside a product of 2e9 in 0.2 s; then in 1.6 s, beside 0.4 s.
    assert benchmark_step_table._shares(FOUND, [1.0, 1.6]) == pytest.approx([0.3, 0.375])


def test_the_table_has_every_way_that_was_measured_and_no_other():
    table = benchmark.tables(FOUND)
    for words in (
        "`tiny` with `--n_layer 1`",
        "nanoGPT, compiled",
        "| bare loop | 256 (256–256) |",
        "1.24",
    ):
        assert words in table
    assert "bare loop, compiled" not in table
    without = record(bare=[4.0], ours=[4.0], matmul=[1.0])
    assert "transformers' example" not in benchmark.tables(without)


def test_other_losses_are_other_work():
    losses = {"bare": [5.0, 4.9], "ours": [5.0, 4.9005], "matmul": [0.0]}
    require_equal(losses, 1e-3)
    with pytest.raises(UnequalWork, match="^ours: .* 0.0005 away"):
        require_equal(losses, 1e-4)
    with pytest.raises(UnequalWork):
        require_equal(losses | {"ours": [float("nan"), 4.9]}, 1e-3)


def test_linear_layers_take_the_library_s_weights_the_other_way_round():
    """Also where a matrix is square, so that its shape does not tell."""
    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=8)
    ours = GPT2LMHeadModel(config)
    theirs = {
        name: torch.empty_like(weight.t() if "c_" in name and weight.ndim == 2 else weight)
        for name, weight in ours.state_dict().items()
    }
    steppers._take_weights(type("Theirs", (), {"state_dict": lambda self: theirs})(), ours)
    layer, x = ours.transformer.h[0].attn.c_proj, torch.randn(3, 16)
    name = "transformer.h.0.attn.c_proj."
    linear = torch.nn.functional.linear(x, theirs[name + "weight"], theirs[name + "bias"])
    assert torch.allclose(linear, layer(x), atol=1e-6)
    assert torch.equal(theirs["transformer.wte.weight"], ours.transformer.wte.weight)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--steps", "0"], "--steps: 0"),
        (["--nanogpt", "docs"], "docs has no model.py"),
        (["--resid_pdrop", "0.1", "--attn_pdrop", "0.2"], "add --resid_pdrop 0 --attn_pdrop 0"),
        (["--n_layers", "3"], "n_layers"),
    ],
)
def test_what_cannot_be_measured_is_said(options, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=words):
        benchmark.run(["--what", "step", *options])


def test_options_of_a_run_are_none_of_the_preparation(capsys):
    with pytest.raises(SystemExit):
        benchmark.run(["--what", "preparation", "--n_layer", "3"])
    assert "unrecognized arguments: --n_layer 3" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_shows_the_record(kind):
    page, path = PAGE.read_text(encoding="utf-8"), ROOT / "docs" / f"benchmark_{kind}.json"
    assert page == benchmark.with_tables(page, path.name, benchmark.read(path))


@pytest.mark.slow
def test_ways_make_the_same_steps(tiny_recipe, tiny_files, tmp_path):
    output = tmp_path / "record.json"
    options = ["--recipe", str(tiny_recipe()), "--files", str(tiny_files["train"])]
    options += ["--repeats", "2", "--steps", "2", "--ways", "example", "ours"]
    assert benchmark.run(["--what", "step", *options, "--output", str(output)]) == 0
    found = benchmark.read(output)
    assert set(found["turns"]) == {"bare", "example", "ours", "matmul"}
    for way, losses in found["losses"].items():
        assert losses == pytest.approx(found["losses"]["bare"], abs=1e-4) or way == "matmul"
    for turns in found["turns"].values():
        assert len(turns) == 2 and all(each["seconds"] > 0 for each in turns)
    assert found["parameters"] > 0 and "share of matmul" in benchmark.tables(found)


def test_overhead_is_that_of_an_hour():
    """A step of 2 s and 20 evaluations of 9 s; ours 2.02 s and 11 s, and 9 saves of 1 s."""
    bare = {"seconds": 8.0, "evaluations": [9.0], "saves": []}
    ours = {"seconds": 8.08, "evaluations": [11.0], "saves": [1.0]}
    found = FOUND | {"what": "overhead", "turns": {"bare_evaluated": [bare], "ours": [ours]}}
    found["events"] = {"evaluations": 0.05, "saves": 200, "logging": 10}
    expected = (1800 * 2.02 + 20 * 11 + 9) / (1800 * 2 + 20 * 9) - 1
    assert benchmark_step_table.overheads(found) == pytest.approx([expected])
    assert "| wait for a save |  | 1.00 | 9 |" in benchmark.tables(found)
    found["events"] |= {"evaluations": None, "saves": None}
    assert benchmark_step_table.overheads(found) == pytest.approx([0.01])


@pytest.mark.slow
def test_an_evaluated_run_is_timed_by_its_parts(tiny_recipe, tiny_files, tmp_path):
    output = tmp_path / "record.json"
    options = ["--recipe", str(tiny_recipe()), "--files", str(tiny_files["train"])]
    options += ["--repeats", "2", "--steps", "2", "--output", str(output)]
    assert benchmark.run(["--what", "overhead", *options]) == 0
    found = benchmark.read(output)
    for way, turns in found["turns"].items():
        for turn in turns:
            assert len(turn["evaluations"]) == 1
            assert len(turn["saves"]) == (way == "ours")
    assert found["events"] == {"evaluations": 3, "saves": 3, "logging": 1}
