"""Whether a value is what a key asks for: types as the libraries declare them, ranges, names.

Types come from the annotations of the installed classes, so that an update of a library needs no
table here. The tables are of what the libraries do not say: keys that a run derives, keys that are
gone, and ranges.
"""

import codecs
import dataclasses
import difflib
import enum
import json
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

DERIVED = {
    "model.vocab_size": "it is the number of the tokenizer's entries",
    "model.n_positions": "it is corpus.block_size",
    "model.bos_token_id": "it is the tokenizer's",
    "model.eos_token_id": "it is the tokenizer's",
    "model.pad_token_id": "it is the tokenizer's",
    "model.dtype": "weights are kept in 32 bits; write training_arguments.bf16 or fp16",
    "model.is_encoder_decoder": "GPT-2 is a decoder",
    "model.add_cross_attention": "there is no encoder to attend to",
    "training_arguments.output_dir": "it is the flag --output_dir",
    "training_arguments.run_name": "it is the recipe's name and its overrides",
    "training_arguments.gradient_accumulation_steps": "it follows from tokens_per_step",
    "training_arguments.auto_find_batch_size": "it would change tokens_per_step",
    "training_arguments.train_sampling_strategy": "the order of blocks follows from the seed",
    "training_arguments.data_seed": "the order of blocks follows from training_arguments.seed",
    "training_arguments.dataloader_drop_last": "a run is a stream of whole steps",
    "training_arguments.dataloader_in_order": "the order of blocks follows from the seed",
    "training_arguments.dataloader_pin_memory": "it is on where there is a GPU",
    "training_arguments.ddp_find_unused_parameters": "all of GPT-2's parameters are used",
    "training_arguments.ignore_data_skip": "a continued run reads on where it stopped",
    "training_arguments.save_only_model": "such a checkpoint cannot be continued from",
    "training_arguments.resume_from_checkpoint": "the same command continues by itself",
    "training_arguments.restore_callback_states_from_checkpoint": "nothing of a run is forgotten",
    "training_arguments.hub_strategy": "a model is sent when it is finished",
    "training_arguments.enable_jit_checkpoint": "signals are heeded already",
    "training_arguments.logging_nan_inf_filter": "it is off: on, a NaN loss is logged as a number",
    "training_arguments.disable_tqdm": "progress is printed in lines",
    "training_arguments.remove_unused_columns": "blocks have one column",
    "training_arguments.label_names": "labels are the tokens themselves",
    "training_arguments.prediction_loss_only": "bits per byte needs the scores",
    "training_arguments.batch_eval_metrics": "figures are taken over the whole split",
    "training_arguments.eval_do_concat_batches": "figures are taken over the whole split",
    "training_arguments.include_for_metrics": "figures need no more than the scores",
    "training_arguments.do_train": "the script trains",
    "training_arguments.do_eval": "the script evaluates",
    "training_arguments.do_predict": "there is no test split",
    "training_arguments.local_rank": "torchrun sets it",
    "training_arguments.hub_token": "no secret belongs in a recipe or a command line; set HF_TOKEN",
}

REMOVED = {
    "pattern": "it is called pre_tokenizer, and takes a name or a regular expression",
    "evaluation_strategy": "it is called eval_strategy",
    "warmup_ratio": "write the ratio as warmup_steps: a value below 1 is a share of the run",
    "overwrite_output_dir": "a run never writes over another; choose --output_dir",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR in the environment",
    "no_cuda": "it is called use_cpu",
    "use_mps_device": "the device is found by itself; use_cpu forbids it",
    "save_safetensors": "weights are always saved as safetensors",
    "group_by_length": "blocks have one length",
    "half_precision_backend": "write bf16 or fp16",
    "fp16_backend": "write fp16",
    "fp16_opt_level": "write fp16",
    "adafactor": 'write optim: "adafactor"',
    "per_gpu_train_batch_size": "it is called per_device_train_batch_size",
    "per_gpu_eval_batch_size": "it is called per_device_eval_batch_size",
    "include_tokens_per_second": "tokens per second are always logged",
    "include_inputs_for_metrics": "figures need no more than the scores",
    "push_to_hub_token": "set HF_TOKEN in the environment",
    "push_to_hub_model_id": "it is called hub_model_id",
    "gradient_checkpointing": "it is called activation_checkpointing",
    "gradient_checkpointing_kwargs": "it is called activation_checkpointing_kwargs",
    "past_index": "GPT-2 has no such state",
    "use_ipex": "the library dropped it",
    "jit_mode_eval": "the library dropped it",
    "torchdynamo": "write torch_compile",
}

