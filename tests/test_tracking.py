"""What Weights & Biases is told, read back from the file that an offline run leaves."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import run_clm
import wandb
from zhgpt import tracking


def records(folder: Path) -> list[dict]:
    """The records of the one .wandb file below the folder, by wandb's own reader."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    program = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file]
    lines = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tracked") / "run"


@pytest.fixture
def run(tracked, tiny_recipe) -> Path:
    """One finished run for all tests of this module."""
    if not tracked.exists():
        path = tiny_recipe(training_arguments__report_to="wandb")
        assert run_clm.run([str(path), "--output_dir", str(tracked), "--n_layer=1"]) == 0
        wandb.finish()
    return tracked


def test_the_run_has_project_group_type_tags_and_configuration(run):
    (first,) = [r["run"] for r in records(run) if r["type"] == "run"]
    assert (first["project"], first["run_group"], first["job_type"]) == ("zhgpt", "tiny", "train")
    assert set(first["tags"]) == {"tiny", "model.n_layer=1"}
    assert first["display_name"] == "tiny-n_layer=1"
    config = first["config"]["update"]
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for key in ("recipe", "ledger", "inputs", "versions", "plan", "overrides"):
        assert config[key] == record[key]
    assert first["run_id"] == record["wandb_id"]


def test_tokens_are_an_axis_of_every_curve(run):
    every = records(run)
    metrics = [r["metric"] for r in every if r["type"] == "metric"]
    axes = {m.get("glob_name") or m.get("name"): m.get("step_metric") for m in metrics}
    assert axes["train/*"] == axes["eval/*"] == "train/tokens"
    rows = [r["history"] for r in every if r["type"] == "history"]
    text = [json.dumps(row) for row in rows]
    scored = [row for row in text if "train/loss" in row or "eval/bits_per_byte" in row]
    assert len(scored) == 6 + 2
    assert all("train/tokens" in row for row in scored)


def test_samples_are_a_table_at_every_evaluation(run):
    rows = [json.dumps(r) for r in records(run) if r["type"] == "history"]
    tables = [row for row in rows if "table-file" in row]
    assert len(tables) == 3


def test_an_account_is_found_where_wandb_finds_it(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not tracking.has_account()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "x" * 40)
    assert tracking.has_account()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not tracking.has_account()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert tracking.has_account()


@pytest.mark.parametrize("trouble", ["fails at once", "fails later", "hangs", "hangs later"])
def test_trouble_with_wandb_costs_no_step(tiny_recipe, tmp_path, monkeypatch, capsys, trouble):
    def fail(*_, **__):
        raise wandb.errors.CommError("unreachable, on purpose")

    def hang(*_, **__):
        threading.Event().wait()

    if trouble.endswith("later"):
        monkeypatch.setattr(tracking.Tracker, "_log", hang if "hangs" in trouble else fail)
    else:
        monkeypatch.setattr(wandb, "init", hang if trouble == "hangs" else fail)
    monkeypatch.setattr(
        tracking, "SECONDS_TO_FINISH", {"finished": 0.1 if "hangs" in trouble else 30}
    )
    path = tiny_recipe(training_arguments__report_to="wandb")
    assert run_clm.run([str(path), "--output_dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert ("does not answer" if "hangs" in trouble else "on purpose; going on without it") in said
    if trouble.endswith("later"):
        wandb.finish()


def test_lines_that_a_killed_segment_lost_are_sent_once_from_the_log():
    """W&B has lines up to 512 tokens; the checkpoint's log goes on to 768."""
    rows = []
    tracker = object.__new__(tracking.Tracker)
    tracker.run = SimpleNamespace(
        log=rows.append, summary={}, config=SimpleNamespace(update=lambda *a, **k: None)
    )
    tracker.sent, tracker._do = 512, lambda job: job()
    nothing = SimpleNamespace(to_dict=dict)
    log = [{"step": n, "loss": 1.0, "tokens": 256 * n} for n in (1, 2, 3)]
    log.insert(2, {"step": 2, "eval_loss": 1.0, "tokens": 512})
    tracker.on_train_begin(
        nothing, SimpleNamespace(log_history=log), None, model=SimpleNamespace(config=nothing)
    )
    kinds = [("eval" if "eval/loss" in row else "train", row["train/global_step"]) for row in rows]
    assert kinds == [("eval", 2), ("train", 3)]
