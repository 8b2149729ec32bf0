"""Which checkpoint of an output folder a run may continue from."""

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

# Trainer resumes in silence with a fresh optimizer or schedule where one of these is missing.
_REQUIRED = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt")
_NAME = re.compile(r"checkpoint-(\d+)")


def newest(output_dir: Path, say: Callable[[str], None] = print) -> Path | None:
    """The complete checkpoint with the highest step, or None.

    A damaged one (a process was killed while it wrote) is renamed to broken-checkpoint-N and said,
    so that neither Trainer's rotation nor a later start takes it for one; nothing is deleted.
    """
    for folder in sorted(_numbered(output_dir), key=step, reverse=True):
        fault = damage(folder)
        if fault is None:
            return folder
        aside = _free_name(folder.with_name(f"broken-{folder.name}"))
        folder.rename(aside)
        say(f"{folder} is not complete ({fault}); set aside as {aside.name}")
    return None


def _numbered(output_dir: Path) -> list[Path]:
    return [p for p in output_dir.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]


def step(folder: Path | None) -> int:
    """The optimizer steps behind a checkpoint; 0 without one."""
    return int(_NAME.fullmatch(folder.name).group(1)) if folder else 0


def _free_name(path: Path) -> Path:
    taken = 1
    free = path
    while free.exists():
        taken += 1
        free = path.with_name(f"{path.name}-{taken}")
    return free


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's structure, or None."""
    for name in _REQUIRED:
        if not (folder / name).is_file():
            return f"{name} is missing"
    if not list(folder.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    for path in sorted(folder.iterdir()):
        fault = _file_fault(path)
        if fault:
            return f"{path.name}: {fault}"
    return _state_fault(folder)


def _state_fault(folder: Path) -> str | None:
    """trainer_state.json is the last file that Trainer writes, and must name the folder's step."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return "trainer_state.json is missing"
    recorded = json.loads(path.read_text(encoding="utf-8")).get("global_step")
    return None if recorded == step(folder) else f"trainer_state.json is of step {recorded}"


def _file_fault(path: Path) -> str | None:
    if path.suffix == ".json":
        return _json_fault(path)
    if path.suffix == ".safetensors":
        return _safetensors_fault(path)
    if path.suffix in (".pt", ".pth"):
        return None if zipfile.is_zipfile(path) else "truncated"
    return None


def _json_fault(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return str(error)
    return None


def _safetensors_fault(path: Path) -> str | None:
    """The header gives the file's size: 8 bytes, the header, the last tensor's end.

    Format: https://huggingface.co/docs/safetensors/index#format
    """
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
        if not 0 < length <= path.stat().st_size - 8:
            return "truncated"
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return "its header is damaged"
    end = max(t["data_offsets"][1] for name, t in header.items() if name != "__metadata__")
    return None if 8 + length + end == path.stat().st_size else "truncated"
