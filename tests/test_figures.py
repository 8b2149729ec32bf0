"""What a log line holds, each figure against a computation of its own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import run_clm
from zhgpt import figures
from zhgpt.figures import Update


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("figures") / "run"


@pytest.fixture
def run(folder, tiny_recipe, capfd) -> Path:
    """One run for this module: two micro-batches a step, a checkpoint at each."""
    torch.set_num_threads(1)
    if not folder.exists():
        path = tiny_recipe(
            training_arguments__per_device_train_batch_size=4,
            training_arguments__save_steps=1,
            training_arguments__save_total_limit=9,
        )
        assert run_clm.run([str(path), "--output_dir", str(folder)]) == 0
        (folder / "said").write_text(capfd.readouterr().out, encoding="utf-8")
    return folder


def lines(run: Path, key: str = "loss") -> list[dict]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if key in entry]


def test_every_training_line_has_every_figure(run):
    wanted = {"loss", "grad_norm", "learning_rate", "epoch", "step", "tokens", "seconds"}
    wanted |= {"tokens_per_second", "memory_gb", "update_ratio"}
    assert all(wanted == set(line) for line in lines(run))
    assert [line["tokens"] for line in lines(run)] == [256 * step for step in range(1, 7)]
    assert 0.1 < lines(run)[0]["memory_gb"] < 20


def test_the_update_ratio_is_that_of_the_weights_in_two_checkpoints(run):
    for line in lines(run)[1:]:
        step = line["step"]
        before, after = (
            load_file(run / f"checkpoint-{n}/model.safetensors") for n in (step - 1, step)
        )
        moved = sum(((after[k] - before[k]) ** 2).sum() for k in after) ** 0.5
        size = sum((before[k] ** 2).sum() for k in before) ** 0.5
        assert line["update_ratio"] == pytest.approx((moved / size).item(), rel=1e-4)


def test_of_many_weights_a_part_is_enough(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(300, 400), torch.nn.Linear(400, 300))
    found = []
    for values in (10**9, 20_000):
        monkeypatch.setattr(figures, "VALUES", values)
        update = Update()
        torch.manual_seed(1)
        update.before(model)
        with torch.no_grad():
            for weights in model.parameters():
                weights += 1e-3 * torch.randn_like(weights)
        update.after(model)
        found.append(update.ratio())
        assert update.ratio() is None
    assert found[0] == pytest.approx(found[1], rel=0.02)


def test_seconds_grow_over_the_whole_history(run):
    seconds = [line["seconds"] for line in lines(run, "seconds")]
    assert seconds == sorted(seconds) and seconds[-1] > 0


def test_the_rate_and_the_seconds_belong_together(run):
    """Steps alone take no longer than everything together."""
    steps = sum(256 / line["tokens_per_second"] for line in lines(run))
    assert steps <= lines(run)[-1]["seconds"] + 0.5


def test_a_share_of_the_peak_only_where_it_is_known(run, monkeypatch):
    assert not any("share_of_peak" in line for line in lines(run))

    class Arguments:
        device, bf16, fp16, world_size = torch.device("cuda"), True, False, 2

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some card")
    monkeypatch.setattr(figures, "peak", {"some card": 1e14}.get)
    assert figures._peak(Arguments) == 2e14
    Arguments.bf16 = False
    assert figures._peak(Arguments) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "unheard of")
    Arguments.bf16 = True
    assert figures._peak(Arguments) is None


def test_the_terminal_has_a_table_of_at_most_100_columns(run):
    said = (run / "said").read_text(encoding="utf-8").splitlines()
    heads = [n for n, line in enumerate(said) if line.split()[:2] == ["step", "left"]]
    assert len(heads) == 2  # at the beginning and after an evaluation
    rows = [line for line in said if "/6 " in line]
    assert len(rows) == 6 and all(len(line) == len(said[heads[0]]) <= 100 for line in rows)
    for name in ("loss", "lr", "grad", "update", "tokens", "tokens/s", "epoch", "memory"):
        end = said[heads[0]].index(f" {name} " if name == "tokens" else name) + len(name)
        assert rows[0][end - 1] != " "
