"""Each rule at its threshold, the shipped recipes, and three runs that went wrong."""

import dataclasses

import pytest
from conftest import ROOT
from transformers import GPT2Config, TrainingArguments

from zhgpt import command, lint, plan, rule, rules_optimizer, scaling
from zhgpt.errors import InputError
from zhgpt.recipe import ClmRecipe, CorpusSection, MuonSection, SamplesSection
from zhgpt.rule import Facts

SECTIONS = {"model": GPT2Config, "training_arguments": TrainingArguments}
SHIPPED = ("village", "cpu_9m", "gpt2_124m", "l20_300m")


def recipe(
    why=None, prompts=("村民们都很高兴",), block_size=512, tokens_per_step=131072, **changes
):
    """A sound recipe; keywords change its model or its training arguments."""
    model = dict(n_layer=12, n_embd=768, n_head=12)
    model |= dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    arguments = dict(num_train_epochs=1, learning_rate=5e-4, weight_decay=0.1, adam_beta2=0.95)
    arguments |= dict(lr_scheduler_type="cosine", warmup_steps=0.02, eval_strategy="steps")
    arguments |= dict(eval_steps=0.05, save_steps=200, per_device_train_batch_size=16)
    corpus = {key: changes.pop(key) for key in ("claimed_bytes",) if key in changes}
    for key, value in changes.items():
        (model if key in model else arguments)[key] = value
    return ClmRecipe(
        name="x",
        purpose="y",
        tokenizer="z",
        corpus=CorpusSection(train_files=("t",), block_size=block_size, **corpus),
        model=model,
        tokens_per_step=tokens_per_step,
        training_arguments=arguments,
        samples=SamplesSection(prompts=prompts),
        why=why or {},
    )


SOUND = Facts(
    parameters=110_000_000,
    vocab_size=32000,
    has_end_of_text=True,
    pads_or_truncates=False,
    train_bytes=8_000_000_000,
    train_tokens=1_650_000_000,
    documents=2_000_000,
    median_document_tokens=300,
    validation_tokens=400_000,
    max_steps=12_500,
    tokens=1_638_400_000,
    epochs=1.0,
    hours=12,
    memory_bytes=10e9,
    card_bytes=48e9,
    disk_bytes=10e9,
    free_bytes=100e9,
    largest_micro_batch=64,
    has_gpu=True,
    card_has_bf16=True,
)


def found(made, facts=SOUND) -> dict[str, str]:
    return {finding.id: finding.severity for finding in lint.check(made, facts)}


def test_a_sound_recipe_is_found_sound():
    assert found(recipe()) == {}


