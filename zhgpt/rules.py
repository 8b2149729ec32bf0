"""The rules of zhgpt.lint: what is known to waste a run, each with its measure and its source.

A rule is a small function of a recipe and of what is known of corpus, tokenizer and machine. What
it cannot judge because a fact is unknown, it leaves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from zhgpt.recipe import ClmRecipe

STOP, WARN, NOTE = "stop", "warn", "note"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known beside the recipe; None is unknown.

    Tokens and bytes are of one epoch, `tokens` of the whole run. `card_bytes` is the memory of the
    device that trains, `memory_bytes` what the run would take of it.
    """

    parameters: int | None = None
    vocab_size: int | None = None
    has_end_of_text: bool | None = None
    pads_or_truncates: bool | None = None
    train_bytes: int | None = None
    train_tokens: int | None = None
    documents: int | None = None
    median_document_tokens: float | None = None
    validation_tokens: int | None = None
    max_steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    hours: float | None = None
    memory_bytes: float | None = None
    card_bytes: float | None = None
    largest_micro_batch: int | None = None
    has_gpu: bool | None = None
    card_has_bf16: bool | None = None


class Verdict(NamedTuple):
    """What a rule found: the value, what it would do, what to write in its place."""

    severity: str
    value: str
    effect: str
    instead: str


Judge = Callable[[ClmRecipe, Facts], Verdict | None]


@dataclass(frozen=True)
class Rule:
    """`key` is the recipe's key that it is about, `when` its condition, for docs/lint.md."""

    id: str
    key: str
    when: str
    source: str
    judge: Judge


# Defaults of the installed TrainingArguments and GPT2Config; a test compares them.
DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta2": 0.999,
    "warmup_steps": 0,
    "lr_scheduler_type": "linear",
    "eval_strategy": "no",
    "eval_steps": None,
    "logging_steps": 500,
    "save_strategy": "steps",
    "save_steps": 500,
    "optim": "adamw_torch_fused",
    "fp16": False,
    "bf16": False,
    "use_cpu": False,
}
MODEL_DEFAULTS = {
    "n_layer": 12,
    "n_embd": 768,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
}


def _argument(recipe: ClmRecipe, key: str) -> Any:
    return recipe.training_arguments.get(key, DEFAULTS[key])


def _model(recipe: ClmRecipe, key: str) -> Any:
    return recipe.model.get(key, MODEL_DEFAULTS[key])


def _interval(recipe: ClmRecipe, key: str, max_steps: int) -> float:
    """Steps between two evaluations, saves, ...; below 1 it is a share of the run."""
    steps = _argument(recipe, key)
    steps = _argument(recipe, "logging_steps") if steps is None else steps
    return max(1, math.ceil(steps * max_steps)) if steps < 1 else steps


# Learning rate ----------------------------------------------------------------------------------

# Parameters and peak learning rate (Brown et al. 2020, table 2.1).
GPT3_RATES = (
    (125e6, 6e-4),
    (350e6, 3e-4),
    (760e6, 2.5e-4),
    (1.3e9, 2e-4),
    (2.7e9, 1.6e-4),
    (6.7e9, 1.2e-4),
    (13e9, 1e-4),
    (175e9, 0.6e-4),
)
TOO_LOW, LOW = 1 / 10, 1 / 4  # of GPT-3's rate for the size
TOO_STEEP, STEEP = 4.0, 0.9  # rate x width


def gpt3_rate(parameters: float) -> float:
    """GPT-3's learning rate for a size, between its sizes by powers; its ends hold beyond them."""
    if parameters <= GPT3_RATES[0][0]:
        return GPT3_RATES[0][1]
    for (small, high), (large, low) in zip(GPT3_RATES, GPT3_RATES[1:], strict=False):
        if parameters <= large:
            share = math.log(parameters / small) / math.log(large / small)
            return high * (low / high) ** share
    return GPT3_RATES[-1][1]


