"""Tables of experiments: which runs are in them, and that seeds are one row."""

import json

import pytest
from conftest import ROOT

from zhgpt import findings, record
from zhgpt.errors import InputError


def line(bits, recipe="baseline", tokens=1000, **overrides):
    return {
        "plan": {"tokens": tokens},
        "train_bytes": 5000,
        "recipe_file": f"recipes/proxy/{recipe}.json",
        "overrides": {f"training_arguments.{key}": value for key, value in overrides.items()},
        "metrics": {"eval_bits_per_byte": bits},
    }


LINES = [
    line(2.5),
    line(2.6, seed=2),
    line(2.4, learning_rate=2e-3, logging_steps=5),
    line(2.3, learning_rate=1e-2),
    line(2.2, learning_rate=2e-3, weight_decay=0.0),
    line(3.0, recipe="other"),
    line(2.1, tokens=2000, max_steps=8),
]


def table(mark, lines=LINES):
    page = f"before\n<!-- runs of {mark} -->\nold\n<!-- end of runs -->\nafter\n"
    made = findings.page(page, lines)
    assert made.startswith(f"before\n<!-- runs of {mark} -->\n| recipe |")
    assert made.endswith("|\n<!-- end of runs -->\nafter\n") and "old" not in made
    rows = [row.strip("| ").split(" | ") for row in made.splitlines() if row.startswith("|")]
    return rows[0], rows[2:]


def test_a_row_is_a_set_of_overrides_and_its_seeds():
    heads, rows = table("baseline: learning_rate")
    assert heads[1] == "`learning_rate`"
    assert rows == [
        ["baseline", "·", "2.5500", "2", "2.5000–2.6000", "+0.0000"],
        ["baseline", "0.002", "2.4000", "1", "", "-0.1500"],
        ["baseline", "0.01", "2.3000", "1", "", "-0.2500"],
    ]


def test_a_value_may_be_asked_for_or_hidden():
    _, rows = table("baseline: learning_rate=2e-3, weight_decay")
    assert [row[1:3] for row in rows] == [["·", "2.4000"], ["0.0", "2.2000"]]
    _, rows = table("baseline: learning_rate=*, weight_decay=0")
    assert [row[1] for row in rows] == ["2.2000"]
    _, rows = table("baseline: learning_rate=!, weight_decay")
    assert [row[1:3] for row in rows] == [["0.002", "·"], ["0.002", "0.0"], ["0.01", "·"]]


def test_runs_of_as_many_tokens_can_be_asked_for():
    assert [row[1] for row in table("baseline: max_steps")[1]] == ["·", "8"]
    assert [row[1] for row in table("baseline: max_steps, tokens=1000")[1]] == ["·"]


def test_another_text_is_asked_for_by_its_bytes():
    lines = [*LINES, line(9.0) | {"train_bytes": 50}]
    assert [row[1] for row in table("baseline:", lines)[1]] == ["2.5500"]
    _, rows = table("baseline: train_bytes", lines)
    assert [row[1:3] for row in rows] == [["·", "2.5500"], ["50", "9.0000"]]


def test_recipes_stand_in_the_order_in_which_they_are_named():
    _, rows = table("other, baseline:")
    assert [row[0] for row in rows] == ["other", "baseline"]
    _, rows = table("*: learning_rate, weight_decay")
    assert {row[0] for row in rows} == {"baseline", "other"}


def test_a_table_without_runs_is_refused():
    with pytest.raises(InputError, match="no run for the table"):
        table("baseline: n_layer=3")
    with pytest.raises(InputError, match="no run for the table"):
        table("baseline:", [])


def test_the_command_writes_the_page_beside_its_results(tmp_path):
    page, results = tmp_path / "README.md", tmp_path / "results.jsonl"
    page.write_text("<!-- runs of baseline: -->\n<!-- end of runs -->\n", encoding="utf-8")
    full = LINES[0] | {"name": "a", "finished": "2026", "commit": "abcdefgh"}
    full |= {"plan": {"parameters": 1, "tokens": 1}, "machine": {"device": "CPU"}}
    figures = dict(eval_loss=1.0, eval_perplexity=1.0, train_runtime=1.0, eval_bits_per_byte=2.5)
    results.write_text(json.dumps(full | {"metrics": figures}) + "\n")
    assert findings.run([str(page)]) == 0
    assert "| baseline | 2.5000 | 1 |" in page.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="No such file"):
        findings.run([str(tmp_path / "none" / "README.md")])


@pytest.mark.parametrize("folder", ["proxy", "lessons"])
def test_the_pages_have_the_tables_of_their_results(folder):
    page = ROOT / "recipes" / folder / "README.md"
    text = page.read_text(encoding="utf-8")
    assert text == findings.page(text, record.read(page.parent / "results.jsonl"))
