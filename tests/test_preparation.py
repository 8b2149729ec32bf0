"""Preparing a corpus: contamination, cleaning, order, data sets, kills, full disks, two at once."""

import errno
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import ROOT, tiny_stories, write_jsonl
from test_corpus import EOS_ID, TOKENIZER, decoded, ids, ordered

from zhgpt import blocks, command, contamination, corpus, parts, preparation, recipe
from zhgpt.cleaning import Cleaner
from zhgpt.duplicates import Deduplicator, signature
from zhgpt.errors import InputError
from zhgpt.frequent import LineCounts
from zhgpt.ledger import check_laws
from zhgpt.recipe import CleaningSection, CorpusSection


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "zhgpt"


PLAIN = CleaningSection()


def prepare(*train, clean=PLAIN, say=lambda _: None, **changes) -> corpus.Corpus:
    """Of files, folders, or without any of a data set that `changes` name."""
    section = CorpusSection(train_files=tuple(map(str, train)), **({"block_size": 4} | changes))
    return corpus.prepare(section, clean, TOKENIZER, EOS_ID, say)


def in_training(made: corpus.Corpus) -> list[str]:
    """Its documents; what the remainder has of the last ones is not in the blocks."""
    stream = ids(made.train)
    whole = np.flatnonzero(stream == EOS_ID)[-1] + 1
    return decoded(stream[:whole])


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


# Contamination


def edited(text: str, share: float, seed: int) -> str:
    """With a run of so many of its characters replaced by others."""
    draw, length = random.Random(seed), int(len(text) * share)
    start = draw.randrange(len(text) - length)
    new = "".join(chr(draw.randrange(0x4E00, 0x9000)) for _ in range(length))
    return text[:start] + new + text[start + length :]


def essay(seed: int, length: int = 600) -> str:
    draw = random.Random(seed)
    return "".join(chr(draw.randrange(0x4E00, 0x9000)) for _ in range(length))


def alike(one: str, other: str) -> float:
    return float(np.mean(signature(one) == signature(other)))


@pytest.fixture
def contaminated(tmp_path) -> dict:
    """In training: two copies of one validation document, one of another, two near copies."""
    clean, held = tiny_stories(60, seed=1), [essay(n) for n in range(4)]
    exact, near = [held[0], held[0], held[1]], [edited(held[n], 0.03, n) for n in (2, 3)]
    assert all(alike(a, b) > 0.85 for a, b in zip(near, held[2:], strict=True))
    train = write_jsonl(tmp_path / "t.jsonl", clean + near[:1] + exact + near[1:])
    validation = write_jsonl(tmp_path / "v.jsonl", [*held, held[3]])
    files = {"train_files": (str(train),), "validation_files": (str(validation),)}
    return files | {"clean": clean, "exact": exact, "near": near, "held": held}


def judged(facts: dict, policy: str, similarity: float, say=lambda _: None) -> corpus.Corpus:
    files = {key: facts[key] for key in ("train_files", "validation_files")}
    section = CorpusSection(
        **files, block_size=4, contamination=policy, contamination_similarity=similarity
    )
    return corpus.prepare(section, CleaningSection(), TOKENIZER, EOS_ID, say)


def sizes(texts: list[str]) -> dict[str, int]:
    return {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}


@pytest.mark.parametrize("similarity", [1.0, 0.8])
@pytest.mark.parametrize("policy", ["drop", "report"])
def test_contamination_is_left_out_or_reported(contaminated, policy, similarity):
    said, facts = [], contaminated
    made = judged(facts, policy, similarity, said.append)
    expected = {contamination.EXACT: sizes(facts["exact"])}
    if similarity < 1:
        expected[contamination.NEAR] = sizes(facts["near"])
    assert made.ledger["contamination"] == expected
    assert made.ledger["dropped"] == (expected if policy == "drop" else {})
    check_laws(made.ledger)
    assert decoded(ids(made.validation)) == ordered([*facts["held"], facts["held"][3]])
    trained = facts["clean"] + (facts["near"] if policy == "report" or similarity == 1 else [])
    trained += facts["exact"] if policy == "report" else []
    found = in_training(made)
    assert not Counter(found) - Counter(trained)
    assert made.ledger["train"]["documents"] == len(trained)
    (line,) = (line for line in said if "of validation in training" in line)
    assert line.endswith("left out" if policy == "drop" else "trained on")