def _fine_tuning_rate(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    rate, usual = _argument(recipe, "learning_rate"), gpt3_rate(facts.parameters or 0)
    if "adam" not in _argument(recipe, "optim") or rate >= LOW * usual:
        return None
    return Verdict(
        STOP if rate < TOO_LOW * usual else WARN,
        f"{rate:g}",
        f"{usual / rate:.0f} times below the rate that GPT-3 has at this size: a rate to fine-tune"
        " with; from scratch the run ends long before the model has learnt words",
        f"{usual:.1g}",
    )


def _steep_rate(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    rate, width = _argument(recipe, "learning_rate"), _model(recipe, "n_embd")
    if "adam" not in _argument(recipe, "optim") or rate * width <= STEEP:
        return None
    return Verdict(
        STOP if rate * width > TOO_STEEP else WARN,
        f"{rate:g}",
        f"rate x width = {rate * width:.2g}; what is known to train stays below {STEEP}: the loss"
        " may jump, or fall slowly",
        f"{0.5 / width:.1g} for {width} wide",
    )


def _no_warm_up(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if _argument(recipe, "warmup_steps"):
        return None
    if _argument(recipe, "lr_scheduler_type") == "constant_with_warmup":
        effect = "the schedule is made for a warm-up, and has none"
    else:
        effect = "the first steps go at the full rate, by a variance that is estimated from nothing"
    return Verdict(WARN, "0", effect, "0.02, a share of the run")


def _no_decay(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    kind = _argument(recipe, "lr_scheduler_type")
    if kind not in ("constant", "constant_with_warmup"):
        return None
    effect = "the last steps are as noisy as the first; what a decay brings at the end is left out"
    return Verdict(WARN, kind, effect, '"cosine_with_min_lr", or "warmup_stable_decay"')


# Regularisation ---------------------------------------------------------------------------------


def _idle_weight_decay(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    decay, rate = _argument(recipe, "weight_decay"), _argument(recipe, "learning_rate")
    if decay == 0 or decay >= 0.01 or "adamw" not in _argument(recipe, "optim"):
        return None
    steps = facts.max_steps or 10_000
    # Each step takes rate x decay off a weight; schedules average about half of the peak rate.
    shrunk = 1 - math.exp(-decay * rate * steps / 2)
    effect = f"with AdamW a weight shrinks by {shrunk:.2g} of itself in {steps:,} steps: nothing"
    return Verdict(WARN, f"{decay:g}", effect, "0.1")


def _no_weight_decay(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if _argument(recipe, "weight_decay") != 0:
        return None
    return Verdict(NOTE, "0", "weights are not held back at all, in a long run they grow", "0.1")


def _dropout(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    rates = {key: _model(recipe, key) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    on = ", ".join(f"{key} {rate:g}" for key, rate in rates.items() if rate)
    if not on or facts.epochs is None or facts.epochs > 1:
        return None
    effect = "no text is seen twice, so there is nothing to overfit, and dropout costs time"
    return Verdict(WARN, on, effect, "0.0 for all three; the library's default is 0.1")


# Text, tokens, epochs ---------------------------------------------------------------------------

R_STAR = 15.39  # epochs; fitted for data by Muennighoff et al. 2023, section 5
MANY_EPOCHS, TOO_MANY_EPOCHS = 4, 40


def worth_in_epochs(epochs: float) -> float:
    """Epochs of new text that so many epochs of the same text are worth.

    1 + R (1 - exp(-(epochs - 1) / R)) with R = 15.39 (Muennighoff et al. 2023, equation 5).
    """
    if epochs <= 1:
        return epochs
    return 1 + R_STAR * (1 - math.exp(-(epochs - 1) / R_STAR))


def _epochs(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    epochs = facts.epochs or recipe.training_arguments.get("num_train_epochs", 0)
    if "max_steps" in recipe.training_arguments and facts.epochs is None:
        return None
    if epochs <= MANY_EPOCHS:
        return None
    severity = STOP if epochs > TOO_MANY_EPOCHS else WARN if epochs > R_STAR else NOTE
    return Verdict(
        severity,
        f"{epochs:.3g}",
        f"text repeated so often is worth {worth_in_epochs(epochs):.1f} epochs of new text, and"
        f" the last epoch {math.exp(-(epochs - 1) / R_STAR):.1%} of one",
        f"up to {MANY_EPOCHS}, more text, or a smaller model",
    )


OPTIMAL_RATIO = 20  # tokens per parameter
FEW, FAR_TOO_FEW, MANY = 5, 1, 500


def _few_tokens(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.tokens or not facts.parameters:
        return None
    ratio = facts.tokens / facts.parameters
    if ratio >= FEW:
        return None
    fitting = facts.tokens / OPTIMAL_RATIO
    return Verdict(
        WARN if ratio < FAR_TOO_FEW else NOTE,
        f"{ratio:.2g} per parameter",
        f"compute-optimal is about {OPTIMAL_RATIO}: with these tokens a smaller model learns more",
        f"about {fitting / 1e6:.2g}M parameters, or {OPTIMAL_RATIO * facts.parameters:.2g} tokens",
    )


def _many_tokens(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.tokens or not facts.parameters or facts.tokens / facts.parameters <= MANY:
        return None
    return Verdict(
        NOTE,
        f"{facts.tokens / facts.parameters:,.0f} per parameter",
        f"far beyond {OPTIMAL_RATIO}: a larger model would reach less loss with the same compute",
        "a larger model, unless it has to be small where it is used",
    )


CLAIM_ERROR = 0.05


def _claim(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    claimed, found = recipe.corpus.claimed_bytes, facts.train_bytes
    if claimed is None or found is None or abs(found - claimed) <= CLAIM_ERROR * claimed:
        return None
    return Verdict(
        WARN,
        f"{claimed:,}",
        f"the text has {found:,} bytes, {found / claimed:.0%} of it; steps, epochs and hours"
        " follow from what is there",
        f"{found}, or name the files that are missing",
    )


def _block_beyond_documents(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    median, block = facts.median_document_tokens, recipe.corpus.block_size
    if median is None or block <= 8 * median:
        return None
    return Verdict(
        WARN,
        f"{block:,}",
        f"half of the documents are shorter than {median:.0f} tokens: a block holds a dozen that"
        " have nothing to do with one another, and late positions learn from few long ones",
        f"{_power_of_two(2 * median)}, or corpus.document_mask",
    )


FEW_BLOCKS = 2000


def _block_beyond_budget(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    block = recipe.corpus.block_size
    if not facts.tokens or facts.tokens / block >= FEW_BLOCKS:
        return None
    return Verdict(
        WARN,
        f"{block:,}",
        f"the run has {facts.tokens / block:,.0f} blocks, and each position is learnt from one"
        " token of each",
        f"{max(32, _power_of_two(facts.tokens / FEW_BLOCKS / 2))}, or more tokens",
    )


def _power_of_two(number: float) -> int:
    return 2 ** max(3, round(math.log2(max(number, 1))))


def _validation(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    tokens = facts.validation_tokens
    if tokens is None or tokens >= 10_000:
        return None
    # A token's loss scatters by some 2.5 nats around its mean.
    return Verdict(
        WARN,
        f"{tokens:,} tokens",
        f"the loss is known to about {2.5 / math.sqrt(max(tokens, 1)):.2f} nats, and is shown to"
        " 0.0001: most digits are chance",
        "100,000 tokens or more: validation_files, or a larger corpus.validation_fraction",
    )


# Tokenizer --------------------------------------------------------------------------------------


def _vocabulary_for_model(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.vocab_size or not facts.parameters:
        return None
    share = facts.vocab_size * _model(recipe, "n_embd") / facts.parameters
    if share <= 0.5:
        return None
    return Verdict(
        WARN,
        f"{facts.vocab_size:,} entries",
        f"the table is {share:.0%} of the model: its layers, which do the work, are the rest",
        f"a tokenizer of about {_power_of_two(facts.vocab_size / 4):,} entries, or a larger model",
    )


def _vocabulary_for_corpus(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.vocab_size or not facts.train_tokens:
        return None
    each = facts.train_tokens / facts.vocab_size
    if each >= 50:
        return None
    return Verdict(
        WARN,
        f"{facts.vocab_size:,} entries",
        f"an entry occurs {each:.0f} times in the text on average, and most occur far less often",
        f"a tokenizer of about {_power_of_two(facts.train_tokens / 200):,} entries, or more text",
    )


def _end_of_text(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if facts.has_end_of_text is False:
        effect = "documents run into one another, and the model never learns to stop"
        return Verdict(STOP, "no end of text", effect, "one that run_bpe.py trained")
    return None


def _rare_end_of_text(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.documents or not facts.train_tokens or facts.documents >= 100:
        return None
    if facts.train_tokens / facts.documents < 32 * recipe.corpus.block_size:
        return None
    effect = f"{facts.documents} documents have one end of text each: no model learns it from them"
    instead = 'corpus.document "paragraph" or "line", or a file per document'
    return Verdict(WARN, recipe.corpus.document, effect, instead)


def _padding(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.pads_or_truncates:
        return None
    return Verdict(
        WARN,
        "saved with padding or truncation",
        "blocks are packed here and it is taken off, but whoever loads the model later gets texts"
        " that are cut or filled up without a word",
        "null for padding and truncation in its tokenizer.json",
    )


# Steps ------------------------------------------------------------------------------------------

FEW_STEPS, LARGEST_STEP = 500, 2_000_000


def _few_steps(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.max_steps or not facts.tokens or facts.max_steps >= FEW_STEPS:
        return None
    fitting = _power_of_two(facts.tokens / (4 * FEW_STEPS))
    return Verdict(
        WARN,
        f"{recipe.tokens_per_step:,}",
        f"makes {facts.max_steps:,} steps: too few updates, whatever each is made from",
        f"about {max(fitting, recipe.corpus.block_size):,}",
    )


def _large_step(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if recipe.tokens_per_step <= LARGEST_STEP:
        return None
    effect = "beyond the critical batch of models of this kind: more tokens, hardly a better step"
    return Verdict(WARN, f"{recipe.tokens_per_step:,}", effect, "524288 or less")


def _small_step(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.parameters or facts.parameters < 100e6 or recipe.tokens_per_step >= 8192:
        return None
    effect = "a gradient of so few tokens is mostly noise at this size, and a card stands idle"
    return Verdict(WARN, f"{recipe.tokens_per_step:,}", effect, "131072")


def _beta2(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    beta2 = _argument(recipe, "adam_beta2")
    if not facts.max_steps or "adam" not in _argument(recipe, "optim"):
        return None
    window = 1 / (1 - beta2)
    if window <= 0.1 * facts.max_steps:
        return None
    effect = f"averages squared gradients over {window:,.0f} steps, and the run has"
    effect += f" {facts.max_steps:,}: those of the start are in it till late"
    return Verdict(WARN, f"{beta2:g}", effect, "0.95; 0.98 with small steps")


# The machine ------------------------------------------------------------------------------------

ESTIMATE_ERROR = 0.15


def _fp16(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not _argument(recipe, "fp16"):
        return None
    if facts.has_gpu is False or _argument(recipe, "use_cpu"):
        effect = "the library scales the loss on a GPU only: small gradients become zero here"
        return Verdict(STOP, "true", effect, "false")
    if facts.card_has_bf16:
        effect = "needs a loss scale and skips steps where it is wrong; this card computes in bf16"
        return Verdict(NOTE, "true", effect, "bf16: true in its place")
    return None


def _fits(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.memory_bytes or not facts.card_bytes:
        return None
    share = facts.memory_bytes / facts.card_bytes
    if share <= 1 - ESTIMATE_ERROR:
        return None
    fitting = facts.largest_micro_batch
    return Verdict(
        STOP if share > 1 + ESTIMATE_ERROR else WARN,
        str(recipe.training_arguments.get("per_device_train_batch_size")),
        f"takes about {facts.memory_bytes / 1e9:.1f} GB of {facts.card_bytes / 1e9:.1f}; the"
        f" estimate is good to {ESTIMATE_ERROR:.0%}",
        f"{fitting}; the result stays the same" if fitting else "a smaller model: none fits",
    )


EVALUATION_SHARE, LONGEST_SAVE_MINUTES, PATIENCE_HOURS = 0.1, 30, 7 * 24


def evaluation_share(recipe: ClmRecipe, facts: Facts) -> float | None:
    """Computation of all evaluations to that of training; a forward pass is a third of a step."""
    if _argument(recipe, "eval_strategy") == "no":
        return 0.0
    if not (facts.max_steps and facts.tokens and facts.validation_tokens):
        return None
    number = facts.max_steps / _interval(recipe, "eval_steps", facts.max_steps)
    return number * facts.validation_tokens / (3 * facts.tokens)


def _evaluation(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    share = evaluation_share(recipe, facts)
    if not share or share <= EVALUATION_SHARE:
        return None
    steps = recipe.training_arguments.get("eval_steps")
    effect = f"evaluation adds {share:.0%} to the computation of training"
    fitting = _interval(recipe, "eval_steps", facts.max_steps) * share / EVALUATION_SHARE
    instead = f"{math.ceil(fitting):,} steps or more, or less validation text"
    return Verdict(WARN, f"{steps}", effect, instead)


def _no_evaluation(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if _argument(recipe, "eval_strategy") != "no":
        return None
    effect = "nothing is evaluated and no sample is written until the run is over"
    return Verdict(WARN, "no", effect, '"steps", with eval_steps 0.05')


def _no_samples(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if recipe.samples.prompts:
        return None
    effect = "a model that only repeats a mark shows it here first, long before the loss does"
    return Verdict(WARN, "none", effect, '["村民们都很高兴"]')


def _save_interval(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if _argument(recipe, "save_strategy") == "no":
        return Verdict(WARN, "no checkpoint", "a kill costs the whole run", "save_steps 0.02")
    if not facts.hours or not facts.max_steps:
        return None
    steps = _interval(recipe, "save_steps", facts.max_steps)
    minutes = 60 * facts.hours * steps / facts.max_steps
    if minutes <= LONGEST_SAVE_MINUTES or 60 * facts.hours <= LONGEST_SAVE_MINUTES:
        return None
    fitting = max(1, int(steps * LONGEST_SAVE_MINUTES / minutes))
    effect = f"a checkpoint each {minutes:.0f} minutes: so much is done again after a kill"
    return Verdict(WARN, f"{steps:g} steps", effect, f"{fitting} steps")


def _patience(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.hours or facts.hours <= PATIENCE_HOURS:
        return None
    fitting = facts.max_steps and f"{facts.max_steps * 48 / facts.hours:,.0f} steps take two days"
    effect = f"{facts.hours:,.0f} hours on this machine: most runs of such a length never end"
    return Verdict(WARN, f"{facts.hours:,.0f} hours", effect, fitting or "a smaller model")


RATE, EPOCHS = "training_arguments.learning_rate", "training_arguments.num_train_epochs"
STEPS, EVALUATION = "training_arguments.max_steps", "training_arguments.eval_strategy"
OUR_LOG = "docs/LOG.md"

RULES: tuple[Rule, ...] = (
    Rule(
        "fine-tuning-rate",
        RATE,
        "with Adam: stop below a tenth, warn below a quarter of GPT-3's rate for the size",
        "Brown et al. 2020, table 2.1; the library's default, 5e-5, is for fine-tuning",
        _fine_tuning_rate,
    ),
    Rule(
        "steep-rate",
        RATE,
        f"with Adam: rate x width above {STEEP} warn, above {TOO_STEEP:g} stop. GPT-3's sizes have"
        " 0.4 to 0.7; ours trained at 0.5 and hardly at 1.0",
        f"Yang et al. 2021 (rates fall with the width); {OUR_LOG}, 2026-11-25: 4e-3 at 256 wide",
        _steep_rate,
    ),
    Rule(
        "no-warm-up",
        "training_arguments.warmup_steps",
        "0 steps of warm-up: warn",
        "Liu et al. 2020 (RAdam); Ma and Yarats 2021: 2 / (1 - beta2) steps",
        _no_warm_up,
    ),
    Rule(
        "no-decay",
        "training_arguments.lr_scheduler_type",
        "a constant rate to the end: warn",
        "Hoffmann et al. 2022, section B; Hägele et al. 2024 for a short decay at the end",
        _no_decay,
    ),
    Rule(
        "idle-weight-decay",
        "training_arguments.weight_decay",
        "above 0 and below 0.01 with AdamW: warn",
        "Loshchilov and Hutter 2019; GPT-3 has 0.1 (Brown et al. 2020, appendix B)",
        _idle_weight_decay,
    ),
    Rule(
        "no-weight-decay",
        "training_arguments.weight_decay",
        "0: note",
        "Brown et al. 2020, appendix B",
        _no_weight_decay,
    ),
    Rule(
        "dropout-in-one-epoch",
        "model.resid_pdrop",
        "any dropout in a run of one epoch or less: warn",
        "Liu, Bauer and Manning 2025; measured here: half the speed on a CPU",
        _dropout,
    ),
    Rule(
        "many-epochs",
        EPOCHS,
        f"more than {MANY_EPOCHS} epochs note, {R_STAR:.0f} warn, {TOO_MANY_EPOCHS} stop",
        "Muennighoff et al. 2023: 4 epochs are nearly as good as new text, 40 are worthless",
        _epochs,
    ),
    Rule(
        "few-tokens",
        STEPS,
        f"below {FEW} tokens per parameter note, below {FAR_TOO_FEW} warn",
        f"Hoffmann et al. 2022; {OUR_LOG}, 2026-11-24: 0.3 gave no word",
        _few_tokens,
    ),
    Rule(
        "many-tokens",
        STEPS,
        f"above {MANY} tokens per parameter: note",
        "Hoffmann et al. 2022",
        _many_tokens,
    ),
    Rule(
        "claimed-bytes",
        "corpus.claimed_bytes",
        f"the text's size differs from the claim by more than {CLAIM_ERROR:.0%}: warn",
        "the run's own ledger",
        _claim,
    ),
    Rule(
        "block-beyond-documents",
        "corpus.block_size",
        "more than 8 times the documents' median length: warn",
        "Ding et al. 2024 (packing); each position is trained by what reaches it",
        _block_beyond_documents,
    ),
    Rule(
        "block-beyond-budget",
        "corpus.block_size",
        f"fewer than {FEW_BLOCKS:,} blocks in the whole run: warn",
        f"{OUR_LOG}, 2026-11-25: the village run, the smallest that we know to speak, has 8,400",
        _block_beyond_budget,
    ),
    Rule(
        "small-validation",
        "corpus.validation_fraction",
        "fewer than 10,000 tokens of validation: warn",
        "standard error of a mean, with 2.5 nats of scatter per token",
        _validation,
    ),
    Rule(
        "vocabulary-for-model",
        "tokenizer",
        "the embedding is more than half of the parameters: warn",
        "Tao et al. 2024: the best vocabulary grows more slowly than the model",
        _vocabulary_for_model,
    ),
    Rule(
        "vocabulary-for-corpus",
        "tokenizer",
        "fewer than 50 tokens of text per entry: warn",
        "the village stories, 109 per entry of 4,096, are learnt",
        _vocabulary_for_corpus,
    ),
    Rule(
        "no-end-of-text",
        "tokenizer",
        "the tokenizer has no end of text, or pads with it: stop",
        "labels equal to padding are not learnt (docs/design.md, law 3)",
        _end_of_text,
    ),
    Rule(
        "rare-end-of-text",
        "corpus.document",
        "fewer than 100 documents, each of more than 32 blocks: warn",
        "a .txt file is one document unless told otherwise (docs/corpus.md)",
        _rare_end_of_text,
    ),
    Rule(
        "padding",
        "tokenizer",
        "tokenizer.json holds padding or truncation: warn",
        "blocks are packed: neither has a use (docs/corpus.md)",
        _padding,
    ),
    Rule(
        "few-steps",
        "tokens_per_step",
        f"fewer than {FEW_STEPS} optimizer steps: warn",
        f"{OUR_LOG}, 2026-11-24: 256 steps of 4,096 tokens reach 0.87 bits/byte, 700 of 1,024 0.37",
        _few_steps,
    ),
    Rule(
        "large-step",
        "tokens_per_step",
        f"more than {LARGEST_STEP:,} tokens: warn",
        "Kaplan et al. 2020, section 5.1: 1 to 2 million tokens at the end of the largest runs",
        _large_step,
    ),
    Rule(
        "small-step",
        "tokens_per_step",
        "fewer than 8,192 tokens with 100M parameters or more: warn",
        "McCandlish et al. 2018; GPT-3's 125M took 524,288 (Brown et al. 2020, table 2.1)",
        _small_step,
    ),
    Rule(
        "long-beta2",
        "training_arguments.adam_beta2",
        "with Adam: 1 / (1 - beta2) is more than a tenth of the run's steps: warn",
        "GPT-3 has 0.95 (Brown et al. 2020, appendix B); the library's default is 0.999",
        _beta2,
    ),
    Rule(
        "fp16-without-scaler",
        "training_arguments.fp16",
        "fp16 without a GPU: stop; where the card has bf16: note",
        "Micikevicius et al. 2018: without a loss scale small gradients vanish",
        _fp16,
    ),
    Rule(
        "does-not-fit",
        "training_arguments.per_device_train_batch_size",
        f"the estimate of memory exceeds the device's by more than {ESTIMATE_ERROR:.0%} stop, comes"
        f" within {ESTIMATE_ERROR:.0%} of it warn",
        "zhgpt/step_memory.py, checked against what autograd keeps",
        _fits,
    ),
    Rule(
        "costly-evaluation",
        "training_arguments.eval_steps",
        f"evaluation adds more than {EVALUATION_SHARE:.0%} to training: warn",
        "arithmetic: a forward pass is a third of a training step",
        _evaluation,
    ),
    Rule(
        "no-evaluation",
        EVALUATION,
        '"no", the library\'s default: warn',
        "a run that was judged only when it was over",
        _no_evaluation,
    ),
    Rule(
        "no-samples",
        "samples.prompts",
        "no prompt: warn",
        "a loss above 7 looks like progress; a row of quotation marks does not",
        _no_samples,
    ),
    Rule(
        "save-interval",
        "training_arguments.save_steps",
        f"no checkpoint, or more than {LONGEST_SAVE_MINUTES} minutes between two: warn",
        "Young 1974, Daly 2006: --plan names the interval that costs least",
        _save_interval,
    ),
    Rule(
        "beyond-patience",
        STEPS,
        f"more than {PATIENCE_HOURS} hours on this machine: warn",
        "300 hours that were noticed after the start",
        _patience,
    ),
)
