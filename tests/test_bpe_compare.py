"""Tokenizers of every kind side by side: the figures are right, the page shows what is there."""

import base64
import hashlib
import json
import re
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from conftest import ROOT, tiny_stories, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    ByT5Tokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    XLMRobertaTokenizer,
)

import run_bpe
from zhgpt import bpe_counts, candidate, passages
from zhgpt.errors import exit_code

HOSTILE = (
    '村民</script><script>window.hostile=1</script><img src=x onerror="window.hostile=1">&amp;'
)
TEXTS = [
    HOSTILE,
    "<|endoftext|>[UNK]</s> ABC ＡＢ e\u0301 👨‍👩‍👧 𠮷\u202e\x07\x00 行\r\n　全\t角",
    "two  spaces ",
    *tiny_stories(9, seed=2),
]


def trained(model, pre_tokenizer, trainer) -> dict:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(tiny_stories(120, seed=1), trainer)
    return json.loads(tokenizer.to_str())["model"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, tiny_files) -> dict[str, str]:
    """Folders as the library's own classes save them, one of each way to stand for text."""
    folder = tmp_path_factory.mktemp("kinds")
    characters = sorted(set("".join(tiny_stories(120, seed=1))))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"show_progress": False, "vocab_size": 400}
    bpe = trained(models.BPE(), bytes_, trainers.BpeTrainer(initial_alphabet=alphabet, **options))
    pieces = trainers.UnigramTrainer(
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", **options
    )
    unigram = trained(models.Unigram(), pre_tokenizers.Metaspace(), pieces)
    fallback = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "村"]
    made = {
        "bert": BertTokenizer(vocab=numbered([*special, *characters, "spa", "##ces", "two"])),
        "gpt2": GPT2Tokenizer(vocab=bpe["vocab"], merges=[tuple(m) for m in bpe["merges"]]),
        "xlm": XLMRobertaTokenizer(vocab=[tuple(piece) for piece in unigram["vocab"]]),
        "llama": LlamaTokenizer(vocab=numbered(fallback), merges=[]),
        "byt5": ByT5Tokenizer(),
    }
    for name, tokenizer in made.items():
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in made} | {"ours": str(tiny_files["tokenizer"])}


