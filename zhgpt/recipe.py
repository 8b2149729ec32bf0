"""What a recipe is: its sections, frozen; what of it changes a run's result; its constructors.

Two sections go unchanged into the constructors they are named after, GPT2Config(**recipe.model) and
TrainingArguments(**recipe.training_arguments); their keys and types are the library's.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from zhgpt import check
from zhgpt.errors import InputError

Texts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextSection:
    """Which text, and how files become documents.

    `dataset` (path, name, split, ... of `datasets.load_dataset`) stands in the place of
    train_files. `text_columns`, joined with a line end, stand in the place of `text_column`;
    `document` is what a document of a .txt or .md file is; `encoding` is found per file unless it
    is named; `undecodable_share` of a file's bytes may be dropped because they are no text in its
    encoding.
    """

    train_files: Texts = ()
    dataset: Mapping | None = None
    text_column: str = "text"
    text_columns: Texts = ()
    document: Literal["file", "paragraph", "line"] = "file"
    encoding: str | None = None
    undecodable_share: float = 0.01


@dataclass(frozen=True, kw_only=True)
class CorpusSection(TextSection):
    """A model's text; `validation_fraction` of it is set apart without validation_files.

    `contamination` is what happens to training documents that are in validation too:
    equal ones, and with a `contamination_similarity` (Jaccard) below 1 near ones. `seed` is of the
    order in which documents are packed. `document_mask` keeps attention and positions within a
    document (zhgpt.collator); the blocks are the same with and without it. `claimed_bytes` is the
    training text's size in UTF-8 bytes as its owner has it in mind; --plan compares.
    """

    claimed_bytes: int | None = None
    validation_files: Texts = ()
    validation_fraction: float = 0.01
    contamination: Literal["refuse", "drop", "report"] = "refuse"
    contamination_similarity: float = 1.0
    seed: int = 0
    block_size: int
    document_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class CleaningSection:
    """What is changed in the text, or dropped of it; nothing, unless it is named here.

    zhgpt/cleaning.py says of each step what exactly it does. Shares are of 1: `repeated_lines` of
    documents, `min_han_share` and `max_repetition` of a document's characters; `near_duplicates`
    is the Jaccard similarity from which a document counts as a copy.
    """

    repeated_lines: float | None = None
    control_characters: bool = False
    nfc: bool = False
    simplified: bool = False
    mask_contacts: bool = False
    min_characters: int | None = None
    max_characters: int | None = None
    min_han_share: float | None = None
    max_repetition: float | None = None
    duplicates: Literal["documents", "paragraphs"] | None = None
    near_duplicates: float | None = None


@dataclass(frozen=True, kw_only=True)
class MuonSection:
    """Muon for the matrices of the layers (zhgpt.muon), if they are given a learning rate; all else
    keeps the optimizer of training_arguments, whose weight decay and schedule hold for both.
    """

    matrix_learning_rate: float | None = None
    momentum: float = 0.95


@dataclass(frozen=True, kw_only=True)
class SamplesSection:
    """What the model is asked to continue, and how its tokens are drawn.

    `repetition_penalty` above 1 makes tokens that stand in the text already less likely (Keskar et
    al. 2019, CTRL).
    """

    prompts: Texts
    max_new_tokens: int = 100
    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PreemptionSection:
    """When a run saves, and when it saves and leaves by itself (zhgpt.watch); no result changes.

    `stop_file`: as soon as it exists; `stop_command`: once it succeeds, asked every minute, run
    without a shell; `max_minutes`: in time before so many have passed since the command began.
    """

    stop_file: str | None = None
    stop_command: str | None = None
    save_minutes: float | None = None
    max_minutes: float | None = None


Action = Literal["note", "stop", "off"]


@dataclass(frozen=True, kw_only=True)
class GuardsSection:
    """What is done where a run goes wrong (zhgpt.guarding): `note` says and records it, `stop`
    ends the run too, saved, `off` does not look.
    """

    not_finite: Action = "stop"
    loss_jump: Action = "note"
    gradient_explosion: Action = "note"
    unigram_plateau: Action = "note"
    repetition: Action = "note"
    throughput_drop: Action = "note"
    no_progress: Action = "note"
    no_progress_minutes: float = 15.0


@dataclass(frozen=True, kw_only=True)
class ClmRecipe:
    """A pretraining run; `init_from` is the folder of another, with whose weights it begins."""

    name: str
    purpose: str
    tokenizer: str
    corpus: CorpusSection
    model: Mapping
    tokens_per_step: int
    training_arguments: Mapping
    samples: SamplesSection
    cleaning: CleaningSection = CleaningSection()
    preemption: PreemptionSection = PreemptionSection()
    guards: GuardsSection = GuardsSection()
    muon: MuonSection = MuonSection()
    init_from: str | None = None
    why: Mapping = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BpeSection:
    """`pre_tokenizer`, a name or a regular expression, cuts the text before merging
    (zhgpt/pre_tokenizer.py); entries are shorter than `max_token_length` bytes; `special_tokens`
    are those besides end of text and padding. `sample_bytes` of the text are trained on, whole
    documents, or all of it; within `max_memory_gb` (1e9 bytes), which changes the result where all
    does not fit. `seed` is of the sample, and of what is left out for memory.
    """

    vocab_size: int
    pre_tokenizer: str
    min_frequency: int = 2
    max_token_length: int | None = None
    special_tokens: Texts = ()
    sample_bytes: int | None = None
    max_memory_gb: float = 12.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BpeRecipe:
    """A tokenizer."""

    name: str
    purpose: str
    corpus: TextSection
    bpe: BpeSection
    cleaning: CleaningSection = CleaningSection()
    why: Mapping = field(default_factory=dict)


def run_name(recipe: Any, overrides: Mapping[str, Any]) -> str:
    """The recipe's name with the overrides that change the result, safe as a folder's name."""
    changing = {key: value for key, value in overrides.items() if changes_result(key)}
    parts = [f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in changing.items()]
    name = re.sub(r"[^\w.+=,-]", "_", "-".join([recipe.name, *parts]))
    if len(name.encode()) <= 120:
        return name
    return name.encode()[:100].decode(errors="ignore") + "-" + _hash(changing)[:8]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


# How the machine does it, or what is shown of it: the weights come out the same (up to rounding,
# where the micro-batch changes). Everything else in training_arguments changes them.
MACHINE_KEYS = re.compile(
    "per_device_(train|eval)_batch_size"  # the step stays tokens_per_step
    "|eval_accumulation_steps|torch_empty_cache_steps|skip_memory_metrics"
    "|(dataloader|logging|log|save|ddp|hub|push_to_hub|trackio)_?.*"
    "|report_to|project|use_cpu|debug|fsdp"
)


def changes_result(path: str) -> bool:
    section, _, key = path.partition(".")
    if section == "training_arguments":
        return not MACHINE_KEYS.fullmatch(key)
    kept_apart = ("name", "purpose", "tokenizer", "corpus.train_files", "corpus.validation_files")
    kept_apart += ("corpus.claimed_bytes",)
    # What text the paths lead to is compared by its content; samples are drawn beside training.
    return path not in kept_apart and section not in ("samples", "preemption", "guards", "why")


def content(recipe: Any) -> dict[str, Any]:
    """Dotted key to value of everything that changes the result."""
    flat = sorted(_flat(as_dict(recipe)))
    unused = _unused(recipe)
    return {
        key: value
        for key, value in flat
        if changes_result(key) and key.partition(".")[0] not in unused
    }


def _unused(recipe: Any) -> set[str]:
    """What came to recipes later and is as it was without: the hash stays what it was."""
    later = ("init_from", "muon")
    fields = (field for field in dataclasses.fields(recipe) if field.name in later)
    return {field.name for field in fields if getattr(recipe, field.name) == field.default}


# A run may be made longer, where its learning rate allows it (zhgpt.schedule).
LENGTH_KEYS = ("training_arguments.max_steps", "training_arguments.num_train_epochs")


def without_length(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of `content` stays the same for as long as the run goes on."""
    return {key: value for key, value in content.items() if key not in LENGTH_KEYS}


