"""What Weights & Biases is told, read back from the file that an offline run leaves."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

import run_clm
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


def tables(folder: Path) -> list[list]:
    """The rows of each table of samples, in the order of their steps."""
    files = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    rows = [json.loads(path.read_text(encoding="utf-8"))["data"] for path in files]
    return sorted(rows, key=len)


def test_each_table_has_all_samples_so_far(run):
    assert [[row[0] for row in table] for table in tables(run)] == [[0], [0, 3], [0, 3, 6]]


def test_the_table_goes_on_after_a_preemption(tmp_path):
    """Of a former start there is the file; of rows that are made again, the new ones count."""
    logged = []
    rows = [{"step": n, "tokens": 256 * n, "prompt": "村", "text": f"{n}"} for n in range(4)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:3])
    (tmp_path / "samples.jsonl").write_text(lines + '{"step": 3, "to', encoding="utf-8")
    tracker = object.__new__(tracking.Tracker)
    tracker.segment, tracker.sent = SimpleNamespace(folder=tmp_path), 512
    tracker.run = SimpleNamespace(log=logged.append)
    tracker._samples(rows[3:])
    tracker._samples(rows[1:2])  # W&B has it already
    (only,) = logged
    assert [row[3] for row in only["samples"].data] == ["0", "1", "2", "3"]
    assert only["train/tokens"] == 768


def test_an_alarm_is_an_alert(tiny_recipe, tmp_path, monkeypatch):
    collapsed = [("村民们都很高兴", "，在" + "“" * 60)]
    monkeypatch.setattr("zhgpt.callbacks.continuations", lambda *_: collapsed)
    path = tiny_recipe(training_arguments__report_to="wandb")
    assert run_clm.run([str(path), "--output_dir", str(tmp_path / "run")]) == 0
    wandb.finish()
    (alert,) = [r["alert"] for r in records(tmp_path / "run") if r["type"] == "alert"]
    assert alert["title"] == "repetition" and "step 6" in alert["text"]


def test_two_runs_in_two_places_have_no_other_configuration(run):
    (first,) = [r["run"] for r in records(run) if r["type"] == "run"]
    assert str(run) not in json.dumps(first["config"])


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


@pytest.mark.parametrize("evaluated", [256, 512])
def test_lines_that_a_killed_segment_lost_are_sent_once_from_the_log(evaluated):
    """W&B has lines up to 512 tokens; the checkpoint's log goes on to 768."""
    rows = []
    tracker = object.__new__(tracking.Tracker)
    tracker.run = SimpleNamespace(
        log=rows.append, summary={}, config=SimpleNamespace(update=lambda *a, **k: None)
    )
    tracker.sent, tracker.evaluated, tracker._do = 512, evaluated, lambda job: job()
    nothing = SimpleNamespace(to_dict=dict)
    log = [{"step": n, "loss": 1.0, "tokens": 256 * n} for n in (1, 2, 3)]
    log.insert(2, {"step": 2, "eval_loss": 1.0, "tokens": 512})
    tracker.on_train_begin(
        nothing, SimpleNamespace(log_history=log), None, model=SimpleNamespace(config=nothing)
    )
    kinds = [("eval" if "eval/loss" in row else "train", row["train/global_step"]) for row in rows]
    assert kinds == [("eval", 2), ("train", 3)][evaluated == 512 :]
