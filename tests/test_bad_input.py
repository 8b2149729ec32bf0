"""Every mistake of a user: exit code 2, one message with what, where, which value and what to do.

No traceback, and nothing is written: no output folder appears, and one that is there stays.
"""

import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

import run_bpe
import run_clm
from zhgpt.errors import exit_code


class Bench:
    """A valid recipe in a folder, to be spoilt in one place."""

    def __init__(self, make, tiny_files, folder: Path):
        self.make, self.files, self.folder = make, tiny_files, folder
        self.output = folder / "run"

    def recipe(self, **changes) -> list[str]:
        return [str(self.make(**changes))]

    def text(self, content: str | bytes) -> list[str]:
        path = self.folder / "spoilt.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return [str(path)]

    def edited(self, old: str, new: str) -> list[str]:
        text = Path(self.make()).read_text(encoding="utf-8")
        assert old in text
        return self.text(text.replace(old, new))

    def train_on(self, name: str, content: bytes, **changes) -> list[str]:
        path = self.folder / name
        path.write_bytes(content)
        return self.recipe(corpus__train_files=[str(path)], **changes)

    def tokenizer(self, edit=None, **config) -> list[str]:
        folder = self.folder / "tokenizer"
        shutil.copytree(self.files["tokenizer"], folder)
        if edit:
            edit(folder / "tokenizer.json")
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return self.recipe(tokenizer=str(folder))

    def parquet(self, table: pa.Table, damage: int = 0) -> list[str]:
        path = self.folder / "text.parquet"
        pq.write_table(table, path)
        raw = path.read_bytes()
        return self.train_on("text.parquet", raw[: len(raw) - damage])


@pytest.fixture
def bench(tiny_recipe, tiny_files, tmp_path) -> Bench:
    return Bench(tiny_recipe, tiny_files, tmp_path)


def damaged_gzip() -> bytes:
    return gzip.compress(b'{"text": "' + b"a" * 9000 + b'"}\n')[:-20]


def encrypted_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", b"secret")
    raw = bytearray(buffer.getvalue())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    return bytes(raw)


def holes(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    entry = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][entry] = 70_000
    path.write_text(json.dumps(content), encoding="utf-8")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


