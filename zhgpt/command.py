"""A command line and a recipe's file to a checked recipe.

Everything that a user can write wrongly here is said with the file or option, the key, the value,
and what to write instead; nothing is guessed, nothing unknown is passed over.
"""

import ast
import dataclasses
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zhgpt import check
from zhgpt.errors import InputError
from zhgpt.recipe import Texts, as_dict, run_name


@dataclass(frozen=True)
class Flag:
    """An option of the command itself, not of the recipe; `alone` is its value without a word.

    One of Texts may be given several times, and adds up; one that has a meaning `only_with` another
    is refused without it.
    """

    type: Any
    help: str
    alone: Any = None
    only_with: str | None = None


@dataclass(frozen=True)
class Command:
    """A checked recipe, what the command line changed in it, and the command's own flags."""

    recipe: Any
    overrides: dict[str, Any]
    flags: dict[str, Any]
    path: str

    @property
    def run_name(self) -> str:
        return run_name(self.recipe, self.overrides)


def read(
    argv: Sequence[str] | None,
    schema: type,
    constructors: Mapping[str, type] = MappingProxyType({}),
    flags: Mapping[str, Flag] = MappingProxyType({}),
    description: str = "",
) -> Command:
    """The recipe that a command line names, with its overrides; InputError for any fault in it.

    A section named in `constructors` has the fields of that class. `--help` prints and exits.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for word in argv:
        if not word.isascii() and word.encode(errors="ignore").decode() != word:
            raise InputError(f"{ascii(word)}: not UTF-8; the terminal's encoding has to be UTF-8.")
    form = _Form(schema, constructors)
    if "--help" in argv or "-h" in argv:
        print(_help(description, form, flags))
        raise SystemExit(0)
    path, options = _split(argv)
    content = load_json(Path(path))
    own: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for option, raws in options:
        name = option.lstrip("-").replace("-", "_")
        if name in flags:
            if name in own and flags[name].type is not Texts:
                raise InputError(f"{option}: given twice on the command line.")
            value = _parse_flag(option, raws, flags[name])
            own[name] = own[name] + value if name in own else value
            continue
        key = form.resolve(option, name, flags)
        if key in overrides:
            raise InputError(f"{option}: given twice on the command line.")
        overrides[key] = _parse(option, raws, form.annotation(key))
        _put(content, key, overrides[key], path)
    for name in own:
        needed = flags[name].only_with
        if needed and needed not in own:
            raise InputError(f"--{name}: has a meaning only with --{needed}; add that.")
    recipe = form.check(content, path, overrides)
    own = {
        name: own.get(name, False if flag.type is bool else None) for name, flag in flags.items()
    }
    return Command(recipe, {key: _value_at(recipe, key) for key in overrides}, own, path)


def _value_at(recipe: Any, key: str) -> Any:
    value = as_dict(recipe)
    for part in key.split("."):
        value = value[part]
    return value


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object, strictly: no duplicate keys, no NaN; InputError says where the fault is."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        near = sorted(p.as_posix() for p in Path("recipes").glob("*.json"))
        listed = f" There are: {', '.join(near)}." if near else ""
        raise InputError(f"{path}: no such recipe.{listed}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; name the recipe's .json file.") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}).") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    if not text.strip():
        raise InputError(f"{path}: empty; a recipe is a JSON object.")
    try:
        content = _strict_json(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise InputError(f"{where}: not JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a JSON object, this is {check.shown(content)}.")
    return content


def _strict_json(text: str) -> Any:
    """JSON as a recipe may have it; ValueError says what is wrong."""
    value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    if check.is_deep(value):
        raise ValueError("objects and lists lie too deep in one another")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"{half} is half a character; write the whole one") from None
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            shown = f"{check.shown(content[key])} and {check.shown(value)}"
            raise ValueError(f'the key "{key}" stands twice in one object ({shown}); keep one')
        content[key] = value
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that a recipe may have")


def _split(argv: list[str]) -> tuple[str, list[tuple[str, list[str]]]]:
    """The recipe's path, and each option with the words after it."""
    if not argv or argv[0].startswith("-"):
        listed = ", ".join(sorted(p.as_posix() for p in Path("recipes").glob("*.json")))
        raise InputError(
            "the recipe comes first: RECIPE [--key value]... ; --help explains.\n"
            f"Recipes here: {listed or 'none in recipes/'}."
        )
    path, *words = argv
    options: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            options.append((option, [value] if equals else []))
        elif options:
            options[-1][1].append(word)
        else:
            raise InputError(f"{word!r}: one recipe at a time; options begin with --.")
    return path, options


