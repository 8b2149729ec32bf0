"""Rules about text, tokens, epochs and tokenizer."""

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
    model_value,
    power_of_two,
)
from zhgpt.scaling import OPTIMAL_RATIO, R_STAR, last_epoch, worth_in_epochs

# Text, tokens, epochs ---------------------------------------------------------------------------

MANY_EPOCHS, TOO_MANY_EPOCHS = 4, 40


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
        f" the last epoch {last_epoch(epochs):.1%} of one",
        f"up to {MANY_EPOCHS}, more text, or a smaller model",
    )


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
        f"{power_of_two(2 * median)}, or corpus.document_mask",
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
        f"{max(32, power_of_two(facts.tokens / FEW_BLOCKS / 2))}, or more tokens",
    )


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
    share = facts.vocab_size * model_value(recipe, "n_embd") / facts.parameters
    if share <= 0.5:
        return None
    return Verdict(
        WARN,
        f"{facts.vocab_size:,} entries",
        f"the table is {share:.0%} of the model: its layers, which do the work, are the rest",
        f"a tokenizer of about {power_of_two(facts.vocab_size / 4):,} entries, or a larger model",
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
        f"a tokenizer of about {power_of_two(facts.train_tokens / 200):,} entries, or more text",
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


RULES: tuple[Rule, ...] = (
    Rule(
        "many-epochs",
        "training_arguments.num_train_epochs",
        f"more than {MANY_EPOCHS} epochs note, {R_STAR:.0f} warn, {TOO_MANY_EPOCHS} stop",
        "Muennighoff et al. 2023: 4 epochs are nearly as good as new text, 40 are worthless",
        _epochs,
    ),
    Rule(
        "few-tokens",
        "training_arguments.max_steps",
        f"below {FEW} tokens per parameter note, below {FAR_TOO_FEW} warn",
        f"Hoffmann et al. 2022; {OUR_LOG}, 2026-11-24: 0.3 gave no word",
        _few_tokens,
    ),
    Rule(
        "many-tokens",
        "training_arguments.max_steps",
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
)