Rule = tuple[Callable[[Any], bool], str]

_ATTENTION = ("eager", "sdpa", "flash_attention_2")
# Of the model: a documented argument of every configuration, and no field of it.
EXTRA_FIELDS = {
    "model": {"attn_implementation": typing.Literal[_ATTENTION]},
    # Ours: zhgpt.micro_batch puts the fastest number in its place.
    "training_arguments": {
        "per_device_train_batch_size": int | typing.Literal["auto"],
        "fsdp": bool | None,  # the library's old forms of it are texts
    },
}

# With corpus.document_mask: the values with which the library attends across documents unsaid.
LEAKS = {
    "model.attn_implementation": (
        "flash_attention_2",
        'with corpus.document_mask, write "sdpa" or "eager": the library\'s flash attention takes'
        " note of documents in a batch of one block only, and attends across them in any other",
    ),
    "training_arguments.use_cache": (
        True,
        "with corpus.document_mask, write false: beside a cache the library builds no mask",
    ),
}

# With training_arguments.fsdp: the values with which it is refused.
UNSHARDED: dict[str, Rule] = {
    "training_arguments.fp16": (
        lambda x: not x,
        "training_arguments.fsdp needs bf16 or 32 bits: its loss scale was never tried",
    ),
    "training_arguments.optim": (
        lambda x: x in ("adamw_torch", "adamw_torch_fused"),
        'with training_arguments.fsdp, write "adamw_torch_fused" or "adamw_torch": what another'
        " optimizer remembers was never put together again",
    ),
    "muon.matrix_learning_rate": (
        lambda x: x is None,
        "Muon needs whole matrices, and with training_arguments.fsdp no process has one; leave out"
        " one of the two",
    ),
}

# Of datasets.load_dataset: what says which text it is.
DATASET_KEYS = ("path", "name", "split", "revision")

_POSITIVE: Rule = (lambda x: x > 0, "above 0")
_NOT_NEGATIVE: Rule = (lambda x: x >= 0, "0 or more")
_SHARE: Rule = (lambda x: 0 <= x <= 1, "from 0 to 1")
_BETA: Rule = (lambda x: 0 <= x < 1, "from 0 to below 1")
_NOT_EMPTY: Rule = (lambda x: x.strip(), "a text that is not empty")
_SEED: Rule = (lambda x: 0 <= x < 2**32, "from 0 to 4294967295")
_NOT_EPOCH: Rule = (
    lambda x: x != "epoch",
    '"steps" or "no": a run is one stream over all epochs; write the interval in steps, or as a'
    " share of the run below 1",
)
_TEXT: Rule = (lambda x: x.strip() != "", "a text that is not empty")
_FILES: Rule = (lambda x: all(map(str.strip, x)), "files, folders or globs, none of them empty")
_TEXTS: Rule = (lambda x: all(map(str.strip, x)), "texts that are not empty")


def _is_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False


