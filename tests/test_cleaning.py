"""Cleaning: each step does exactly what it says and no more, and every byte is accounted for."""

import dataclasses
import io
import json
import pickle
import random
import unicodedata
from collections import Counter

import numpy as np
import pytest
import zstandard
from conftest import ROOT, tiny_stories
from hypothesis import given, settings
from hypothesis import strategies as st

import run_clm
from zhgpt import cleaning, command, duplicates, frequent, recipe
from zhgpt.cleaning import (
    SUGGESTED,
    Cleaner,
    han_share,
    mask_contacts,
    repetition,
    to_simplified,
    without_controls,
    would_remove,
)
from zhgpt.duplicates import Deduplicator, NearDuplicates, content_hash, signature
from zhgpt.errors import InputError
from zhgpt.frequent import LineCounts
from zhgpt.recipe import CleaningSection

NOTHING = CleaningSection()
EVERYTHING = dataclasses.replace(SUGGESTED, max_characters=200)
STEPS = [field.name for field in dataclasses.fields(CleaningSection)]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
# Characters that steps look for, so that hypothesis meets them often.
HARD = st.text("村民們後來乾著é\u0301\u0958\ufeff\u200b\r\n\x00\x85 　a@b.c1380-。", max_size=60)


def size(text: str) -> int:
    return len(text.encode("utf-8"))


# What is asked for


@given(TEXT)
def test_nothing_is_done_unasked(text):
    assert Cleaner(NOTHING, frozenset([text]))(text) == (text, None, {})
    deduplicate = Deduplicator(NOTHING)
    assert [deduplicate(text), deduplicate(text)] == [(text, None, {})] * 2


@given(text=TEXT | HARD, step=st.sampled_from([*STEPS, "all"]))
def test_bytes_given_are_bytes_returned_and_removed(text, step):
    section = EVERYTHING
    if step != "all":
        section = CleaningSection(**{step: getattr(EVERYTHING, step)})
    lines = frozenset(text.split("\n")[::2]) - {""}
    cleaned, reason, removed = Cleaner(section, lines)(text)
    assert size(text) == size(cleaned) + sum(removed.values())
    assert bool(removed) == (cleaned != text) and set(removed) <= set(STEPS)
    assert step == "all" or set(removed) <= {step}
    deduplicate = Deduplicator(CleaningSection(duplicates="paragraphs"))
    for given_text in (text, text + "甲" * 60, text + "乙\n" + "甲" * 60):
        kept, _, removed = deduplicate(given_text)
        assert size(given_text) == size(kept) + sum(removed.values())


def test_steps_come_in_the_order_of_the_section_and_are_counted_apart():
    section = CleaningSection(
        repeated_lines=0.5, control_characters=True, nfc=True, simplified=True, mask_contacts=True
    )
    text = "頁首\n\ufeff村民們後來e\u0301 138\u200b12345678\r\n"
    cleaned, reason, removed = Cleaner(section, frozenset(["頁首"]))(text)
    assert cleaned == "村民们后来é 【电话】\n"
    assert reason is None
    assert list(removed) == STEPS[:5]
    assert removed == {
        "repeated_lines": 7,
        "control_characters": 3 + 3 + 1,
        "nfc": 1,
        "simplified": 0,
        "mask_contacts": 11 - 12,
    }


def test_cleaner_and_counts_go_to_other_processes():
    clean = pickle.loads(pickle.dumps(Cleaner(EVERYTHING, frozenset(["页首"]))))
    assert clean("页首\n" + BASE[0])[0] == BASE[0]
    counts = LineCounts()
    counts.add("一\n二")
    merged = pickle.loads(pickle.dumps(counts))
    merged.merge(counts)
    assert merged.documents == 2 and merged.repeated(0.5) == {"一", "二"}


