"""Runs compared: what differs, who is better, what is damaged, and the page in a real browser."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import browser
import pytest

import run_clm
from zhgpt import compare, compare_page, phrases, ranking, runs, session
from zhgpt.contrast import contrast
from zhgpt.errors import InputError

Make = Callable[..., Path]
HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'>\u202e\x1b[2J"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compared") / "run"


@pytest.fixture
def make(template, tiny_recipe, tmp_path) -> Make:
    """Folders with the JSON of a real run, changed: another seed, figure, recipe, tokenizer."""
    if not template.exists():
        assert run_clm.run([str(tiny_recipe()), "--output_dir", str(template)]) == 0

    def made(name: str, bits: float | None = None, why: dict | None = None, **changes) -> Path:
        folder = tmp_path / name
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.pt*"))
        record = session.read(folder)
        for key, value in changes.items():
            section, _, leaf = key.partition("__")
            record[section] |= {leaf: value}
            record["content"] |= {f"{section}.{leaf}": value} if section == "recipe" else {}
        record["recipe"]["why"] |= why or {}
        if bits is not None:
            record["metrics"] |= {"eval_bits_per_byte": bits, "eval_loss": 10 - bits}
        session.write(folder, record)
        return folder

    return made


def seeded(make: Make, name: str, bits: float, seed: int, **changes) -> Path:
    folder = make(name, bits, **changes)
    record = session.read(folder)
    record["content"]["training_arguments.seed"] = seed
    record["recipe"]["training_arguments"]["seed"] = seed
    session.write(folder, record)
    return folder


def interrupt(folder: Path) -> Path:
    """As if the run were still going on, with a checkpoint at step 3 only."""
    (folder / "trainer_state.json").unlink()
    (folder / "checkpoint-6" / "trainer_state.json").unlink()
    record = session.read(folder)
    record |= {"status": "running", "metrics": {}}
    record["segments"] = [
        {"started": "2026-01-01T00:00:00+00:00", "from_step": 0, "reason": "SIGTERM", "to_step": 2},
        {"started": "2026-01-01T00:01:00+00:00", "from_step": 2},
    ]
    session.write(folder, record)
    return folder


def said(folders: list[Path], capsys) -> tuple[str, str]:
    capsys.readouterr()
    assert compare.run([str(folder) for folder in folders]) == 0
    return capsys.readouterr()


def test_the_terminal_tells_results_and_differences(make, capsys):
    why = {"tokens_per_step": "small steps"}
    folders = [make("a", 2.0, why=why), make("b", 1.5, recipe__tokens_per_step=512)]
    out, _ = said(folders, capsys)
    assert re.search(r"^B  b +finished +1\.5000", out, re.M)
    assert out.index("B  b") < out.index("A  a")  # the best first
    assert re.search(r"tokens_per_step\n +A +256 +small steps\n +B +512", out)
    assert "learning_rate" not in out  # it is the same


def test_a_reason_is_not_that_of_an_overridden_value(make):
    why = {"tokens_per_step": "small steps"}
    a = make("a", why=why)
    b = make("b", why=why, recipe__tokens_per_step=512, overrides__tokens_per_step=512)
    (row,) = contrast(runs.read([a, b]))["recipe"]
    assert [(v["value"], v["why"]) for v in row["values"]] == [
        ("256", ["small steps"]),
        ("512", []),
    ]


@pytest.mark.parametrize("other, verdict", [(1.030, "within"), (1.05, "beyond")])
def test_a_difference_counts_beyond_the_spread_of_three_seeds(make, other, verdict):
    folders = [seeded(make, f"seed{i}", 1 + i / 100, i) for i in range(3)]
    folders.append(seeded(make, "other", other, 0, recipe__tokens_per_step=512))
    (found,) = ranking.rankings(runs.read(folders))
    assert found.spread == pytest.approx(0.02) and found.spread_of == (0, 1, 2)
    assert [c.runs for c in found.candidates] == [(0, 1, 2), (3,)]
    assert [c.verdict for c in found.candidates] == ["best", verdict]
    assert found.candidates[1].difference == pytest.approx(other - 1.01)


def test_two_seeds_or_one_seed_thrice_have_no_spread(make, capsys):
    folders = [seeded(make, f"run{i}", 1 + i / 100, min(i, 1)) for i in range(3)]
    folders.append(seeded(make, "other", 1.5, 0, recipe__tokens_per_step=512))
    (found,) = ranking.rankings(runs.read(folders))
    assert found.spread is None and found.candidates[1].verdict == "unknown"
    assert "No recipe here has three finished seeds" in said(folders, capsys).err


def test_a_diverged_run_comes_last(make):
    folders = [make("a", float("nan")), make("b", 9.0, recipe__tokens_per_step=512)]
    (found,) = ranking.rankings(runs.read(folders))
    assert [(c.runs, c.verdict) for c in found.candidates] == [((1,), "best"), ((0,), "diverged")]


def test_other_tokenizers_are_ranked_by_bits_per_byte(make, capsys):
    """The loss of `make` falls where the bits rise: it would rank them the other way round."""
    folders = [make("a", 2.0), make("b", 1.5, inputs__tokenizer="other")]
    out, err = said(folders, capsys)
    assert out.index("B  b") < out.index("A  a")
    assert "The tokenizers differ. Loss, perplexity and accuracy" in err
    entries = contrast(runs.read(folders))["tokenizer"]
    assert [row["key"] for row in entries] == ["fingerprint"]  # 400 of 400 entries are shared


def on_validation(folder: Path, **facts: Any) -> Path:
    record = session.read(folder)
    record["ledger"]["validation"] |= facts
    session.write(folder, record)
    return folder


def test_runs_on_other_validation_text_are_not_ranked_together(make, capsys):
    """By a hash of its documents; by their size where a record has no such hash."""
    alone, other, old, older = (make(name) for name in "abcd")
    on_validation(other, text_hash="0" * 16)
    on_validation(old, text_hash=None)
    on_validation(older, text_hash=None, bytes=1)
    for pair, ranked, by_size in [
        ([alone, make("e")], [2], False),
        ([alone, other], [1, 1], False),
        ([other, old], [2], True),
        ([old, older], [1, 1], True),
    ]:
        assert [
            sum(len(c.runs) for c in r.candidates) for r in ranking.rankings(runs.read(pair))
        ] == ranked
        err = said(pair, capsys).err
        assert ("not all evaluated on the same validation text" in err) == (ranked == [1, 1])
        assert ("documents, bytes and characters stand for it" in err) == by_size


def test_an_unfinished_run_is_shown_and_not_ranked(make, capsys):
    folders = [make("a"), interrupt(make("b"))]
    out, err = said(folders, capsys)
    assert re.search(r"^B  b +running 3/6", out, re.M)
    assert "b is not finished" in err and "best first" not in out


def test_what_is_damaged_is_named_and_the_rest_used(make, capsys):
    folder = make("a")
    state = json.loads((folder / "trainer_state.json").read_text())
    state["log_history"][1] = "lost"
    (folder / "trainer_state.json").write_text(json.dumps(state))
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join([lines[0], b'{"step": 3\n', *lines[1:]]))
    _, err = said([folder], capsys)
    assert "a: trainer_state.json, log_history[1] is damaged" in err
    assert "a: samples.jsonl:2 is damaged" in err
    (run,) = runs.read([folder])
    assert [row["step"] for row in run.samples] == [0, 3, 6]
    assert [e["step"] for e in run.entries if "loss" in e] == [1, 3, 4, 5, 6]


def test_a_damaged_state_gives_way_to_the_checkpoint_before(make, capsys):
    folder = make("a")
    (folder / "trainer_state.json").write_text('{"global_step": 6, "log_hist')
    (folder / "checkpoint-6" / "trainer_state.json").write_bytes(b"\xff")
    _, err = said([folder], capsys)
    assert "a: trainer_state.json is damaged" in err
    assert "a: checkpoint-6/trainer_state.json is damaged" in err
    assert runs.read([folder])[0].step == 3


def test_hours_are_those_of_steps_and_evaluations(make):
    """256 tokens a step at 1 token/s, then 2; an evaluation of 100 s after step 3."""
    folder = make("a")
    history = [
        {"step": 2, "loss": 1.0, "tokens_per_second": 1},
        {"step": 3, "eval_bits_per_byte": 1.0, "eval_runtime": 100.0},
        {"step": 4, "loss": 1.0, "tokens_per_second": 2},
        {"step": 6, "train_loss": 1.0},
    ]
    state = {"global_step": 6, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    seconds = [entry["hours"] * 3600 for entry in runs.read([folder])[0].entries]
    assert seconds == pytest.approx([512, 512 + 128 + 100, 512 + 256 + 100, 512 + 512 + 100])


def clocked(folder: Path, history: list[dict]) -> Path:
    state = {"global_step": 6, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_hours_are_those_of_the_clock_where_the_log_has_it(make, capsys):
    """A line without lies between its neighbours; to compare both kinds of hours is warned of."""
    history = [
        {"step": 2, "loss": 1.0, "tokens_per_second": 1, "seconds": 100.0},
        {"step": 3, "eval_bits_per_byte": 1.0, "eval_runtime": 100.0},
        {"step": 4, "loss": 1.0, "tokens_per_second": 2, "seconds": 1100.0},
        {"step": 6, "train_loss": 1.0, "seconds": 1200.0},
    ]
    folder = clocked(make("a"), history)
    seconds = [entry["hours"] * 3600 for entry in runs.read([folder])[0].entries]
    assert seconds == pytest.approx([100, 600, 1100, 1200])
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]
    err = said([folder, clocked(make("b"), history)], capsys).err
    assert "those of the clock for a; for the others" in err
    assert "those of the clock" not in said([folder], capsys).err


def test_alarms_are_told(make, capsys):
    folder = make("a")
    alarm = {"guard": "loss_jump", "step": 3, "text": "a loss of 9\x1b", "action": "note"}
    spoil_record(folder, alarms=[alarm, "lost"])
    err = said([folder], capsys).err
    assert "a: alarm at step 3 (loss_jump): a loss of 9\ufffd" in err
    assert "a: run.json, alarms.1 is damaged" in err


def spoil_record(folder: Path, **changes: Any) -> None:
    session.write(folder, session.read(folder) | changes)


BAD = {
    "no such folder": lambda f: shutil.rmtree(f),
    "no run.json": lambda f: (f / "run.json").unlink(),
    "is a tokenizer": lambda f: (f / "run.json").rename(f / "training.json"),
    "damaged": lambda f: (f / "run.json").write_text('{"name": "a",\n'),
    "damaged, name": lambda f: (f / "run.json").write_text("[]"),
    "damaged, segments.0": lambda f: spoil_record(f, segments=[{}]),
    "has not begun": lambda f: spoil_record(f, plan=None),
    "no evaluation yet": lambda f: [
        spoil_record(f, metrics={}),
        *(path.unlink() for path in f.rglob("trainer_state.json")),
    ],
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_run_to_compare_is_refused(make, message):
    folder = make("a")
    BAD[message](folder)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        compare.run([str(make("b")), str(folder)])
    assert str(folder) in str(error.value)


def test_only_a_page_is_replaced_and_only_if_asked(make, tmp_path):
    folder, page = str(make("a")), tmp_path / "page.html"
    page.write_text("mine")
    for output, message in [
        (page, "no page of this command"),
        (tmp_path, "no page of this command"),
        (tmp_path / "no/p", "no folder that can be written to"),
    ]:
        with pytest.raises(InputError, match=message):
            compare.run([folder, "--output", str(output), "--overwrite"])
    assert page.read_text() == "mine"
    page.unlink()
    assert compare.run([folder, "--output", str(page)]) == 0
    written = page.read_bytes()
    with pytest.raises(InputError, match="Add --overwrite"):
        compare.run([folder, "--output", str(page)])
    assert page.read_bytes() == written and b"uPlot" in written
    assert compare.run([folder, "--output", str(page), "--overwrite"]) == 0
    assert not list(tmp_path.glob("*.partial"))


def test_patterns_name_runs_and_a_run_named_twice_is_one(make, tmp_path, capsys):
    folders = [make("a"), make("b")]
    (tmp_path / "c").mkdir()
    out, _ = said([tmp_path / "*", folders[0]], capsys)
    assert len(re.findall(r"^\w  \w +finished", out, re.M)) == 2
    with pytest.raises(InputError, match="no run matches"):
        compare.run([str(tmp_path / "z*")])


def write_page(folders: list[Path], path: Path) -> dict[str, Any]:
    """The page's own data."""
    assert compare.run([*map(str, folders), "--output", str(path)]) == 0
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    return json.loads(found[1], parse_constant=pytest.fail)