@pytest.mark.parametrize("similarity, first", [(1.0, "exact"), (0.8, "near")])
def test_contamination_is_refused_with_counts_and_the_first_place(
    contaminated, cache, similarity, first
):
    with pytest.raises(InputError) as raised:
        judged(contaminated, "refuse", similarity)
    message, (file,) = str(raised.value), contaminated["train_files"]
    assert "3 duplicates of validation" in message
    assert ("2 near-duplicates of validation" in message) == (similarity < 1)
    assert f"the first in {file}: {contaminated[first][0][:40]!r}" in message
    assert "--contamination drop" in message
    assert folders(cache) == []


def test_what_is_near_one_of_two_alike_validation_documents_is_found(tmp_path):
    """The second of them is not left out of the comparison because it is near the first."""
    held = [essay(1), edited(essay(1), 0.08, seed=2)]
    assert alike(*held) >= 0.8
    training = [near_one(held[number], held[1 - number]) for number in (0, 1)]
    validation = write_jsonl(tmp_path / "v.jsonl", held)
    train = write_jsonl(tmp_path / "t.jsonl", [*training, *tiny_stories(20, seed=1)])
    facts = {"train_files": (str(train),), "validation_files": (str(validation),)}
    made = judged(facts, "drop", 0.8)
    assert made.ledger["contamination"] == {contamination.NEAR: sizes(training)}


def near_one(text: str, other: str) -> str:
    """Something that is near to a text, and not to the other one that is near to it."""
    edits = (edited(text, 0.08, seed) for seed in range(99))
    return next(e for e in edits if alike(e, text) >= 0.8 > 0.78 > alike(e, other))


def test_near_copies_across_a_split_by_hash_are_left_out(tmp_path):
    """Equal documents have equal hashes and so never lie on both sides."""
    texts = [essay(n, 200) for n in range(120)]
    texts += [text + "完" for text in texts] + texts[:30]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    settings = {"validation_fraction": 0.2, "contamination_similarity": 0.8}
    made = prepare(path, contamination="drop", **settings)
    held = decoded(ids(made.validation))
    crossing = [t for t in texts if t not in held and {t.removesuffix("完"), t + "完"} & {*held}]
    assert made.ledger["contamination"] == {contamination.NEAR: sizes(crossing)} and crossing
    assert made.ledger["train"]["documents"] == len(texts) - len(held) - len(crossing)
    plain = prepare(path, validation_fraction=0.2)
    assert plain.ledger["contamination"] == {}


# Cleaning

CLEANING = CleaningSection(
    repeated_lines=0.3,
    control_characters=True,
    nfc=True,
    simplified=True,
    mask_contacts=True,
    min_characters=12,
    max_characters=700,
    min_han_share=0.5,
    max_repetition=0.8,
    duplicates="paragraphs",
    near_duplicates=0.8,
)


def dirty() -> list[str]:
    """Something for each step, also among documents that lie far from one another."""
    stories = [f"{essay(n, 80)}。\n{essay(n + 500, 60)}" for n in range(80)]
    paragraph = essay(999, 70)
    for n in range(0, 80, 2):
        stories[n] = f"转载请注明出处\n{stories[n]}"
    for n in range(0, 80, 5):
        stories[n] += f"\n{paragraph}"
    for n in range(1, 80, 9):
        stories[n] += "\r\n见\u200be\u0301cole，邮箱 someone@example.org 电话 13800138000"
    stories[7] = "這個國家的歷史與傳統讓許多學者對其藝術產生濃厚興趣，並開闢了新領域。"
    stories += [stories[3], stories[12], edited(stories[20], 0.02, 1), edited(stories[41], 0.02, 2)]
    stories += ["太短", "long enough, but no Chinese at all", "重复" * 200, essay(77, 800)]
    return [*stories[40:], *stories[:40]]


def cleaned(texts: list[str]) -> list[str]:
    """What is kept, by the steps themselves."""
    counts, kept = LineCounts(), []
    for text in texts:
        counts.add(text)
    steps = [Cleaner(CLEANING, counts.repeated(0.3)), Deduplicator(CLEANING)]
    for text in texts:
        for step in steps:
            text, reason, _ = step(text)
            if reason:
                break
        else:
            kept.append(text)
    return kept


