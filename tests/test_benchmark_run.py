"""What saves and starts cost: each way does its work, and the page shows what was recorded."""

import json

import pytest
from conftest import ROOT
from transformers import GPT2Config

from zhgpt import benchmark, benchmark_run_table, benchmark_startup, checkpoint
from zhgpt.benchmark_save import WAYS, Saves
from zhgpt.benchmark_startup import PARTS, Starts, age

PAGE = ROOT / "docs" / "speed.md"


@pytest.mark.parametrize("kind", ["save", "startup"])
def test_the_page_shows_the_record(kind):
    page, path = PAGE.read_text(encoding="utf-8"), ROOT / "docs" / f"benchmark_{kind}.json"
    assert page == benchmark.with_tables(page, path.name, benchmark.read(path))


def test_every_way_saves_a_whole_checkpoint(tiny_files, tmp_path):
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=400)
    said = []
    record = Saves(config, tiny_files["tokenizer"], 1, tmp_path, said.append, steps=2).measure()
    assert list(record["ways"]) == list(WAYS) and len(said) == 4
    for way, (turn,) in record["ways"].items():
        # Weights and two moments of 32 bits each, tied weights once.
        assert turn["bytes"] > 12 * record["parameters"]
        assert turn["stall"] == turn["call"] + turn["wait"] > 0 and len(turn["steps"]) == 2
        assert ("sealed" in turn) == (way == "ours")
    described = {"machine": benchmark.machine.describe(), "versions": {}, "commit": None}
    described |= {"modified": True, "finished": "2026-11-26"}
    assert "ours, the first of a run" in benchmark_run_table.save(described | record)


def test_a_target_is_met_by_the_ratio_within_a_repeat():
    turns = {"trainer": [10.0, 1.0], "trainer_on_disk": [20.0, 2.0], "ours": [1.0, 0.2]}
    ways = {way: [{"stall": seconds} for seconds in several] for way, several in turns.items()}
    found = benchmark_run_table.save_targets({"ways": ways})
    assert [figures for _, figures, *_ in found] == [[10, 20], [5, 10]]


def test_a_run_is_made_as_old_as_it_has_to_be(tmp_path):
    partial = checkpoint.begin(tmp_path, 10)
    state = {"global_step": 10, "log_history": [{"step": 10, "loss": 1.0}]}
    (partial / "trainer_state.json").write_text(json.dumps(state))
    (partial / "continuation.json").write_text("{}")
    benchmark_startup.save_schedule(partial, {"last_epoch": 10})
    origin = checkpoint.origin("of a run")
    checkpoint.publish(partial, origin, 2560)
    age(tmp_path, 1000)
    said = []
    assert checkpoint.newest(tmp_path, origin, said.append).name == "checkpoint-1000"
    assert checkpoint.tokens(tmp_path / "checkpoint-1000") == 256_000
    old = json.loads((tmp_path / "checkpoint-1000" / "trainer_state.json").read_text())
    assert old["global_step"] == 1000 and len(old["log_history"]) == 9


@pytest.mark.slow
def test_starts_are_timed_to_the_end_of_the_first_step(tmp_path):
    record = Starts(ROOT / "recipes" / "village.json", 1, tmp_path, print).measure()
    for (start,) in record["starts"].values():
        assert list(start["parts"]) == PARTS
        assert all(part["seconds"] >= 0 for part in start["parts"].values())
    assert record["imports"]["torch"] > 0
