"""A run as its user meets it: a process, its exit code, its folder."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT, history
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import run_clm
from zhgpt.errors import InputError


def command(path: Path, output_dir: Path) -> list[str]:
    return [sys.executable, "run_clm.py", str(path), "--output_dir", str(output_dir)]


def start(path: Path, output_dir: Path, **environment: str | None) -> subprocess.Popen:
    """`environment` adds variables; None takes one away."""
    variables = os.environ | environment
    return subprocess.Popen(
        command(path, output_dir),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in variables.items() if value is not None},
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and modification time of every file."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files
    }


@pytest.fixture
def finished(tiny_recipe, tmp_path) -> Path:
    assert run_clm.run([str(tiny_recipe()), "--output_dir", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_a_finished_run_says_so_and_not_a_byte_changes(finished, tiny_recipe, capsys):
    before = fingerprint(finished)
    capsys.readouterr()
    assert run_clm.run([str(tiny_recipe()), "--output_dir", str(finished)]) == 0
    assert fingerprint(finished) == before
    assert "tiny is finished: 6 steps" in capsys.readouterr().out


def test_the_folder_is_a_hugging_face_model(finished):
    tokenizer = AutoTokenizer.from_pretrained(finished)
    model = AutoModelForCausalLM.from_pretrained(finished)
    assert model.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    speak = pipeline("text-generation", model=str(finished))
    text = speak("村民们都很高兴", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("村民们都很高兴")
    for name in (
        "run.json",
        "all_results.json",
        "eval_results.json",
        "trainer_state.json",
        "samples.jsonl",
        "README.md",
        "checkpoint-6",
    ):
        assert (finished / name).exists(), name
    card = (finished / "README.md").read_text(encoding="utf-8")
    assert "eval_bits_per_byte" in card and "村民们都很高兴" in card


def test_the_record_tells_what_was_run(finished):
    record = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "finished"
    assert [s["reason"] for s in record["segments"]] == ["finished"]
    assert record["recipe"]["training_arguments"]["learning_rate"] == 1e-2
    assert record["versions"]["transformers"] == "5.23.0"
    assert record["metrics"]["eval_bits_per_byte"] > 0
    train = record["ledger"]["train"]
    assert train["tokens"] + train["eos_tokens"] == train["blocks"] * 32 + train["remainder_tokens"]


@pytest.mark.parametrize(
    "override, said",
    [
        ("--learning_rate=2e-2", "training_arguments.learning_rate: 0.01 there, 0.02 here"),
        ("--n_layer=1", "model.n_layer: 2 there, 1 here"),
    ],
)
def test_the_folder_of_another_run_is_refused_untouched(finished, tiny_recipe, override, said):
    before = fingerprint(finished)
    with pytest.raises(InputError) as error:
        run_clm.run([str(tiny_recipe()), "--output_dir", str(finished), override])
    assert said in str(error.value) and fingerprint(finished) == before


def test_other_text_is_another_run(finished, tiny_recipe, tiny_files):
    before = fingerprint(finished)
    arguments = ["--train_files", str(tiny_files["validation"]), "--validation_files", "[]"]
    with pytest.raises(InputError, match="corpus"):
        run_clm.run([str(tiny_recipe()), "--output_dir", str(finished), *arguments])
    assert fingerprint(finished) == before


def test_interrupted_and_killed_runs_continue_to_the_uninterrupted_result(tiny_recipe, tmp_path):
    """A signal, then a kill -9, then the end: the same losses and weights, bit for bit."""
    path = tiny_recipe(
        training_arguments__max_steps=300,
        training_arguments__eval_steps=100,
        training_arguments__save_steps=50,
        training_arguments__logging_steps=10,
        model__resid_pdrop=0.1,
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, _, err = finish(start(path, whole))
    assert code == 0, err

    process = start(path, broken)
    wait_for(broken / "checkpoint-50", process)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 75, err
    assert "SIGTERM" in out and "the same command continues" in out

    process = start(path, broken)
    wait_for(broken / "checkpoint-200", process)
    process.kill()
    process.communicate()

    code, out, err = finish(start(path, broken))
    assert code == 0, err
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (broken / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert history(broken, "loss", "eval_loss")[-1] == history(whole, "loss", "eval_loss")[-1]
    record = json.loads((broken / "run.json").read_text())
    assert [s["reason"] for s in record["segments"]] == [
        "SIGTERM",
        "killed (found at the next start)",
        "finished",
    ]


def test_another_micro_batch_continues_with_the_same_data(finished, tiny_recipe):
    """The machine may change between two starts: the curve stays, up to rounding."""
    before = history(finished, "loss", "eval_loss")
    shutil.rmtree(finished / "checkpoint-6")
    (finished / "run.json").write_text(
        (finished / "run.json").read_text().replace('"status": "finished"', '"status": "running"')
    )
    path = tiny_recipe(training_arguments__per_device_train_batch_size=2)
    assert run_clm.run([str(path), "--output_dir", str(finished)]) == 0
    assert history(finished, "loss", "eval_loss") == pytest.approx(before, abs=1e-5)
    assert json.loads((finished / "run.json").read_text())["segments"][1]["from_step"] == 3


def test_killed_after_the_last_checkpoint_never_trains_past_the_end(finished, tiny_recipe):
    weights = (finished / "model.safetensors").read_bytes()
    record = json.loads((finished / "run.json").read_text())
    record["status"] = "running"
    (finished / "run.json").write_text(json.dumps(record))
    (finished / "model.safetensors").unlink()
    assert run_clm.run([str(tiny_recipe()), "--output_dir", str(finished)]) == 0
    assert (finished / "model.safetensors").read_bytes() == weights
    assert not list(finished.glob("checkpoint-7"))


def test_a_log_file_is_plain_and_quiet(tiny_recipe, tmp_path):
    """No bar, no control character, nothing on stderr, no library's warning."""
    path = tiny_recipe(training_arguments__report_to="wandb")
    without_account = {"HOME": str(tmp_path), "WANDB_MODE": None}
    code, out, err = finish(start(path, tmp_path / "run", **without_account))
    assert (code, err) == (0, "")
    assert not [c for c in out if unicodedata.category(c) == "Cc" and c != "\n"]
    for word in ("recipe", "parameters", "tokens/s", "left", "bits/byte", "wandb sync"):
        assert word in out, word
    assert "arning" not in out


def test_no_secret_and_no_environment_reaches_a_file(tiny_recipe, tmp_path):
    path = tiny_recipe(training_arguments__report_to="wandb")
    secrets = {"WANDB_API_KEY": "0123456789" * 4, "HF_TOKEN": "hf_thisissecret", "MY_OWN": "hush5"}
    code, _, err = finish(start(path, tmp_path / "run", **secrets))
    assert code == 0, err
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [s for s in secrets.values() if s.encode() in content], file