def numbered(entries: list[str]) -> dict[str, int]:
    return {entry: number for number, entry in enumerate(entries)}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Two sources in one file, and a file without any."""
    folder = tmp_path_factory.mktemp("files")
    rows = [{"source": "杂" if i < 3 else "史", "text": text} for i, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    write_jsonl(folder / "b.jsonl", tiny_stories(3, seed=4))
    return folder


@pytest.fixture(scope="module")
def compared(kinds, files, tmp_path_factory) -> tuple[dict, str]:
    page = tmp_path_factory.mktemp("page") / "page.html"
    command = ["--compare", *kinds.values(), "--files", str(files), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda line, file=None, **_: file or printed.append(line))
        assert run_bpe.run([*command, "--output", str(page)]) == 0
    (line,) = printed  # standard output is one JSON object and nothing else
    return json.loads(line), page.read_text(encoding="utf-8")


def figures(facts: dict, kinds: dict[str, str], name: str, source: str | None = None) -> dict:
    one = next(row for row in facts["tokenizers"] if row["folder"] == kinds[name])
    return one["sources"][source] if source else one["all"]


def test_text_is_counted_by_its_source_column_or_its_file(compared, files):
    text = compared[0]["text"]
    expected = {"杂": TEXTS[:3], "史": TEXTS[3:], str(files / "b.jsonl"): tiny_stories(3, seed=4)}
    assert {name: (row["documents"], row["bytes"]) for name, row in text["sources"].items()} == {
        name: (len(texts), len("".join(texts).encode())) for name, texts in expected.items()
    }
    for key in ("documents", "bytes", "characters", "han_characters"):
        assert text[key] == sum(row[key] for row in text["sources"].values())


def test_tokens_are_those_of_the_library(compared, kinds):
    """Special tokens named in a text are text: none may come up, but for the unknown one."""
    for name in kinds:
        loaded = candidate._load(kinds[name])
        ids = loaded(TEXTS[:3], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        found = figures(compared[0], kinds, name, "杂")
        assert found["tokens"] == sum(map(len, ids))
        size = sum(len(text.encode()) for text in TEXTS[:3])
        assert found["bytes_per_token"] == pytest.approx(size / found["tokens"])
        if name != "xlm":  # its special entries are entries of the model as well
            special = set(loaded.all_special_ids) - {loaded.unk_token_id}
            assert not special & set(sum(ids, []))


def test_every_byte_is_a_token_of_its_own(compared, kinds):
    for name in ("llama", "byt5"):
        assert figures(compared[0], kinds, name, "杂")["unknown_tokens"] == 0
    assert figures(compared[0], kinds, "byt5")["bytes_per_token"] == 1
    # The Han characters have three bytes but for 𠮷 with four; 村 alone is an entry.
    text = "".join(TEXTS[:3])
    han = Counter(c for c in text if "\u4e00" <= c <= "\u9fff" or c == "𠮷")
    tokens = sum(n * (1 if c == "村" else len(c.encode())) for c, n in han.items())
    found = figures(compared[0], kinds, "llama", "杂")
    assert found["tokens_per_han_character"] == pytest.approx(tokens / han.total())
    multibyte = sum(len(c.encode()) for c in text if ord(c) > 127 and c != "村")
    assert found["single_byte_tokens"] == multibyte


def test_a_token_counts_for_han_by_its_share():
    part = bpe_counts.Part(0, "", "村。民a")
    spans = bpe_counts.np.array([[0, 2], [2, 3], [2, 3], [3, 4]])
    assert bpe_counts._han_tokens(part, spans) == 0.5 + 2


def test_what_does_not_come_back_is_counted_and_shown(compared, kinds):
    changed = {name: figures(compared[0], kinds, name)["changed_documents"] for name in kinds}
    assert changed == {"bert": 15, "gpt2": 0, "xlm": 3, "llama": 0, "byt5": 0, "ours": 0}
    bert = next(row for row in compared[0]["tokenizers"] if row["folder"] == kinds["bert"])
    assert HOSTILE.startswith(bert["changed_example"]["text"])
    assert "[UNK]" in bert["changed_example"]["again"]
    assert figures(compared[0], kinds, "bert", "杂")["unknown_tokens"] > 10


def test_entries_overlap_by_the_bytes_that_they_stand_for(compared, kinds):
    """村 and ▁ are the entries of one beside its bytes; Ġ of another is the same space."""
    names, shared = list(kinds), compared[0]["overlap"]
    row = shared[names.index("llama")]
    assert row[names.index("llama")] == 256 + 1  # the space is among the bytes
    assert row[names.index("bert")] == 1 + len({"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"})
    assert row[names.index("ours")] == row[names.index("gpt2")] >= 256
    assert all(shared[i][j] == shared[j][i] for i in range(6) for j in range(6))


def test_unused_entries_are_those_that_never_came_up(compared, kinds):
    loaded = candidate._load(kinds["bert"])
    texts = [*TEXTS, *tiny_stories(3, seed=4)]
    used = set(sum(loaded(texts, add_special_tokens=False)["input_ids"], []))
    ordinary = set(loaded.get_vocab().values()) - set(loaded.all_special_ids)
    bert = next(row for row in compared[0]["tokenizers"] if row["folder"] == kinds["bert"])
    assert bert["unused_entries"] == len(ordinary - used) and bert["entries"] == len(loaded)


def test_one_tokenizer_and_one_source_need_no_table_of_their_own(kinds, tmp_path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", ["文"])
    words = ["--compare", kinds["ours"], "--files", str(path), "--output", str(tmp_path / "p.html")]
    assert run_bpe.run(words) == 0
    assert re.findall("^(source|its)", capsys.readouterr().out, flags=re.MULTILINE) == []
    assert (tmp_path / "p.html").read_text(encoding="utf-8").count("<table>") == 1


def test_the_table(kinds, files, capsys):
    folders = [kinds["ours"], kinds["byt5"], str(ROOT / "tokenizer" / "village_4k")]
    assert run_bpe.run(["--compare", *folders, "--files", str(files)]) == 0
    _, overall, sources, overlap, longest, *_ = capsys.readouterr().out.split("\n\n")
    assert [row.split()[0] for row in overall.splitlines()[1:]] == folders
    assert "  -  " in overall.splitlines()[2]  # of byt5 no places in the text are known
    assert len(sources.splitlines()) == 1 + 3 * 3
    assert overlap.count("100.0%") >= 3
    assert [line.split(":")[0] for line in longest.splitlines()[1:]] == folders


@settings(max_examples=25)
@given(text=st.text(max_size=60))
def test_the_pieces_are_the_whole_text(kinds, text):
    """Nothing of a text is missing on the page, whatever a tokenizer drops or changes."""
    for name in ("bert", "gpt2", "xlm", "llama", "ours"):
        one = loaded(kinds[name])
        pieces = list(one.pieces(text))
        shown = "".join(p.text for p in pieces if p.kind in ("whole", "unknown", "lost"))
        parts = [p for p in pieces if p.kind == "part"]
        if not parts:
            assert shown == text
        if name in ("gpt2", "ours"):
            assert b"".join(piece.bytes for piece in pieces) == text.encode("utf-8")
        assert [p.id for p in pieces if p.id is not None] == one.cut([text])[0].ids.tolist()


_loaded: dict[str, candidate.Candidate] = {}


def loaded(folder: str) -> candidate.Candidate:
    return _loaded.setdefault(folder, candidate.Candidate(folder))


def test_pieces_of_each_kind(kinds):
    def pieces(name, text):
        return [(p.text, p.kind) for p in loaded(kinds[name]).pieces(text)]

    assert pieces("bert", "村 \x07zz") == [("村", "whole"), (" \x07", "lost"), ("zz", "unknown")]
    assert pieces("llama", "村林") == [(" ", "added"), ("村", "whole"), *[("林", "part")] * 3]
    assert [p.bytes for p in loaded(kinds["llama"]).pieces("林")][1:] == [b"\xe6", b"\x9e", b"\x97"]
    assert pieces("byt5", "a林") == [("a", "whole"), *[("", "part")] * 3]


def test_a_long_document_is_counted_whole(monkeypatch, kinds):
    monkeypatch.setattr(bpe_counts, "_PART", 7)
    text = "一二三\n四五六七八九十\n十一十二十三\n\n末"
    parts = list(bpe_counts.parts(3, "史", text))
    assert "".join(part.text for part in parts) == text
    assert [part.text for part in parts][:2] == ["一二三\n", "四五六七八九十"]
    amount, counts = bpe_counts.Amount(), bpe_counts.Counts(loaded(kinds["bert"]))
    for part in parts:
        amount.add(part)
    counts.add(parts)
    assert amount.of(None)["documents"] == 1 and amount.of(None)["characters"] == len(text)
    assert counts.figures(amount)["changed_documents"] == 1


def test_passages_are_drawn_evenly_and_again():
    def drawn(seed, batches):
        found = passages.Passages(seed)
        for source, text in batches:
            found.add(source, text)
        return found.rows()

    poems = [("诗", f"第{i}首\n" + str(i) * 90) for i in range(300)]
    rows = drawn(0, [*poems, ("史", "只有一段")])
    assert len(rows) == 10 and rows[0] == ("史", "只有一段")
    assert len({text for _, text in rows}) == 10
    assert all(len(text) <= passages.LENGTH for _, text in rows)
    assert drawn(0, [("史", "只有一段"), *poems]) == rows != drawn(1, [*poems, ("史", "只有一段")])
    many = drawn(0, [(str(i), "段") for i in range(30)])
    assert len({source for source, _ in many}) == 10


def without_speed(table: str) -> list[str]:
    return [re.sub(r" +[\d.]+$", "", line) for line in table.splitlines()]


def test_the_documented_command_prints_what_is_documented(tmp_path, monkeypatch, capsys):
    documented = (ROOT / "docs/tokenizer.md").read_text(encoding="utf-8")
    command, printed = re.search(
        r"```\npython run_bpe.py (--compare .+)\n```\n\n```\n(.+?)```", documented, re.DOTALL
    ).groups()
    monkeypatch.chdir(ROOT)
    words = command.replace("page.html", str(tmp_path / "page.html")).split()
    assert run_bpe.run(words) == 0
    assert without_speed(capsys.readouterr().out) == without_speed(printed)


@pytest.mark.corpus
def test_the_documented_figures_of_mixed_text(corpus_dir, monkeypatch, capsys):
    documented = (ROOT / "docs/tokenizer.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(tokenizer/\w+)` \| (\d.+) \|$", documented, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    words = ["--compare", *(folder for folder, _ in rows), "--files"]
    assert run_bpe.run([*words, str(corpus_dir / "validation.jsonl.zst")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for folder, figures in rows:
        printed = next(line for line in lines if line[:1] == [folder])
        del printed[7]  # unknown, which is 0 and not in the table
        assert printed[1:9] == figures.split(" | ")


class Spans(HTMLParser):
    """The attributes of tokens, and the text outside of scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tokens: list[dict] = []
        self.tags: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if "data-t" in dict(attributes):
            self.tokens.append(dict(attributes))


