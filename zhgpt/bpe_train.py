"""Text to a byte-level BPE tokenizer, within a limit of memory."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zhgpt import bpe_progress, bpe_prune, pre_tokenizer
from zhgpt.bpe import EOS, PAD, token_bytes
from zhgpt.bpe_text import Reading, progress
from zhgpt.clock import Clock
from zhgpt.errors import InputError
from zhgpt.pre_tokenizer import PreTokenizer
from zhgpt.pre_tokens import PreTokens
from zhgpt.recipe import BpeSection

Say = Callable[[str], None]

# Of a part of the pre-tokens so many times more entries are learnt than wanted, and those kept
# that all of the text uses most. One in 14 of 15 MB, 8,192 entries of the modern pattern: 0.96 %
# fewer bytes per token than without a limit; learning 1.2 times as many 0.28 %, 1.5 times 0.05 %.
_MORE = 1.5

# The trainer reserves memory for every entry asked for, and ends without a word where it gets none;
# the largest vocabularies in use have 262,144.
LARGEST = 1_000_000
# Bytes of memory, measured with tokenizers 0.23.3 on 3 to 172 MB of Chinese: of the process, of a
# pre-token that is counted (a merge has it twice), of one that is trained on and of each of its
# bytes, and of an entry with the least text, some hundred bytes, that it can be learnt from.
_PROCESS, _COUNTED, _TRAINED, _BYTE, _ENTRY = 300e6, 48, 250, 112, 12_000


def train(reading: Reading, section: BpeSection, say: Say) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer of `vocab_size` entries, the same for any order of the texts, and how it was
    made of them.

    No normalizer and every byte in the alphabet: any string comes back as it was. Special tokens
    are entries 0 (end of text, also its begin) and 1 (padding, a token that text never has), and
    then the recipe's own. Where memory would not hold all pre-tokens, one in so many occurrences
    of each is trained on (zhgpt.pre_tokens), for more entries than wanted; of these the ones that
    all of the text uses most are kept (zhgpt.bpe_prune). InputError for a limit or a text that is
    too small.
    """
    cuts = pre_tokenizer.of(section.pre_tokenizer)
    pre_tokens = PreTokens(section.seed)
    pre_tokens.count(_parts(reading, cuts, "counting"), cuts.splitter())
    rate = _rate(pre_tokens, section)
    facts = pre_tokens.facts(rate)
    say(_counted(facts))
    wanted = section.vocab_size
    tokenizer = _learnt(reading, section, cuts, pre_tokens, rate, say)
    _require_filled(tokenizer, section)
    _require_apart(tokenizer)
    facts["entries_learnt"] = tokenizer.get_vocab_size()
    if facts["entries_learnt"] > wanted:
        tokenizer = bpe_prune.pruned(tokenizer, wanted, reading.texts("counting what is used"))
    return tokenizer, facts


def _counted(facts: dict[str, int]) -> str:
    rate = facts["one_in"]
    return (
        f"counted {facts['pre_tokens']:,} pre-tokens, {facts['different']:,} different ones;"
        f" trained on {facts['trained_on']:,}"
        + (f", one in {rate} occurrences of each" if rate > 1 else "")
    )


