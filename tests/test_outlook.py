"""What is said of a run before it starts, and what a start refuses."""

import gzip
import json
import math
from pathlib import Path

import datasets
import pytest
import zstandard
from conftest import tiny_stories, write_jsonl
from tokenizers import Tokenizer
from transformers import GPT2Config

import run_clm
from zhgpt import cards, check, kills, lint, plan_screen, probe, sample, storage
from zhgpt.errors import InputError, exit_code
from zhgpt.recipe import CleaningSection, ClmRecipe, CorpusSection, SamplesSection


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", 0.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


def run(path: Path, folder: Path, *words: object) -> int:
    return exit_code(run_clm.run, [str(path), "--output_dir", str(folder), *map(str, words)])


def read(folder: Path, name: str = "plan.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=pytest.fail)


def caches() -> set[Path]:
    return set(Path(datasets.config.HF_DATASETS_CACHE, "zhgpt").glob("*"))


# One screen and one file ------------------------------------------------------------------------


def test_a_plan_is_one_screen_and_one_file(tiny_recipe, folder, capsys):
    capsys.readouterr()
    assert run(tiny_recipe(), folder, "--plan", "--price_per_hour", 2.5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 100
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    made = read(folder)
    assert made["corpus"]["mode"] == "full" and made["corpus"]["train"]["documents"] == 120
    assert made["plan"]["max_steps"] == 6 and made["plan"]["tokens"] == 6 * 256
    here = made["here"]
    assert 0 < here["low_hours"] <= here["hours"] <= here["high_hours"]
    assert sum(here["shares"].values()) == pytest.approx(1)
    assert here["probe"]["micro_batch"] == 8 and here["probe"]["save_seconds"] > 0
    assert made["price_per_hour"] == 2.5 and "in the currency you wrote" in " ".join(lines)
    assert {card["name"] for card in made["cards"]} >= {"L20", "T4"}
    assert "few-steps" in {finding["id"] for finding in made["lint"]}


def test_a_plan_is_no_obstacle_to_a_start(tiny_recipe, folder):
    assert run(tiny_recipe(), folder, "--plan") == 0
    assert run(tiny_recipe(), folder) == 0
    assert read(folder, "run.json")["status"] == "finished"


def test_a_plan_of_a_finished_run_changes_only_its_own_file(tiny_recipe, folder):
    path = tiny_recipe()
    assert run(path, folder) == 0
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert run(path, folder, "--plan", "quick") == 0
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert after.keys() - before.keys() == {folder / "plan.json"}
    assert {path: after[path] for path in before} == before
    assert run(path, folder) == 0


def test_a_plan_for_a_gpu_is_made_without_one(tiny_recipe, folder, capsys):
    path = tiny_recipe(training_arguments__bf16=True, training_arguments__use_cpu=False)
    assert run(path, folder, "--plan") == 0
    assert "no GPU that computes in bf16" in read(folder)["here"]["reason"]
    assert "--bf16 false times it in 32 bits" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "words, said",
    [
        (["--price_per_hour", "-1", "--plan"], "price_per_hour -1: has to be above 0"),
        (["--kills_every_hours", "0", "--plan"], "has to be above 0"),
        (["--kills_every_hours", "x", "--plan"], "expected a number"),
        (["--price_per_hour", "2"], "only with --plan"),
        (["--plan", "fast"], "one of full, quick"),
        (["--plan", "--plan"], "given twice"),
        (["--accept", "many-epoch"], 'did you mean "many-epochs"'),
        (["--accept"], "needs a value"),
    ],
)
def test_what_cannot_be_planned_is_said(tiny_recipe, folder, words, said, capsys):
    assert run(tiny_recipe(), folder, *words) == 2
    assert said in capsys.readouterr().err and not folder.exists()


def test_a_plan_in_the_folder_of_another_run_is_refused(tiny_recipe, folder, capsys):
    assert run(tiny_recipe(), folder) == 0
    assert run(tiny_recipe(model__n_layer=1), folder, "--plan") == 2
    assert "belongs to another run" in capsys.readouterr().err
    assert not (folder / "plan.json").exists()
    folder.joinpath("run.json").unlink()
    assert run(tiny_recipe(), folder, "--plan") == 2


def finding(name: str, severity: str = "warn") -> dict:
    words = {"effect": "something happens that is worth a line " * 4, "instead": "another " * 20}
    about = {"id": name, "severity": severity, "key": "model.n_layer", "accepted": False}
    return about | words | {"value": "1", "source": "x"}


def test_many_findings_stay_on_the_screen(tiny_recipe, folder):
    assert run(tiny_recipe(), folder, "--plan") == 0
    made = read(folder)
    for number in (0, 1, 12, 30):
        names = [finding(f"rule-{n}") for n in range(number)] + [finding("last", "note")]
        lines = plan_screen.screen(made | {"lint": names}, folder).splitlines()
        assert len(lines) <= 50 and max(map(len, lines)) <= 100
        assert all(f"rule-{n}:" in "\n".join(lines) for n in range(min(number, 15)))


# A sample of the text ---------------------------------------------------------------------------


def packed(kind: str, raw: bytes) -> bytes:
    return {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[kind](raw)


def texts(name: str) -> list[str]:
    """Two sources after one another, and the second one's documents are longer."""
    stories = tiny_stories(900, seed=3)
    return [story + name for story in stories[:600]] + [
        "\n".join(stories[600 + i :][:9]) for i in range(280)
    ]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "txt", "csv"])