def _parse_flag(option: str, raws: list[str], flag: Flag) -> Any:
    """The value of an option of the command itself: a switch has none, any other has one."""
    if flag.type is bool and raws:
        raise InputError(f"{option} {' '.join(raws)}: takes no value; write {option} alone.")
    if not raws and flag.alone is not None:
        return flag.alone
    if flag.type is not bool and raws in ([], [""]):
        raise InputError(f"{option}: needs a value, {check.describe(flag.type)}.")
    value = _parse(option, raws, flag.type)
    fault = check.range_fault("--" + option.lstrip("-").replace("-", "_"), value)
    if fault:
        raise InputError(f"{option} {' '.join(raws)}: {fault}.")
    return value


def _parse(option: str, raws: list[str], annotation: Any) -> Any:
    """The first reading of the words that the key's type accepts."""
    if not raws and check.accepts(annotation, True):
        return True
    if not raws:
        raise InputError(f"{option}: needs a value, {check.describe(annotation)}.")
    for value in _readings(option, raws, annotation):
        if check.accepts(annotation, value):
            if not check.is_finite(value):
                raise InputError(f"{option} {' '.join(raws)[:60]}: expected a finite number.")
            return value
    words = " ".join(raws)
    fault = check.type_fault(annotation, words) or f"expected {check.describe(annotation)}"
    raise InputError(f"{option} {words}: {fault}.")


def _readings(option: str, raws: list[str], annotation: Any) -> Iterator[Any]:
    """What the words may mean, the most special first; a sweep writes True, None, ['a'].

    A text is never unquoted, and never read as a list or an object where the key takes neither.
    """
    if len(raws) == 1:
        raw = raws[0]
        named = {"null": None, "None": None, "true": True, "True": True}
        named |= {"false": False, "False": False}
        if raw in named:
            yield named[raw]
        for convert in (int, float) if "_" not in raw else ():  # Python reads 1_2 as 12
            try:
                yield convert(raw)
            except ValueError:
                continue
        if raw[:1] in ("[", "{") and any(check.accepts(annotation, empty) for empty in ([], {})):
            yield from _structure(option, raw)
        yield raw
    yield raws


def _structure(option: str, raw: str) -> list[Any]:
    """A list or an object, as JSON or as Python writes it; none: a glob such as [ab]*.txt."""
    text = raw
    try:
        json.loads(raw)
    except json.JSONDecodeError:
        try:
            text = json.dumps(ast.literal_eval(raw))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return []
    except (ValueError, RecursionError):
        pass  # said below
    try:
        return [_strict_json(text)]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{option}: {error}.") from None


def _put(content: dict[str, Any], key: str, value: Any, path: str) -> None:
    section, _, leaf = key.rpartition(".")
    target = content.setdefault(section, {}) if section else content
    if not isinstance(target, dict):
        raise InputError(f"{path}: {section} = {check.shown(target)}: expected an object.")
    target[leaf] = value


