"""Growth: exponents are those of the figures, sizes are those asked for, all is one command."""

import json

import pytest
from conftest import ROOT, tiny_stories, write_jsonl

from zhgpt import benchmark, benchmark_scale, plan
from zhgpt.benchmark_scale_table import exponent, left_out
from zhgpt.errors import InputError

PAGE, RECORD = ROOT / "docs" / "scale.md", ROOT / "docs" / "benchmark_scale.json"


def text(size: float, **more) -> dict:
    """A run whose seconds grow with the text, whose memory does not."""
    found = {"bytes": size, "seconds": size / 1e7, "peak_memory": 5 * 10**8}
    return found | {"peak_disk": size, "disk": size / 2, "second_start": 0.2} | more


def model(size: int) -> dict:
    found = {"parameters": size, "start": 5.0, "steps": [1.0, size / 1e6], "resume": 6.0}
    return found | {"stall": 0.0, "sealed": 1e-3 * size**0.5, "checkpoint_bytes": 12 * size}


def together(processes: int) -> dict:
    waits = {"wait": [2.0, 3.0], "wait_again": [0.5, 0.25]}
    return {"processes": processes, "start": 6.0, "steps": [1 / processes]} | waits


FOUND = {
    "what": "scale",
    "machine": {"device": "CPU", "cpu_cores": 2, "python": "3.11", "torch_threads": 1},
    "versions": {"torch": "2.13"},
    "commit": None,
    "modified": False,
    "finished": "2026-11-26T00:00:00",
    "files": ["a.jsonl"],
    "tokenizer": "32k_v1",
    "recipe": "village.json",
    "megabytes_together": 30,
    "block_size": 128,
    "texts": [text(size) for size in (10**7, 10**8, 10**9)],
    "shards": [text(10**7, files=7), text(10**7, files=1000, seconds=2.0)],
    "models": [model(size) for size in (10**6, 10**7, 10**8)],
    "processes": [together(number) for number in (1, 2, 4)],
}


def rows() -> dict[str, list[str]]:
    """Each line of all tables by its first cell, the first one of that name."""
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in benchmark.tables(FOUND).split("\n")
    ]
    return {row[0]: row[1:] for row in reversed(cells) if row}


def test_the_exponent_is_that_of_a_power_and_its_range_shows_what_is_none():
    power = [(x, 3 * x**0.7) for x in (1, 10, 100, 1000)]
    assert exponent(power) == pytest.approx(0.7)
    assert left_out(power) == pytest.approx((0.7, 0.7))
    bent = [(x, 5 + x) for x in (1, 10, 100, 1000)]
    low, high = left_out(bent)
    assert low < exponent(bent) < high < 1


def test_the_tables_say_what_grows_how():
    found = rows()
    assert found["preparation, s"] == ["text", "1.00", "100", "1.00", "1.00 to 1.00", "1.00"]
    assert found["its peak memory, GB"][3] == "0.00"
    assert found["save until on the disk, s"][3] == "0.50"
    # Nothing that can be seen has no exponent, and the largest of the waits counts.
    assert found["training waits for a save, ms"][1:] == ["0.00", "0.00", "—", "—", "—"]
    assert found["until new text is prepared, s"][1:3] == ["3.00", "3.00"]
    assert found["1,000 files"] == ["10.0", "2.00", "0.50", "0.20"]


@pytest.mark.parametrize("millions", benchmark_scale.MILLIONS)
def test_a_model_has_about_the_parameters_that_were_asked_for(millions):
    config = benchmark_scale.shape(millions * 1_000_000)
    assert plan.count_parameters(config) == pytest.approx(millions * 1e6, rel=0.1)
    assert config.n_embd == 64 * config.n_head and config.resid_pdrop == 0


def test_a_model_that_does_not_fit_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match="--millions: a model of .* million parameters takes"):
        benchmark.run(["--what", "scale", "--millions", "1", "1000000"])
    with pytest.raises(InputError, match="--processes: .*at least 1"):
        benchmark.run(["--what", "scale", "--processes", "0"])


@pytest.mark.parametrize("asked, made", [(1, 1), (7, 7), (1000, 50)])
def test_shards_have_all_documents_in_their_order(tmp_path, asked, made):
    stories = tiny_stories(50, seed=5)
    source = write_jsonl(tmp_path / "source.jsonl", stories)
    (tmp_path / "shards").mkdir()
    assert benchmark_scale.write_shards(tmp_path / "shards", [source], asked) == made
    paths = sorted((tmp_path / "shards").iterdir())
    shards = [path.read_text(encoding="utf-8").splitlines() for path in paths]
    assert len(shards) == made and all(shards)
    assert [json.loads(line)["text"] for shard in shards for line in shard] == stories


def test_all_is_every_measurement_with_a_record_each(tmp_path, monkeypatch):
    for kind in list(benchmark.MEASURES):
        monkeypatch.setitem(benchmark.MEASURES, kind, lambda *_, kind=kind: {"of": kind})
        monkeypatch.setitem(benchmark.TABLES, kind, lambda record: f"table of {record['of']}")
    folder = tmp_path / "records" / "today"
    assert benchmark.run(["--what", "all", "--output", str(folder)]) == 0
    found = {path.name: benchmark.read(path) for path in folder.iterdir()}
    assert set(found) == {f"benchmark_{kind}.json" for kind in benchmark.MEASURES}
    assert all(
        name == f"benchmark_{r['what']}.json" == f"benchmark_{r['of']}.json"
        for name, r in found.items()
    )
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--what all needs a folder"):
        benchmark.run(["--what", "all", "--output", str(tmp_path / "file")])


def test_the_page_shows_the_record():
    page = PAGE.read_text(encoding="utf-8")
    assert page == benchmark.with_tables(page, RECORD.name, benchmark.read(RECORD))


@pytest.mark.slow
def test_starts_saves_and_processes_are_measured(tmp_path):
    files = [ROOT / "recipes" / "village" / "train.jsonl"]
    scale = benchmark_scale.Scale(
        files, ROOT / "tokenizer" / "32k_v1", (1,), (1,), (2,), tmp_path, print
    )
    record = scale.measure()
    (found,) = record["models"]
    assert found["checkpoint_bytes"] > 12 * found["parameters"]
    assert min(found["start"], found["resume"], found["stall"], found["sealed"]) > 0
    assert len(found["steps"]) == 2
    (two,) = record["processes"]
    assert len(two["wait"]) == len(two["wait_again"]) == 2 and len(two["steps"]) == 9
    assert [run["files"] for run in record["shards"]] == [7, 1000]
    assert record["texts"][0]["bytes"] >= 10**6 and not list(tmp_path.glob("one"))
    assert benchmark.tables(FOUND | record)