# Characters


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("甲\r\n乙\r丙\x0b丁\x0c戊\x85己", "甲\n乙\n丙\n丁\n戊\n己"),
        ("\ufeff甲\x00\u200b乙\u2060\u00ad", "甲乙"),
        ("\u202a甲\u202c\u200e乙\u2066\u2069\u061c", "甲乙"),
        ("\x1b[31m红\x1b[0m\x7f\x9f", "[31m红[0m"),
        ("\r\r\n\n", "\n\n\n"),
    ],
)
def test_line_ends_are_one_and_invisible_characters_go(text, cleaned):
    assert without_controls(text) == cleaned


def test_what_has_a_meaning_stays():
    kept = (
        "甲\t乙\n　丙\u00a0丁\u2003\u2028\u2029👨\u200d👩\u200d👧 क\u094d\u200cष ﬁ②，\ufffd\ufe0f"
    )
    assert without_controls(kept) == kept


def codes(ranges: str) -> set[int]:
    pairs = [part.split("-") for part in ranges.split()]
    return {code for pair in pairs for code in range(int(pair[0], 16), int(pair[-1], 16) + 1)}


NAMED = codes("0-8 e-1f 7f-84 86-9f ad 61c 200b 200e-200f 202a-202e 2060 2066-2069 feff")


def test_exactly_the_named_characters_are_removed():
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert {ord(c) for c in every if without_controls(c) == ""} == NAMED
    changed = {c for c in every if without_controls(c) not in ("", c)}
    assert changed == set("\r\x0b\x0c\x85")


@given(TEXT | HARD)
def test_a_second_cleaning_of_characters_changes_nothing(text):
    clean = Cleaner(CleaningSection(control_characters=True, nfc=True))
    once = clean(text)[0]
    assert clean(once)[0] == once


@pytest.mark.parametrize(
    "text, cleaned, removed",
    [
        ("e\u0301", "é", 1),
        ("\uf9dc", "隆", 0),  # a compatibility ideograph is canonically its ordinary form
        ("\u0958", "\u0915\u093c", -3),  # excluded from composition: the text grows
    ],
)
def test_nfc(text, cleaned, removed):
    assert Cleaner(CleaningSection(nfc=True))(text) == (cleaned, None, {"nfc": removed})


def test_nfc_is_not_nfkc():
    wide = "，。！？：；（）１２ＡＢ②ﬁ㎡\u3000…"
    assert Cleaner(CleaningSection(nfc=True))(wide) == (wide, None, {})


# Traditional and Simplified


@pytest.mark.parametrize(
    "text, simplified",
    [
        ("村民們都很高興，後來發生了許多事。", "村民们都很高兴，后来发生了许多事。"),
        ("乾隆皇帝喝乾了這碗藥，頭髮發白。", "乾隆皇帝喝干了这碗药，头发发白。"),
        ("The Chinese word: 後來", "The Chinese word: 后来"),
    ],
)
def test_a_traditional_text_becomes_simplified(text, simplified):
    assert to_simplified(text) == simplified


@pytest.mark.parametrize(
    "text",
    [
        "扭转乾坤的人站在塔上瞭望远方的村庄和河流。",
        "书里引了一句古文：後生可畏。后面的话都是用简体写的，说的是村里的年轻人如何学会了种树。",
        "plain ASCII",
        "",
    ],
)
def test_a_simplified_text_is_left_alone(text):
    assert to_simplified(text) == text


def test_the_limit_is_a_tenth_of_the_han_characters():
    assert to_simplified("後" + "村" * 9 + "abc。" * 20) == "後" + "村" * 9 + "abc。" * 20
    assert to_simplified("後" + "村" * 8) == "后" + "村" * 8


# Contacts