def test_many_long_runs_fit_on_a_page_with_their_spikes(make, tmp_path, capsys):
    folders = [make(f"run{i}") for i in range(4)]
    log = [{"step": s, "loss": 5.0, "learning_rate": 1e-3, "grad_norm": s} for s in range(1, 15001)]
    log[12344]["loss"] = 99.0
    log += [{"step": 15000, "eval_bits_per_byte": 1.0}, {"step": 15000, "loss": float("nan")}]
    row = {"step": 0, "prompt": "村", "text": "民" * 5000}
    for folder in folders:
        state = {"global_step": 15000, "log_history": log}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        lines = (json.dumps(row | {"step": step}, ensure_ascii=False) for step in range(100))
        (folder / "samples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = write_page(folders, tmp_path / "page.html")
    assert 1e6 < (tmp_path / "page.html").stat().st_size <= compare_page.MAX_BYTES
    assert all(99.0 in run["log"]["loss"] for run in data["runs"])
    kept = [row["step"] for row in data["runs"][0]["samples"]]
    assert kept[0] == 0 and kept[-1] == 99
    keys = {note["key"] for note in data["notes"]}
    assert {"thinned_curve", "thinned_samples", "not_finite"} <= keys


def test_all_that_is_said_is_said_in_both_languages():
    english, chinese = phrases.WORDS["en"], phrases.WORDS["zh"]
    assert english.keys() == chinese.keys()
    for key in english:
        places = [sorted(re.findall(r"\{(\w+)\}", words[key])) for words in (english, chinese)]
        assert places[0] == places[1], key
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (*phrases.WEB.glob("*.js"), *phrases.WEB.parent.glob("*.py"))
    )
    built = ("section_", "status_")  # names that the code puts together
    unused = [k for k in english if f'"{k}"' not in code and not k.startswith(built)]
    assert unused == []
    asked = re.findall(r'say\("(\w+)"', (phrases.WEB / "compare.js").read_text(encoding="utf-8"))
    assert set(asked) <= english.keys()


