"""A run that was stopped anywhere ends as the one that was not: bit for bit, on a CPU."""

import hashlib
import inspect
import json
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import Trainer

import run_clm
from zhgpt import checkpoint, keeping, memory, randomness, schedule, stopping, watch
from zhgpt.errors import InputError, Left, exit_code

# The mixin was written for these sources; read what has changed before a number here is changed.
SOURCES = {
    "_save_checkpoint": "a9111e30faa9",
    "_save": "b136889e8792",
    "_save_rng_state": "27a97d106124",
    "_save_optimizer_and_scheduler": "c5ef974db69a",
    "_save_scaler": "fd1ce04cfea4",
    "_load_from_checkpoint": "a2804e8d93a2",
    "_load_optimizer_and_scheduler": "741032f57d6f",
    "_load_rng_state": "d5ebdfc0a088",
    "_load_best_model": "0e183d55a9db",
    "_inner_training_loop": "20ec4276e99f",
    "_init_training_state": "8fbd17ebb7d3",
    "_run_epoch": "31aff00f34c3",
    "_maybe_log_save_evaluate": "af101534f0f7",
    "_evaluate": "64dfb995ce20",
    "_determine_best_metric": "7aa77355a0c3",
    "_issue_warnings_after_load": "7ccdd73aac16",
    "_finalize_training": "6d6d83d6a271",
    "set_initial_training_values": "81697f5f3100",
    "create_accelerator_and_postprocess": "d649720bec7e",
    "autocast_smart_context_manager": "0475f690559e",
    "_prepare_for_training": "f55950593d7e",
    "_get_grad_norm": "913ba6f52f07",
    "save_model": "705727ee10c8",
}


@pytest.mark.parametrize("method", SOURCES)
def test_what_is_relied_on_in_the_library_is_as_it_was(method):
    source = inspect.getsource(getattr(Trainer, method)).encode()
    found = hashlib.sha256(source).hexdigest()[:12]
    assert found == SOURCES[method], f"Trainer.{method} of transformers {transformers.__version__}"


class Killed(BaseException):
    """Stands for SIGKILL where no process of its own is worth its seconds."""


STEPS = dict(
    tokens_per_step=2048,  # 64 blocks: an epoch ends inside of a step
    training_arguments__max_steps=12,
    training_arguments__logging_steps=2,
    training_arguments__eval_steps=3,
    training_arguments__save_steps=5,
    training_arguments__per_device_train_batch_size=16,
    model__resid_pdrop=0.1,
    model__embd_pdrop=0.1,
)


def run(path, folder, *words) -> int:
    return exit_code(run_clm.run, [str(path), "--output_dir", str(folder), *words])


def stop_at(monkeypatch, hook: str, step: int, error: BaseException) -> None:
    """Once, at the third call of `hook` at this step or later, if it is called so often there."""
    calls = []

    def fail(self, args, state, control, **kwargs):
        calls.append(state.global_step >= step)
        if sum(calls) == (3 if hook in ("on_substep_end", "on_prediction_step") else 1):
            self.left = isinstance(error, Left)
            raise error

    monkeypatch.setattr(stopping.LeaveInTime, hook, fail, raising=False)


def outcome(folder: Path) -> dict:
    """All that two equal runs have in common: everything but times."""
    state = json.loads((folder / "trainer_state.json").read_text())
    history = [
        {
            k: v
            for k, v in entry.items()
            if not k.endswith(("runtime", "per_second", "seconds", "memory_gb"))
        }
        for entry in state["log_history"]
    ]
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {
        "history": history,
        "weights": weights,
        "samples": (folder / "samples.jsonl").read_text(),
    }