@pytest.mark.parametrize(
    "text, masked",
    [
        ("邮箱zhang.san+1@mail.example.com。", "邮箱【邮箱】。"),
        ("<a_b-c%d@x-y.cn>，A@B.ORG", "<【邮箱】>，【邮箱】"),
        ("me＠example.com", "【邮箱】"),
        ("电话13812345678。", "电话【电话】。"),
        ("Tel:138-1234-5678/139 1234 5678", "Tel:【电话】/【电话】"),
        ("13812345678,19912345678、+86 18612345678", "【电话】,【电话】、【电话】"),
        ("8613812345678", "【电话】"),
        ("总机010-62345678-801，传真(0755)26770000", "总机【电话】，传真【电话】"),
        ("（021）6234 5678 +86-10-62345678 0571 87654321", "【电话】 【电话】 【电话】"),
        ("0311-2345678", "【电话】"),
    ],
)
def test_contacts_are_masked(text, masked):
    assert mask_contacts(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-7-111-12345-6 ISBN 9787111123456 ISBN 7-302-13812-5 ISSN 0254-4164",
        "2020-10-13 20201013 2013-12-31T15:01:02.13812345678 1380-1399年",
        "138123456789 0138123456780 513812345678 13812345678.5 0.13812345678 3-13812345678",
        "6222 138 1234 5678 910 6222-1381-2345-6789 440301198001011234",
        "13800000000 15000000000 id13812345678 https://x.cn/a/13812345678",
        "12345678 1381234567 0755-123 010-12345678 010 2020 年",
        "git@github.com:a/b.git @override a@b icon@2x.png npm@7.1.2 @user.name 3 @ 4.cn",
        "",
    ],
)
def test_other_numbers_and_signs_are_left_alone(text):
    assert mask_contacts(text) == text


def test_masking_takes_no_quadratic_time():
    for hostile in ("x" * 300_000 + "@", "a@" * 150_000, "a." * 150_000 + "@b", "1-" * 150_000):
        assert mask_contacts(hostile) == hostile
    assert mask_contacts("a@" + "b." * 100_000) == "a@" + "b." * 100_000


# Lines


def test_lines_are_counted_once_per_document_and_found_by_their_share():
    counts = LineCounts()
    for text in ["页首\n一\n一", "  页首\r\n二", "页首\n----\n三", "四\n----\n一"]:
        counts.add(text)
    assert counts.documents == 4 and counts.missed == 0
    assert counts.repeated(0.5) == {"页首"}
    assert counts.repeated(0.49) == {"页首", "一"}  # ---- is structure
    assert counts.repeated(0.75) == set()
    assert counts.repeated(0.001) == {"页首", "一"}  # once is no repetition


def test_a_long_line_is_no_boilerplate():
    counts = LineCounts()
    for line in ["长" * 201, "短" * 200] * 2:
        counts.add(line)
    assert counts.repeated(0.1) == {"短" * 200}


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("页首\n正文\n页尾", "正文"),
        ("正文\n 页首 \n\n正文页首\n", "正文\n\n正文页首\n"),
        ("页首", ""),
    ],
)
def test_repeated_lines_are_removed_whole(text, cleaned):
    clean = Cleaner(CleaningSection(repeated_lines=0.5), frozenset(["页首", "页尾"]))
    reason = None if cleaned else "empty after cleaning"
    assert clean(text) == (cleaned, reason, {"repeated_lines": size(text) - size(cleaned)})


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=60), st.integers(0, 60))
def test_a_full_table_counts_no_line_too_high_and_says_how_much_too_low(documents, split):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frequent, "_LINES", 8)
        parts = LineCounts(), LineCounts()
        true = Counter()
        for number, lines in enumerate(documents):
            parts[number >= split].add("\n".join(f"第{line}行" for line in lines))
            true.update({f"第{line}行" for line in lines})
        counts, other = parts
        counts.merge(other)
        assert counts.documents == len(documents)
        assert len(counts._counts) <= 8
        assert counts.missed <= 2 * sum(true.values()) / 8
        for line, number in true.items():
            assert number - counts.missed <= counts._counts.get(line, 0) <= number


# Documents