def _learnt(
    reading: Reading,
    section: BpeSection,
    cuts: PreTokenizer,
    pre_tokens: PreTokens,
    rate: int,
    say: Say,
) -> Tokenizer:
    """Of one in `rate` occurrences; every pre-token is a text to the trainer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    chosen = pre_tokens.one_in(rate, _parts(reading, cuts), cuts.splitter())
    handed = _handed_over(chosen, int(pre_tokens.occurrences(rate).sum()), reading, say)
    with bpe_progress.told(say):
        tokenizer.train_from_iterator(handed, _trainer(section, rate))
    tokenizer.pre_tokenizer = cuts.saved()
    return tokenizer


def _parts(reading: Reading, cuts: PreTokenizer, doing: str = "") -> Iterator[str]:
    return (part for text in reading.texts(doing) for part in cuts.parts(text))


def _handed_over(
    chosen: Iterable[list[str]], number: int, reading: Reading, say: Say
) -> Iterator[list[str]]:
    """All of the chosen, `number` pre-tokens in all.

    It takes its time by text and by pre-token, and of these most come early, all occurrences of
    each with the first.
    """
    clock, handed = Clock(say), 0
    for some in chosen:
        yield some
        handed += len(some)
        share = (handed / number + reading.share) / 2
        clock.line(lambda seconds, share=share: progress("handing over", share, seconds))


def _trainer(section: BpeSection, rate: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=section.vocab_size if rate == 1 else int(section.vocab_size * _MORE),
        min_frequency=-(-section.min_frequency // rate),
        max_token_length=section.max_token_length,
        special_tokens=_special(section),
        # Without it a byte that the training text lacks would be dropped in silence.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
        progress_format="json",
    )


def _special(section: BpeSection) -> list[str]:
    return [EOS, PAD, *section.special_tokens]


def _rate(pre_tokens: PreTokens, section: BpeSection) -> int:
    """One in how many occurrences leaves the trainer within the memory."""
    table = _COUNTED * len(pre_tokens.hashes)
    room = section.max_memory_gb * 1e9 - _PROCESS - table
    least = _ENTRY * section.vocab_size
    if room < least:
        raise InputError(
            f"bpe.max_memory_gb: {section.max_memory_gb:g}; {len(pre_tokens.hashes):,} different"
            f" pre-tokens and the vocabulary need {(_PROCESS + table + least) / 1e9:.2f}.\n"
            "Raise it, or train on a part of the text: --sample_bytes"
        )
    return pre_tokens.rate(_memory, room)


def _memory(sizes: np.ndarray) -> np.ndarray:
    """Bytes that the trainer needs for different pre-tokens of these sizes."""
    return _TRAINED + _BYTE * sizes.astype(np.float64)


def require_possible(section: BpeSection) -> None:
    """InputError for what cannot be trained whatever the text is."""
    special = _special(section)
    smallest = 256 + len(special)
    if section.vocab_size < smallest:
        raise InputError(
            f"bpe.vocab_size: {section.vocab_size}; bytes and special tokens alone are {smallest}."
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
    needed = (_PROCESS + _ENTRY * section.vocab_size) / 1e9
    if section.max_memory_gb < needed:
        raise InputError(
            f"bpe.max_memory_gb: {section.max_memory_gb:g}; a vocabulary of"
            f" {section.vocab_size:,} needs {needed:.2f} for the smallest text."
        )
    _require_special(special)
    pre_tokenizer.of(section.pre_tokenizer)


def _require_special(special: Sequence[str]) -> None:
    for token in special:
        if special.count(token) > 1:
            raise InputError(f"bpe.special_tokens: {token!r} stands twice, or is there anyway.")
        if len(token.encode("utf-8")) == 1:
            raise InputError(f"bpe.special_tokens: {token!r} equals an entry, a single byte.")


def _require_filled(tokenizer: Tokenizer, section: BpeSection) -> None:
    entries = tokenizer.get_vocab_size()
    if entries < section.vocab_size:
        raise InputError(
            f"bpe.vocab_size: {section.vocab_size:,}; the text has pairs for {entries:,} entries"
            f" only.\nWrite --vocab_size {entries}, or give more text."
        )


def _require_apart(tokenizer: Tokenizer) -> None:
    """InputError for a special token that the text made an entry of, too."""
    special = {
        token.content.encode("utf-8"): token.content
        for token in tokenizer.get_added_tokens_decoder().values()
    }
    learnt = {*token_bytes(tokenizer)}
    # The trainer lets a merge that makes up a special token's name end in that token.
    learnt |= {b"".join(part.encode("utf-8") for part in pair) for pair in _merges(tokenizer)}
    for name in special.keys() & learnt:
        raise InputError(
            f"bpe.special_tokens: {special[name]!r} equals an entry that the text gives: it is"
            " frequent in it as text.\nChoose a token that no text has, such as <|name|>, or clean"
            " the text of it."
        )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
