"""Rules about the machine, its time, and what is kept of it."""

import math

from zhgpt.recipe import ClmRecipe
from zhgpt.rule import (
    NOTE,
    STOP,
    WARN,
    Facts,
    Rule,
    Verdict,
    argument,
    interval,
)

ESTIMATE_ERROR = 0.15


def _fp16(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not argument(recipe, "fp16"):
        return None
    if facts.has_gpu is False or argument(recipe, "use_cpu"):
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


def _full_disk(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.disk_bytes or facts.free_bytes is None or facts.disk_bytes <= facts.free_bytes:
        return None
    limit = recipe.training_arguments.get("save_total_limit")
    return Verdict(
        WARN,
        "null" if limit is None else str(limit),
        f"the run's folder would take {facts.disk_bytes / 1e9:,.1f} GB, and"
        f" {facts.free_bytes / 1e9:,.1f} are free: from there on nothing is saved",
        "3, or a larger disk" if limit is None else "a larger disk, or a smaller model",
    )


EVALUATION_SHARE, LONGEST_SAVE_MINUTES, PATIENCE_HOURS = 0.1, 30, 7 * 24


def evaluation_share(recipe: ClmRecipe, facts: Facts) -> float | None:
    """Computation of all evaluations to that of training; a forward pass is a third of a step."""
    if argument(recipe, "eval_strategy") == "no":
        return 0.0
    if not (facts.max_steps and facts.tokens and facts.validation_tokens):
        return None
    number = facts.max_steps / interval(recipe, "eval_steps", facts.max_steps)
    return number * facts.validation_tokens / (3 * facts.tokens)


def _evaluation(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    share = evaluation_share(recipe, facts)
    if not share or share <= EVALUATION_SHARE:
        return None
    steps = recipe.training_arguments.get("eval_steps")
    effect = f"evaluation adds {share:.0%} to the computation of training"
    fitting = interval(recipe, "eval_steps", facts.max_steps) * share / EVALUATION_SHARE
    instead = f"{math.ceil(fitting):,} steps or more, or less validation text"
    return Verdict(WARN, f"{steps}", effect, instead)


def _no_evaluation(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if argument(recipe, "eval_strategy") != "no":
        return None
    effect = "nothing is evaluated and no sample is written until the run is over"
    return Verdict(WARN, "no", effect, '"steps", with eval_steps 0.05')


def _no_samples(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if recipe.samples.prompts:
        return None
    effect = "a model that only repeats a mark shows it here first, long before the loss does"
    return Verdict(WARN, "none", effect, '["村民们都很高兴"]')


def save_minutes(recipe: ClmRecipe, facts: Facts) -> float | None:
    """Minutes between two checkpoints, by save_steps or by preemption.save_minutes, whichever come
    sooner; infinite without any, None while the speed of steps is not known.
    """
    by_clock = recipe.preemption.save_minutes or math.inf
    if argument(recipe, "save_strategy") == "no":
        return by_clock
    if not facts.hours or not facts.max_steps:
        return by_clock if math.isfinite(by_clock) else None
    steps = interval(recipe, "save_steps", facts.max_steps)
    return min(by_clock, 60 * facts.hours * steps / facts.max_steps)


def _save_interval(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    minutes = save_minutes(recipe, facts)
    if minutes is None or minutes <= LONGEST_SAVE_MINUTES:
        return None
    instead = f"preemption.save_minutes {LONGEST_SAVE_MINUTES}, or less"
    if math.isinf(minutes):
        return Verdict(WARN, "no checkpoint", "a kill costs the whole run", instead)
    if facts.hours and 60 * facts.hours <= LONGEST_SAVE_MINUTES:
        return None
    effect = f"a checkpoint each {minutes:.0f} minutes: so much is done again after a kill"
    return Verdict(WARN, f"{argument(recipe, 'save_steps'):g}", effect, instead)


def _patience(recipe: ClmRecipe, facts: Facts) -> Verdict | None:
    if not facts.hours or facts.hours <= PATIENCE_HOURS:
        return None
    fitting = facts.max_steps and f"{facts.max_steps * 48 / facts.hours:,.0f} steps take two days"
    effect = f"{facts.hours:,.0f} hours on this machine: most runs of such a length never end"
    return Verdict(WARN, f"{facts.hours:,.0f} hours", effect, fitting or "a smaller model")


RULES: tuple[Rule, ...] = (
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
        "full-disk",
        "training_arguments.save_total_limit",
        "checkpoints and model take more than is free: warn (only with --plan)",
        "zhgpt/plan.py: 12 bytes per parameter, fewer with Muon; all are kept without a limit",
        _full_disk,
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
        "training_arguments.eval_strategy",
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
        f"no checkpoint, or more than {LONGEST_SAVE_MINUTES} minutes between two, by steps and by"
        " preemption.save_minutes: warn",
        "Young 1974, Daly 2006: --plan names the interval that costs least",
        _save_interval,
    ),
    Rule(
        "beyond-patience",
        "training_arguments.max_steps",
        f"more than {PATIENCE_HOURS} hours on this machine: warn",
        "300 hours that were noticed after the start",
        _patience,
    ),
)
