"""What a trainer writes of its progress: lines of ours, and what others write is not lost."""

import json
import os

import pytest

from zhgpt import bpe_progress, clock


def written(stage: str, current: int) -> bytes:
    return json.dumps({"stage": stage, "current": current, "total": 4}).encode() + b"\n"


def test_merging_is_told_and_all_else_goes_on(capfd, monkeypatch):
    monkeypatch.setattr(clock, "SECONDS_BETWEEN_LINES", 0)
    lines = []
    with bpe_progress.told(lines.append):
        os.write(2, b"a warning\n" + written("Tokenize words", 2) + b'{"other": 1}\n')
        os.write(2, written(bpe_progress.MERGING, 0) + written(bpe_progress.MERGING, 2))
        os.write(2, b"half a line")
    os.write(2, b", after it\n")
    assert capfd.readouterr().err == 'a warning\n{"other": 1}\nhalf a line, after it\n'
    assert [line.split(",")[0] for line in lines] == [
        "merging: 0 of 4 entries",
        "merging: 2 of 4 entries",
    ]
    assert all(line.endswith(" s left") for line in lines)


def test_standard_error_comes_back_after_a_fault(capfd):
    with pytest.raises(ZeroDivisionError), bpe_progress.told(print):
        raise ZeroDivisionError
    os.write(2, b"here\n")
    assert capfd.readouterr().err == "here\n"