@pytest.mark.parametrize("document", ["file", "line"])
def test_the_error_of_a_sample_covers_the_truth(kind, document, tiny_files, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "WHOLE", 0)
    monkeypatch.setattr(sample, "SLICE", 2048)
    monkeypatch.setattr(sample, "_FRONT", 1 << 14)
    for name in "ab":
        plain = write_jsonl(tmp_path / f"{name}.jsonl", texts(name))
        if kind == "txt":
            (tmp_path / f"{name}.txt").write_text("\n".join(texts(name)), encoding="utf-8")
        elif kind == "csv":
            rows = "".join(f'"{text}"\n' for text in texts(name))
            (tmp_path / f"{name}.csv").write_text("text\n" + rows, encoding="utf-8")
        elif kind != "jsonl":
            path = tmp_path / f"{name}.{kind}"
            path.write_bytes(packed(path.suffix[1:], plain.read_bytes()))
    section = CorpusSection(
        train_files=(str(tmp_path / f"*.{kind}"),), block_size=32, document=document
    )
    tokenizer = Tokenizer.from_file(str(tiny_files["tokenizer"] / "tokenizer.json"))
    found = sample.take(section, CleaningSection(), tokenizer, lambda line: None)
    train, error = found["train"], found["sample"]["error"]
    all_texts = [text for name in "ab" for text in texts(name)]
    share = 1 - section.validation_fraction
    tokens = share * sum(len(tokenizer.encode(text).ids) for text in all_texts)
    assert 0 <= error < 0.5
    assert train["tokens"] == pytest.approx(tokens, rel=max(error, 0.01))
    assert train["bytes"] == pytest.approx(
        share * sum(len(text.encode()) for text in all_texts), rel=max(error, 0.02)
    )


def test_a_quick_plan_leaves_the_cache_alone(tiny_recipe, folder, tmp_path):
    made = write_jsonl(tmp_path / "other.jsonl", tiny_stories(200, seed=9))
    before = caches()
    assert run(tiny_recipe(), folder, "--plan", "quick", "--train_files", made) == 0
    assert caches() == before
    quick = read(folder)["corpus"]
    assert quick["mode"] == "quick" and quick["sample"]["error"] == 0  # so little is read whole
    assert run(tiny_recipe(), folder, "--plan", "--train_files", made) == 0
    full = read(folder)["corpus"]
    for key in ("documents", "bytes", "tokens", "blocks"):
        assert quick["train"][key] == full["train"][key], key


def test_a_quick_plan_of_a_data_set_is_refused(tiny_recipe, folder, capsys):
    words = ["--train_files", "[]", "--dataset", '{"path": "nowhere"}', "--plan", "quick"]
    assert run(tiny_recipe(), folder, *words) == 2
    assert "Leave out quick" in capsys.readouterr().err


def test_a_claim_that_is_far_off_is_said_with_both_sizes(tiny_recipe, folder, capsys):
    path = tiny_recipe(corpus__claimed_bytes=7_700_000_000)
    assert run(path, folder, "--plan", "quick") == 0
    out = capsys.readouterr().out
    assert "7.7 GB" in out and "claimed-bytes: claimed_bytes = 7,700,000,000" in out


# The lint at a start ----------------------------------------------------------------------------


def test_a_stop_ends_a_start_before_the_text_is_prepared(tiny_recipe, folder, tmp_path, capsys):
    made = write_jsonl(tmp_path / "more.jsonl", tiny_stories(150, seed=8))
    path, before = tiny_recipe(training_arguments__learning_rate=2e-5), caches()
    assert run(path, folder, "--train_files", made) == 2
    said = capsys.readouterr().err
    assert "--accept fine-tuning-rate" in said and "Brown et al. 2020" in said
    assert caches() == before and not folder.exists()
    assert run(path, folder, "--train_files", made, "--accept", "fine-tuning-rate") == 0
    kept = {f["id"]: f["accepted"] for f in read(folder, "run.json")["lint"]}
    assert kept["fine-tuning-rate"] and not kept["few-steps"]