def _flat(sections: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, section in sections.items():
        if isinstance(section, dict):
            yield from ((f"{name}.{key}", value) for key, value in section.items())
        else:
            yield name, section


def content_hash(recipe: Any) -> str:
    return _hash(content(recipe))[:16]


def lasting_hash(recipe: Any) -> str:
    """Of the content but the run's length."""
    return _hash(without_length(content(recipe)))[:16]


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per key that differs between two recipes as dictionaries."""
    return differences(dict(_flat(there)), dict(_flat(here)))


def _hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per key whose values differ."""

    def side(values: Mapping[str, Any], key: str) -> str:
        return check.shown(values[key]) if key in values else "not set"

    keys = sorted(set(there) | set(here))
    return [
        f"{key}: {side(there, key)} there, {side(here, key)} here"
        for key in keys
        if side(there, key) != side(here, key)
    ]


def as_dict(recipe: Any) -> dict[str, Any]:
    """The whole recipe, defaults of our own sections included, ready for JSON."""
    return {f.name: thawed(getattr(recipe, f.name)) for f in dataclasses.fields(recipe)}


def thawed(value: Any) -> Any:
    """A copy of plain lists and dictionaries, as constructors and JSON want them."""
    if dataclasses.is_dataclass(value):
        return as_dict(value)
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    return [thawed(item) for item in value] if isinstance(value, tuple | list) else value


@contextmanager
def judged(section: str) -> Iterator[None]:
    """What the library refuses of a section's values is the user's to mend."""
    try:
        yield
    except (ValueError, TypeError, KeyError, ImportError) as error:
        kind = type(error).__name__  # a KeyError's own text is no more than the key
        raise InputError(f"{section}: the library refuses it: {kind}: {error}") from None
