"""Guards on real runs: each fault is simulated, told once, recorded, and answered as asked."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from accelerate.data_loader import BatchSamplerShard
from conftest import ROOT
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import AutoTokenizer, Trainer

import run_clm
from zhgpt import command, corpus, culprit, guards, leaving, order, recipe, unigram
from zhgpt.errors import Left, Stopped, exit_code
from zhgpt.repetition import Usual
from zhgpt.stillness import Stillness

MICRO = dict(training_arguments__per_device_train_batch_size=4)  # two micro-batches a step


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def start(path: Path, folder: Path) -> int:
    return run_clm.run([str(path), "--output_dir", str(folder)])


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def sealed(folder: Path) -> list[int]:
    return sorted(
        int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*/seal.json".split("/")[0])
    )


def change_loss(monkeypatch, change, step: int, micro_batch: int | None = None, times: int = 1):
    """`change(loss, model)` in the place of the loss of that step, `times` often in all."""
    whole, calls = Trainer.compute_loss, {"changed": 0, "micro": 0, "step": 0}

    def compute_loss(self, model, *args, **kwargs):
        loss = whole(self, model, *args, **kwargs)
        if not model.training:
            return loss
        here = self.state.global_step + 1
        calls["micro"] = calls["micro"] + 1 if calls["step"] == here else 0
        calls["step"] = here
        wanted = here == step and micro_batch in (None, calls["micro"])
        if wanted and calls["changed"] < times:
            calls["changed"] += 1
            return change(loss, model)
        return loss

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)


def stream(path: Path):
    """The recipe's tokenizer and training blocks."""
    pins = command.read([str(path)], recipe.ClmRecipe, constructors={}).recipe
    tokenizer = AutoTokenizer.from_pretrained(pins.tokenizer)
    backend, eos = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    return tokenizer, corpus.prepare(pins.corpus, pins.cleaning, backend, eos).train


def documents_of(path: Path, numbers: list[int]) -> set[str]:
    """Hashes of the documents that touch the blocks, from one pass over all of them."""
    tokenizer, blocks = stream(path)
    ids = np.concatenate(blocks["input_ids"]).tolist()
    found, begin = set(), 0
    for end, token in enumerate(ids):
        if token == tokenizer.eos_token_id:
            if any(begin < 32 * (n + 1) and end >= 32 * n for n in numbers):
                text = tokenizer.decode(ids[begin:end])
                found.add(f"{xxhash.xxh3_64_intdigest(text.encode()):016x}")
            begin = end + 1
    return found


