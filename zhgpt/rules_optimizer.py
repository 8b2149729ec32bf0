"""Rules about learning rate, regularisation and steps."""

import math

from zhgpt.recipe import ClmRecipe
from zhgpt.rule import (
    NOTE,
    OUR_LOG,
    STOP,
    WARN,
    Facts,
    Rule,
    Verdict,
    argument,
    model_value,
    power_of_two,
)

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
    rate, usual = argument(recipe, "learning_rate"), gpt3_rate(facts.parameters or 0)
    if "adam" not in argument(recipe, "optim") or rate >= LOW * usual:
        return None
    return Verdict(
        STOP if rate < TOO_LOW * usual else WARN,
        f"{rate:g}",
        f"{usual / rate:.0f} times below the rate that GPT-3 has at this size: a rate to fine-tune"
        " with; from scratch the run ends long before the model has learnt words",
        f"{usual:.1g}",
    )


def _steep_rate(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    rate, width = argument(recipe, "learning_rate"), model_value(recipe, "n_embd")
    if recipe.muon.matrix_learning_rate is not None:  # then it is the embedding's
        return None
    if "adam" not in argument(recipe, "optim") or rate * width <= STEEP:
        return None
    return Verdict(
        STOP if rate * width > TOO_STEEP else WARN,
        f"{rate:g}",
        f"rate x width = {rate * width:.2g}; what is known to train stays below {STEEP}: the loss"
        " may jump, or fall slowly",
        f"{0.5 / width:.1g} for {width} wide",
    )


def _no_warm_up(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if argument(recipe, "warmup_steps"):
        return None
    if argument(recipe, "lr_scheduler_type") == "constant_with_warmup":
        effect = "the schedule is made for a warm-up, and has none"
    else:
        effect = "the first steps go at the full rate, by a variance that is estimated from nothing"
    return Verdict(WARN, "0", effect, "0.02, a share of the run")


def _no_decay(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    kind = argument(recipe, "lr_scheduler_type")
    if kind not in ("constant", "constant_with_warmup"):
        return None
    effect = "the last steps are as noisy as the first; what a decay brings at the end is left out"
    return Verdict(WARN, kind, effect, '"cosine_with_min_lr", or "warmup_stable_decay"')


# Regularisation ---------------------------------------------------------------------------------


def _idle_weight_decay(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    decay, rate = argument(recipe, "weight_decay"), argument(recipe, "learning_rate")
    if decay == 0 or decay >= 0.01 or "adamw" not in argument(recipe, "optim"):
        return None
    steps = facts.max_steps or 10_000
    # Each step takes rate x decay off a weight; schedules average about half of the peak rate.
    shrunk = 1 - math.exp(-decay * rate * steps / 2)
    effect = f"with AdamW a weight shrinks by {shrunk:.2g} of itself in {steps:,} steps: nothing"
    return Verdict(WARN, f"{decay:g}", effect, "0.1")


def _no_weight_decay(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if argument(recipe, "weight_decay") != 0:
        return None
    return Verdict(NOTE, "0", "weights are not held back at all, in a long run they grow", "0.1")


def _dropout(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    rates = {key: model_value(recipe, key) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    on = ", ".join(f"{key} {rate:g}" for key, rate in rates.items() if rate)
    if not on or facts.epochs is None or facts.epochs > 1:
        return None
    effect = "no text is seen twice, so there is nothing to overfit, and dropout costs time"
    return Verdict(WARN, on, effect, "0.0 for all three; the library's default is 0.1")


# Steps ------------------------------------------------------------------------------------------

FEW_STEPS, LARGEST_STEP = 500, 2_000_000


def _few_steps(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.max_steps or not facts.tokens or facts.max_steps >= FEW_STEPS:
        return None
    fitting = power_of_two(facts.tokens / (4 * FEW_STEPS))
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
    beta2 = argument(recipe, "adam_beta2")
    if not facts.max_steps or "adam" not in argument(recipe, "optim"):
        return None
    window = 1 / (1 - beta2)
    if window <= 0.1 * facts.max_steps:
        return None
    effect = f"averages squared gradients over {window:,.0f} steps, and the run has"
    effect += f" {facts.max_steps:,}: those of the start are in it till late"
    return Verdict(WARN, f"{beta2:g}", effect, "0.95; 0.98 with small steps")


_RATE = "training_arguments.learning_rate"

RULES: tuple[Rule, ...] = (
    Rule(
        "fine-tuning-rate",
        _RATE,
        "with Adam: stop below a tenth, warn below a quarter of GPT-3's rate for the size",
        "Brown et al. 2020, table 2.1; the library's default, 5e-5, is for fine-tuning",
        _fine_tuning_rate,
    ),
    Rule(
        "steep-rate",
        _RATE,
        f"with Adam for all: rate x width above {STEEP} warn, above {TOO_STEEP:g} stop. GPT-3's"
        " sizes have 0.4 to 0.7; ours trained at 0.5 and hardly at 1.0",
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
)
