"""The local page: two models side by side in a real browser, which asks nobody else; bad input."""

import json
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import browser
import pytest

import run_clm
from zhgpt import generate, page, phrases
from zhgpt.errors import InputError

PROMPT = "村民们都很高兴"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("paged") / "run"


@pytest.fixture
def speakers(template, tiny_recipe) -> list[generate.Speaker]:
    """A run and a checkpoint of it."""
    if not template.exists():
        assert run_clm.run([str(tiny_recipe()), "--output_dir", str(template)]) == 0
    return [generate.speaker(template, number, print) for number in (None, 3)]


VALUES = (8, 0.8, 50, 0.95, 1.0, 0)  # as SETTINGS, and as the recipe has them


def test_both_models_speak_at_once_and_as_in_training(speakers, template):
    lines = (template / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {row["step"]: row["text"] for row in map(json.loads, lines)}
    seen = list(page.speak(speakers, PROMPT, *VALUES))
    assert seen[-1] == [f"{PROMPT}{texts[step]}\n[max_new_tokens]" for step in (6, 3)]
    assert all(text != PROMPT for text in seen[0])  # the second did not wait for the first


def test_what_a_browser_sends_is_judged(speakers):
    for values, prompt, message in [
        ((8, -1, 50, 0.95, 1.0, 0), PROMPT, "--temperature -1"),
        ((8, float("nan"), 50, 0.95, 1.0, 0), PROMPT, "--temperature nan"),
        (VALUES, "长" * 99, "32 positions"),
    ]:
        with pytest.raises(InputError, match=message):
            list(page.speak(speakers, prompt, *values))


def test_a_checkpoint_is_named_behind_a_colon(tmp_path):
    assert page.named("runs/a:12") == (Path("runs/a"), 12)
    assert page.named("runs/a") == (Path("runs/a"), None)
    assert page.named("C:/runs") == (Path("C:/runs"), None)
    (tmp_path / "a:1").mkdir()
    assert page.named(str(tmp_path / "a:1")) == (tmp_path / "a:1", None)


def test_without_gradio_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=f"pip install gradio=={page.GRADIO}"):
        page.run(["runs/a"])


def test_a_port_in_use_or_a_host_that_is_not_ours_is_refused(monkeypatch):
    monkeypatch.setattr(page, "gradio", lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(InputError, match=f"--port {port}: no page can be served there"):
            page.run(["runs/a", "--port", port])
    for where in (["--port", "99999"], ["--host", "192.0.2.1"], ["--host", "no host"]):
        with pytest.raises(InputError, match="no page can be served there"):
            page.run(["runs/a", *where])


def test_one_or_two_models(monkeypatch):
    with pytest.raises(InputError, match="3 models were named"):
        page.run(["a", "b", "c"])


def test_all_words_are_there_in_both_languages():
    words = json.loads((phrases.WEB / "page.json").read_text(encoding="utf-8"))
    used = re.findall(r'words\("(\w+)"\)', Path(page.__file__).read_text(encoding="utf-8"))
    assert words["en"].keys() == words["zh"].keys() == {*used, *generate.SETTINGS}


@contextmanager
def served(speakers) -> Iterator[str]:
    pytest.importorskip("gradio")
    server, address = page.serve(speakers, "127.0.0.1", 0)
    try:
        yield address
    finally:
        server.close(verbose=False)


TEXTS = "[...document.querySelectorAll('.text textarea')].map(t => t.value)"
ASK = """(() => {
  const box = document.querySelector('#prompt textarea');
  const value = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value');
  value.set.call(box, %s);
  box.dispatchEvent(new Event('input', { bubbles: true }));
  document.querySelector('#speak').click();
})()"""
SHOWN = "!!document.querySelector('#speak') && document.querySelectorAll('.text').length === 2"


@pytest.mark.skipif(not browser.FOUND, reason="no Chromium on this machine")
def test_the_page_in_a_browser(speakers, tmp_path):
    with served(speakers) as address, browser.page(tmp_path / "profile") as tab:
        tab.show(address, language="zh-CN")
        tab.wait(SHOWN)
        assert "续写" in tab.run("document.body.innerText")
        assert "checkpoint-3 (step 3, 768 tokens)" in tab.run("document.body.innerText")
        tab.run(ASK % json.dumps(PROMPT))
        tab.wait(f"{TEXTS}.every(text => text.endsWith('[max_new_tokens]'))")
        assert tab.run(TEXTS) == list(page.speak(speakers, PROMPT, *VALUES))[-1]

        tab.run(ASK % json.dumps("<img src=x onerror='window.hurt=1'>" * 9))
        tab.wait("document.body.innerText.includes('32 positions')")
        assert "<img src=x" in tab.run("document.body.innerText")
        assert tab.run("window.hurt === undefined && !document.querySelector('img[src=x]')")

        tab.show(address, width=390, dark=True)
        tab.wait(SHOWN)
        assert "Continue" in tab.run("document.body.innerText")
        assert tab.run("document.documentElement.scrollWidth") == 390
        blocked = "fetch('https://example.com').then(() => 'reached', () => 'blocked')"
        answer = tab.call("Runtime.evaluate", expression=blocked, awaitPromise=True)
        assert answer["result"]["value"] == "blocked"
        assert [c for c in tab.complaints if "example.com" not in json.dumps(c)] == []
        asked = [u for u in tab.requests if not u.startswith((address, "https://example.com"))]
        assert asked == []