RECIPE = {
    "missing": (lambda b: ["nowhere.json"], ["nowhere.json", "no such recipe", "village.json"]),
    "no recipe at all": (lambda b: [], ["the recipe comes first", "village.json"]),
    "empty": (lambda b: b.text(""), ["spoilt.json", "empty"]),
    "a folder": (lambda b: [str(b.folder)], ["a folder"]),
    "not JSON": (lambda b: b.text('{\n "name": x}'), ["spoilt.json:2:10", "not JSON"]),
    "not an object": (lambda b: b.text("[1]"), ["JSON object", "[1]"]),
    "not UTF-8": (lambda b: b.text('{"name": "村"}'.encode("gbk")), ["not UTF-8 at byte 10"]),
    "nested without end": (lambda b: b.text("[" * 100_000), ["spoilt.json"]),
    "duplicate key": (
        lambda b: b.edited('"n_layer": 2', '"n_layer": 2, "n_layer": 3'),
        ['"n_layer" stands twice', "2 and 3"],
    ),
    "unknown section": (lambda b: b.recipe(modle={}), ["modle", 'did you mean "model"']),
    "missing section": (
        lambda b: b.text('{"name": "x", "purpose": "y"}'),
        ["tokenizer", "missing"],
    ),
    "missing key": (
        lambda b: b.recipe(corpus={"train_files": ["x"]}),
        ["corpus.block_size", "missing", "an integer"],
    ),
    "n_layers": (
        lambda b: b.recipe(model__n_layers=6),
        ["model.n_layers = 6", 'did you mean "n_layer"'],
    ),
    "another library's name": (
        lambda b: b.recipe(model__hidden_size=64),
        ["model.hidden_size = 64", "n_embd"],
    ),
    "unknown training argument": (
        lambda b: b.recipe(training_arguments__learnig_rate=1e-3),
        ["training_arguments.learnig_rate", "learning_rate"],
    ),
    "quoted number": (
        lambda b: b.recipe(training_arguments__learning_rate="5e-4"),
        ['training_arguments.learning_rate = "5e-4"', "write 5e-4 without quotes"],
    ),
    "boolean for number": (
        lambda b: b.recipe(model__n_layer=True),
        ["model.n_layer = true", "an integer"],
    ),
    "number for boolean": (
        lambda b: b.recipe(training_arguments__bf16=1),
        ["training_arguments.bf16 = 1", "true or false"],
    ),
    "fraction for integer": (lambda b: b.recipe(model__n_embd=32.5), ["model.n_embd = 32.5"]),
    "null": (lambda b: b.recipe(model__n_embd=None), ["model.n_embd = null", "an integer"]),
    "list for text": (lambda b: b.recipe(tokenizer=["x"]), ['tokenizer = ["x"]', "a text"]),
    "text for list": (
        lambda b: b.recipe(corpus__train_files="a.txt"),
        ['corpus.train_files = "a.txt"', "a list"],
    ),
    "section that is no object": (lambda b: b.recipe(model=3), ["model = 3", "an object"]),
    "zero": (lambda b: b.recipe(model__n_layer=0), ["model.n_layer = 0", "above 0"]),
    "negative": (
        lambda b: b.recipe(training_arguments__learning_rate=-1e-3),
        ["learning_rate = -0.001", "above 0"],
    ),
    "probability of two": (lambda b: b.recipe(model__resid_pdrop=2.0), ["resid_pdrop = 2.0"]),
    "NaN": (lambda b: b.edited("0.01", "NaN"), ["NaN"]),
    "Infinity": (lambda b: b.edited("0.01", "Infinity"), ["Infinity"]),
    "a number beyond all": (lambda b: b.edited("0.01", "1e999"), ["learning_rate", "finite"]),
    "heads that do not divide": (
        lambda b: b.recipe(model__n_head=3),
        ["model.n_head = 3", "model.n_embd = 32"],
    ),
    "step that does not divide": (
        lambda b: b.recipe(tokens_per_step=1000),
        ["tokens_per_step: 1000", "768 or 1024"],
    ),
    "no micro-batch": (
        lambda b: b.recipe(training_arguments={"max_steps": 3}),
        ["per_device_train_batch_size", "missing"],
    ),
    "removed: evaluation_strategy": (
        lambda b: b.recipe(training_arguments__evaluation_strategy="steps"),
        ["evaluation_strategy", "eval_strategy"],
    ),
    "removed: warmup_ratio": (
        lambda b: b.recipe(training_arguments__warmup_ratio=0.1),
        ["warmup_ratio", "warmup_steps"],
    ),
    "removed: overwrite_output_dir": (
        lambda b: b.recipe(training_arguments__overwrite_output_dir=True),
        ["overwrite_output_dir", "--output_dir"],
    ),
    "derived: n_positions": (
        lambda b: b.recipe(model__n_positions=1024),
        ["model.n_positions = 1024", "corpus.block_size"],
    ),
    "derived: vocab_size": (lambda b: b.recipe(model__vocab_size=9), ["tokenizer's entries"]),
    "derived: accumulation": (
        lambda b: b.recipe(training_arguments__gradient_accumulation_steps=4),
        ["gradient_accumulation_steps", "tokens_per_step"],
    ),
    "derived: eos": (lambda b: b.recipe(model__eos_token_id=2), ["eos_token_id", "tokenizer's"]),
    "cleaning that does not exist": (
        lambda b: b.recipe(cleaning={"nfkc": True}),
        ["cleaning.nfkc = true", 'did you mean "nfc"'],
    ),
    "cleaning that leaves nothing": (
        lambda b: b.recipe(cleaning={"min_characters": 9, "max_characters": 8}),
        ["cleaning.min_characters = 9", "max_characters = 8"],
    ),
    "a secret": (
        lambda b: b.recipe(training_arguments__hub_token="x"),
        ["hub_token", "HF_TOKEN"],
    ),
    "by epochs": (
        lambda b: b.recipe(training_arguments__eval_strategy="epoch"),
        ["eval_strategy", "one stream"],
    ),
    "unknown schedule": (
        lambda b: b.recipe(training_arguments__lr_scheduler_type="cosin"),
        ["lr_scheduler_type", 'did you mean "cosine"'],
    ),
    "null for no tracker": (
        lambda b: b.recipe(training_arguments__report_to=None),
        ["report_to = null", '"none"'],
    ),
    "why about nothing": (
        lambda b: b.recipe(why={"model.n_layers": "x"}),
        ["why.model.n_layers", "n_layer"],
    ),
    "a name that is a path": (lambda b: b.recipe(name="../x"), ["name", "../x"]),
    "empty prompt": (lambda b: b.recipe(samples__prompts=[""]), ["samples.prompts"]),
    "a prompt without room for an answer": (
        lambda b: b.recipe(samples__prompts=["村民们都很高兴" * 40]),
        ["samples.prompts", "32 positions"],
    ),
    "an activation that does not exist": (
        lambda b: b.recipe(model__activation_function="gelu_old"),
        ["model: the library refuses it", "KeyError", "gelu_old"],
    ),
    "what the library refuses": (
        lambda b: b.recipe(
            training_arguments__load_best_model_at_end=True, training_arguments__eval_steps=2
        ),
        ["training_arguments", "the library refuses it"],
    ),
    "attention across documents": (
        lambda b: b.recipe(
            corpus__document_mask=True, model__attn_implementation="flash_attention_2"
        ),
        ['model.attn_implementation = "flash_attention_2"', "corpus.document_mask", '"sdpa"'],
    ),
    "a cache across documents": (
        lambda b: b.recipe(corpus__document_mask=True, training_arguments__use_cache=True),
        ["training_arguments.use_cache = true", "corpus.document_mask", "write false"],
    ),
    "bf16 without such a GPU": (
        lambda b: b.recipe(training_arguments__bf16=True, training_arguments__use_cpu=False),
        ["bf16", "--bf16 false"],
    ),
}