@pytest.mark.parametrize(
    "section, text, reason",
    [
        ({"min_characters": 3}, "村民", "below min_characters"),
        ({"min_characters": 3}, "村民们", None),
        ({"max_characters": 3}, "村民们", None),
        ({"max_characters": 3}, "村民们都", "above max_characters"),
        ({"min_han_share": 0.5}, "村民ab \n\t　", None),
        ({"min_han_share": 0.5}, "村民abc", "below min_han_share"),
        ({"min_han_share": 0.1}, "", "below min_han_share"),
        ({"max_repetition": 0.5}, "村民们都很高兴，后来啊" * 2, None),
        ({"max_repetition": 0.5}, "村民们都很高兴，后来啊" * 3, "above max_repetition"),
        ({"max_repetition": 0.0}, "村民们都很高兴", None),
        ({"control_characters": True}, "\ufeff \n", "empty after cleaning"),
        ({"control_characters": True}, " \n", None),  # not of our making
    ],
)
def test_documents_are_dropped_for_a_reason(section, text, reason):
    assert Cleaner(CleaningSection(**section))(text)[1] == reason


def test_han_is_counted_in_characters_of_every_plane():
    assert han_share("村〇々𠮷丽") == 1.0
    assert han_share("𠮷😀") == 0.5
    assert han_share("ひらカナ한글，。1a") == 0.0
    assert han_share("村 \n\t\u3000\u00a0a") == 0.5


def repetition_by_hand(text: str) -> float:
    text = "".join(text.split())
    seen, covered = set(), set()
    for start in range(len(text) - 9):
        if text[start : start + 10] in seen:
            covered |= set(range(start, start + 10))
        seen.add(text[start : start + 10])
    return len(covered) / max(1, len(text))


@given(st.text("甲𠮷 ", max_size=80) | st.text("甲乙", max_size=300) | TEXT)
def test_repetition_is_that_counted_by_hand(text):
    assert repetition(text) == repetition_by_hand(text)


# Duplicates

BASE = tiny_stories(400, seed=5)


def edited(text: str, edits: int, seed: int) -> str:
    draw = random.Random(seed)
    characters = list(text)
    for _ in range(edits):
        characters[draw.randrange(len(characters))] = chr(draw.randrange(0x4E00, 0x9FFF))
    return "".join(characters)


def grams(text: str) -> set[str]:
    text = "".join(text.split())
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def jaccard(one: str, other: str) -> float:
    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def random_text(seed: int, length: int) -> str:
    draw = random.Random(seed)
    return "".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(length))


