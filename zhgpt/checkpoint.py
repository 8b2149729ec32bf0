"""Checkpoints on disk: sealed when they are whole, and only then continued from.

One is written as .checkpoint-N.partial. Its last file, seal.json, has the size and hash of every
other; when all of it is on the disk, one rename gives it its name. So a folder checkpoint-N with a
valid seal is whole, whenever the process was killed or the power went; any other does not count.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from zhgpt import disk
from zhgpt.errors import InputError
from zhgpt.files import content_hash

SEAL = "seal.json"
_FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")
_RESULT = ".model.partial"
# What is being written, or about to be deleted: never a checkpoint.
_PASSING = (".checkpoint-*", _RESULT)
_LAST_STEP = ".last_step"
# A last one can be lost to the disk; the one before it is then continued from.
_KEPT = 2


@dataclass(frozen=True)
class Origin:
    """What a checkpoint must agree with to be this run's (`recipe_hash`), and what wrote it."""

    recipe_hash: str
    versions: Mapping[str, str]


def origin(recipe_hash: str) -> Origin:
    libraries = ("torch", "transformers", "accelerate", "safetensors")
    return Origin(recipe_hash, {library: version(library) for library in libraries})


def newest(output_dir: Path, here: Origin, say: Callable[[str], None]) -> Path | None:
    """The whole checkpoint of this run with the highest step, or None; a line says what there was.

    Any other is renamed to broken-checkpoint-N, with its fault in that line; nothing but unfinished
    writes is deleted. InputError where it cannot be renamed.
    """
    unfinished = _clear(output_dir)
    aside, found = [], None
    for folder in sorted(numbered(output_dir), key=step, reverse=True):
        fault = damage(folder, here)
        if fault is None:
            found = folder
            break
        aside.append(f"{folder.name} as {_set_aside(folder, fault).name} ({fault})")
    line = _found(output_dir, found, unfinished, aside, here)
    if line:
        say(line)
    return found


def _found(
    output_dir: Path, found: Path | None, unfinished: list[str], aside: list[str], here: Origin
) -> str:
    reached, begun = last_step(output_dir), step(found)
    parts = [f"continues from {found.name}" if found else "no checkpoint, begins at step 0"]
    if reached > begun:
        parts.append(f"steps {begun + 1:,} to {reached:,} are repeated")
    if aside:
        parts.append("set aside: " + ", ".join(aside))
    if unfinished:
        parts.append("removed, as its writing was cut off: " + ", ".join(unfinished))
    if found and (changed := _other_versions(read(found)["versions"], here.versions)):
        parts.append(f"written with other versions ({changed}), so last digits may differ")
    return "; ".join(parts) if found or len(parts) > 1 else ""


def _other_versions(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    names = sorted(name for name in here if there.get(name) != here[name])
    return ", ".join(f"{name} {there.get(name)} there, {here[name]} here" for name in names)


def _clear(output_dir: Path) -> list[str]:
    """Removes what a killed process was writing or deleting; gives the names of the former."""
    passing = sorted(path for pattern in _PASSING for path in output_dir.glob(pattern))
    for folder in passing:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in passing if folder.suffix == ".partial"]


def _set_aside(folder: Path, fault: str) -> Path:
    aside = _free_name(folder.with_name(f"broken-{folder.name}"))
    try:
        return folder.rename(aside)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be continued from ({fault}), and it cannot be renamed to {aside.name}"
            f" ({error.strerror}).\nMake its folder writable, or move it away yourself."
        ) from None


def numbered(output_dir: Path) -> list[Path]:
    """The folders that have a checkpoint's name, whole or not, in no order."""
    return [p for p in output_dir.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]


def step(folder: Path | None) -> int:
    """The optimizer steps behind a checkpoint; 0 without one."""
    return int(_NAME.fullmatch(folder.name).group(1)) if folder else 0


def tokens(folder: Path | None) -> int:
    """The tokens trained on before a checkpoint: the data goes on after them."""
    return read(folder)["tokens"] if folder else 0


def _free_name(path: Path) -> Path:
    taken = 1
    free = path
    while free.exists():
        taken += 1
        free = path.with_name(f"{path.name}-{taken}")
    return free