RANGES: dict[str, Rule] = {
    "--price_per_hour": _POSITIVE,
    "--kills_every_hours": _POSITIVE,
    "tokenizer": _TEXT,
    "corpus.train_files": _FILES,
    "corpus.validation_files": _FILES,
    "corpus.claimed_bytes": _POSITIVE,
    "corpus.text_column": _TEXT,
    "corpus.text_columns": _TEXTS,
    "corpus.encoding": (_is_encoding, "a character encoding that Python knows, such as gb18030"),
    "corpus.undecodable_share": _SHARE,
    "corpus.contamination_similarity": (lambda x: 0.5 <= x <= 1, "from 0.5 to 1"),
    "corpus.seed": _SEED,
    "corpus.block_size": (lambda x: x >= 2, "2 or more"),
    "corpus.validation_fraction": (lambda x: 0 < x < 1, "between 0 and 1"),
    # Below, the counts of a large corpus are not exact enough (zhgpt.frequent.LineCounts).
    "cleaning.repeated_lines": (lambda x: 1e-3 <= x < 1, "from 0.001 to below 1"),
    "cleaning.min_characters": _POSITIVE,
    "cleaning.max_characters": _POSITIVE,
    "cleaning.min_han_share": (lambda x: 0 < x <= 1, "above 0, up to 1"),
    "cleaning.max_repetition": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    # Below a half, chance agreements of 128 values would have to be told from real ones.
    "cleaning.near_duplicates": (lambda x: 0.5 <= x <= 1, "from 0.5 to 1"),
    "tokens_per_step": _POSITIVE,
    "model.n_layer": _POSITIVE,
    "model.n_head": _POSITIVE,
    "model.n_embd": _POSITIVE,
    "model.n_inner": _POSITIVE,
    "model.resid_pdrop": _SHARE,
    "model.embd_pdrop": _SHARE,
    "model.attn_pdrop": _SHARE,
    "model.layer_norm_epsilon": _POSITIVE,
    "model.initializer_range": _POSITIVE,
    "training_arguments.learning_rate": _POSITIVE,
    "training_arguments.num_train_epochs": _POSITIVE,
    "training_arguments.max_steps": _POSITIVE,
    "training_arguments.per_device_train_batch_size": (
        lambda x: x == "auto" or x > 0,
        'above 0, or "auto"',
    ),
    "training_arguments.per_device_eval_batch_size": _POSITIVE,
    "training_arguments.weight_decay": _NOT_NEGATIVE,
    "training_arguments.warmup_steps": _NOT_NEGATIVE,
    "training_arguments.max_grad_norm": _NOT_NEGATIVE,
    "training_arguments.adam_beta1": _BETA,
    "training_arguments.adam_beta2": _BETA,
    "training_arguments.adam_epsilon": _POSITIVE,
    "training_arguments.label_smoothing_factor": _BETA,
    "training_arguments.logging_steps": _POSITIVE,
    "training_arguments.eval_steps": _POSITIVE,
    "training_arguments.save_steps": _POSITIVE,
    "training_arguments.save_total_limit": (lambda x: x >= 2, "2 or more: a last one may be cut"),
    "training_arguments.dataloader_num_workers": _NOT_NEGATIVE,
    "training_arguments.eval_strategy": _NOT_EPOCH,
    "training_arguments.save_strategy": _NOT_EPOCH,
    "training_arguments.logging_strategy": _NOT_EPOCH,
    "training_arguments.seed": _SEED,
    "training_arguments.fsdp_config": (lambda x: not x, "unset: fsdp has no settings here"),
    "training_arguments.deepspeed": (lambda x: not x, "unset; fsdp: true shares out a model"),
    "training_arguments.use_liger_kernel": (lambda x: not x, "false: Liger has none for GPT-2"),
    "muon.matrix_learning_rate": _POSITIVE,
    "muon.momentum": _BETA,
    "samples.max_new_tokens": _POSITIVE,
    "samples.temperature": _POSITIVE,
    "samples.top_k": _NOT_NEGATIVE,
    "samples.top_p": (lambda x: 0 < x <= 1, "above 0, up to 1"),
    "samples.repetition_penalty": (lambda x: 1 <= x <= 2, "from 1 to 2"),
    "samples.seed": _SEED,
    "preemption.stop_file": _NOT_EMPTY,
    "preemption.stop_command": _NOT_EMPTY,
    "preemption.save_minutes": _POSITIVE,
    "preemption.max_minutes": _POSITIVE,
    "guards.no_progress_minutes": _POSITIVE,
    "bpe.vocab_size": _POSITIVE,
    "bpe.min_frequency": _POSITIVE,
    "bpe.max_token_length": _POSITIVE,
    "bpe.special_tokens": _TEXTS,
    "bpe.sample_bytes": _POSITIVE,
    "bpe.max_memory_gb": _POSITIVE,
    "bpe.seed": _SEED,
}


