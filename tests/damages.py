"""What can befall a run's folder between a kill and the next start, and what has to come of it."""

import ctypes
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from attempts import SAVING, Blow, Moment, Outcome, Run, differences, result, write_recipe

from zhgpt.checkpoint import SEAL


def nothing(*folders: Path) -> None:
    pass


Harm = Callable[[Path, Path], None]
WAS_EXECUTED = "code in a pickle was executed"


@dataclass(frozen=True)
class Damage:
    """`harm` gets the run's folder and that of another run; `prepare` is called in the process.

    The next start has to end with `code`, having printed all of `said`. After 0 the result is the
    twin's, and `aside` tells whether the newest checkpoint was set aside. After 2 all checkpoints
    are where they were; `mend`, with the folder and what it was before, makes the command work.
    """

    name: str
    harm: Harm
    said: tuple[str, ...] = ()
    aside: bool = False
    code: int = 0
    prepare: Callable[[], None] = nothing
    mend: Harm | None = None


def checkpoints(folder: Path) -> list[Path]:
    """Those with a final name, the newest first."""
    found = [p for p in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", p.name) and p.is_dir()]
    return sorted(found, key=lambda p: -int(p.name.partition("-")[2]))


def newest(folder: Path) -> Path:
    return checkpoints(folder)[0]


# Ways to harm a file; `other` is the file of the same name of another run.


def truncate(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def zero_half(path: Path, other: Path) -> None:
    """As after a power loss: the size is right, the later half was never written."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


def flip_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def remove(path: Path, other: Path) -> None:
    path.unlink()


def substitute(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


WAYS = {
    "truncated": truncate,
    "emptied": empty,
    "half zeroed": zero_half,
    "one bit flipped": flip_bit,
    "removed": remove,
    "another run's": substitute,
}


def of_files(template: Path, other: Path) -> Iterator[Damage]:
    """Every file of the newest checkpoint in every way that changes it."""
    for path in sorted(p for p in newest(template).rglob("*") if p.is_file()):
        name = path.relative_to(newest(template))
        for way, harm in WAYS.items():
            equal = path.read_bytes() == (newest(other) / name).read_bytes()
            if not (equal and harm is substitute):
                yield of_file(str(name), way, harm)


def of_file(name: str, way: str, harm: Harm) -> Damage:
    def harm_file(folder: Path, other: Path) -> None:
        harm(newest(folder) / name, newest(other) / name)

    # The seal of another run is no damage: it says whose the checkpoint is.
    said = name if harm is not substitute or name != SEAL else "another run"
    return Damage(f"{name}: {way}", harm_file, (said, "broken-checkpoint"), aside=True)


# Harm to a folder.


def every_checkpoint(folder: Path, other: Path) -> None:
    for path in checkpoints(folder):
        flip_bit(path / "model.safetensors", path)


def constant_times(folder: Path, other: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))


def reversed_times(folder: Path, other: Path) -> None:
    for place, path in enumerate(checkpoints(folder)):
        os.utime(path, (10**9 + place, 10**9 + place))


def empty_higher(folder: Path, other: Path) -> None:
    (folder / "checkpoint-999").mkdir()


def file_higher(folder: Path, other: Path) -> None:
    (folder / "checkpoint-999").write_text("no folder")


def copied_higher(folder: Path, other: Path) -> None:
    shutil.copytree(newest(folder), folder / "checkpoint-10")


def of_another_run(folder: Path, other: Path) -> None:
    place = newest(folder)
    shutil.rmtree(place)
    shutil.copytree(newest(other), place)


def half_line(folder: Path, other: Path) -> None:
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"step": 8, "tex')


def abandoned_files(folder: Path, other: Path) -> None:
    for name in ("run.json.partial", ".model.partial/.tmpAbC123"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{")


def empty_results(folder: Path, other: Path) -> None:
    for name in ("all_results.json", "trainer_state.json", "model.safetensors", "README.md"):
        (folder / name).touch()


def record(harm: Harm) -> Harm:
    return lambda folder, other: harm(folder / "run.json", other / "run.json")


def restore_record(folder: Path, template: Path) -> None:
    shutil.copyfile(template / "run.json", folder / "run.json")


def read_only(folder: Path, other: Path) -> None:
    folder.chmod(0o555)


def writable(folder: Path, template: Path) -> None:
    folder.chmod(0o755)


def without_privilege() -> None:
    """root without its capabilities is bound by a folder's mode like anybody (capset(2))."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


class Code:
    """Says that it was executed when it is unpickled."""

    def __reduce__(self):
        return print, (WAS_EXECUTED,)


def reseal(folder: Path, **changes: Any) -> None:
    """A valid seal for what lies in a checkpoint now, as somebody would make it on purpose."""
    seal = json.loads((folder / SEAL).read_text()) | changes
    del seal["xxh3_128"]
    for name in seal["files"]:
        content = (folder / name).read_bytes()
        digest = xxhash.xxh3_128_hexdigest(content)
        seal["files"][name] = {"bytes": len(content), "xxh3_128": digest}
    own = xxhash.xxh3_128_hexdigest(json.dumps(seal, sort_keys=True).encode())
    (folder / SEAL).write_text(json.dumps(seal | {"xxh3_128": own}))


def with_code(name: str, is_sealed: bool) -> Damage:
    """A pickle with code in the place of a file: damage, unless somebody sealed it as well."""

    def harm(folder: Path, other: Path) -> None:
        torch.save(Code(), newest(folder) / name)
        if is_sealed:
            reseal(newest(folder))

    if not is_sealed:
        return Damage(f"{name}: code", harm, (name, "broken-checkpoint"), aside=True)
    return Damage(f"{name}: code, sealed", harm, (name, "was not executed"), code=2, mend=move_away)


def move_away(folder: Path, template: Path) -> None:
    shutil.rmtree(newest(folder))


def of_other_versions(folder: Path, other: Path) -> None:
    reseal(newest(folder), versions={"torch": "2.0.0", "transformers": "4.0.0"})


def of_other_format(folder: Path, other: Path) -> None:
    reseal(newest(folder), format=99)


RECORD = [
    Damage(f"run.json: {way}", record(WAYS[way]), ("run.json",), code=2, mend=restore_record)
    for way in ("truncated", "emptied", "removed")
]
FOLDERS = [
    Damage("nothing", nothing),
    Damage("every checkpoint damaged", every_checkpoint, ("broken-checkpoint-4",), aside=True),
    Damage("constant modification times", constant_times),
    Damage("reversed modification times", reversed_times),
    Damage("an empty checkpoint of a higher number", empty_higher, ("checkpoint-999",)),
    Damage("a file named like a checkpoint", file_higher),
    Damage("a checkpoint copied to a higher number", copied_higher, ("checkpoint-10",)),
    Damage("another run's checkpoint", of_another_run, ("broken-checkpoint",), aside=True),
    Damage("half a line of samples", half_line),
    Damage("last files begun", empty_results),
    Damage("abandoned temporary files", abandoned_files),
    Damage(
        "a read-only folder",
        read_only,
        ("not a folder that can be written to",),
        code=2,
        prepare=without_privilege,
        mend=writable,
    ),
    Damage("another run's run.json", record(substitute), ("seed",), code=2, mend=restore_record),
    Damage("written by other versions", of_other_versions, ("torch 2.0.0",)),
    Damage("another format of the seal", of_other_format, ("format 99",), aside=True),
    with_code("optimizer.pt", is_sealed=False),
    *(with_code(name, is_sealed=True) for name in ("optimizer.pt", "scheduler.pt")),
    *RECORD,
]


@dataclass
class Patient:
    """A killed run with two good checkpoints and a third half made; another run at the same point;
    the result of a twin of the former.
    """

    run: Run
    other: Run
    twin: dict[str, Any]

    def damages(self) -> list[Damage]:
        return [*FOLDERS, *of_files(self.run.folder, self.other.folder)]

    def suffer(self, damage: Damage, name: str) -> list[str]:
        """What is not as it has to be after the damage and another start."""
        run = self.copy(name)
        damage.harm(run.folder, self.other.folder)
        there = checkpoints(run.folder)
        run.prepare = damage.prepare
        faults = list(judge(damage, run.attempt()))
        if damage.code:
            if checkpoints(run.folder) != there:
                faults.append("a folder that was refused was changed")
            damage.mend(run.folder, self.run.folder)
            run.prepare = nothing
            run.attempt()
        elif damage.aside != any(run.folder.glob("broken-checkpoint-8*")):
            faults.append(f"set aside: {not damage.aside}")
        faults += differences(run.folder, self.twin)
        if not faults:
            shutil.rmtree(run.folder)
        return [f"{damage.name}: {fault}" for fault in faults]

    def copy(self, name: str) -> Run:
        """The run as it was when it was killed, in a folder of its own."""
        run = replace(self.run, folder=self.run.folder.with_name(name), attempts=0)
        shutil.copytree(self.run.folder, run.folder)
        run.cache.symlink_to(self.run.cache)
        return run


def patient(work: Path, processes: int = 1, **changes: Any) -> Patient:
    """Makes the runs in the folder `work`."""
    (work / "other").mkdir(parents=True)
    recipe = write_recipe(work, **changes)
    seed = {"training_arguments__seed": 7}
    twin = Run(recipe, work / "twin", processes)
    other = Run(write_recipe(work / "other", **changes, **seed), work / "other" / "run", processes)
    run = Run(recipe, work / "killed", processes)
    if twin.attempt().code:
        raise ValueError(f"the undisturbed run fails: {twin.log.read_text()}")
    for one in (run, other):
        one.attempt(Blow(signal.SIGKILL, Moment(SAVING, number=3)))
    return Patient(run, other, result(twin.folder))


def judge(damage: Damage, end: Outcome) -> Iterator[str]:
    if end.code != damage.code:
        yield f"code {end.code} instead of {damage.code}: {end.output[-500:]}"
    yield from (f"does not say {word!r}" for word in damage.said if word not in end.output)
    if "Traceback" in end.output:
        yield f"a traceback: {end.output[-500:]}"
    if WAS_EXECUTED in end.output:
        yield "a pickle was executed"


# A disk that is full.


@contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """A disk of `size` bytes at `place`; PermissionError without the right to mount one."""
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield
    finally:
        libc.umount2(bytes(place), _DETACH)


_DETACH, _REMOUNT = 2, 32  # MNT_DETACH of umount2(2), MS_REMOUNT of mount(2)


def resize(place: Path, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", _REMOUNT, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "remount")


def believe_in_room() -> None:
    """The disk is filled by others after the program looked how much is free."""
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(2**50, 0, 2**50)


@dataclass
class FullDisk:
    """A run whose folder lies on a disk that is full at one file after the other."""

    recipe: Path
    work: Path
    cache: Path
    twin: dict[str, Any]

    def sizes(self, finished: Path) -> dict[str, int]:
        """File of a finished run to the size of a disk on which only half of it has room."""
        files = [path for path in finished.rglob("*") if path.is_file()]
        used, found = 0, {}
        for path in sorted(files, key=lambda p: p.stat().st_mtime_ns):
            pages = -(-path.stat().st_size // 4096)
            found[str(path.relative_to(finished))] = 4096 * (used + pages // 2)
            used += pages
        return found

    def suffer(self, name: str, size: int, number: int) -> list[str]:
        """Out of room at the file `name`, then with room."""
        run = Run(self.recipe, self.work / f"disk-{number}", prepare=believe_in_room)
        with disk(run.folder, size):
            faults = list(self.starts(run))
        return [f"disk full at {name}: {fault}" for fault in faults]

    def starts(self, run: Run) -> Iterator[str]:
        end = run.attempt()
        if end.code not in (0, 2, 75) or "Traceback" in end.output:
            yield f"code {end.code}: {end.output[-500:]}"
        if end.code == 0:
            return
        resize(run.folder, 2**30)
        run.attempt()
        yield from differences(run.folder, self.twin)
