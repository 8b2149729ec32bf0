"""Only what anybody could repeat is published, and pages say what the published lines say."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

import run_clm
from zhgpt import record, session
from zhgpt.errors import InputError


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("published") / "run"


@pytest.fixture
def folder(template, tiny_recipe, tmp_path) -> Path:
    """A finished run, as if from committed code; a copy that a test may spoil."""
    if not template.exists():
        assert run_clm.run([str(tiny_recipe()), "--output_dir", str(template)]) == 0
    shutil.copytree(template, tmp_path / "run")
    spoil(tmp_path / "run", source={"commit": "c" * 40, "modified": False})
    return tmp_path / "run"


def spoil(folder: Path, **changes) -> None:
    session.write(folder, session.read(folder) | changes)


def test_a_line_has_the_curve_and_no_folder_of_this_machine(folder, tmp_path):
    spoil(folder, overrides={"corpus.train_files": ["/home/someone/text/a.jsonl"]})
    line = record.result(folder)
    assert [tokens for tokens, _ in line["curve"]] == [768, 1536]
    assert line["curve"][-1][1] == pytest.approx(line["metrics"]["eval_bits_per_byte"], abs=1e-5)
    assert line["overrides"] == {"corpus.train_files": ["a.jsonl"]}
    assert "someone" not in json.dumps(line)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"status": "interrupted"}, "tiny is interrupted"),
        ({"source": {"commit": "c" * 40, "modified": True}}, "no commit holds"),
        ({"source": {"commit": None, "modified": False}}, "no commit holds"),
    ],
)
def test_what_cannot_be_repeated_is_refused(folder, changes, said):
    spoil(folder, **changes)
    with pytest.raises(InputError, match=said):
        record.result(folder)


def test_a_run_is_published_once(folder, tmp_path):
    results = tmp_path / "results.jsonl"
    assert record.run([str(folder), "--results", str(results)]) == 0
    before = results.read_bytes()
    with pytest.raises(InputError, match="already"):
        record.run([str(folder), "--results", str(results)])
    assert results.read_bytes() == before


def test_the_table_ranks_by_bits_per_byte_within_a_text(folder):
    line = record.result(folder)
    worse = line | {"name": "worse", "metrics": line["metrics"] | {"eval_bits_per_byte": 9.0}}
    rows = record.table([worse, line], record.HEADS["README.md"]).splitlines()
    assert [row.split("`")[1] for row in rows[2:]] == ["tiny", "worse"]
    assert len({row.count("|") for row in rows}) == 1


def test_only_what_stands_between_the_marks_is_replaced(folder):
    page = f"before\n{record.BEGIN}\nold\n{record.END}\nafter\n"
    new = record.with_table(page, "README.md", [record.result(folder)])
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new


@pytest.mark.parametrize("damaged", ["{", '{"name": 1}', "[]", ""])
def test_a_damaged_line_is_named(folder, tmp_path, damaged):
    results = tmp_path / "results.jsonl"
    results.write_text(f"{json.dumps(record.result(folder))}\n{damaged}\n")
    with pytest.raises(InputError, match="results.jsonl:2"):
        record.read(results)


def test_a_line_is_put_behind_one_without_an_end(folder, tmp_path):
    results = tmp_path / "results.jsonl"
    line = record.result(folder)
    results.write_text(json.dumps(line | {"name": "other"}))
    record.append(results, line)
    assert [known["name"] for known in record.read(results)] == ["other", "tiny"]


@pytest.mark.parametrize("lost", ["plan", "segments", "ledger", "metrics", "status"])
def test_a_damaged_record_is_refused(folder, tmp_path, lost):
    spoil(folder, **{lost: [] if lost == "segments" else None})
    with pytest.raises(InputError):
        record.run([str(folder), "--results", str(tmp_path / "results.jsonl")])
    (folder / "run.json").write_text("[]")
    with pytest.raises(InputError, match="run.json: damaged"):
        record.run([str(folder), "--results", str(tmp_path / "results.jsonl")])
    assert not (tmp_path / "results.jsonl").exists()


def test_a_curve_that_is_not_whole_is_refused(folder):
    (folder / "trainer_state.json").write_text('{"log_history": [{"eval_bits_per_byte": 1}]}')
    with pytest.raises(InputError, match="trainer_state.json: no whole curve"):
        record.result(folder)


def test_elsewhere_than_in_the_repository_nothing_is_published(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    with pytest.raises(InputError, match="README.md: No such file"):
        record.run([str(folder)])
    (tmp_path / "README.md").write_text("no marks")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.zh-CN.md").write_text("none")
    with pytest.raises(InputError, match="README.md: a table stands between"):
        record.run([str(folder)])
    assert not (tmp_path / record.RESULTS).exists()


def test_published_lines_hold_no_path_and_are_finished():
    for line in record.read(ROOT / record.RESULTS):
        assert line["commit"] and line["metrics"]["eval_bits_per_byte"] > 0
        named = [v for key, v in line["overrides"].items() if key.endswith("_files")]
        assert not any("/" in name for names in named for name in names)
