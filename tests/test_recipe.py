"""What of a recipe makes a run another run; how a command line changes it; the shipped ones."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
from conftest import ROOT
from transformers import GPT2Config, TrainingArguments

import run_clm
from zhgpt import check, command, plan, recipe
from zhgpt.errors import InputError, exit_code

SECTIONS = {"model": GPT2Config, "training_arguments": TrainingArguments}
SHIPPED = sorted((ROOT / "recipes").glob("*.json"))
BASELINE = str(ROOT / "recipes" / "gpt2_124m.json")


def read(*argv: str) -> command.Command:
    return command.read([BASELINE, *argv], recipe.ClmRecipe, constructors=SECTIONS)


def hash_with(*argv: str) -> str:
    return recipe.content_hash(read(*argv).recipe)


@pytest.mark.parametrize(
    "override",
    [
        "--learning_rate=4e-4",
        "--training_arguments.seed=7",
        "--bf16=false",
        "--eval_steps=0.1",  # an evaluation draws from the state that dropout's masks come from
        "--torch_compile=true",
        "--tokens_per_step=65536",
        "--n_layer=10",
        "--block_size=256",
        "--num_train_epochs=2",
        "--warmup_steps=0.1",
        "--resid_pdrop=0.1",
        "--attn_implementation=eager",
        "--document_mask=true",
    ],
)
def test_what_changes_the_result_changes_hash_and_name(override):
    assert hash_with(override) != hash_with()
    assert read(override).run_name.startswith("gpt2_124m-")


@pytest.mark.parametrize(
    "override",
    [
        "--name=other",
        "--purpose=other",
        "--tokenizer=tokenizer/./32k_v1",
        "--train_files=elsewhere.txt",
        "--prompts=[]",
        "--per_device_train_batch_size=4",
        "--logging_steps=1",
        "--save_steps=7",
        "--report_to=none",
        "--dataloader_num_workers=2",
        "--use_cpu=true",
    ],
)
def test_what_does_not_change_it_changes_neither(override):
    assert hash_with(override) == hash_with()
    assert read(override).run_name in ("gpt2_124m", "other")


def test_a_data_set_is_an_object_on_the_command_line_and_in_a_recipe(tmp_path):
    named = {"path": "a/b", "name": "c"}
    asked = read("--train_files", "[]", "--dataset", json.dumps(named))
    assert asked.recipe.corpus.dataset == named and asked.run_name.startswith("gpt2_124m-dataset=")
    content = json.loads((ROOT / "recipes" / "gpt2_124m.json").read_text(encoding="utf-8"))
    content["corpus"] |= {"train_files": [], "dataset": named}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    written = command.read([str(path)], recipe.ClmRecipe, constructors=SECTIONS).recipe
    assert recipe.content_hash(written) == recipe.content_hash(asked.recipe)
    with pytest.raises(InputError, match="expected an object or null"):
        read("--train_files", "[]", "--dataset", "a/b")


@pytest.mark.parametrize("override", ["--learning_rate=0.0005", "--num_train_epochs=1.0"])
def test_a_number_is_the_same_however_it_is_written(override):
    assert hash_with(override) == hash_with()


def test_neither_do_the_order_of_keys_and_the_reasons(tmp_path):
    content = json.loads((ROOT / "recipes" / "gpt2_124m.json").read_text(encoding="utf-8"))
    shuffled = {key: content[key] for key in sorted(content, reverse=True)} | {"why": {}}
    path = tmp_path / "shuffled.json"
    path.write_text(json.dumps(shuffled), encoding="utf-8")
    other = command.read([str(path)], recipe.ClmRecipe, constructors=SECTIONS).recipe
    assert recipe.content_hash(other) == hash_with()


def test_a_whole_number_is_the_same_where_none_is_allowed_beside_it():
    assert hash_with("--eval_steps=500") == hash_with("--eval_steps=500.0")
    assert read("--eval_steps=500").run_name == read("--eval_steps=500.0").run_name


def test_a_name_made_of_overrides_is_a_folder_name():
    name = read("--lr_scheduler_kwargs", '{"min_lr_rate": 0.2, "x": "a/b c"}').run_name
    assert "/" not in name and " " not in name
    many = [f"--{key}=0.123456789" for key in ("learning_rate", "weight_decay", "adam_beta1")]
    many += [f"--{key}=0.123456789" for key in ("adam_beta2", "warmup_steps", "resid_pdrop")]
    assert len(read(*many).run_name.encode()) <= 120


def test_a_recipe_is_frozen_and_ready_for_json():
    pins = read().recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        pins.name = "other"
    with pytest.raises(TypeError):
        pins.model["n_layer"] = 1
    assert json.loads(json.dumps(recipe.as_dict(pins))) == recipe.as_dict(pins)


def test_differences_name_key_and_both_values():
    lines = recipe.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None})
    assert lines == ["b: 2 there, 3 here", "c: not set there, null here"]


@pytest.mark.parametrize(
    "words, key, value",
    [
        (["--learning_rate", "3e-4"], "training_arguments.learning_rate", 3e-4),
        (["--training_arguments.seed=7"], "training_arguments.seed", 7),
        (["--learning-rate=1"], "training_arguments.learning_rate", 1.0),
        (["--name", "7"], "name", "7"),
        (["--train_files", "a.txt"], "corpus.train_files", ["a.txt"]),
        (["--train_files", "a.txt", "b.txt"], "corpus.train_files", ["a.txt", "b.txt"]),
        (["--train_files", '["a.txt", "b.txt"]'], "corpus.train_files", ["a.txt", "b.txt"]),
        (["--train_files", "['a.txt']"], "corpus.train_files", ["a.txt"]),
        (["--validation_files", "[]"], "corpus.validation_files", []),
        (["--bf16", "False"], "training_arguments.bf16", False),
        (["--torch_compile"], "training_arguments.torch_compile", True),
        (["--tf32", "None"], "training_arguments.tf32", None),
        (["--n_inner=null"], "model.n_inner", None),
        (["--report_to", "none"], "training_arguments.report_to", "none"),
        (["--report_to", "wandb", "tensorboard"], "training_arguments.report_to", None),
        (["--lr_scheduler_type", "linear"], "training_arguments.lr_scheduler_type", "linear"),
        (["--lr_scheduler_kwargs", '{"a": 1}'], "training_arguments.lr_scheduler_kwargs", {"a": 1}),
        (["--optim_args", "a=-1"], "training_arguments.optim_args", "a=-1"),
        (["--text_column", '"a"'], "corpus.text_column", '"a"'),  # a text is never unquoted
        (["--text_column", "[NaN]"], "corpus.text_column", "[NaN]"),
        (["--train_files", "[ab]*.txt"], "corpus.train_files", ["[ab]*.txt"]),
        (["--prompts", "nan"], "samples.prompts", ["nan"]),
    ],
)
def test_overrides(words, key, value):
    overrides = read(*words).overrides
    assert list(overrides) == [key]
    assert overrides[key] == (value if words[1:] != ["wandb", "tensorboard"] else words[1:])


FLAGS = {"output_dir": command.Flag(str, "where"), "overwrite": command.Flag(bool, "anew")}


@pytest.mark.parametrize(
    "words, said",
    [
        (["--output_dir=a", "--output_dir=b"], ["--output_dir", "twice"]),
        (["--overwrite", "--overwrite"], ["--overwrite", "twice"]),
        (["--output_dir="], ["--output_dir", "needs a value"]),
        (["--output_dir"], ["--output_dir", "needs a value"]),
        (["--overwrite", "false"], ["--overwrite false", "takes no value"]),
        (["--n_layer=1_2"], ["--n_layer 1_2", "expected an integer."]),
        (["--learning_rate", "1" + "0" * 400], ["--learning_rate", "finite"]),
        (["--learning_rate=inf"], ["--learning_rate", "finite"]),
        (["--train_files="], ["corpus.train_files", "none of them empty"]),
        (["--lr_scheduler_kwargs", '{"a": NaN}'], ["--lr_scheduler_kwargs", "NaN"]),
        (["--lr_scheduler_kwargs", '{"a": 1e999}'], ["--lr_scheduler_kwargs", "finite"]),
        (["--lr_scheduler_kwargs", '{"a": 1, "a": 2}'], ["--lr_scheduler_kwargs", "twice"]),
        (["--lr_scheduler_kwargs", '{"a":' * 900 + "1" + "}" * 900], ["--lr_scheduler", "deep"]),
        (["--lr_scheduler_kwargs", r'{"a": "\ud800"}'], ["--lr_scheduler_kwargs", "half a char"]),
        (["--purpose", "\udcff"], ["udcff", "not UTF-8"]),  # how Python hands on a stray byte
        (["--n_embd=100"], ["command line: model.n_embd = 100", "model.n_head = 12"]),
        (["--model", "{}"], ["--model is a section", "--model.KEY"]),
        (["--dtype=bfloat16"], ["model.dtype", "32 bits", "bf16"]),
        (["--dataloader_in_order=false"], ["dataloader_in_order", "seed"]),
    ],
)
def test_a_command_line_is_as_strict_as_a_file(words, said):
    with pytest.raises(InputError) as refused:
        command.read([BASELINE, *words], recipe.ClmRecipe, constructors=SECTIONS, flags=FLAGS)
    for part in said:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("training_arguments.learning_rate", 10**400, "learning_rate = 1000"),
        ("training_arguments.lr_scheduler_kwargs", {"min_lr_rate": float("1e999")}, "min_lr_rate"),
        ("training_arguments.learning_rate", "nan", "expected a number."),
        ("model.max_position_embeddings", 512, "corpus.block_size"),
        ("model.n_inner", [[[]]] * 3, "model.n_inner"),
        ("corpus.text_column", " ", "corpus.text_column"),
        ("corpus.validation_files", [""], "corpus.validation_files"),
        ("purpose", "a\ud800", "half a character"),
    ],
)
def test_a_file_is_refused_with_its_key(key, value, said, tmp_path):
    content = json.loads((ROOT / "recipes" / "gpt2_124m.json").read_text(encoding="utf-8"))
    section, _, leaf = key.rpartition(".")
    (content[section] if section else content)[leaf] = value
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(content).replace("Infinity", "1e999"), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        command.read([str(path)], recipe.ClmRecipe, constructors=SECTIONS)
    assert "spoilt.json" in str(refused.value) and said in str(refused.value)


@pytest.mark.parametrize("depth", [60, 600, 950, 100_000])
def test_a_file_that_is_nested_too_deep_is_refused(depth, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"model": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(InputError, match=r"deep\.json: .*(deep|recursion)"):
        command.read([str(path)], recipe.ClmRecipe, constructors=SECTIONS)


@pytest.mark.parametrize("key", ["hub_token", "push_to_hub_token"])
def test_a_secret_is_not_repeated_in_the_message(key, tmp_path):
    content = json.loads((ROOT / "recipes" / "gpt2_124m.json").read_text(encoding="utf-8"))
    content["training_arguments"][key] = "hf_secret"
    path = tmp_path / "secret.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    for argv in ([str(path)], [BASELINE, f"--{key}=hf_secret"]):
        with pytest.raises(InputError, match="HF_TOKEN") as refused:
            command.read(argv, recipe.ClmRecipe, constructors=SECTIONS)
        assert "hf_secret" not in str(refused.value)


@pytest.mark.parametrize("constructor", SECTIONS.values())
def test_the_library_accepts_its_own_defaults_by_its_own_types(constructor):
    """Types are read from the installed classes: this fails if they change their form."""
    for field in dataclasses.fields(constructor):
        if isinstance(field.default, bool | int | float | str | type(None)):
            default = getattr(field.default, "value", field.default)
            if default is not None or "None" in str(field.type):
                assert check.accepts(field.type, default), field


def test_a_class_that_we_have_never_seen_needs_no_table():
    @dataclass
    class Foreign:
        width: int = 3
        ratio: float | None = None

    @dataclass(frozen=True, kw_only=True)
    class Schema:
        name: str
        corpus: recipe.TextSection
        model: dict

    form = command._Form(Schema, {"model": Foreign})
    good = {"name": "x", "corpus": {"train_files": ["a"]}, "model": {"ratio": 1}}
    assert form.check(good, "file", {}).model["ratio"] == 1
    for spoilt in ({"width": 1.5}, {"wide": 1}, {"ratio": "1"}):
        with pytest.raises(InputError, match="model"):
            form.check(good | {"model": spoilt}, "file", {})


def test_what_the_library_refuses_is_said_as_the_users_to_mend():
    with pytest.raises(InputError, match="training_arguments: the library refuses it"):
        with recipe.judged("training_arguments"):
            TrainingArguments(eval_strategy="nonsense")


def test_help_explains_with_examples(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = {"output_dir": command.Flag(str, "where it goes")}
    with pytest.raises(SystemExit) as ended:
        command.read(["--help"], recipe.ClmRecipe, constructors=SECTIONS, flags=flags)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for part in ("--learning_rate 3e-4", "--output_dir", "n_layer", "recipes/village.json"):
        assert part in text
    assert "gradient_accumulation_steps" not in text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read_and_built(path, tmp_path):
    if path.stem.startswith("bpe_"):
        assert command.read([str(path)], recipe.BpeRecipe).recipe.bpe.vocab_size > 256
        return
    pins = command.read([str(path)], recipe.ClmRecipe, constructors=SECTIONS).recipe
    assert pins.name == path.stem
    plan.split_step(pins, processes=1)
    config = GPT2Config(**recipe.thawed(pins.model), n_positions=pins.corpus.block_size)
    assert config.n_embd % config.n_head == 0
    asked = recipe.thawed(pins.training_arguments)
    arguments = TrainingArguments(**asked | {"output_dir": str(tmp_path), "use_cpu": True})
    assert arguments.weight_decay == 0.1 and "wandb" in arguments.report_to


@pytest.mark.parametrize("name", ["gpt2_124m", "l20_300m"])
def test_a_pinned_recipe_without_text_says_what_to_put_where(name, tmp_path, monkeypatch, capsys):
    """Before anything else is asked of the machine."""
    monkeypatch.chdir(tmp_path)
    assert exit_code(run_clm.run, [str(ROOT / f"recipes/{name}.json")]) == 2
    message = capsys.readouterr().err
    for part in ("data/train/*", ".jsonl", ".zst", "--train_files"):
        assert part in message
    assert not list(tmp_path.iterdir())


def test_the_two_pinned_recipes_are_what_they_promise():
    small, large = (
        command.read([str(ROOT / f"recipes/{name}.json")], recipe.ClmRecipe, constructors=SECTIONS)
        for name in ("gpt2_124m", "l20_300m")
    )
    shape = {key: small.recipe.model[key] for key in ("n_layer", "n_head", "n_embd")}
    assert shape == {"n_layer": 12, "n_head": 12, "n_embd": 768}
    assert small.recipe.training_arguments["learning_rate"] == 5e-4
    config = GPT2Config(
        **large.recipe.model,
        vocab_size=32_000,
        n_positions=large.recipe.corpus.block_size,
        bos_token_id=0,
        eos_token_id=0,
    )
    assert plan.count_parameters(config) == pytest.approx(300e6, rel=0.03)
    for pinned in (small, large):
        assert pinned.recipe.corpus.train_files == ("data/train/*",)
        assert pinned.recipe.corpus.validation_files == ("data/validation/*",)
        assert pinned.recipe.training_arguments["bf16"] is True


LESSONS = sorted((ROOT / "recipes" / "lessons").glob("*.json"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_the_small_baseline_with_one_fault(path):
    """One fault is one key; a schedule comes with its options."""
    proxy = ROOT / "recipes" / "proxy" / "baseline.json"
    right, wrong = (
        recipe.content(command.read([str(p)], recipe.ClmRecipe, SECTIONS).recipe)
        for p in (proxy, path)
    )
    differing = {key for key in right | wrong if right.get(key) != wrong.get(key)}
    assert len(differing - {"training_arguments.lr_scheduler_kwargs"}) == 1


def test_the_small_baseline_is_the_baseline_in_what_it_stands_for():
    pins = [
        command.read([path], recipe.ClmRecipe, SECTIONS).recipe.training_arguments
        for path in (BASELINE, str(ROOT / "recipes" / "proxy" / "baseline.json"))
    ]
    same = "learning_rate weight_decay adam_beta1 adam_beta2 lr_scheduler_type lr_scheduler_kwargs"
    for key in [*same.split(), "warmup_steps", "max_grad_norm", "bf16"]:
        assert pins[0][key] == pins[1][key], key