@pytest.fixture(autouse=True)
def no_wait_for_workers(monkeypatch):
    """Those of a run that was killed are waited for when its garbage is collected, 5 s each."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.fixture(scope="module")
def twins():
    return {}


WORKERS = dict(
    training_arguments__dataloader_num_workers=2,
    training_arguments__dataloader_persistent_workers=True,
    training_arguments__per_device_train_batch_size=64,
)
START = dict(training_arguments__eval_on_start=True)
CASES = {
    "mid_accumulation": (STEPS, "on_substep_end", 7),
    "evaluation": (STEPS, "on_prediction_step", 6),
    "saving": (STEPS, "on_save", 10),
    "sampling": (STEPS, "on_evaluate", 9),
    "first_batch": (STEPS, "on_step_begin", 0),
    "right_after_a_resume": (STEPS, "on_step_begin", 5),
    "workers": (STEPS | WORKERS, "on_log", 8),
    "evaluated_at_the_start": (STEPS | START, "on_step_end", 7),
    "muon": (STEPS | dict(muon={"matrix_learning_rate": 1e-2}), "on_step_end", 7),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_continued_is_never_killed(tiny_recipe, tmp_path, twins, monkeypatch, case):
    changes, hook, step = CASES[case]
    path = tiny_recipe(**changes)
    key = json.dumps(changes)
    if key not in twins:
        assert run(path, tmp_path / "whole") == 0
        twins[key] = outcome(tmp_path / "whole")
    with monkeypatch.context() as patches:
        stop_at(patches, hook, step, Killed())
        with pytest.raises(Killed):
            run(path, tmp_path / "broken")
    assert run(path, tmp_path / "broken") == 0
    assert outcome(tmp_path / "broken") == twins[key]


def test_an_evaluation_that_is_left_is_made_at_the_next_start(
    tiny_recipe, tmp_path, twins, monkeypatch
):
    """Left twice, the second time in the evaluation that is made again; figures are of one run."""
    path, folder = tiny_recipe(**STEPS), tmp_path / "broken"
    if json.dumps(STEPS) not in twins:
        assert run(path, tmp_path / "whole") == 0
        twins[json.dumps(STEPS)] = outcome(tmp_path / "whole")
    for _ in range(2):
        with monkeypatch.context() as patches:
            stop_at(patches, "on_prediction_step", 9, Left("SIGTERM"))
            assert run(path, folder) == 75
        kept = json.loads((folder / "checkpoint-9" / keeping.CONTINUATION).read_text())
        assert kept["evaluation_due"]
    assert run(path, folder) == 0
    assert outcome(folder) == twins[json.dumps(STEPS)]
    seconds = json.loads((folder / "train_results.json").read_text())
    assert seconds["train_runtime"] > kept["seconds"]
    made = seconds["train_steps_per_second"] * seconds["train_runtime"]
    assert made == pytest.approx(12, rel=0.02)


def test_more_steps_under_a_constant_rate_are_the_longer_run(tiny_recipe, tmp_path, capsys):
    """Also other intervals take effect, and both are recorded."""
    settings = dict(training_arguments__lr_scheduler_type="constant", model__resid_pdrop=0.1)
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    assert run(tiny_recipe(**settings, training_arguments__max_steps=8), whole) == 0
    assert run(tiny_recipe(**settings), grown) == 0
    longer = dict(training_arguments__max_steps=8, training_arguments__save_steps=7)
    assert run(tiny_recipe(**settings, **longer), grown) == 0
    assert (grown / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {p.name for p in grown.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (3, 6, 7, 8)}
    changed = json.loads((grown / "run.json").read_text())["changes"][0]["changed"]
    assert "training_arguments.save_steps: 3.0 there, 7.0 here" in changed
    assert "training_arguments.max_steps: 6 there, 8 here" in changed
    assert run(tiny_recipe(**settings), grown) == 2
    assert "longer, not shorter" in capsys.readouterr().err
    # A new run from these weights, and what is not of its shape.
    assert run(tiny_recipe(), tmp_path / "new", "--init_from", str(grown)) == 0
    first = json.loads((tmp_path / "new" / "trainer_state.json").read_text())["log_history"][0]
    assert first["loss"] < 0.9 * outcome(whole)["history"][0]["loss"]
    assert run(tiny_recipe(model__n_layer=1), tmp_path / "x", "--init_from", str(grown)) == 2
    assert "n_layer: 2 there, 1 here" in capsys.readouterr().err


class Code:
    """Pickled, it is a call: what a file with code in it does when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def stopped(tiny_recipe, tmp_path, monkeypatch):
    """A recipe and the folder of its run, which was killed after checkpoint-3."""
    path, folder = tiny_recipe(), tmp_path / "run"
    with monkeypatch.context() as patches:
        stop_at(patches, "on_step_end", 5, Killed())
        with pytest.raises(Killed):
            run(path, folder)
    return path, folder


