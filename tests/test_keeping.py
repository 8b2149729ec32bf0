"""A run that was stopped anywhere ends as the one that was not: bit for bit, on a CPU."""

import hashlib
import inspect
import json
from pathlib import Path

import pytest
import transformers
from transformers import Trainer

import run_clm
from zhgpt import callbacks
from zhgpt.errors import exit_code

# The mixin was written for these sources; read what has changed before a number here is changed.
SOURCES = {
    "_save_checkpoint": "",
    "_save": "",
    "_save_rng_state": "",
    "_save_optimizer_and_scheduler": "",
    "_save_scaler": "",
    "_load_from_checkpoint": "",
    "_load_optimizer_and_scheduler": "",
    "_load_rng_state": "",
    "_load_best_model": "",
    "_inner_training_loop": "",
    "_init_training_state": "",
    "_run_epoch": "",
    "_maybe_log_save_evaluate": "",
    "_evaluate": "",
    "_determine_best_metric": "",
    "_finalize_training": "",
    "set_initial_training_values": "",
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
            self.stopped = True
            raise error

    monkeypatch.setattr(callbacks.StopOnSignal, hook, fail, raising=False)


def outcome(folder: Path) -> dict:
    """All that two equal runs have in common: everything but times."""
    state = json.loads((folder / "trainer_state.json").read_text())
    history = [
        {k: v for k, v in entry.items() if not k.endswith(("runtime", "per_second"))}
        for entry in state["log_history"]
    ]
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {
        "history": history,
        "weights": weights,
        "samples": (folder / "samples.jsonl").read_text(),
    }


@pytest.fixture(scope="module")
def twins():
    return {}


WORKERS = dict(
    training_arguments__dataloader_num_workers=2,
    training_arguments__dataloader_persistent_workers=True,
    training_arguments__per_device_train_batch_size=64,
)
CASES = {
    "mid_accumulation": (STEPS, "on_substep_end", 7),
    "evaluation": (STEPS, "on_prediction_step", 6),
    "saving": (STEPS, "on_save", 10),
    "sampling": (STEPS, "on_evaluate", 9),
    "first_batch": (STEPS, "on_step_begin", 0),
    "right_after_a_resume": (STEPS, "on_step_begin", 5),
    "workers": (STEPS | WORKERS, "on_log", 8),
    "no_dropout": (STEPS | {"model__resid_pdrop": 0.0, "model__embd_pdrop": 0.0}, "on_log", 12),
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
