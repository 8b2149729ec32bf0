"""A node is killed in mid-run: the others go on without it, and with it when it is back."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import attempts
import pytest
from attempts import STILL, Run
from conftest import ROOT, history

SECONDS = 900  # imports of four processes on two cores that may have other work as well
SMALL = {"training_arguments__per_device_train_batch_size": 2}


class Node:
    """A launcher and its worker, which are killed together as a machine's loss does."""

    def __init__(self, folder: Path, port: int, name: str, *words: str):
        self.folder, self.log = folder, folder / f"{name}.log"
        # All are of one address here, so whichever came first would keep the store.
        keeps = str(name == "first").lower()
        launch = ["-m", "zhgpt.launch", "--nnodes=1:2", "--nproc_per_node=1", "--max_restarts=3"]
        meet = ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=held"]
        often = [f"--rdzv_conf=last_call_timeout=20,keep_alive_interval=1,is_host={keeps}"]
        here = ["--local_addr=127.0.0.1", str(ROOT / "tests" / "held.py"), str(folder)]
        # Without it torch 2.13 tells a node that joins later nothing of where the first one is.
        own_store = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *launch, *meet, *often, *here, *words],
                cwd=ROOT,
                env=own_store,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def kill(self) -> None:
        with suppress(ProcessLookupError, FileNotFoundError):
            for number in [*self.workers(), self.process.pid]:
                os.kill(number, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def nodes():
    started: list[Node] = []
    yield started
    for node in started:
        node.kill()


def until(there: list[Path], nodes: list[Node]) -> None:
    deadline = time.monotonic() + SECONDS
    while not all(path.exists() for path in there):
        told = "\n".join(node.log.read_text() for node in nodes)
        assert all(node.process.poll() in (None, -9) for node in nodes), told
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["false", "true"])
def test_a_killed_node_is_done_without_and_comes_back(tmp_path, nodes, monkeypatch, sharded):
    monkeypatch.setattr(attempts, "PATIENCE", SECONDS)
    recipe = attempts.write_recipe(tmp_path, **STILL, **SMALL)
    alone = Run(recipe, tmp_path / "alone")
    assert alone.attempt(fresh=True).code == 0

    folder, port = tmp_path / "run", attempts.free_port()
    words = [str(recipe), "--output_dir", str(folder), "--accept=many-epochs", "--fsdp", sharded]
    # The first one keeps the store where they meet.
    nodes.append(Node(tmp_path, port, "first", *words))
    nodes.append(Node(tmp_path, port, "second", *words))
    until([tmp_path / f"held-2-{rank}" for rank in (0, 1)], nodes)
    nodes[1].kill()
    (tmp_path / "go").touch()
    until([tmp_path / "held-1-0"], nodes)
    nodes.append(Node(tmp_path, port, "third", *words))
    for node in (nodes[0], nodes[2]):
        assert node.process.wait(SECONDS) == 0, node.log.read_text()

    found, expected = (history(one, "loss", "eval_loss") for one in (folder, alone.folder))
    assert found == pytest.approx(expected, abs=1e-5)
    segments = json.loads((folder / "run.json").read_text())["segments"]
    assert [one["machine"]["processes"] for one in segments][-3:] == [2, 1, 2]