def fields(constructor: type, section: str = "") -> dict[str, Any]:
    """Key to annotation, of a dataclass of ours or of a library."""
    own = {field.name: field.type for field in dataclasses.fields(constructor) if field.init}
    return own | EXTRA_FIELDS.get(section, {})


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a JSON value may stand where `annotation` is declared, as far as it can be judged."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _accepts_union(arguments, value)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (list, tuple):
        return isinstance(value, list) and all(accepts(arguments[0], item) for item in value)
    if annotation in (None, types.NoneType):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (str, bool, list):
        return isinstance(value, annotation)
    if annotation in (dict, Mapping) or origin in (dict, Mapping):
        return isinstance(value, dict)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return value in [choice.value for choice in annotation]
    return not isinstance(annotation, type)


def _accepts_union(choices: tuple[Any, ...], value: Any) -> bool:
    """`SomeEnum | str`, the library's way to say: the names of SomeEnum."""
    if isinstance(value, str) and any(_is_enum(choice) for choice in choices):
        return any(accepts(choice, value) for choice in choices if choice is not str)
    return any(accepts(choice, value) for choice in choices)


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def describe(annotation: Any) -> str:
    """`annotation` in words: "a number or null"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        named = [c for c in arguments if not (c is str and any(map(_is_enum, arguments)))]
        return " or ".join(dict.fromkeys(describe(choice) for choice in named))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if _is_enum(annotation):
        return "one of " + ", ".join(str(choice.value) for choice in annotation)
    if origin in (list, tuple):
        return "a list, each " + describe(arguments[0])
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    words |= {dict: "an object", Mapping: "an object", list: "a list", types.NoneType: "null"}
    return words.get(origin or annotation, "another value")


def type_fault(annotation: Any, value: Any) -> str | None:
    """Why `value` cannot stand there, and what to write; None if it can."""
    if accepts(annotation, value):
        return None
    fault = f"expected {describe(annotation)}"
    if isinstance(value, str):
        number = _as_number(value)
        if number is not None and is_finite(number) and accepts(annotation, number):
            return f"{fault}; write {value} without quotes"
        return fault + suggestion(value, enum_values(annotation))
    return fault


def _as_number(text: str) -> int | float | None:
    for convert in (int, float) if "_" not in text else ():  # Python reads 1_2 as 12
        try:
            return convert(text)
        except ValueError:
            continue
    return None


def enum_values(annotation: Any) -> list[str]:
    choices = typing.get_args(annotation) or (annotation,)
    literal = [choice for choice in choices if isinstance(choice, str)]
    return literal + [str(e.value) for choice in choices if _is_enum(choice) for e in choice]


def range_fault(path: str, value: Any) -> str | None:
    if path == "training_arguments.report_to" and value is None:
        return 'write "none" to report nowhere'  # the library takes null for the name of a tracker
    if path not in RANGES or value is None:
        return None
    holds, words = RANGES[path]
    return None if holds(value) else f"has to be {words}"


def key_fault(
    section: str, key: str, known: Iterable[str], aliases: Mapping[str, str]
) -> str | None:
    """Why a recipe may not have this key in this section."""
    path = f"{section}.{key}" if section else key
    if key in REMOVED and (key not in known or key.startswith("gradient_checkpointing")):
        return f"is gone: {REMOVED[key]}"
    if path in DERIVED:
        return f"is derived: {DERIVED[path]}"
    if key in known:
        return None
    if key in aliases:
        name = aliases[key]
        return key_fault(section, name, known, {}) or f"is called {name}"
    return "is not known" + suggestion(key, known)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "n_layer"?` if a known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


def is_finite(value: Any) -> bool:
    """Whether every number in `value` fits a float: no NaN, no infinity, no 400 digits."""
    if isinstance(value, dict | list):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    largest = sys.float_info.max
    return not isinstance(value, int | float) or -largest <= value <= largest


def is_deep(value: Any, limit: int = 50) -> bool:
    """Whether objects and lists lie in one another deeper than any recipe needs."""
    level = [value]
    for _ in range(limit):
        nested = [
            item.values() if isinstance(item, dict) else item
            for item in level
            if isinstance(item, dict | list)
        ]
        level = [child for children in nested for child in children]
    return bool(level)


def shown(value: Any) -> str:
    """A value as JSON, short enough for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