def damage(folder: Path, here: Origin | None = None) -> str | None:
    """Why a folder cannot be continued from by this run, or None; reads every byte of it.

    Without `here` the checkpoint of any run will do.
    """
    if not (folder / SEAL).is_file():
        return f"it has no {SEAL}, so it is not whole"
    try:
        seal = read(folder)
        if seal["format"] != _FORMAT:
            return f"its seal is of format {seal['format']}, known is {_FORMAT}"
        if seal["step"] != step(folder):
            return f"its seal is of step {seal['step']}"
        if here and seal["recipe_hash"] != here.recipe_hash:
            return f"it is of another run, recipe {seal['recipe_hash']}; this is {here.recipe_hash}"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{SEAL} is damaged: {error}"
    faults = (_file_fault(folder / name, was) for name, was in seal["files"].items())
    return next((fault for fault in faults if fault), None)


def read(folder: Path) -> dict[str, Any]:
    """What the seal says: step, tokens, recipe_hash, versions, files; ValueError if damaged."""
    seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    if seal.pop("xxh3_128") != _digest(seal):
        raise ValueError("its own hash differs")
    return seal


def _file_fault(path: Path, was: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != was["bytes"]:
        return f"{path.name} has {path.stat().st_size:,} bytes of {was['bytes']:,}"
    try:
        same = content_hash(path) == was["xxh3_128"]
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None if same else f"{path.name} is not what was written: its hash differs"


def _digest(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def begin(output_dir: Path, number: int) -> Path:
    """An empty folder to write the checkpoint of step `number` into."""
    return _empty(output_dir / f".checkpoint-{number}.partial")


def _empty(folder: Path) -> Path:
    abandon(folder)
    folder.mkdir(parents=True)
    return folder


def begin_result(output_dir: Path) -> Path:
    """An empty folder to write the trained model into, before it lies in the output folder."""
    return _empty(output_dir / _RESULT)


def publish_result(partial: Path) -> None:
    """Its files, whole and on the disk, take their names in the folder above one by one."""
    for path in sorted(partial.iterdir()):
        disk.sync(path)
        os.replace(path, partial.parent / path.name)
    partial.rmdir()
    disk.sync(partial.parent)


def abandon(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, here: Origin, tokens_trained: int) -> Path:
    """Seals what `begin` gave, makes sure that it is on the disk, and gives it its name."""
    folder = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    files = sorted(path for path in partial.iterdir() if path.is_file())
    for path in files:
        path.chmod(0o644)  # safetensors makes files that only their owner reads
        disk.sync(path)
    sizes = {p.name: {"bytes": p.stat().st_size, "xxh3_128": content_hash(p)} for p in files}
    seal = {"format": _FORMAT, "step": step(folder), "tokens": tokens_trained, "files": sizes}
    seal |= {"recipe_hash": here.recipe_hash, "versions": dict(here.versions)}
    (partial / SEAL).write_text(json.dumps(seal | {"xxh3_128": _digest(seal)}, indent=1))
    for path in (partial / SEAL, partial):
        disk.sync(path)
    if folder.exists():
        _discard(folder)
    partial.rename(folder)
    disk.sync(folder.parent)
    return folder


def rotate(newest_sealed: Path, limit: int | None, best_step: int | None) -> None:
    """Deletes sealed checkpoints before the newest `limit` (None: none, else at least two).

    That of `best_step` stays beside them. Order is by step: modification times may all be equal.
    """
    older = [p for p in numbered(newest_sealed.parent) if (p / SEAL).exists()]
    upto = sorted((p for p in older if step(p) <= step(newest_sealed)), key=step)
    for folder in upto[: -max(limit, _KEPT)] if limit else []:
        if step(folder) != best_step:
            _discard(folder)


def _discard(folder: Path) -> None:
    """Takes the name away first: a half-deleted folder must not be found under it."""
    passing = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(passing, ignore_errors=True)
    folder.rename(passing)
    shutil.rmtree(passing, ignore_errors=True)


def last_step(output_dir: Path) -> int:
    """The last step that any start of the run completed, saved or not; 0 where none is known."""
    try:
        return int((output_dir / _LAST_STEP).read_bytes())
    except (OSError, ValueError):
        return 0


class LastStep:
    """Notes each completed step in the page cache, where it outlives the process, not the power.

    Only the count of repeated steps depends on it: a full disk is no reason to stop.
    """

    def __init__(self, output_dir: Path):
        self.path = output_dir / _LAST_STEP
        self.handle: int | None = None

    def note(self, number: int) -> None:
        with suppress(OSError):
            if self.handle is None:
                self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            os.pwrite(self.handle, b"%-12d" % number, 0)
