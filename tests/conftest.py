"""What every test gets: no network, no account, one thread, caches of its own."""

import atexit
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
# A folder of *.jsonl.zst beside the repository, for the tests with the marker corpus.
CORPUS = Path(os.environ.get("ZHGPT_CORPUS", ROOT.parent / "shared" / "corpus"))

# The libraries read these once, when they are imported; commands started by a test inherit them.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="zhgpt-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
# Tiny models spend more time handing work between threads than doing it.
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples on every machine, however slow it is.
hypothesis.settings.register_profile("zhgpt", deadline=None, derandomize=True)
hypothesis.settings.load_profile("zhgpt")


@pytest.fixture
def corpus_dir() -> Path:
    if not CORPUS.is_dir():
        pytest.skip(f"no corpus at {CORPUS}")
    return CORPUS


def history(folder: Path, *keys: str) -> list[float]:
    """Figures of a run's log lines, in their order."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] for key in keys if key in entry]


PLACES = "村口 河边 山脚 桥头 打谷场 磨坊 老井旁 竹林里".split()
PEOPLE = "王大娘 李木匠 小兰 张铁匠 周先生 阿福 村长 赵婶".split()
DEEDS = "修好了水车 找到了丢失的羊 种下一排柳树 给邻居送去热粥 讲了一个故事 学会了编竹篮".split()


def tiny_stories(count: int, seed: int) -> list[str]:
    """Short documents that differ, from words of our own."""
    draw = random.Random(seed)

    def sentence() -> str:
        return f"{draw.choice(PEOPLE)}在{draw.choice(PLACES)}{draw.choice(DEEDS)}。"

    return [
        f"第{seed}卷第{i}篇。" + "".join(sentence() for _ in range(draw.randint(2, 8)))
        for i in range(count)
    ]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory) -> dict[str, Path]:
    """A corpus of some 20 kB in two files, and a tokenizer of 400 entries trained on it."""
    folder = tmp_path_factory.mktemp("tiny")
    train = write_jsonl(folder / "train.jsonl", tiny_stories(120, seed=1))
    validation = write_jsonl(folder / "validation.jsonl", tiny_stories(11, seed=2))
    recipe = {
        "name": "tiny_bpe",
        "purpose": "a tokenizer for tests",
        "corpus": {"train_files": [str(train)]},
        "bpe": {"vocab_size": 400, "pre_tokenizer": r"\p{Han}+|[^\p{Han}]+"},
    }
    path = folder / "tiny_bpe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    import run_bpe

    assert run_bpe.run([str(path), "--output_dir", str(folder / "tokenizer")]) == 0
    return {"train": train, "validation": validation, "tokenizer": folder / "tokenizer"}


@pytest.fixture
def tiny_recipe(tiny_files, tmp_path) -> Callable[..., Path]:
    """Writes a recipe of a run of seconds; keywords change it: `model__n_layer=1`."""

    def make(**changes) -> Path:
        content = {
            "name": "tiny",
            "purpose": "a run for tests",
            "tokenizer": str(tiny_files["tokenizer"]),
            "corpus": {
                "train_files": [str(tiny_files["train"])],
                "validation_files": [str(tiny_files["validation"])],
                "block_size": 32,
            },
            "model": {
                "n_layer": 2,
                "n_head": 2,
                "n_embd": 32,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
            },
            "tokens_per_step": 256,
            "training_arguments": {
                "max_steps": 6,
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 8,
                "per_device_eval_batch_size": 4,
                "logging_steps": 1,
                "eval_strategy": "steps",
                "eval_steps": 3,
                "save_steps": 3,
                "use_cpu": True,
                "report_to": "none",
            },
            "samples": {"prompts": ["村民们都很高兴"], "max_new_tokens": 8},
        }
        for key, value in changes.items():
            *sections, leaf = key.split("__")
            target = content
            for section in sections:
                target = target[section]
            target[leaf] = value
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path

    return make
