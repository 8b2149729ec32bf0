"""The loops of docs/preemption.md do what they say, in both languages."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from zhgpt import session

PAGES = [ROOT / "docs" / name for name in ("preemption.md", "preemption.zh-CN.md")]


def blocks(page) -> list[str]:
    return re.findall(r"```\w+\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_both_pages_have_the_same_commands_and_tables():
    english, chinese = PAGES
    assert blocks(english) == blocks(chinese)
    rows = [re.findall(r"^\|.*?\|", page.read_text(encoding="utf-8"), re.M) for page in PAGES]
    assert len(rows[0]) == len(rows[1])
    assert english.read_text().count("\n## ") == chinese.read_text().count("\n## ")


@pytest.mark.parametrize("codes, ends_with", [((75, 75, 0), 0), ((75, 2), 2), ((1,), 1)])
@pytest.mark.parametrize("number", [0, 2], ids=["shell", "slurm"])
def test_a_loop_goes_on_after_75_only(tmp_path, codes, ends_with, number):
    """With commands of the names in the snippet that answer with `codes`, one after the other."""
    answers = tmp_path / "answers"
    answers.write_text("".join(f"{code}\n" for code in codes))
    take = f'code=$(head -n1 {answers}); sed -i 1d {answers}; exit "$code"\n'
    stubs = {"python": take, "srun": take, "sleep": "exit 0\n"}
    stubs["scontrol"] = f"echo $* >> {tmp_path}/requeued\n"
    for name, body in stubs.items():
        (tmp_path / name).write_text("#!/bin/sh\n" + body)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}
    run = subprocess.run(["bash", "-c", blocks(PAGES[0])[number]], env=environment)
    if number == 0:
        assert run.returncode == ends_with and answers.read_text() == ""
    else:
        assert run.returncode == codes[0]
        assert (tmp_path / "requeued").exists() == (codes[0] == 75)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_reads_the_unit(tmp_path):
    unit = tmp_path / "zhgpt.service"
    unit.write_text(blocks(PAGES[0])[1].replace("/usr/bin/python", sys.executable))
    told = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


@pytest.mark.parametrize(
    "status, code", [("finished", 0), ("interrupted", 75), ("running", 75), ("failed", 1)]
)
def test_the_record_has_the_exit_code_that_a_launcher_loses(tmp_path, status, code, capsys):
    session.write(tmp_path, {"status": status, "segments": [{"reason": "SIGTERM"}]})
    assert session.ending(tmp_path) == code
    assert "SIGTERM" in capsys.readouterr().out