@pytest.mark.parametrize("length", [5, 12, 60, 400, 3000])
def test_signatures_estimate_the_jaccard_similarity(length):
    errors = []
    for seed in range(60):
        text = random_text(seed, length)
        other = edited(text, (seed * length) // 600, seed) + random_text(-seed - 1, seed % 7)
        errors.append(np.mean(signature(text) == signature(other)) - jaccard(text, other))
    assert abs(np.mean(errors)) < 0.02
    assert np.max(np.abs(errors)) < 0.16  # 3.6 standard deviations of the worst case


@given(HARD)
def test_signatures_do_not_see_whitespace(text):
    values = signature(text)
    assert values.shape == (128,) and values.dtype == np.uint16
    assert (values == signature(" \n".join(text))).all()


def test_hashes_and_signatures_are_those_of_every_machine_and_month():
    assert content_hash("村民们都很高兴") == 0x205791751E5FE30F
    assert signature("村民们都很高兴").tolist()[:4] == [21656, 27213, 17654, 7206]
    long = "村民们都很高兴，后来" * 500
    assert signature(long).tolist()[:4] == [33996, 25690, 24934, 41007]


def pairs(threshold: float, lengths=(30, 100, 400)) -> list[tuple[float, bool]]:
    """True similarity, and whether it was found, of texts and edited copies of them."""
    found = []
    for seed in range(300):
        length = lengths[seed % len(lengths)]
        text = random_text(seed, length)
        copy = edited(text, seed % (length // 6), seed)
        near = NearDuplicates(threshold)
        assert near.add(signature(text)) is None
        found.append((jaccard(text, copy), near.find(signature(copy)) == 0))
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_near_duplicates_are_found_and_others_are_not(threshold):
    found = pairs(threshold)
    close = [hit for similarity, hit in found if similarity >= min(1.0, threshold + 0.08)]
    apart = [hit for similarity, hit in found if similarity < threshold - 0.1]
    assert len(close) > 20 and len(apart) > 20
    assert np.mean(close) > 0.95
    assert np.mean(apart) < 0.02


def compared_with_all(threshold: float, signatures: list[np.ndarray]) -> list[int | None]:
    kept: dict[int, np.ndarray] = {}
    answers = []
    for number, values in enumerate(signatures):
        close = [n for n, old in kept.items() if np.mean(old == values) >= threshold]
        answers.append(min(close, default=None))
        if not close:
            kept[number] = values
    return answers


@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_bands_find_what_comparison_with_all_finds(threshold):
    texts = [edited(BASE[i % 100], (0, 2, 4, 0)[i // 100], i) for i in range(400)]
    signatures = [signature(text) for text in texts]
    near = NearDuplicates(threshold)
    answers = [near.add(values) for values in signatures]
    expected = compared_with_all(threshold, signatures)
    agree = sum(a == b for a, b in zip(answers, expected, strict=True))
    assert agree >= 0.97 * len(texts)
    assert sum(answer is not None for answer in answers) > 50


def test_the_first_near_duplicate_is_named_by_its_number():
    near = NearDuplicates(0.8)
    a, b = signature(BASE[0] * 3), signature("另一篇很不一样的文章，说的是山里的事。")
    assert near.find(a) is None
    assert [near.add(a), near.add(a), near.add(b), near.add(b)] == [None, 0, None, 2]
    assert [near.find(b), near.find(b), near.add(a)] == [2, 2, 0]


def test_tables_grow_without_losing_anyone():
    draw = np.random.default_rng(3)
    signatures = draw.integers(0, 1 << 16, (2500, 128), dtype=np.uint16)
    signatures[::10, :16] = signatures[0, :16]  # bands that many have: long chains
    near = NearDuplicates(0.8)
    assert [near.add(values) for values in signatures] == [None] * 2500
    assert [near.find(values) for values in signatures] == list(range(2500))
    again = NearDuplicates(0.8)
    again.state = near.state
    assert (again._heads == near._heads).all() and (again._next == near._next).all()


def test_a_set_of_hashes_is_a_set(monkeypatch):
    monkeypatch.setattr(duplicates, "_NEWEST", 10)
    draw = random.Random(2)
    hashes, plain = duplicates._Hashes(), set()
    for _ in range(300):
        batch = [draw.choice([0, 2**64 - 1, draw.randrange(400) << 54]) for _ in range(3)]
        for value, known in zip(batch, hashes.add(batch), strict=True):
            assert known == (value in plain)
            plain.add(value)
    assert hashes.all().tolist() == sorted(plain)


LONG = ["甲" * 50, "乙" * 60, "  " + "丙" * 55 + " "]


def deduplicated(section: dict, texts: list[str]) -> list[tuple[str, str | None]]:
    deduplicate = Deduplicator(CleaningSection(**section))
    return [deduplicate(text)[:2] for text in texts]


def test_the_first_of_equal_documents_is_kept():
    texts = ["一", "二", "一", "一 ", "二"]
    reasons = [None, None, "duplicate", None, "duplicate"]
    expected = list(zip(texts, reasons, strict=True))
    assert deduplicated({"duplicates": "documents"}, texts) == expected


def test_the_first_of_equal_paragraphs_is_kept():
    a, b, c = LONG
    texts = [
        f"题\n{a}\n{b}",
        f"题\n{a}\n{c}\n短",
        f"{c.strip()}\n{a}",
        f"{b}\n新",
        f"{'丁' * 50}\n" * 2,
    ]
    assert deduplicated({"duplicates": "paragraphs"}, texts) == [
        (texts[0], None),
        (f"题\n{c}\n短", None),
        (texts[2], "duplicate"),
        ("新", None),
        ("丁" * 50 + "\n", None),
    ]


def test_paragraphs_of_near_duplicates_are_not_counted_as_kept():
    text = "".join(BASE[:20])
    close = edited(text, 5, 1)
    deduplicate = Deduplicator(CleaningSection(duplicates="paragraphs", near_duplicates=0.8))
    assert deduplicate(text) == (text, None, {})
    assert deduplicate(close) == (close, "near-duplicate", {})
    assert deduplicate(close) == (close, "duplicate", {})
    apart = f"{random_text(1, 2000)}\n{close}"
    assert deduplicate(apart) == (apart, None, {})


@pytest.mark.parametrize("at", [0, 1, 150, 300])
def test_a_state_from_a_file_goes_on_as_if_there_had_been_no_break(at, tmp_path):
    section = CleaningSection(duplicates="paragraphs", near_duplicates=0.8)
    texts = BASE[:100] + [edited(t, 1, 1) for t in BASE[:100]]
    texts += [f"{BASE[i]}\n{BASE[i + 7]}\n新的一篇{i}" for i in range(60)] + BASE[:40]
    whole = Deduplicator(section)
    expected = [whole(text) for text in texts]
    assert {reason for _, reason, _ in expected} == {None, "duplicate", "near-duplicate"}
    assert any(removed for _, _, removed in expected)

    first, then = Deduplicator(section), Deduplicator(section)
    before = [first(text) for text in texts[:at]]
    np.savez(tmp_path / "state.npz", **first.state)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        then.state = state
    assert before + [then(text) for text in texts[at:]] == expected
    for name, array in whole.state.items():
        assert (then.state[name] == array).all()


def test_a_state_takes_no_more_than_its_hashes():
    deduplicate = Deduplicator(CleaningSection(duplicates="documents", near_duplicates=0.8))
    texts = [random_text(seed, 80) for seed in range(1500)]
    assert all(deduplicate(text)[1] is None for text in texts)
    assert sum(array.nbytes for array in deduplicate.state.values()) <= len(texts) * 272 + 8


# What a survey says


def test_each_step_is_judged_on_its_own():
    page = "页首" + "\n"
    texts = [page + story for story in BASE[:30]] + [page + BASE[0], "\ufeff短", "a" * 40]
    section = dataclasses.replace(SUGGESTED, repeated_lines=0.5)
    for given_texts in (texts, iter(texts)):
        effects = would_remove(given_texts, section)
        assert effects["repeated_lines"] == {"documents": 0, "changed": 31, "bytes": 31 * 7}
        assert effects["control_characters"] == {"documents": 0, "changed": 1, "bytes": 3}
        assert effects["min_characters"] == {"documents": 1, "changed": 0, "bytes": 6}
        assert effects["min_han_share"] == {"documents": 1, "changed": 0, "bytes": 40}
        assert effects["max_repetition"]["documents"] >= 1
        assert effects["duplicates"]["documents"] == 1
        assert effects["duplicates"]["bytes"] == size(page + BASE[0])
        assert effects["near_duplicates"]["documents"] >= 1
        assert effects["nfc"] == {"documents": 0, "changed": 0, "bytes": 0}
    assert list(effects) == [step for step in STEPS if step != "max_characters"]
    assert would_remove(texts, NOTHING) == {}


def test_the_table_names_every_step_and_lines_up():
    lines = cleaning.effects_table(would_remove(BASE[:5])).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(would_remove([]))
    assert len({len(line) for line in lines}) == 1


# The section in a recipe

BASELINE = ROOT / "recipes" / "gpt2_124m.json"


def asked(*words: str, path=BASELINE) -> command.Command:
    return command.read([str(path), *words], recipe.ClmRecipe, run_clm.SECTIONS)


def read(*words: str, path=BASELINE) -> CleaningSection:
    return asked(*words, path=path).recipe.cleaning


def test_a_recipe_without_the_section_cleans_nothing():
    assert "cleaning" not in json.loads(BASELINE.read_text(encoding="utf-8"))
    assert read() == NOTHING


def test_the_section_from_file_and_command_line(tmp_path):
    content = json.loads(BASELINE.read_text(encoding="utf-8"))
    content["cleaning"] = {"nfc": True, "near_duplicates": 1, "duplicates": None}
    path = tmp_path / "clean.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    expected = CleaningSection(nfc=True, near_duplicates=1.0, min_characters=5)
    assert read("--min_characters=5", path=path) == expected
    words = ["--repeated_lines=0.01", "--mask_contacts", "--duplicates", "paragraphs"]
    section = CleaningSection(repeated_lines=0.01, mask_contacts=True, duplicates="paragraphs")
    assert read(*words) == section


def test_cleaning_changes_the_result_and_so_the_hash():
    plain, clean = asked(), asked("--nfc")
    assert recipe.content_hash(plain.recipe) != recipe.content_hash(clean.recipe)
    assert clean.run_name == "gpt2_124m-nfc=true"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--nfc=1"], ["--nfc 1", "true or false"]),
        (["--repeated_lines=0"], ["cleaning.repeated_lines = 0", "from 0.001 to below 1"]),
        (["--repeated_lines=1"], ["cleaning.repeated_lines = 1", "below 1"]),
        (["--min_characters=0"], ["cleaning.min_characters = 0", "above 0"]),
        (["--min_characters=1.5"], ["--min_characters 1.5", "an integer"]),
        (["--max_characters=-1"], ["cleaning.max_characters = -1", "above 0"]),
        (["--min_han_share=30"], ["cleaning.min_han_share = 30", "up to 1"]),
        (["--max_repetition=1"], ["cleaning.max_repetition = 1", "below 1"]),
        (["--max_repetition=nan"], ["--max_repetition nan", "finite"]),
        (["--near_duplicates=0.2"], ["cleaning.near_duplicates = 0.2", "from 0.5 to 1"]),
        (["--duplicates=lines"], ["--duplicates lines", "one of documents, paragraphs or null"]),
        (
            ["--min_characters=9", "--max_characters=8"],
            ["command line: cleaning.min_characters = 9", "above cleaning.max_characters = 8"],
        ),
        (["--cleaning", "{}"], ["--cleaning is a section", "--cleaning.KEY"]),
        (["--simplify"], ["--simplify", 'did you mean "simplified"']),
    ],
)
def test_nonsense_is_refused(words, said):
    with pytest.raises(InputError) as refused:
        read(*words)
    for part in said:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    "section, words, said",
    [
        ({"nfkc": True}, [], ["cleaning.nfkc", 'did you mean "nfc"']),
        (True, [], ["cleaning = true", "an object"]),
        (None, [], ["cleaning = null", "an object"]),
        ({"duplicates": "lines"}, [], ["cleaning.duplicates", "documents, paragraphs"]),
        ({"min_characters": 9}, ["--max_characters=8"], ["command line: cleaning.max_characters"]),
        ({"min_characters": 9, "max_characters": 8}, [], ["spoilt.json: cleaning.min_characters"]),
    ],
)
def test_nonsense_in_a_file_is_refused(section, words, said, tmp_path):
    content = json.loads(BASELINE.read_text(encoding="utf-8")) | {"cleaning": section}
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read(*words, path=path)
    for part in said:
        assert part in str(refused.value)


# Real text


def corpus_texts(path) -> list[str]:
    raw = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
    lines = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
    return [json.loads(line)["text"] for line in lines]


@pytest.mark.corpus
def test_a_healthy_corpus_loses_nothing_but_what_is_named(corpus_dir):
    clean = Cleaner(CleaningSection(control_characters=True, nfc=True))
    texts = corpus_texts(corpus_dir / "validation.jsonl.zst")
    texts += corpus_texts(corpus_dir / "train-wiki.jsonl.zst")
    table = dict.fromkeys(NAMED) | dict.fromkeys(map(ord, "\r\x0b\x0c\x85"), "\n")
    changed = 0
    for text in texts:
        cleaned, reason, removed = clean(text)
        expected = text.replace("\r\n", "\n").translate(table)
        assert cleaned == unicodedata.normalize("NFC", expected) and reason is None
        changed += bool(removed)
    assert changed < 0.05 * len(texts)
