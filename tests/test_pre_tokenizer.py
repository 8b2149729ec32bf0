"""Named pre-tokenizers: what they cut, that nothing is lost, that both engines read them alike."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhgpt import pre_tokenizer
from zhgpt.errors import InputError
from zhgpt.pattern import Pattern

TEXT = "第12345回，村长说：don't go。\n　　开了GPT门"
CUTS = {
    "gpt2": "第|12345|回|，|村长说|：|don|'t| go|。|\n　|　|开了GPT门",
    "modern": "第|123|45|回|，村长说|：don|'t| go|。\n|　|　开了GPT门",
    "han_apart": "第|123|45|回|，|村长说|：don|'t| go|。\n|　|　|开了|GPT|门",
    "han_in_fours": "第|123|45|回|，|村长说|：don|'t| go|。\n|　|　|开了|GPT|门",
    "han_single": "第|123|45|回|，|村|长|说|：don|'t| go|。\n|　|　|开|了|GPT|门",
    "none": TEXT,
}


@pytest.mark.parametrize("name", CUTS)
def test_where_each_cuts(name):
    assert pre_tokenizer.of(name).splitter()(TEXT) == CUTS[name].split("|")


def test_han_runs_are_cut_at_four():
    assert pre_tokenizer.of("han_in_fours").splitter()("一二三四五六") == ["一二三四", "五六"]


def test_words_lie_within_pre_tokens(monkeypatch):
    class Pairs:
        """In the place of rjieba: two characters are a word."""

        cut = staticmethod(lambda text: [text[i : i + 2] for i in range(0, len(text), 2)])

    monkeypatch.setitem(sys.modules, "rjieba", Pairs)
    words = pre_tokenizer.of("words")
    assert words.splitter()("我们说，好") == ["我们", "说", "，", "好"]
    apart = "我们|用|Git|做| pull| request|。\n|　|了"
    assert words.splitter()(apart.replace("|", "")) == apart.split("|")
    assert words.pattern == pre_tokenizer.PATTERNS["modern"]
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(InputError, match="pip install rjieba"):
        pre_tokenizer.of("words")


@pytest.mark.parametrize("name", CUTS)
@settings(max_examples=50)
@given(text=st.text() | st.text("村长说，。 \n1a々〇か한ａ"))
def test_nothing_is_lost_and_what_is_saved_cuts_alike(name, text):
    cuts = pre_tokenizer.of(name)
    pieces = cuts.splitter()(text) if text else []
    assert "".join(pieces) == text
    saved = cuts.saved().pre_tokenize_str(text)
    assert [text[a:b] for _, (a, b) in saved] == pieces


@pytest.mark.parametrize(
    "name", [name for name, pattern in pre_tokenizer.PATTERNS.items() if pattern]
)
def test_the_fast_engine_serves_it(name):
    Pattern(pre_tokenizer.PATTERNS[name])


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("modren", 'did you mean "modern"'),
        ("", "there are: gpt2, modern"),
        (r"\p{L}+|(\d", "no regular expression.*at position 10"),
        ("[a", "no regular expression"),
    ],
)
def test_what_is_neither_a_name_nor_a_pattern(wrong, words):
    with pytest.raises(InputError, match=words):
        pre_tokenizer.of(wrong)


def test_a_pattern_that_does_not_end_is_told():
    split = pre_tokenizer.of("(a|aa)+$").splitter()
    with pytest.raises(InputError, match="too many steps"):
        split("a" * 60 + "b")