def test_every_step_of_cleaning_is_in_the_ledger(tmp_path):
    texts = dirty()
    made = prepare(write_jsonl(tmp_path / "a.jsonl", texts), clean=CLEANING, block_size=2)
    ledger, kept = made.ledger, cleaned(texts)
    check_laws(ledger)
    removed = "repeated_lines control_characters nfc simplified mask_contacts duplicates"
    assert set(ledger["removed"]) == set(removed.split())
    assert {reason: drop["documents"] for reason, drop in ledger["dropped"].items()} == {
        "above max_characters": 1,
        "above max_repetition": 1,
        "below min_characters": 1,
        "below min_han_share": 1,
        "duplicate": 2,
        "near-duplicate": 2,
    }
    assert ledger["read"]["bytes"] == sizes(texts)["bytes"]
    assert ledger["train"]["documents"] + ledger["validation"]["documents"] == len(kept)
    found = in_training(made) + decoded(ids(made.validation))
    assert set(found) <= set(kept) and len(found) >= len(kept) - 1


def test_where_parts_and_buckets_end_makes_no_difference(tmp_path, monkeypatch):
    """What cleaning remembers goes on from part to part, also in another process."""
    path = write_jsonl(tmp_path / "a.jsonl", dirty())
    made = []
    for part, bucket in ((32 << 20, 32 << 20), (3_000, 700), (1, 1)):
        monkeypatch.setattr(parts, "BYTES_PER_PART", part)
        monkeypatch.setattr(blocks, "_BYTES_PER_BUCKET", bucket)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"{part}")
        made.append(prepare(path, clean=CLEANING))
    assert made[0].ledger == made[1].ledger == made[2].ledger
    assert ids(made[0].train).tolist() == ids(made[1].train).tolist()


def test_a_part_ends_before_short_documents_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "BYTES_PER_PART", 256 * 100)
    sealed = []
    seal = parts.Maker._seal
    monkeypatch.setattr(
        parts.Maker, "_seal", lambda *args: sealed.append(len(args[2].texts)) or seal(*args)
    )
    prepare(write_jsonl(tmp_path / "a.jsonl", [f"{n}" for n in range(1_000)]))
    assert sum(sealed) == 1_000 and max(sealed) <= 100


# The order


def test_the_order_is_the_same_on_every_machine(tmp_path):
    """Literal values: the order is a part of what a run's figures follow from."""
    hashes = np.array([0, 1, 2**64 - 1], np.uint64)
    assert blocks.place(hashes, 0).tolist() == [0, 6238072747940578789, 13029008266876403067]
    sevenths = [3207296026000306913, 16184226688143867045, 17388166129998380965]
    assert blocks.place(hashes, 7).tolist() == sevenths
    texts = list("天地玄黄宇宙洪荒日月盈昃")
    validation = write_jsonl(tmp_path / "v.jsonl", ["验证"])
    files = write_jsonl(tmp_path / "t.jsonl", texts)
    orders = [
        "".join(in_training(prepare(files, validation_files=(str(validation),), seed=seed)))
        for seed in (0, 1)
    ]
    assert [order[:9] for order in orders] == ["盈昃月天宇宙玄黄日", "宇天昃黄地月洪玄盈"]


