"""A command's peak of memory and of a folder's size, sampled from outside while it runs."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.1  # seconds; a peak that is narrower may be missed
_SHARES = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)


@dataclass
class Peaks:
    """Bytes: of memory of all processes together, None where there is no /proc; of the folder."""

    memory: int | None = None
    disk: int = 0


def watch(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Peaks:
    """Runs a command and all that it starts to its end; CalledProcessError if it fails.

    Memory is the sum of the proportional set sizes, in which a page of several processes counts
    once (Linux, proc_pid_smaps(5)), and with it files that are mapped; else of the resident sizes.
    """
    peaks = Peaks()
    # A session of its own: the processes that it starts belong to it whoever their parent is.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while process.poll() is None:
            memory = _memory(process.pid)
            if memory is not None:
                peaks.memory = max(peaks.memory or 0, memory)
            peaks.disk = max(peaks.disk, folder_size(folder))
            time.sleep(_INTERVAL)
    finally:
        if process.poll() is None:  # we were interrupted: none of them goes on alone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    peaks.disk = max(peaks.disk, folder_size(folder))  # what came after the last look
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return peaks


def folder_size(folder: Path) -> int:
    """Bytes of all files in and below a folder; those that go meanwhile do not count."""
    return sum(_size(Path(here, name)) for here, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _memory(session: int) -> int | None:
    if not Path("/proc/self/stat").exists():
        return None
    return sum(map(_resident, _processes(session)))


def _processes(session: int) -> Iterator[Path]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # State, parent, group, session stand behind the name, which may have brackets itself.
            facts = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(facts[3]) == session:
            yield folder


def _resident(folder: Path) -> int:
    """Bytes, in equal shares where a page is in several processes; 0 of one that has ended."""
    for name, pattern in (("smaps_rollup", _SHARES), ("status", _RESIDENT)):
        try:
            found = pattern.search((folder / name).read_text())
        except OSError:
            continue
        if found:
            return 1024 * int(found[1])
    return 0