@pytest.fixture
def hostile(make) -> list[Path]:
    """Three seeds, another tokenizer, one unfinished, all of them with text that would do harm."""
    folders = [seeded(make, name, 2 + i / 100, i) for i, name in enumerate("xyz")]
    folders.append(make("<b>other", 1.9, inputs__tokenizer="other", recipe__purpose=HOSTILE))
    folders.append(interrupt(make("unfinished", why={"tokens_per_step": HOSTILE})))
    for number, folder in enumerate(folders):
        raise_curve(folder, number / 10)
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) | {"text": HOSTILE} for line in lines]
        (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record = session.read(folders[0])
    record["segments"] = [
        {"from_step": 0, "to_step": 3, "reason": HOSTILE},
        {"from_step": 3, "to_step": 6, "reason": "finished"},
    ]
    record["alarms"] = [{"guard": "plateau", "step": 4, "text": HOSTILE}]
    session.write(folders[0], record)
    return folders


def raise_curve(folder: Path, by: float) -> None:
    """Curves of one run lie one upon the other, and only the last would be seen."""
    for path in folder.rglob("trainer_state.json"):
        state = json.loads(path.read_text())
        for entry in state["log_history"]:
            entry |= {k: v + by for k, v in entry.items() if k in ("loss", "eval_bits_per_byte")}
        path.write_text(json.dumps(state))


def test_no_text_leaves_its_place(hostile, tmp_path):
    data = write_page(hostile, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<script") == 4 and page.count("</script") == 4
    assert "\u202e" not in page and "\x1b" not in page
    assert data["runs"][3]["purpose"].startswith("</script><script>")


BOX = "(() => { const b = document.querySelectorAll('.u-over')[%d].getBoundingClientRect();"
BOX += " return [b.x + scrollX, b.y + scrollY, b.width, b.height]; })()"
COLOURS = "['68,119,170', '238,102,119', '34,136,51', '204,187,68', '102,204,238']"
INK = """[...document.querySelectorAll('canvas')].map(c => {
  const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();
  for (let i = 0; i < p.length; i += 4)
    if (p[i + 3] > 250) seen.add(`${p[i]},${p[i + 1]},${p[i + 2]}`);
  return %s.filter(c => seen.has(c)).length;
})"""
INK %= COLOURS  # how many runs' colours a chart shows
CHOOSE = """(() => {
  const box = document.querySelector('select[name=training]');
  box.value = '%s';
  box.dispatchEvent(new Event('change'));
})()"""
CURVE = "document.querySelector('canvas').toDataURL()"
LEGEND = "document.querySelector('.u-legend').innerText"


@pytest.mark.skipif(not browser.FOUND, reason="no Chromium on this machine")
def test_the_page_in_a_browser(hostile, tmp_path):
    path = tmp_path / "page.html"
    write_page(hostile, path)
    with browser.page(tmp_path / "profile") as page:
        page.show(path)
        assert page.run(INK) == [5, 5]  # both charts have the colours of all runs
        assert page.run("document.querySelectorAll('.mark').length") == 6
        alarm = page.run("document.querySelector('.alarm .flag').title")
        assert alarm.startswith("x: alarm at step 4 (plateau): </script>")
        assert "SIGTERM" in page.run(
            "[...document.querySelectorAll('.mark:not(.alarm) .flag')].pop().title"
        )
        assert page.run("window.hurt === undefined && document.images.length === 0")
        assert "</script><script>window.hurt=1" in page.run(
            "document.querySelector('#samples').innerText"
        )

        options = "[...document.querySelector('select[name=training]').options].map(o => o.value)"
        assert page.run(options)[:4] == ["loss", "learning_rate", "grad_norm", "update_ratio"]
        assert "share_of_peak" not in page.run(options)  # no run has it
        page.run(CHOOSE % "memory_gb")
        assert page.run(INK)[1] > 0
        page.run(CHOOSE % "loss")

        x, y, width, height = page.run(BOX % 0)
        page.run(f"scrollTo(0, {y - 100})")
        y -= page.run("scrollY")
        assert re.findall(r"\d", page.run(LEGEND)) == []
        page.mouse("Moved", x + width / 2, y + height / 2)
        assert len(re.findall(r"\d\.\d{3,}", page.run(LEGEND))) == 5, page.run(LEGEND)
        page.mouse("Moved", x + width / 2, 5)
        whole = page.run(CURVE)
        page.drag((x + width * 0.4, y + 50), (x + width * 0.9, y + 60))
        page.mouse("Moved", x + width / 2, 5)
        assert page.run(CURVE) != whole
        page.run("document.querySelector('#curves button').click()")
        assert page.run(CURVE) == whole

        heads = "[...document.querySelectorAll('th button')]"
        page.run(f"{heads}.find(b => b.innerText === 'perplexity').click()")
        assert "rank nothing here" in page.run("document.querySelector('#results').innerText")
        page.run("document.querySelector('#language').click()")
        assert "哪个更好" in page.run("document.body.innerText")

        page.show(path, width=390, dark=True, language="zh-CN")
        assert page.run("document.documentElement.lang") == "zh-CN"
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)"
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run(INK) == [5, 5]
        assert page.complaints == []
        assert set(page.requests) == {path.as_uri()}