def test_names_and_borders_of_files_do_not_move_a_document(tmp_path):
    stories = tiny_stories(300, seed=4)
    write_jsonl(tmp_path / "one" / "a.jsonl", stories)
    draw = random.Random(1)
    shuffled = draw.sample(stories, len(stories))
    for number in range(3):
        write_jsonl(tmp_path / "two" / f"{9 - number}改.jsonl", shuffled[number::3])
    one, two = (prepare(tmp_path / name, validation_fraction=0.1) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert ids(one.train).tolist() == ids(two.train).tolist()
    assert ids(one.validation).tolist() == ids(two.validation).tolist()
    other = prepare(tmp_path / "one", validation_fraction=0.1, seed=1)
    assert sorted(decoded(ids(other.validation))) == sorted(decoded(ids(one.validation)))
    assert ids(other.train).tolist() != ids(one.train).tolist()


def test_neighbours_in_a_file_are_no_neighbours_in_the_blocks(tmp_path):
    stories = tiny_stories(500, seed=4)
    places = {story: number for number, story in enumerate(stories)}
    found = in_training(prepare(write_jsonl(tmp_path / "a.jsonl", stories)))
    steps = np.diff([places[story] for story in found])
    assert np.count_nonzero(np.abs(steps) == 1) < 10  # by chance, 2 of 500
    assert 120 < np.abs(steps).mean() < 215  # of a random order, a third


def test_a_corpus_of_any_size_needs_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BYTES_PER_BUCKET", 1)
    monkeypatch.setattr(blocks, "_BUCKETS", 5)
    open_at_once, cut = [], blocks._cut

    def counted(path, *rest):
        open_at_once.append(len(list(path.parent.parent.glob("bucket-*"))))
        return cut(path, *rest)

    monkeypatch.setattr(blocks, "_cut", counted)
    prepare(write_jsonl(tmp_path / "a.jsonl", tiny_stories(300, seed=4)))
    assert max(open_at_once) == 5


# A data set


@pytest.fixture
def hub_folder(tmp_path) -> Path:
    """As on the hub: a folder data/ with files named after their split."""
    stories = tiny_stories(90, seed=5)
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for number, half in enumerate((stories[:45], stories[45:])):
        table = pa.table({"text": half, "number": list(range(45))})
        name = folder / "data" / f"train-{number:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(table, name)
    return folder


def test_a_data_set_gives_the_blocks_of_its_files(hub_folder, tmp_path):
    files = write_jsonl(tmp_path / "a.jsonl", tiny_stories(90, seed=5))
    same = prepare(files, validation_fraction=0.1)
    made = prepare(dataset={"path": str(hub_folder)}, validation_fraction=0.1)
    assert made.fingerprint == same.fingerprint
    assert made.ledger["read"] == same.ledger["read"] | {"files": 1}
    part = {"path": str(hub_folder), "split": "train[:50%]"}
    assert prepare(dataset=part, validation_fraction=0.1).ledger["read"]["documents"] == 45


def test_a_data_set_of_json_lines(tmp_path):
    stories = tiny_stories(90, seed=5)
    write_jsonl(tmp_path / "set" / "train.jsonl", stories)
    made = prepare(dataset={"path": str(tmp_path / "set")}, validation_fraction=0.1)
    assert made.ledger["read"]["documents"] == 90


def test_a_data_set_that_changed_is_read_again(hub_folder):
    first = prepare(dataset={"path": str(hub_folder)}, validation_fraction=0.1)
    table = pa.table({"text": tiny_stories(45, seed=6), "number": list(range(45))})
    pyarrow.parquet.write_table(table, hub_folder / "data" / "train-00000-of-00002.parquet")
    second = prepare(dataset={"path": str(hub_folder)}, validation_fraction=0.1)
    assert first.fingerprint != second.fingerprint


def test_what_is_wrong_with_a_data_set_is_said(hub_folder, tmp_path, cache):
    (tmp_path / "empty").mkdir()
    wrong = {
        r'Unknown split "test".*train': {"split": "test"},
        r"BuilderConfig 'other' not found": {"name": "other"},
        r"cannot be reached or is not there .*\n.*HF_ENDPOINT(.*\n)+.*--train_files": {
            "path": str(tmp_path / "nothing")
        },
        r"(?s)cannot be reached.*any data files.*": {"path": str(tmp_path / "empty")},
        r"cannot be reached or is not there .*Offline": {"path": "nobody/nothing"},
    }
    for words, change in wrong.items():
        with pytest.raises(InputError, match=words):
            prepare(dataset={"path": str(hub_folder)} | change)
    with pytest.raises(InputError, match=r"no column 'body'.*text, number(.*\n)*.*--text_column"):
        prepare(dataset={"path": str(hub_folder)}, text_column="body")
    with pytest.raises(InputError, match="column 'number' holds int64, not text"):
        prepare(dataset={"path": str(hub_folder)}, text_column="number")
    assert folders(cache) == []


def test_a_damaged_file_of_a_data_set_is_said(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "好"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(InputError, match=r"corpus.dataset: .*set: cannot be read \(.*JSON"):
        prepare(dataset={"path": str(folder)})


@pytest.mark.slow
def test_an_endpoint_that_cannot_be_reached_is_said():
    """Slow, because the library tries again and again."""
    code = """
from zhgpt import sources
from zhgpt.errors import exit_code
from zhgpt.recipe import CorpusSection
section = CorpusSection(dataset={"path": "nobody/nothing"}, block_size=8)
raise SystemExit(exit_code(lambda _: sources.open_all(section, print), None))
"""
    place = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=place, capture_output=True, text=True
    )
    assert done.returncode == 2 and "HF_ENDPOINT names a mirror" in done.stderr


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"dataset": {"path": "x"}}, r"corpus\.dataset.*in the place of train_files"),
        ({"train_files": []}, r"corpus\.train_files.*at least one"),
        ({"dataset": {"paht": "x"}, "train_files": []}, r"dataset\.paht.*not known.*path"),
        ({"dataset": {"name": "x"}, "train_files": []}, r"dataset\.path.*missing"),
        ({"dataset": {"path": 3}, "train_files": []}, r"dataset\.path.*text"),
        ({"dataset": {"path": " "}, "train_files": []}, r"dataset\.path.*text"),
        ({"dataset": "x", "train_files": []}, r"corpus\.dataset"),
        ({"contamination": "ignore"}, r"corpus\.contamination.*refuse"),
        ({"contamination_similarity": 0.3}, r"corpus\.contamination_similarity.*0\.5"),
        ({"seed": -1}, r"corpus\.seed"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be_is_refused(tiny_recipe, changes, words):
    path = tiny_recipe(**{f"corpus__{key}": value for key, value in changes.items()})
    with pytest.raises(InputError, match=words):
        command.read([str(path)], recipe.ClmRecipe)


def test_a_recipe_may_name_a_data_set(tiny_recipe, hub_folder):
    path = tiny_recipe(corpus__train_files=[], corpus__dataset={"path": str(hub_folder)})
    section = command.read([str(path)], recipe.ClmRecipe).recipe.corpus
    assert prepare(**{"dataset": section.dataset}, validation_fraction=0.1).train


# Kills


def test_killed_anywhere_and_continued_is_never_killed():
    script = ROOT / "tests" / "campaign_preparation.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "5", "--seed", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"kills +(\d+)", done.stdout) == ["5", "5"]


# A full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


STEPS = {
    "rows": (parts.Maker, "_write_rows", 3),
    "seal": (parts, "write_whole", 3),
    "state": (preparation._Cleaning, "save", 3),
    "bucket": (pa.ipc, "new_stream", 2),
    "block": (blocks, "_batch", 1),
    "ledger": (preparation, "check_laws", 0),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_is_full_at_any_step_is_said_and_nothing_is_lost(
    tmp_path, cache, monkeypatch, step
):
    monkeypatch.setattr(parts, "BYTES_PER_PART", 10_000)
    path = write_jsonl(tmp_path / "a.jsonl", dirty())
    clean = CleaningSection(duplicates="paragraphs", near_duplicates=0.8)
    place, name, good = STEPS[step]
    function, calls = getattr(place, name), iter(range(good))
    with monkeypatch.context() as patch:
        patch.setattr(
            place, name, lambda *a, **k: (full if next(calls, None) is None else function)(*a, **k)
        )
        with pytest.raises(InputError) as raised:
            prepare(path, clean=clean)
    message = str(raised.value)
    done = int(re.search(r"(\d+) part\(s\) are finished", message)[1])
    assert done >= 1 and re.search(r"takes about \d+ MB while it is made", message)
    assert [Path(name).suffix for name in folders(cache)] == [".partial"]
    said = []
    made = prepare(path, clean=clean, say=said.append)
    assert said[0] == f"corpus: {done} finished part(s) found, going on behind them"
    assert len(folders(cache)) == 1 and ".partial" not in folders(cache)[0]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "twin")
    assert prepare(path, clean=clean).ledger == made.ledger


@pytest.fixture
def small_disk(tmp_path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or mount("-t", "tmpfs", "-o", "size=100k", "none", folder):
        pytest.skip("no right to mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(*words) -> int:
    return subprocess.run(["mount", *words], capture_output=True).returncode


def test_a_real_disk_that_fills_up_step_by_step(tmp_path, small_disk, monkeypatch):
    """Exact to the byte at no step, but it is the system's own refusal, of any writer."""
    monkeypatch.setattr(parts, "BYTES_PER_PART", 40_000)
    path = write_jsonl(tmp_path / "a.jsonl", tiny_stories(1_500, seed=1))
    clean = CleaningSection(duplicates="documents", near_duplicates=0.9)
    twin = prepare(path, clean=clean, block_size=32)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", small_disk)
    finished = []
    for size in range(100, 4_000, 250):
        assert not mount("-o", f"remount,size={size}k", small_disk)
        try:
            made = prepare(path, clean=clean, block_size=32)
            break
        except InputError as error:
            assert "is full" in str(error) and "takes about" in str(error)
            finished.append(int(re.search(r"(\d+) part\(s\) are finished", str(error))[1]))
            assert [Path(n).suffix for n in folders(small_disk / "zhgpt")] == [".partial"]
    assert made.ledger == twin.ledger and ids(made.train).tolist() == ids(twin.train).tolist()
    assert finished == sorted(finished) and len(finished) >= 3 and finished[-1] > finished[0]


def test_a_disk_without_room_for_a_name_is_said(tmp_path, small_disk, monkeypatch):
    """A file system can be out of inodes before it is out of bytes."""
    path = write_jsonl(tmp_path / "a.jsonl", tiny_stories(60, seed=1))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", small_disk)
    for inodes in range(2, 12):
        assert not mount("-o", f"remount,size=8m,nr_inodes={inodes}", small_disk)
        try:
            prepare(path)
            break
        except InputError as error:
            assert re.search("is full|cannot be written .*No space left", str(error))
    assert 4 < inodes < 11


# Other processes, and files that change


def test_what_an_older_process_left_is_not_believed(tmp_path, cache):
    """Garbage under the names of parts that have no seal, of buckets, and of finished blocks."""
    path = write_jsonl(tmp_path / "a.jsonl", tiny_stories(120, seed=1))
    twin = prepare(path)
    (name,) = folders(cache)
    expected = {p.name: p.read_bytes() for p in (cache / name).iterdir()}
    partial = (cache / name).rename(cache / f"{name}.partial")
    for garbage in ("part-000000.arrow", "part-000001.json.partial", "part-000003.json"):
        (partial / garbage).write_bytes(b"garbage")
    for garbage in ("bucket-train-0007.arrow", "part-000000.state.npz", "tmp123", "lines.json.x"):
        (partial / garbage).write_bytes(b"garbage")
    (partial / "ready").mkdir()
    (partial / "ready" / "train.arrow").write_bytes(b"garbage")
    assert prepare(path).ledger == twin.ledger
    assert folders(cache) == [name]
    assert {p.name: p.read_bytes() for p in (cache / name).iterdir()} == expected


def changing(path: Path, change, monkeypatch) -> None:
    """`change` happens when the file has been read and its tokens are being written."""
    write = parts.Maker._write_rows

    def wrapped(*args):
        change(path)
        write(*args)

    monkeypatch.setattr(parts.Maker, "_write_rows", wrapped)


def same_size(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace("村口".encode(), "村尾".encode()))


@pytest.mark.parametrize(
    "change, words",
    [(same_size, "changed while it was read"), (Path.unlink, "cannot be read .*No such file")],
)
def test_a_file_that_changes_under_the_reader_is_refused(
    tmp_path, cache, monkeypatch, change, words
):
    path = write_jsonl(tmp_path / "a.jsonl", tiny_stories(120, seed=1))
    changing(path, change, monkeypatch)
    with pytest.raises(InputError, match=rf"a\.jsonl: {words}"):
        prepare(path)
    assert folders(cache) == []


def test_a_file_that_vanishes_before_its_turn_is_named(tmp_path, monkeypatch):
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", tiny_stories(50, seed=n)) for n in range(2)]
    real = parts.Maker._take

    def take(*args):
        paths[1].unlink(missing_ok=True)
        return real(*args)

    monkeypatch.setattr(parts.Maker, "_take", take)
    with pytest.raises(InputError, match=r"1\.jsonl: gone"):
        prepare(*paths)


# Memory


# Not ru_maxrss: it begins with that of the process that starts this one.
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no system that tells the peak")
@pytest.mark.parametrize("kind, limit", [("line", 700), ("file", 1_500)])
def test_memory_has_a_bound(tmp_path, kind, limit):
    """A million documents of a line; one document of 200 MB that is one line. In MB."""
    path = tmp_path / "a.txt"
    if kind == "line":
        path.write_text("".join(f"第{n}行\n" for n in range(1_000_000)), encoding="utf-8")
    else:
        path.write_text("".join(tiny_stories(1_000, seed=1)) * 950, encoding="utf-8")
        assert path.stat().st_size > 200e6
    code = f"""
import re, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]}
from pathlib import Path
import datasets
from tokenizers import Tokenizer
from zhgpt import corpus
from zhgpt.recipe import CleaningSection, CorpusSection
datasets.config.HF_DATASETS_CACHE = Path({str(tmp_path / "cache")!r})
tokenizer = Tokenizer.from_file({str(ROOT / "tokenizer" / "32k_v1" / "tokenizer.json")!r})
files = {{"train_files": ({str(path)!r},), "validation_files": ({str(tmp_path / "v.txt")!r},)}}
section = CorpusSection(**files, document={kind!r}, block_size=512)
corpus.prepare(section, CleaningSection(), tokenizer, 0, lambda _: None)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    (tmp_path / "v.txt").write_text("验证", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) / 1e3 < limit, (done.stdout, done.stderr)