FILES = {
    "none match": (
        lambda b: b.recipe(corpus__train_files=["data/none/*"]),
        ["train_files", "data/none/*", ".jsonl"],
    ),
    "unknown ending": (lambda b: b.train_on("text.docx", b"PK"), ["text.docx", ".docx"]),
    "empty": (lambda b: b.train_on("empty.txt", b""), ["train_files", "no text", "1 empty"]),
    "a missing column": (
        lambda b: b.train_on("a.jsonl", b'{"title": "x", "content": "y"}\n'),
        ["a.jsonl:1", "'text'", "title, content", "--text_column content"],
    ),
    "a missing column in CSV": (lambda b: b.train_on("a.csv", b"body\nx\n"), ["a.csv", "body"]),
    "a missing column in parquet": (
        lambda b: b.parquet(pa.table({"body": ["x"]})),
        ["text.parquet", "body"],
    ),
    "a text that is a number": (lambda b: b.train_on("a.jsonl", b'{"text": 7}\n'), ["a.jsonl:1"]),
    "a record that is a list": (lambda b: b.train_on("a.jsonl", b"[1]\n"), ["a.jsonl:1"]),
    "a line that is not JSON": (
        lambda b: b.train_on("a.jsonl", b'{"text": "x"}\n{"text": \n'),
        ["a.jsonl:2", "not JSON"],
    ),
    "damaged gzip": (lambda b: b.train_on("a.jsonl.gz", damaged_gzip()), ["a.jsonl.gz", "damaged"]),
    "damaged zstd": (
        lambda b: b.train_on("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"x" * 50),
        ["a.jsonl.zst", "damaged"],
    ),
    "damaged parquet": (
        lambda b: b.parquet(pa.table({"text": ["x" * 99]}), damage=10),
        ["text.parquet", "damaged"],
    ),
    "an encoding that is none of the Chinese ones": (
        lambda b: b.train_on("a.txt", "Où est le garçon? Là-bas, né à Orléans.".encode("cp1252")),
        ["a.txt", "not UTF-8 at line 1, byte 1 (0xf9)", "--encoding"],
    ),
    "text in two encodings": (
        lambda b: b.train_on("a.txt", "村民们都很高兴。\n".encode() * 9 + b"\xb4\xe5\n" * 9),
        ["a.txt", "9 undecodable", "line 10", "--undecodable_share"],
    ),
    "an encrypted archive": (
        lambda b: b.train_on("a.zip", encrypted_zip()),
        ["a.zip!a.txt", "encrypted", "password"],
    ),
    "binary": (lambda b: b.train_on("a.txt", b"\x7fELF\0\0\0\1" * 9), ["a.txt", "binary"]),
    "shorter than a block": (lambda b: b.train_on("a.txt", b"short"), ["less than one block"]),
    "smaller than a step": (
        lambda b: b.recipe(tokens_per_step=32 * 8 * 100, training_arguments__max_steps=None),
        ["max_steps"],
    ),
    "validation in training": (
        lambda b: b.recipe(
            corpus__validation_files=[
                str(
                    write_jsonl(
                        b.folder / "v.jsonl",
                        [json.loads(b.files["train"].read_text().splitlines()[3])["text"]],
                    )
                )
            ]
        ),
        ["--contamination drop", "1 duplicate of validation", "train.jsonl"],
    ),
    "one file for both": (
        lambda b: b.recipe(corpus__validation_files=[str(b.files["train"])]),
        ["validation_files", "train.jsonl"],
    ),
    "nothing left to validate": (
        lambda b: b.train_on("a.txt", b"long enough " * 99, corpus__validation_files=[]),
        ["validation"],
    ),
}

TOKENIZER = {
    "missing": (lambda b: b.recipe(tokenizer="tokenizer/none"), ["tokenizer/none", "32k_v1"]),
    "damaged": (lambda b: b.tokenizer(truncate), ["tokenizer.json", "damaged"]),
    "pad = eos": (lambda b: b.tokenizer(pad_token="<|endoftext|>"), ["padding", "id 0"]),
    "no eos": (lambda b: b.tokenizer(eos_token=None), ["no eos_token"]),
    "ids with holes": (lambda b: b.tokenizer(holes), ["70000", "holes"]),
}

COMMAND_LINE = {
    "misspelt option": (
        lambda b: [*b.recipe(), "--learnig_rate", "1e-3"],
        ["--learnig_rate", 'did you mean "learning_rate"'],
    ),
    "wrong type": (
        lambda b: [*b.recipe(), "--n_layer", "two"],
        ["--n_layer two", "an integer"],
    ),
    "fraction for integer": (lambda b: [*b.recipe(), "--n_layer=1e3"], ["--n_layer", "integer"]),
    "NaN": (lambda b: [*b.recipe(), "--learning_rate", "nan"], ["--learning_rate nan"]),
    "no value": (lambda b: [*b.recipe(), "--n_layer"], ["--n_layer", "needs a value"]),
    "ambiguous": (
        lambda b: [*b.recipe(), "--seed", "1"],
        ["--seed", "--training_arguments.seed", "--samples.seed"],
    ),
    "twice": (lambda b: [*b.recipe(), "--n_layer=1", "--n_layer=2"], ["--n_layer", "twice"]),
    "two recipes": (lambda b: b.recipe() + b.recipe(), ["one recipe at a time"]),
    "out of range": (
        lambda b: [*b.recipe(), "--n_layer=0"],
        ["command line: model.n_layer = 0", "above 0"],
    ),
    "removed": (lambda b: [*b.recipe(), "--warmup_ratio=0.1"], ["warmup_ratio", "warmup_steps"]),
    "derived": (
        lambda b: [*b.recipe(), "--gradient_accumulation_steps=2"],
        ["gradient_accumulation_steps", "tokens_per_step"],
    ),
}

CASES = [
    pytest.param(case, said, id=f"{group}: {name}")
    for group, cases in [
        ("recipe", RECIPE),
        ("files", FILES),
        ("tokenizer", TOKENIZER),
        ("command line", COMMAND_LINE),
    ]
    for name, (case, said) in cases.items()
]


def refused(command, argv: list[str], capsys) -> str:
    """The message of a command that has to fail at the user's fault."""
    capsys.readouterr()
    assert exit_code(command, argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    return message


@pytest.mark.parametrize("case, said", CASES)
def test_bad_input(case, said, bench, capsys):
    arguments = case(bench)
    output = ["--output_dir", str(bench.output)] if arguments else []
    message = refused(run_clm.run, arguments + output, capsys)
    for part in said:
        assert part in message
    assert not bench.output.exists()


LIBRARY_VALUES = {
    "report_to": ("nowhere", "nowhere"),
    "log_level": ("loud", "loud"),
    "optim_args": ("x=y=z", ""),
    "lr_scheduler_kwargs": ({"min_lr_rate": 0.1, "wide": 1}, "wide"),
    "lr_scheduler_type": ("cosine_with_min_lr", "min_lr"),
    "dataloader_multiprocessing_context": ("nonsense", "nonsense"),
    "use_liger_kernel": (True, "Liger has none for GPT-2"),
    "optim": ("adamw_bnb_8bit", "itsandbytes"),
}


@pytest.mark.parametrize("key", LIBRARY_VALUES)
def test_what_only_the_library_can_judge_is_said_before_a_record_is_begun(key, bench, capsys):
    value, said = LIBRARY_VALUES[key]
    changes = {f"training_arguments__{key}": value}
    if key == "lr_scheduler_kwargs":
        changes["training_arguments__lr_scheduler_type"] = "cosine_with_min_lr"
    if key == "dataloader_multiprocessing_context":
        changes["training_arguments__dataloader_num_workers"] = 1
    arguments = [*bench.recipe(**changes), "--output_dir", str(bench.output)]
    message = refused(run_clm.run, arguments, capsys)
    assert "training_arguments" in message and said in message
    assert not bench.output.exists() or not any(bench.output.iterdir())  # Trainer makes the folder


def test_output_that_is_a_file(bench, capsys):
    bench.output.write_text("mine")
    message = refused(run_clm.run, [*bench.recipe(), "--output_dir", str(bench.output)], capsys)
    assert "is a file" in message and bench.output.read_text() == "mine"


def test_output_that_holds_something_else(bench, capsys):
    bench.output.mkdir()
    (bench.output / "letter.txt").write_text("mine")
    message = refused(run_clm.run, [*bench.recipe(), "--output_dir", str(bench.output)], capsys)
    assert "no run.json" in message
    assert [p.name for p in bench.output.iterdir()] == ["letter.txt"]


def test_output_below_a_file(bench, capsys):
    (bench.folder / "file").write_text("mine")
    below = str(bench.folder / "file" / "run")
    assert "folder" in refused(run_clm.run, [*bench.recipe(), "--output_dir", below], capsys)


def test_output_with_a_damaged_record(bench, capsys):
    bench.output.mkdir()
    (bench.output / "run.json").write_text("{")
    message = refused(run_clm.run, [*bench.recipe(), "--output_dir", str(bench.output)], capsys)
    assert "run.json" in message and "damaged" in message


def test_a_model_whose_checkpoint_fits_no_disk(bench, capsys):
    wide = bench.recipe(model__n_embd=2**20, model__n_layer=1000)
    message = refused(run_clm.run, [*wide, "--output_dir", str(bench.output)], capsys)
    assert "GB are free" in message and not bench.output.exists()


def test_a_tokenizer_is_not_overwritten(tiny_files, tmp_path, capsys):
    recipe = tmp_path / "bpe.json"
    recipe.write_text(
        json.dumps(
            {
                "name": "x",
                "purpose": "y",
                "corpus": {"train_files": [str(tiny_files["train"])]},
                "bpe": {"vocab_size": 300, "pre_tokenizer": "."},
            }
        )
    )
    before = (tiny_files["tokenizer"] / "tokenizer.json").read_bytes()
    arguments = [str(recipe), "--output_dir", str(tiny_files["tokenizer"])]
    assert "--overwrite" in refused(run_bpe.run, arguments, capsys)
    assert (tiny_files["tokenizer"] / "tokenizer.json").read_bytes() == before
    for spoilt, said in [("--vocab_size=100", "258"), ("--pre_tokenizer=(", "regular expression")]:
        fresh = [str(recipe), "--output_dir", str(tmp_path / "new"), spoilt]
        assert said in refused(run_bpe.run, fresh, capsys)
        assert not (tmp_path / "new").exists()