def test_the_page_is_one_file_in_which_text_is_text(compared):
    page = compared[1]
    found = Spans(page)
    assert found.tags["script"] == found.tags["style"] == 1 and not found.tags["img"]
    assert not re.search(r"https?:|\b(src|href)=|@import|url\(", page.replace(r"src=x", ""))
    assert "default-src 'none'" in page
    classes = Counter(word for token in found.tokens for word in token["class"].split())
    assert all(classes[kind] for kind in ("part", "unknown", "lost", "k0", "k4"))
    assert any(re.fullmatch(r"id \d+ · E6 9D 91", token["data-t"]) for token in found.tokens)
    assert page.count("<section>") == passages.PASSAGES


def refused(words: list[str], capsys) -> str:
    assert exit_code(run_bpe.run, words) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def test_what_is_no_tokenizer_is_refused(kinds, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(candidate, "find_spec", lambda name: None)
    contents = {
        "empty": {},
        "model": {"config.json": '{"model_type": "gpt2"}'},
        "broken": {"tokenizer.json": "{"},
        "spm": {
            "tokenizer.model": "x",
            "tokenizer_config.json": '{"tokenizer_class":"LlamaTokenizer"}',
        },
        "code": {
            "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}',
            "evil.py": f"open({str(tmp_path / 'ran')!r}, 'w')",
        },
    }
    said = {"empty": "is no tokenizer", "model": "no entries", "broken": "is no tokenizer"}
    said |= {"spm": "pip install sentencepiece", "code": "custom code", "none": "no folder"}
    for name, inside in contents.items():
        (tmp_path / name).mkdir()
        for file, content in inside.items():
            (tmp_path / name / file).write_text(content)
    page = tmp_path / "page.html"
    for name, message in said.items():
        words = ["--compare", kinds["ours"], str(tmp_path / name), "--files", str(files)]
        error = refused([*words, "--output", str(page)], capsys)
        assert message in error and name in error
    assert not page.exists() and not (tmp_path / "ran").exists()
    twice = ["--compare", kinds["ours"], kinds["ours"], "--files", str(files)]
    assert "twice" in refused(twice, capsys)


def test_a_text_that_is_empty_is_refused_and_nothing_written(kinds, tmp_path, capsys):
    empty = write_jsonl(tmp_path / "a.jsonl", ["", ""])
    words = ["--compare", kinds["ours"], "--output", str(tmp_path / "page.html"), "--files"]
    assert "no text in them (dropped: 2 empty)" in refused([*words, str(empty)], capsys)
    assert "no" in refused([*words, str(tmp_path / "none")], capsys)
    assert list(tmp_path.iterdir()) == [empty]


def test_only_a_page_is_replaced_and_only_if_asked(kinds, files, tmp_path, capsys):
    page, corpus = tmp_path / "page.html", write_jsonl(tmp_path / "a.jsonl", ["文"])
    words = ["--compare", kinds["ours"], "--files", str(corpus), "--output"]
    assert run_bpe.run([*words, str(page)]) == 0
    before = page.read_bytes()
    capsys.readouterr()
    assert "--overwrite" in refused([*words, str(page)], capsys)
    assert page.read_bytes() == before
    assert run_bpe.run([*words, str(page), "--overwrite", "--seed", "1"]) == 0
    capsys.readouterr()
    assert "no page" in refused([*words, str(corpus), "--overwrite"], capsys)
    assert "no folder" in refused([*words, str(tmp_path / "none" / "page.html")], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "page.html"]


# Hovers over tokens as a reader would, and says what is then to be seen.
PROBE = """
addEventListener("load", () => {
  const tip = document.getElementById("tip"), tokens = document.querySelectorAll("[data-t]");
  const seen = [], boxes = [];
  for (const token of [tokens[0], tokens[tokens.length - 1]]) {
    token.scrollIntoView();
    token.dispatchEvent(new Event("pointerover", { bubbles: true }));
    const box = tip.getBoundingClientRect();
    seen.push([tip.hidden, tip.textContent === token.dataset.t]);
    boxes.push(box.left >= 0 && box.right <= innerWidth && box.top >= 0 && box.height > 10);
  }
  document.body.dispatchEvent(new Event("pointerover", { bubbles: true }));
  const cuts = document.querySelectorAll("section:first-of-type .cut");
  document.title = JSON.stringify({
    seen, boxes, left: tip.hidden, hostile: window.hostile ?? null,
    wider: document.documentElement.scrollWidth - innerWidth,
    columns: new Set([...cuts].map(cut => cut.getBoundingClientRect().left)).size,
    back: getComputedStyle(document.body).backgroundColor,
    colour: getComputedStyle(tokens[0]).backgroundColor,
  });
});
"""


@pytest.mark.skipif(not browser.FOUND, reason="no Chromium")
@pytest.mark.parametrize("width, dark", [(1400, False), (390, True)])
def test_the_page_in_a_browser(compared, tmp_path, width, dark):
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    page = compared[1].replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    path = tmp_path / "page.html"
    path.write_text(page.replace("</html>", f"<script>{PROBE}</script></html>"), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    options += " --disable-background-networking --disable-component-update --dump-dom"
    options += f" --disable-dev-shm-usage --enable-logging=stderr --window-size={width},900"
    options += f" --user-data-dir={tmp_path / 'profile'}"
    options += f" --blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [browser.FOUND, *options.split(), path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in shown.stderr
    seen = json.loads(re.search("<title>(.*?)</title>", shown.stdout).group(1))
    assert seen["seen"] == [[False, True]] * 2 and seen["boxes"] == [True, True] and seen["left"]
    assert seen["hostile"] is None and seen["wider"] <= 0
    assert seen["columns"] == (1 if dark else 4)
    assert seen["back"] == ("rgb(21, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert seen["colour"] != "rgba(0, 0, 0, 0)"