def test_a_loss_that_is_no_number_stops_and_its_documents_are_recorded(
    tiny_recipe, tiny_files, tmp_path, monkeypatch, capsys
):
    path = tiny_recipe(**MICRO, training_arguments__logging_steps=3)
    change_loss(monkeypatch, lambda loss, model: loss * math.nan, step=5, micro_batch=1)
    assert exit_code(lambda _: start(path, tmp_path / "run"), None) == 2
    (alarm,) = record(tmp_path / "run")["alarms"]
    assert (alarm["guard"], alarm["step"], alarm["action"]) == ("not_finite", 5, "stop")
    batch = alarm["batch"]
    assert (batch["step"], batch["micro_batch"], batch["process"]) == (5, 1, 0)
    places = range(4 * 8 + 4, 5 * 8)
    _, blocks = stream(path)
    assert batch["blocks"] == sorted(order.block_order(len(blocks), places, seed=42).tolist())

    hashes = {document["hash"] for document in batch["documents"]}
    assert hashes == documents_of(path, batch["blocks"])
    texts = [json.loads(line)["text"] for line in tiny_files["train"].open(encoding="utf-8")]
    known = {f"{xxhash.xxh3_64_intdigest(text.encode()):016x}": text for text in texts}
    assert all(known[d["hash"]].startswith(d["begins"]) for d in batch["documents"])

    out = capsys.readouterr()
    assert "ALARM not_finite at step 5" in out.out and "micro-batch 1" in out.err
    assert [p.name for p in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-3"]
    assert record(tmp_path / "run")["status"] == "failed"

    # The cause is gone: the same command goes on from the checkpoint before it.
    assert start(path, tmp_path / "run") == 0
    assert record(tmp_path / "run")["alarms"] == [alarm]


def broken_gradient(loss, model):
    """Nothing is added to the loss, and NaN to the gradient."""
    return loss + torch.sqrt(0 * model.transformer.wte.weight.sum())


@pytest.mark.parametrize("action", ["stop", "note", "off"])
def test_a_gradient_that_is_no_number(tiny_recipe, tmp_path, monkeypatch, capsys, action):
    """No checkpoint of what it leaves is sealed, whatever the recipe says."""
    path = tiny_recipe(**MICRO, guards={"not_finite": action})
    change_loss(monkeypatch, broken_gradient, step=4, micro_batch=0)
    code = exit_code(lambda _: start(path, tmp_path / "run"), None)
    assert code == (2 if action == "stop" else 0)
    assert [p.name for p in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-3"]
    alarms = record(tmp_path / "run").get("alarms", [])
    assert [a["action"] for a in alarms] == ([] if action == "off" else [action])
    if action != "off":
        assert "gradient of step 4" in alarms[0]["text"] and len(alarms[0]["batch"]["blocks"]) == 8
    assert ("is not saved" in capsys.readouterr().out) == (action != "stop")


def test_weights_that_are_no_numbers_are_not_saved(tiny_recipe, tmp_path, monkeypatch):
    def spoil(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            model.transformer.wte.weight.data[7] = math.inf

    from zhgpt.figures import Figures

    monkeypatch.setattr(Figures, "on_step_end", spoil)
    monkeypatch.setattr(Figures, "on_log", lambda *a, logs=None, **k: None)
    monkeypatch.setattr("zhgpt.console.Console.on_log", lambda *a, **k: None)
    with pytest.raises(Stopped, match="weights"):
        start(tiny_recipe(training_arguments__logging_steps=5), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*checkpoint-*"))


def test_a_jump_is_told_once_and_a_stop_can_be_gone_past(
    tiny_recipe, tmp_path, monkeypatch, capsys
):
    path = tiny_recipe(
        training_arguments__max_steps=14,
        training_arguments__learning_rate=1e-3,
        training_arguments__eval_strategy="no",
        training_arguments__save_steps=50,
        guards={"loss_jump": "stop", "unigram_plateau": "off"},
    )
    change_loss(monkeypatch, lambda loss, model: 3 * loss, step=11, times=99)
    with pytest.raises(Stopped, match="loss_jump: stopped at step 11"):
        start(path, tmp_path / "run")
    assert (tmp_path / "run/checkpoint-11/seal.json").exists()
    assert start(path, tmp_path / "run") == 0
    (alarm,) = record(tmp_path / "run")["alarms"]
    assert (alarm["step"], alarm["tokens"]) == (11, 11 * 256)
    assert capsys.readouterr().out.count("ALARM") == 1


def test_a_fault_of_the_machine_leaves_with_75_each_time(tiny_recipe, tmp_path, monkeypatch):
    path = tiny_recipe(guards={"throughput_drop": "stop"})
    slow = {2, 4}

    def drop(rates):
        return "slow" if len(rates) == 2 and slow and (slow.pop() or True) else None

    monkeypatch.setattr(guards, "throughput_drop", drop)
    for _ in range(2):
        with pytest.raises(Left) as left:
            start(path, tmp_path / "run")
        assert left.value.reason == "guard throughput_drop"
    assert start(path, tmp_path / "run") == 0
    found = record(tmp_path / "run")
    assert [alarm["guard"] for alarm in found["alarms"]] == ["throughput_drop"] * 2
    assert [s["reason"] for s in found["segments"]][:2] == ["guard throughput_drop"] * 2


@pytest.mark.parametrize("action", ["note", "stop"])
def test_a_run_that_stands_still_is_told_by_a_thread(tiny_recipe, tmp_path, monkeypatch, action):
    """The step waits for the alarm: no hook of the loop could tell it."""
    told = threading.Event()
    asked = []
    monkeypatch.setattr(leaving, "ask", lambda *words: asked.append(words[0]))

    def hang(loss, model):
        limit = time.monotonic() + 60
        while "alarms" not in record(tmp_path / "run") and time.monotonic() < limit:
            told.wait(0.05)
        return loss

    change_loss(monkeypatch, hang, step=3)
    path = tiny_recipe(guards={"no_progress": action, "no_progress_minutes": 0.02})
    try:
        assert start(path, tmp_path / "run") == 0 and action == "note"
    except Left as left:  # inside another program nothing can be ended from a thread
        assert action == "stop" and left.reason == "guard no_progress"
    alarm = record(tmp_path / "run")["alarms"][0]
    assert alarm["guard"] == "no_progress" and "nothing was done for" in alarm["text"]
    assert asked == (["guard no_progress"] if action == "stop" else [])


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch):
    acted = []
    watch = Stillness(10, acted.append)
    ticks = iter([False] * 100 + [True])
    clock = iter(range(0, 10**9, 3600))  # an hour passes between two looks
    monkeypatch.setattr(watch.ended, "wait", lambda seconds: next(ticks))
    monkeypatch.setattr("zhgpt.stillness.time.monotonic", lambda: float(next(clock)))
    watch._look()
    assert len(acted) == 1 and 10 < acted[0] < 11  # at 10 seconds a look: after 60 of them


def test_collapsed_samples_are_an_alarm(tiny_recipe, tmp_path, monkeypatch, capsys):
    def collapsed(model, tokenizer, section):
        return [(prompt, "，在" + "“" * 60) for prompt in section.prompts]

    monkeypatch.setattr("zhgpt.callbacks.continuations", collapsed)
    assert start(tiny_recipe(), tmp_path / "run") == 0
    (alarm,) = record(tmp_path / "run")["alarms"]
    assert (alarm["guard"], alarm["step"]) == ("repetition", 6)
    assert "samples: distinct-4 0.0" in capsys.readouterr().out
    state = json.loads((tmp_path / "run/trainer_state.json").read_text())
    lines = [e for e in state["log_history"] if "eval_samples_repeating" in e]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["eval_samples_punctuation"] > 0.9 > lines[0]["eval_text_punctuation"]


def test_a_healthy_run_has_no_alarm_and_none_of_it_changes_the_result(tiny_recipe, tmp_path):
    assert start(tiny_recipe(samples__max_new_tokens=40), tmp_path / "all") == 0
    off = dict.fromkeys(vars(recipe.GuardsSection()), "off") | {"no_progress_minutes": 1.0}
    assert start(tiny_recipe(guards=off, samples__prompts=[]), tmp_path / "none") == 0
    assert "alarms" not in record(tmp_path / "all")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("all", "none")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert record(tmp_path / "all")["recipe_hash"] == record(tmp_path / "none")["recipe_hash"]


def test_places_are_those_that_accelerate_gives_each_process():
    shape = culprit.Shape(micro_batch=3, accumulation=2, processes=2)
    for process in range(2):
        batches = BatchSampler(SequentialSampler(range(48)), 3, drop_last=False)
        given = list(BatchSamplerShard(batches, 2, process))
        places = [
            list(shape.of_micro_batch(step, micro, process))
            for step in (1, 2, 3, 4)
            for micro in (0, 1)
        ]
        assert given == places
    assert list(shape.of_step(2)) == list(range(12, 24))


def test_a_document_over_many_blocks_is_found_whole(tiny_recipe, tiny_files):
    """By its hash, from any block of it."""
    path = tiny_recipe(corpus__block_size=4)
    tokenizer, blocks = stream(path)
    numbers = [0, 1, len(blocks) // 2, len(blocks) - 1]
    texts = [json.loads(line)["text"] for line in tiny_files["train"].open(encoding="utf-8")]
    known = {f"{xxhash.xxh3_64_intdigest(text.encode()):016x}" for text in texts}
    for number in numbers:
        places = [
            p for p in range(len(blocks)) if order.block_order(len(blocks), [p], 1)[0] == number
        ]
        found = culprit.trace(
            blocks, places, 1, tokenizer.backend_tokenizer, tokenizer.eos_token_id
        )
        assert found["blocks"] == [number] and found["documents"]
        for document in found["documents"]:
            assert document["from"] <= number < document["to"]
            assert document.get("cut") or document["hash"] in known


def test_the_entropy_of_single_tokens(tiny_recipe):
    _, blocks = stream(tiny_recipe())
    ids = np.concatenate(blocks["input_ids"])
    shares = np.array([np.mean(ids == token) for token in set(ids.tolist())])
    assert unigram.entropy(blocks) == pytest.approx(-(shares * np.log(shares)).sum())


def test_the_measure_is_the_whole_validation_text(tiny_recipe, tmp_path, monkeypatch):
    texts = []
    whole = Usual.__init__
    monkeypatch.setattr(
        Usual, "__init__", lambda self, text: (texts.append(text), whole(self, text))[1]
    )
    assert start(tiny_recipe(samples__max_new_tokens=40), tmp_path / "run") == 0
    assert "第2卷第0篇" in texts[0] and "<|endoftext|>" not in texts[0]


OF_SECOND = """
import math, os, sys
from transformers import Trainer
import run_clm
from zhgpt.errors import exit_code

whole, calls = Trainer.compute_loss, []

def compute_loss(self, model, *args, **kwargs):
    loss = whole(self, model, *args, **kwargs)
    if model.training and self.state.global_step == 3 and os.environ["RANK"] == "1":
        calls.append(loss)
        return loss * math.nan if len(calls) == 2 else loss
    return loss

Trainer.compute_loss = compute_loss
sys.exit(exit_code(run_clm.run, None))
"""


@pytest.mark.slow
def test_of_two_processes_the_second_one_is_named(tiny_recipe, tmp_path):
    """Its loss alone is no number: both stop after the same step, and its documents are told."""
    path = tiny_recipe(training_arguments__per_device_train_batch_size=2)
    (tmp_path / "second.py").write_text(OF_SECOND, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*torchrun, tmp_path / "second.py", path, "--output_dir", tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0
    (alarm,) = record(tmp_path / "run")["alarms"]
    batch = alarm["batch"]
    assert (alarm["step"], batch["process"], batch["micro_batch"]) == (4, 1, 1)
    _, blocks = stream(path)
    places = range(3 * 8 + 6, 4 * 8)  # of four micro-batches of two blocks, the last
    assert batch["blocks"] == sorted(order.block_order(len(blocks), places, seed=42).tolist())
    assert result.stdout.count("ALARM") == 1 and "Stopped" not in result.stderr
    assert [p.name for p in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-3"]