CASES = [
    ("fine-tuning-rate", "stop", dict(learning_rate=2e-5), {}),
    ("fine-tuning-rate", "warn", dict(learning_rate=1e-4), {}),
    ("fine-tuning-rate", None, dict(learning_rate=1.8e-4), {}),
    ("fine-tuning-rate", None, dict(learning_rate=2e-5, optim="sgd"), {}),
    ("fine-tuning-rate", None, dict(learning_rate=2e-5), dict(parameters=175 * 10**9)),
    ("steep-rate", "warn", dict(learning_rate=1.2e-3), {}),
    ("steep-rate", "stop", dict(learning_rate=6e-3), {}),
    ("steep-rate", None, dict(learning_rate=1.1e-3), {}),
    ("no-warm-up", "warn", dict(warmup_steps=0), {}),
    ("no-decay", "warn", dict(lr_scheduler_type="constant_with_warmup"), {}),
    ("no-decay", None, dict(lr_scheduler_type="warmup_stable_decay"), {}),
    ("idle-weight-decay", "warn", dict(weight_decay=1e-4), {}),
    ("idle-weight-decay", None, dict(weight_decay=0.01), {}),
    ("no-weight-decay", "note", dict(weight_decay=0.0), {}),
    ("dropout-in-one-epoch", "warn", dict(attn_pdrop=0.1), {}),
    ("dropout-in-one-epoch", None, dict(attn_pdrop=0.1), dict(epochs=2.0)),
    ("many-epochs", None, {}, dict(epochs=4.0)),
    ("many-epochs", "note", {}, dict(epochs=5.0)),
    ("many-epochs", "warn", {}, dict(epochs=16.0)),
    ("many-epochs", "stop", {}, dict(epochs=41.0)),
    ("few-tokens", "note", {}, dict(tokens=400_000_000)),
    ("few-tokens", "warn", {}, dict(tokens=100_000_000)),
    ("many-tokens", "note", {}, dict(tokens=60 * 10**9)),
    ("claimed-bytes", "warn", dict(claimed_bytes=7_600_000_000), {}),
    ("claimed-bytes", None, dict(claimed_bytes=7_700_000_000), {}),
    ("block-beyond-documents", "warn", {}, dict(median_document_tokens=60)),
    ("block-beyond-documents", None, {}, dict(median_document_tokens=64)),
    ("block-beyond-budget", "warn", {}, dict(tokens=1_000_000)),
    ("small-validation", "warn", {}, dict(validation_tokens=9_999)),
    ("vocabulary-for-model", "warn", dict(n_embd=192), dict(parameters=8_862_720)),
    ("vocabulary-for-corpus", "warn", {}, dict(train_tokens=1_500_000)),
    ("no-end-of-text", "stop", {}, dict(has_end_of_text=False)),
    ("rare-end-of-text", "warn", {}, dict(documents=50)),
    ("padding", "warn", {}, dict(pads_or_truncates=True)),
    ("few-steps", "warn", {}, dict(max_steps=499)),
    ("large-step", "warn", dict(tokens_per_step=2**21), {}),
    ("small-step", "warn", dict(tokens_per_step=1024), {}),
    ("small-step", None, dict(tokens_per_step=1024), dict(parameters=9_000_000)),
    ("long-beta2", "warn", dict(adam_beta2=0.999), dict(max_steps=9_999)),
    ("long-beta2", None, dict(adam_beta2=0.999), {}),
    ("fp16-without-scaler", "stop", dict(fp16=True), dict(has_gpu=False)),
    ("fp16-without-scaler", "stop", dict(fp16=True, use_cpu=True), {}),
    ("fp16-without-scaler", "note", dict(fp16=True), {}),
    ("fp16-without-scaler", None, dict(fp16=True), dict(card_has_bf16=False)),
    ("does-not-fit", "stop", {}, dict(memory_bytes=56e9)),
    ("does-not-fit", "warn", {}, dict(memory_bytes=45e9)),
    ("full-disk", "warn", {}, dict(disk_bytes=2e12)),
    ("full-disk", None, {}, dict(disk_bytes=2e12, free_bytes=3e12)),
    ("costly-evaluation", "warn", {}, dict(validation_tokens=40_000_000)),
    ("costly-evaluation", None, dict(eval_strategy="no"), dict(validation_tokens=40_000_000)),
    ("no-evaluation", "warn", dict(eval_strategy="no"), {}),
    ("no-samples", "warn", dict(prompts=()), {}),
    ("save-interval", "warn", dict(save_strategy="no"), {}),
    ("save-interval", "warn", dict(save_steps=0.1), {}),
    ("save-interval", None, dict(save_steps=0.02), {}),
    ("beyond-patience", "warn", {}, dict(hours=300)),
]


@pytest.mark.parametrize("name, severity, changes, facts", CASES)
def test_a_rule_speaks_beyond_its_threshold(name, severity, changes, facts):
    assert found(recipe(**changes), dataclasses.replace(SOUND, **facts)).get(name) == severity


def test_a_rate_that_is_the_embeddings_alone_may_be_steep():
    made = recipe(learning_rate=2e-2)
    assert found(made)["steep-rate"] == "stop"
    muon = MuonSection(matrix_learning_rate=5e-3)
    assert "steep-rate" not in found(dataclasses.replace(made, muon=muon))


def test_every_rule_has_a_case():
    assert {rule.id for rule in lint.RULES} == {name for name, severity, *_ in CASES if severity}


def test_the_same_changes_say_nothing_while_nothing_is_known():
    """Rules that need a fact leave what they cannot judge."""
    assert found(recipe(), Facts()) == {}


def test_a_warning_that_the_recipe_means_becomes_a_note_and_a_stop_stays():
    why = {"model.n_layer": "no-warm-up and fine-tuning-rate are meant"}
    made = recipe(why=why, warmup_steps=0, learning_rate=2e-5)
    assert found(made) == {"fine-tuning-rate": "stop", "no-warm-up": "note"}


def test_a_stop_ends_a_start_unless_it_is_accepted():
    findings = lint.check(recipe(learning_rate=2e-5), dataclasses.replace(SOUND, epochs=100.0))
    with pytest.raises(InputError) as error:
        lint.require(findings, ["many-epochs"])
    for part in ("learning_rate = 2e-05", "Brown et al. 2020", "--accept fine-tuning-rate"):
        assert part in str(error.value)
    assert "many-epochs" not in str(error.value)
    lint.require(findings, ["many-epochs", "fine-tuning-rate"])
    kept = lint.record(findings, ["many-epochs", "fine-tuning-rate"])
    assert all(entry["accepted"] for entry in kept if entry["severity"] == "stop")
    with pytest.raises(InputError, match="no rule has this name"):
        lint.accepted(["many-epoch"], {})