@pytest.mark.parametrize("write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_code_in_a_sealed_checkpoint_is_refused_and_never_executed(stopped, capsys, write):
    path, folder = stopped
    there = checkpoint.read(folder / "checkpoint-3")
    partial = folder / ".checkpoint-3.partial"
    (folder / "checkpoint-3").rename(partial)
    write(Code(folder / "executed"), partial / "optimizer.pt")
    origin = checkpoint.Origin(there["recipe_hash"], there["versions"])
    (partial / checkpoint.SEAL).unlink()
    checkpoint.publish(partial, origin, there["tokens"])
    assert run(path, folder) == 2
    assert "optimizer.pt: holds something else than data" in capsys.readouterr().err
    assert not (folder / "executed").exists()


def full(folder, needed):
    raise OSError("the disk is full")


def test_a_full_disk_pauses_saving_not_training(tiny_recipe, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        keeping,
        "_require_space",
        lambda *sizes: asked.append(1) or (len(asked) == 1 and full(*sizes)),
    )
    assert run(tiny_recipe(), tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert out.count("checkpoint-3 could not be saved") == 1 and "the disk is full" in out
    assert "checkpoint-6 is saved; saving works again" in out
    assert [p.name for p in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-6"]


def test_a_last_checkpoint_that_cannot_be_saved_is_75(stopped, monkeypatch, capsys):
    path, folder = stopped
    with monkeypatch.context() as patches:
        patches.setattr(keeping, "_require_space", full)
        assert run(path, folder) == 75
    out = capsys.readouterr().out
    assert "step 6 could not be saved" in out and "the same command continues" in out
    assert [p.name for p in folder.glob("*checkpoint-*")] == ["checkpoint-3"]
    assert run(path, folder) == 0


def test_nothing_of_a_run_is_a_pickle_of_settings_and_all_can_read_it(stopped):
    path, folder = stopped
    assert run(path, folder) == 0
    assert not list(folder.rglob("training_args.bin"))
    weights = [folder / "model.safetensors", folder / "checkpoint-6" / "model.safetensors"]
    assert [p.stat().st_mode & 0o777 for p in weights] == [0o644, 0o644]


def test_the_best_checkpoint_stays_and_its_weights_are_the_result(tiny_recipe, tmp_path):
    """The rate is so high that the first evaluation is the best."""
    best = dict(
        training_arguments__load_best_model_at_end=True,
        training_arguments__metric_for_best_model="eval_bits_per_byte",
        training_arguments__greater_is_better=False,
        training_arguments__save_total_limit=2,
        training_arguments__learning_rate=3.0,
        training_arguments__eval_steps=1,
        training_arguments__save_steps=1,
    )
    folder = tmp_path / "run"
    assert run(tiny_recipe(**best), folder, "--accept=steep-rate") == 0
    state = json.loads((folder / "trainer_state.json").read_text())
    kept = {checkpoint.step(p) for p in folder.glob("checkpoint-*")}
    assert kept == {state["best_global_step"], 5, 6}
    its = folder / f"checkpoint-{state['best_global_step']}" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == its.read_bytes()
    figures = json.loads((folder / "eval_results.json").read_text())
    assert figures["eval_bits_per_byte"] == pytest.approx(state["best_metric"])


def arguments(kind, **changes):
    kwargs = {"warmup_stable_decay": {"num_decay_steps": 20}}.get(kind)
    made = dict(learning_rate=1e-3, warmup_steps=10, lr_scheduler_type=kind, max_steps=200)
    made |= dict(lr_scheduler_kwargs=kwargs, use_cpu=True, output_dir="unused")
    return transformers.TrainingArguments(**made | changes)


@pytest.mark.parametrize(
    "kind, step, may",
    [
        ("constant", 100, True),
        ("constant_with_warmup", 60, True),
        ("warmup_stable_decay", 80, True),
        ("warmup_stable_decay", 90, False),
        ("cosine", 5, True),
        ("cosine", 60, False),
        ("linear", 100, False),
    ],
)
def test_a_run_is_made_longer_where_its_rate_does_not_jump(kind, step, may):
    record = {"status": "running", "plan": {"max_steps": 100}}
    if may:
        schedule.require_length(record, arguments(kind), step, "runs/x")
    else:
        with pytest.raises(InputError, match=f"100 steps; asked for are 200.*{kind} gives"):
            schedule.require_length(record, arguments(kind), step, "runs/x")


def test_an_evaluation_takes_no_random_numbers():
    def state():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = state()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with randomness.kept():
        state()
    assert state() == expected


def test_a_time_limit_knows_how_long_a_save_takes_to_its_last_byte(
    tiny_recipe, tmp_path, monkeypatch
):
    """The first save is refused once: the minute until the next try is no part of a save."""
    told, asked, real = [], [], checkpoint.publish
    monkeypatch.setattr(watch.Watch, "saved", lambda self, seconds: told.append(seconds))
    monkeypatch.setattr(checkpoint, "publish", lambda *a: (time.sleep(0.2), real(*a))[1])
    monkeypatch.setattr(
        keeping, "_require_space", lambda *a: asked.append(1) or (len(asked) == 1 and full(*a))
    )
    assert run(tiny_recipe(), tmp_path / "run") == 0
    assert len(told) == 1 and 0.2 < told[0]


def test_the_optimizer_waits_for_the_copy(tiny_recipe, tmp_path, twins, monkeypatch):
    """However late the copy is made: what it holds are the values before the next step."""
    path = tiny_recipe(**STEPS)
    if json.dumps(STEPS) not in twins:
        assert run(path, tmp_path / "whole") == 0
        twins[json.dumps(STEPS)] = outcome(tmp_path / "whole")
    fill = memory.Memory.fill
    monkeypatch.setattr(memory.Memory, "fill", lambda self: (time.sleep(0.3), fill(self))[1])
    with monkeypatch.context() as patches:
        stop_at(patches, "on_step_end", 8, Killed())
        with pytest.raises(Killed):
            run(path, tmp_path / "broken")
    assert run(path, tmp_path / "broken") == 0
    assert outcome(tmp_path / "broken") == twins[json.dumps(STEPS)]