class _Form:
    """The sections and keys that a kind of recipe may have."""

    def __init__(self, schema: type, constructors: Mapping[str, type]):
        self.schema = schema
        self.types = {entry.name: entry.type for entry in dataclasses.fields(schema)}
        self.sections: dict[str, dict[str, Any] | None] = {}
        self.aliases: dict[str, Mapping[str, str]] = {}
        for entry in dataclasses.fields(schema):
            constructor = constructors.get(entry.name, entry.type)
            if dataclasses.is_dataclass(constructor):
                self.sections[entry.name] = check.fields(constructor, entry.name)
                self.aliases[entry.name] = getattr(constructor, "attribute_map", {})
        self.top = check.fields(schema)

    def annotation(self, key: str) -> Any:
        section, _, leaf = key.rpartition(".")
        return (self.sections[section] if section else self.top)[leaf]

    def keys(self) -> list[str]:
        """Every dotted key that can be overridden."""
        nested = [f"{s}.{leaf}" for s, leaves in self.sections.items() for leaf in leaves]
        free = [k for k in self.top if k not in self.sections and self.top[k] is not Mapping]
        return free + nested

    def resolve(self, option: str, name: str, flags: Mapping[str, Flag]) -> str:
        """The dotted key that an option means; InputError for none or several."""
        keys = self.keys()
        found = [k for k in keys if name in (k, k.rpartition(".")[2])]
        if len(found) == 1 or name in found:
            return name if name in found else found[0]
        if found:
            raise InputError(f"{option}: ambiguous; write one of --{', --'.join(found)}.")
        section, _, leaf = name.rpartition(".")
        if leaf in check.REMOVED:
            raise InputError(f"{option} is gone: {check.REMOVED[leaf]}.")
        if name in self.sections:
            raise InputError(f"{option} is a section; change one key of it: --{name}.KEY VALUE.")
        for section, aliases in self.aliases.items():
            if leaf in aliases:
                raise InputError(f"{option} is called --{section}.{aliases[leaf]}.")
        leaves = [*flags, *keys, *(k.rpartition(".")[2] for k in keys)]
        raise InputError(f"{option}: no such option{check.suggestion(name, leaves)}")

    def check(self, content: dict[str, Any], path: str, overrides: Mapping[str, Any]) -> Any:
        """The frozen recipe; InputError names the first fault."""
        checker = _Checker(path, overrides)
        values = checker.section("", content, self.top, {})
        checker.required("", values, self.schema)
        for name, leaves in self.sections.items():
            given = content.get(name, {})  # a section with a default may be left out
            values[name] = checker.section(name, given, leaves, self.aliases[name])
            checker.required(name, values[name], self.types[name])
        checker.rules(content)
        checker.why(content.get("why", {}), [*self.keys(), *self.sections])
        return self._frozen(values)

    def _frozen(self, values: dict[str, Any]) -> Any:
        frozen = {}
        for name, value in values.items():
            ours = dataclasses.is_dataclass(self.types[name])
            value = self.types[name](**value) if ours else value
            frozen[name] = MappingProxyType(value) if isinstance(value, dict) else value
        return self.schema(**frozen)


