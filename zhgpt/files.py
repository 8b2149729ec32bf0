"""File names, folders and globs to the list of files that they mean."""

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import xxhash

from zhgpt.errors import InputError

TABLES = (".parquet", ".arrow")
KINDS = (".txt", ".md", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", *TABLES)
PACKINGS = (".gz", ".bz2", ".xz", ".zst")
_TARS = (".tgz", ".tbz2", ".txz", ".tzst")
ARCHIVES = (".zip", ".tar")
PACKED = (*PACKINGS, *_TARS, *ARCHIVES)
_READABLE = f"{', '.join(KINDS)}, plain or packed ({', '.join((*PACKINGS, *ARCHIVES))})"

Say = Callable[[str], None]


def content_hash(path: Path) -> str:
    """XXH3 (128 bits) of all bytes: against change and damage, not against forgery, so it is fast
    enough to be taken at every start.
    """
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def find_files(patterns: Sequence[str], key: str, say: Say = print) -> list[Path]:
    """Files, folders (with all below) and globs, sorted by path, each file once.

    In folders and globs, files of other kinds are passed over, which is said; one that is named is
    an InputError, and so is a name that does not exist.
    """
    found: dict[Path, Path] = {}
    passed_over: dict[Path, str] = {}
    for pattern in patterns:
        matched = sorted(_matched(pattern, key, passed_over))
        if not matched and len(patterns) > 1:
            say(f"{key}: no text matches {pattern}")
        for path in matched:
            # Two names may lead to one file, a symbolic link for instance.
            found[path.resolve()] = min(path, found.get(path.resolve(), path))
    others = _counts(passed_over.values())
    if not found:
        raise InputError(_nothing(f"no file matches {', '.join(patterns)}", key, others))
    if others:
        say(f"{key}: {len(passed_over):,} file(s) passed over ({others})")
    return sorted(found.values())


def _counts(reasons: Iterable[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common())


def _nothing(what: str, key: str, others: str = "") -> str:
    seen = f"; passed over: {others}" if others else ""
    split = ",\nor have a share of the training text set apart: --validation_files '[]'"
    return (
        f"{key}: {what} (looked from {Path.cwd()}{seen}).\n"
        f"Put your text there as {_READABLE},\n"
        f"or name other files, folders or globs: {'' if key == 'PATH' else f'--{key} '}PATH ..."
        f"{split if key == 'validation_files' else ''}"
    )


def _matched(pattern: str, key: str, passed_over: dict[Path, str]) -> Iterator[Path]:
    """The readable files of one file name, folder or glob."""
    if os.path.isfile(pattern):
        if ending(Path(pattern)) not in KINDS + ARCHIVES:
            raise InputError(
                f"{key}: {pattern} has the ending {ending(Path(pattern)) or '(none)'}; readable are"
                f" {_READABLE}."
            )
        yield Path(pattern)
        return
    for path in _candidates(pattern, key):
        reason = _unreadable_kind(path)
        if reason:
            passed_over[path.absolute()] = reason
        else:
            yield path


def _candidates(pattern: str, key: str) -> Iterator[Path]:
    if os.path.isdir(pattern):
        yield from _walk(pattern, key)
        return
    if not glob.has_magic(pattern):
        raise InputError(_nothing(f"there is no {pattern}", key))
    parts = Path(pattern).parts
    depth = parts.index("**") if "**" in parts else len(parts)
    # glob's own ** follows symbolic links, each loop of them forty times.
    for root in glob.glob(str(Path(*parts[:depth]))):
        for path in _walk(root, key):
            if _fits(path.relative_to(root).parts, parts[depth:]):
                yield path


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path or a folder above it matches; ** stands for any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _walk(root: str, key: str) -> Iterator[Path]:
    """A file itself, or all below a folder; no real folder twice, so loops of links end."""
    if not os.path.isdir(root):
        yield Path(root)
        return

    def refuse(error: OSError) -> None:
        raise InputError(f"{key}: cannot look into {error.filename} ({error.strerror}).")

    seen = {os.path.realpath(root)}
    for here, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        yield from (Path(here, name) for name in names)
        yield from (Path(here, name) for name in folders if name.startswith("."))
        # Of two names for one folder the first in order counts, whatever the disk lists first.
        shown = sorted((name for name in folders if name[0] != "."), reverse=True)
        real = {os.path.realpath(Path(here, name)): name for name in shown}
        folders[:] = sorted(name for path, name in real.items() if path not in seen)
        seen |= real.keys()


def _unreadable_kind(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "broken links or devices"
    return "" if ending(path) in KINDS + ARCHIVES else path.suffix or "without ending"


def ending(path: Path) -> str:
    """The kind of a file by its ending, in lower case: below the packing, .jsonl for a.jsonl.zst;
    .tar for one in any packing, and .zip, which can hold files of all kinds.
    """
    last = path.suffix.lower()
    if last in _TARS:
        return ".tar"
    return path.with_suffix("").suffix.lower() if last in PACKINGS else last


def position(path: Path) -> int:
    """How far this process has read in a file that it has open; 0 if it is not open.

    A packed file's reader does not tell; the system knows it of every open file.
    """
    for descriptor in range(256):
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return os.lseek(descriptor, 0, os.SEEK_CUR)
        except OSError:
            continue
    return 0