def test_what_only_the_text_shows_ends_a_start_after_it(tiny_recipe, folder, capsys):
    """A step takes 8 blocks, and the text has some two hundred: 1,200 steps are over 40 epochs."""
    path = tiny_recipe(training_arguments__max_steps=1200)
    assert run(path, folder) == 2
    assert "--accept many-epochs" in capsys.readouterr().err and not folder.exists()


def test_what_was_accepted_stays_accepted_when_the_run_goes_on(tiny_recipe, folder, capsys):
    path = tiny_recipe(training_arguments__learning_rate=2e-5)
    words = ["--accept", "many-epochs", "padding", "--accept", "fine-tuning-rate"]  # they add up
    assert run(path, folder, *words) == 0
    record = read(folder, "run.json")
    record["status"] = "running"
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(path, folder) == 0
    assert "accepted fine-tuning-rate" in capsys.readouterr().out


# Arithmetic -------------------------------------------------------------------------------------


def test_the_best_interval_costs_least():
    stall, hours, kill_hours = 20.0, 100.0, 8.0
    best = kills.best_minutes(stall, 0, kill_hours)
    assert best == pytest.approx(math.sqrt(2 * 20 * 8 * 3600) / 60)

    def cost(minutes):
        return kills.expected_hours(hours, minutes, stall, kill_hours)

    assert cost(best) < min(cost(0.7 * best), cost(1.4 * best))
    # Young's own approximation: C / T + T / 2M of the work.
    share = stall / (60 * best) + best / 60 / (2 * kill_hours)
    assert cost(best) == pytest.approx(hours * (1 + share), rel=2e-3)


def test_a_save_that_takes_long_to_write_is_not_asked_for_sooner():
    assert kills.best_minutes(0.01, 600, 1) == 10


def test_a_run_that_never_saves_may_never_end():
    assert kills.expected_hours(10_000, math.inf, 1, 1) == math.inf
    assert kills.expected_hours(1, math.inf, 0, 1000) == pytest.approx(1, rel=1e-3)


def test_hours_on_a_card():
    (l20,) = [card for card in cards.CARDS if card.name == "L20"]
    assert cards.hours(119.5e12 * 3600 * cards.EFFICIENCY, l20) == pytest.approx(1)


def pins(**arguments) -> ClmRecipe:
    return ClmRecipe(
        name="x",
        purpose="y",
        tokenizer="z",
        corpus=CorpusSection(train_files=("t",), block_size=32),
        model={},
        tokens_per_step=256,
        training_arguments=arguments,
        samples=SamplesSection(prompts=()),
    )


@pytest.mark.parametrize("limit, saves, kept", [(None, 20, 21), (3, 20, 4), (1, 20, 3), (3, 1, 2)])
def test_checkpoints_that_lie_on_the_disk_at_once(limit, saves, kept):
    small = GPT2Config(n_layer=1, n_embd=8, n_positions=32, vocab_size=32_000)
    made = storage.estimate(pins(save_total_limit=limit), small, 10_000, saves, 10)
    assert (made.kept, made.corpus) == (kept, 20_000)
    assert made.checkpoints == kept * 3 * made.model and made.model > 4 * 32_000 * 8


def test_flags_have_ranges():
    assert check.range_fault("--price_per_hour", 0) == "has to be above 0"


def test_the_page_shows_every_rule_once():
    page = lint.page()
    assert all(page.count(f"| `{rule.id}` |") == 1 for rule in lint.RULES)


def test_a_micro_batch_that_would_take_long_is_timed_in_parts(tiny_recipe, folder, monkeypatch):
    monkeypatch.setattr(probe, "_CPU_FLOPS", 1e7)
    assert run(tiny_recipe(), folder, "--plan", "quick") == 0
    assert read(folder)["here"]["probe"]["micro_batch"] < 8


def test_a_model_that_does_not_fit_is_not_timed(tiny_recipe, folder, monkeypatch, capsys):
    monkeypatch.setattr("zhgpt.machine.main_memory_bytes", lambda: 400_000_000)
    assert run(tiny_recipe(), folder, "--plan", "quick") == 0
    made = read(folder)
    assert "not even one block" in made["here"]["reason"]
    assert {f["id"]: f["severity"] for f in made["lint"]}["does-not-fit"] == "stop"
    assert run(tiny_recipe(), folder) == 2
    assert "--accept does-not-fit" in capsys.readouterr().err


def test_no_plan_is_made_of_text_that_is_not_there(tiny_recipe, folder):
    with pytest.raises(InputError, match="no file matches|there is no"):
        run_clm.run([str(tiny_recipe()), "--plan", "quick", "--train_files", "nowhere"])