class _Checker:
    """Finds faults in a recipe and says them with file or option, key, value and what to write."""

    def __init__(self, path: str, overrides: Mapping[str, Any]):
        self.path, self.overrides = path, overrides

    def fail(self, key: str, reason: str, *value: Any) -> typing.NoReturn:
        where = "command line" if key in self.overrides else self.path
        # A secret that was written here by mistake does not go on into a log.
        said = f" = {check.shown(value[0])}" if value and not key.endswith("_token") else ""
        raise InputError(f"{where}: {key}{said}: {reason}.")

    def section(
        self, name: str, values: Any, known: Mapping[str, Any], aliases: Mapping[str, str]
    ) -> dict[str, Any]:
        """The section's values, numbers as declared; every key known, of its type and in range."""
        prefix = f"{name}." if name else ""
        checked = {}
        for key, value in values.items():
            fault = check.key_fault(name, key, known, aliases)
            if fault:
                self.fail(prefix + key, fault, value)
            checked[key] = self._value(prefix + key, value, known[key])
        return checked

    def required(self, name: str, values: Mapping[str, Any], owner: Any) -> None:
        """Keys without a default, of our own sections; the library's all have one."""
        for entry in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
            needed = entry.default is entry.default_factory is dataclasses.MISSING
            if needed and entry.name not in values:
                key = f"{name}.{entry.name}" if name else entry.name
                self.fail(key, f"missing; expected {check.describe(entry.type)}")

    def _value(self, key: str, value: Any, annotation: Any) -> Any:
        if dataclasses.is_dataclass(annotation) or annotation is Mapping:
            annotation = dict  # a section: its values are judged one by one
        elif not check.is_finite(value):
            self.fail(key, "expected a finite number", value)
        fault = check.type_fault(annotation, value) or check.range_fault(key, value)
        if fault:
            self.fail(key, fault, value)
        declared = (annotation, *typing.get_args(annotation))
        if float in declared and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # 500 and 500.0 are one value, and have one hash
        return tuple(value) if annotation == Texts else value

    def rules(self, content: Mapping[str, Any]) -> None:
        """What several values together, or lists, have to keep."""
        if not re.fullmatch(r"[\w.+-]{1,80}", content["name"]) or content["name"][0] == ".":
            self.fail("name", "it names a folder: letters, digits, _ . + - only", content["name"])
        self._sources(content["corpus"])
        model = content.get("model", {})
        heads, width = model.get("n_head", 12), model.get("n_embd", 768)
        if width % heads:
            if "model.n_embd" in self.overrides and "model.n_head" not in self.overrides:
                self.fail("model.n_embd", f"model.n_head = {heads} has to divide it", width)
            self.fail("model.n_head", f"has to divide model.n_embd = {width}", heads)
        prompts = content.get("samples", {}).get("prompts", [])
        if "" in prompts:
            self.fail("samples.prompts", "a prompt is empty; write at least a character", prompts)
        self._lengths(content.get("cleaning", {}))
        muon = content.get("muon", {})
        if "momentum" in muon and muon.get("matrix_learning_rate") is None:
            reason = "has no effect without muon.matrix_learning_rate; name that, or leave this out"
            self.fail("muon.momentum", reason, muon["momentum"])
        if content["corpus"].get("document_mask"):
            self._document_mask(content)
        if content.get("training_arguments", {}).get("fsdp"):
            self._sharded(content)

    def _sources(self, corpus: Mapping[str, Any]) -> None:
        named, dataset = corpus.get("train_files"), corpus.get("dataset")
        if not named and not dataset:
            self.fail("corpus.train_files", "name at least one file, folder or glob", named or [])
        if named and dataset:
            reason = "stands in the place of train_files; name one of the two"
            self.fail("corpus.dataset", reason, dataset)
        for key, value in (dataset or {}).items():
            if key not in check.DATASET_KEYS:
                reason = "is not known" + check.suggestion(key, check.DATASET_KEYS)
                self.fail(f"corpus.dataset.{key}", reason, value)
            if not isinstance(value, str) or not value.strip():
                self.fail(f"corpus.dataset.{key}", "expected a text that is not empty", value)
        if dataset and "path" not in dataset:
            self.fail("corpus.dataset.path", "missing; expected the data set's name or folder")

    def _document_mask(self, content: Mapping[str, Any]) -> None:
        for key, (value, reason) in check.LEAKS.items():
            section, _, leaf = key.partition(".")
            if content.get(section, {}).get(leaf) == value:
                self.fail(key, reason, value)

    def _sharded(self, content: Mapping[str, Any]) -> None:
        for key, (holds, reason) in check.UNSHARDED.items():
            section, _, leaf = key.partition(".")
            values = content.get(section, {})
            if leaf in values and not holds(values[leaf]):
                self.fail(key, reason, values[leaf])

    def _lengths(self, cleaning: Mapping[str, Any]) -> None:
        least, most = cleaning.get("min_characters"), cleaning.get("max_characters")
        if least is None or most is None or least <= most:
            return
        above, below = "cleaning.max_characters", "cleaning.min_characters"
        if above in self.overrides and below not in self.overrides:
            self.fail(above, f"below {below} = {least}: no document would be left", most)
        self.fail(below, f"above {above} = {most}: no document would be left", least)

    def why(self, reasons: Mapping[str, Any], known: Sequence[str]) -> None:
        for key, reason in reasons.items():
            if key not in known:
                self.fail(f"why.{key}", "there is no such key" + check.suggestion(key, known))
            if not isinstance(reason, str):
                self.fail(f"why.{key}", "expected a text", reason)


_HELP = """{description}
usage: RECIPE [--key value]...

Any key of the recipe can be changed on the command line, by its last name where only one section
has it, or with its section:
  --learning_rate 3e-4        --training_arguments.seed=7       --bf16 false
  --train_files a.txt b.jsonl --prompts '["one", "two"]'        --lr_scheduler_kwargs '{{"a": 1}}'
A run that is changed so that its result changes says so in its name, and has its own folder.

options:
{flags}
sections:
{sections}
recipes here: {recipes}"""


def _help(description: str, form: _Form, flags: Mapping[str, Flag]) -> str:
    sections = "".join(
        f"  {name}: {', '.join(k for k in keys if f'{name}.{k}' not in check.DERIVED)}\n"
        for name, keys in form.sections.items()
    )
    return _HELP.format(
        description=description,
        flags="".join(f"  --{name:<17} {flag.help}\n" for name, flag in flags.items()),
        sections=sections,
        recipes=", ".join(sorted(p.as_posix() for p in Path("recipes").glob("*.json"))) or "none",
    )
