"""What every test gets: no network, no account, one thread, caches of its own."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A folder of *.jsonl.zst, outside the repository; tests that want real text carry the marker corpus.
CORPUS = Path(os.environ.get("ZHGPT_CORPUS", ROOT.parent / "shared" / "corpus"))

# The libraries read these once, when they are imported; commands started by a test inherit them.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="zhgpt-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
# Tiny models spend more time handing work between threads than doing it.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def corpus_dir() -> Path:
    if not CORPUS.is_dir():
        pytest.skip(f"no corpus at {CORPUS}")
    return CORPUS
