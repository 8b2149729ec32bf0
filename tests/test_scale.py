"""Law 4 past two processes: four of one machine, and two machines, here on loopback."""

import socket
import subprocess
import sys

import pytest
from conftest import ROOT, history

import run_clm

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nodes(number: int, processes: int) -> list[list[str]]:
    """The command of each machine, without the script."""
    if number == 1:
        return [[*TORCHRUN, "--standalone", f"--nproc_per_node={processes}"]]
    where = [f"--nnodes={number}", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    return [
        [*TORCHRUN, *where, f"--node_rank={node}", f"--nproc_per_node={processes}"]
        for node in range(number)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number, processes, size", [(1, 4, 2), (2, 1, 2), (1, 2, "auto")])
def test_the_curve_is_that_of_one_process(tiny_recipe, tmp_path, number, processes, size):
    """Also where the processes look for their micro-batch together."""
    path, alone, many = tiny_recipe(), tmp_path / "alone", tmp_path / "many"
    assert run_clm.run([str(path), "--output_dir", str(alone)]) == 0
    script = ["run_clm.py", str(path), "--output_dir", str(many)]
    script += ["--per_device_train_batch_size", str(size)]
    started = [
        subprocess.Popen([*start, *script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for start in nodes(number, processes)
    ]
    told = [process.communicate(timeout=500)[0] for process in started]
    assert [process.returncode for process in started] == [0] * number
    for key in ("loss", "eval_loss", "eval_bits_per_byte"):
        assert history(many, key) == pytest.approx(history(alone, key), abs=1e-5)
    # What one process says is said once, and the text is prepared once.
    assert "".join(told).count("evaluation at step 6") == 1
