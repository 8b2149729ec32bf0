"""Text to a byte-level BPE tokenizer."""

import sys
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zhgpt import pre_tokenizer
from zhgpt.bpe import EOS, PAD
from zhgpt.errors import InputError
from zhgpt.recipe import BpeSection

SMALLEST = 256 + 2  # every byte, and the two special tokens
# The trainer reserves memory for every entry asked for, and ends without a word where it gets none;
# the largest vocabularies in use have 262,144.
LARGEST = 1_000_000


def train(texts: Iterable[str], section: BpeSection) -> Tokenizer:
    """A tokenizer of at most `vocab_size` entries, the same for any order of the texts.

    No normalizer and every byte in the alphabet: any string comes back as it was. Special tokens
    are entries 0 (end of text, also its begin) and 1 (padding, a token that text never has).
    """
    _require_possible(section)
    cuts = pre_tokenizer.of(section.pre_tokenizer)
    split = cuts.splitter()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.vocab_size,
        min_frequency=section.min_frequency,
        max_token_length=section.max_token_length,
        special_tokens=[EOS, PAD],
        # Without it a byte that the training text lacks would be dropped in silence.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(map(split, texts), trainer)  # every pre-token is a text to it
    tokenizer.pre_tokenizer = cuts.saved()
    return tokenizer


def _require_possible(section: BpeSection) -> None:
    if section.vocab_size < SMALLEST:
        raise InputError(
            f"bpe.vocab_size: {section.vocab_size}; bytes and special tokens alone are {SMALLEST}."
        )
    for key in ("vocab_size", "min_frequency", "max_token_length"):
        if (getattr(section, key) or 0) > LARGEST:
            raise InputError(f"bpe.{key}: {getattr(section, key)}; {LARGEST:,} at most.")
    # The trainer joins any two bytes before it looks at lengths.
    if section.max_token_length is not None and section.max_token_length < 3:
        raise InputError(
            f"bpe.max_token_length: {section.max_token_length}; 3 at least, or null: entries are"
            " shorter than it in bytes, and the smallest that are made have 2."
        )
