"""The pictures in docs/: drawn from recorded results, the same file every time, small."""

from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("matplotlib")  # docs/requirements.txt

from zhgpt import bpe_curve, growth_curve
from zhgpt.errors import InputError


def test_the_tokenizers_curves_are_those_of_the_recorded_results(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in pictures:
        assert bpe_curve.run(["--output", str(path)]) == 0
    committed = Path("docs/tokenizer.svg").read_bytes()
    assert pictures[0].read_bytes() == pictures[1].read_bytes() and len(committed) < 60_000
    drawn = pictures[0].read_text(encoding="utf-8")
    assert "<svg" in drawn and "<!-- 48 -->" in drawn and "<!-- 172 -->" in drawn


def test_without_results_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no results in it"):
        bpe_curve.run(["--output", "a.svg"])


def test_the_law_of_growth_is_drawn_beside_its_page(tmp_path):
    folder = ROOT / "recipes" / "proxy"
    for name in ("README.md", "results.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert growth_curve.run([str(tmp_path / "README.md")]) == 0
    drawn = (tmp_path / "growth.svg").read_bytes()
    assert growth_curve.run([str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "growth.svg").read_bytes() == drawn
    assert b"<!-- 1.35M parameters -->" in drawn and (folder / "growth.svg").exists()
    with pytest.raises(InputError, match="No such file"):
        growth_curve.run([str(tmp_path / "none.md")])
