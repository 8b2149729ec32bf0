"""The other trackers, where they are installed: offline, and the same keys as W&B's.

pip install tensorboard trackio swanlab
"""

import json
import re
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

import run_clm
from zhgpt import machine
from zhgpt.errors import InputError

KEYS = {"train/loss", "train/tokens", "train/tokens_per_second", "train/update_ratio"}
KEYS |= {"train/grad_norm", "train/learning_rate", "train/seconds", "train/memory_gb"}
KEYS |= {"eval/bits_per_byte", "eval/loss", "eval/samples_distinct_4", "eval/text_distinct_4"}
KEYS |= {"eval/samples_repeating"}


def of_tensorboard(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run/tensorboard"))
    events.Reload()
    return set(events.Tags()["scalars"])


def of_trackio(folder: Path) -> set[str]:
    (path,) = (folder / "trackio").glob("*.db")
    rows = sqlite3.connect(path).execute("select metrics from metrics")
    return {key for (row,) in rows for key in json.loads(row)}


def of_swanlab(folder: Path) -> set[str]:
    """Its file is of a format of its own, in which the names stand as they are."""
    (path,) = (folder / "run/swanlog").glob("run-*/*.swanlab")
    return {word.decode() for word in re.findall(rb"(?:train|eval)/[a-z_0-9]+", path.read_bytes())}


@pytest.mark.parametrize("name, read", [(k[3:], v) for k, v in globals().items() if k[:3] == "of_"])
def test_a_tracker_gets_the_same_keys_offline(tiny_recipe, tmp_path, monkeypatch, name, read):
    if not find_spec(name):
        pytest.skip(f"{name} is not installed")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for variable in ("SWANLAB_API_KEY", "SWANLAB_MODE", "SWANLAB_LOG_DIR", "SWANLAB_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "nobody"))
    path = tiny_recipe(training_arguments__report_to=name, samples__max_new_tokens=40)
    assert run_clm.run([str(path), "--output_dir", str(tmp_path / "run")]) == 0
    found = read(tmp_path)
    assert KEYS <= found, KEYS - found


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "swanlab"])
def test_a_tracker_that_is_not_installed_is_said_before_anything_else(tiny_recipe, tmp_path, name):
    if find_spec(name):
        pytest.skip("it is installed")
    path = tiny_recipe(training_arguments__report_to=[name, "none"])
    with pytest.raises(InputError, match=f"{name} is not installed.\\npip install {name}"):
        run_clm.run([str(path), "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run/run.json").exists()


def test_an_unknown_tracker_is_said_with_those_that_there_are():
    with pytest.raises(InputError, match="wandbb is not known; there are: .*wandb.*none"):
        machine.require_reporters({"report_to": "wandbb"})
    for fine in ("none", "all", ["wandb"], []):
        machine.require_reporters({"report_to": fine})