def test_what_was_accepted_at_the_first_start_stays_accepted():
    kept = {"lint": [dict(id="many-epochs", accepted=True), dict(id="no-decay", accepted=False)]}
    assert lint.accepted(None, kept) == {"many-epochs"}
    assert lint.accepted(["padding"], kept) == {"many-epochs", "padding"}


def test_findings_name_value_effect_remedy_and_source():
    for name, _, changes, facts in CASES:
        for finding in lint.check(recipe(**changes), dataclasses.replace(SOUND, **facts)):
            assert all(dataclasses.astuple(finding)), name


def test_the_page_is_up_to_date():
    assert (ROOT / lint.PAGE).read_text(encoding="utf-8") == lint.page()


def test_defaults_are_the_libraries():
    known = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    plain = {key: getattr(value, "value", value) for key, value in known.items()}
    assert {key: plain[key] for key in rule.DEFAULTS} == rule.DEFAULTS
    model = GPT2Config()
    assert {key: getattr(model, key) for key in rule.MODEL_DEFAULTS} == rule.MODEL_DEFAULTS


def read(path) -> ClmRecipe:
    return command.read([str(ROOT / path)], ClmRecipe, SECTIONS).recipe


def facts_of(made: ClmRecipe, vocabulary: int, train_tokens: int, **more) -> Facts:
    """What follows from a recipe and the size of its text."""
    config = GPT2Config(**made.model, vocab_size=vocabulary, n_positions=made.corpus.block_size)
    blocks = train_tokens // made.corpus.block_size
    steps = plan.make(made, config, processes=1, blocks=blocks)
    names = ("parameters", "max_steps", "tokens", "epochs")
    known = {name: getattr(steps, name) for name in names}
    return Facts(vocab_size=vocabulary, train_tokens=train_tokens, **known, **more)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_neither_stop_nor_warn(name):
    """With the text that each was made for: the stories, the recorded rehearsal, a few GB."""
    vocabulary, tokens, validation = {
        "village": (4096, 445_318, 15_400),
        "cpu_9m": (32000, 35_464_956, 100_000),
    }.get(name, (32000, 1_600_000_000, 400_000))
    made = read(f"recipes/{name}.json")
    findings = lint.check(made, facts_of(made, vocabulary, tokens, validation_tokens=validation))
    assert not [finding.line() for finding in findings if finding.severity != "note"]


@pytest.mark.parametrize(
    "name, facts, stops, warnings",
    [
        (
            "diary_0226",
            dict(train_tokens=47_000_000, train_bytes=228_000_000),
            {"fine-tuning-rate"},
            {"no-warm-up"},
        ),
        (
            "diary_0228",
            dict(train_tokens=94_000_000),
            {"fine-tuning-rate"},
            {"no-warm-up"},
        ),
        (
            "diary_0301",
            dict(train_tokens=120_000_000, train_bytes=580_000_000, hours=300),
            {"many-epochs"},
            {"no-warm-up", "idle-weight-decay", "claimed-bytes", "beyond-patience"},
        ),
    ],
)
def test_the_runs_of_the_diary_are_caught_before_they_start(name, facts, stops, warnings):
    made = read(f"recipes/diary/{name}.json")
    said = found(made, facts_of(made, 32000, **facts))
    assert {name for name, severity in said.items() if severity == "stop"} == stops
    assert warnings <= {name for name, severity in said.items() if severity == "warn"}
    with pytest.raises(InputError):
        lint.require(lint.check(made, facts_of(made, 32000, **facts)), [])


def test_gpt3s_rates_lie_on_their_line():
    assert rules_optimizer.gpt3_rate(1e6) == 6e-4
    assert rules_optimizer.gpt3_rate(350e6) == pytest.approx(3e-4)
    assert 3e-4 < rules_optimizer.gpt3_rate(235e6) < 6e-4
    assert rules_optimizer.gpt3_rate(1e12) == 0.6e-4


def test_what_repetition_is_worth():
    assert scaling.worth_in_epochs(0.5) == 0.5
    assert scaling.worth_in_epochs(4) == pytest.approx(3.73, abs=0.01)
    assert scaling.worth_in_epochs(100) == pytest.approx(16.4, abs=0.1)
