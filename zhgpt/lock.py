"""One command per output folder: a second one says so; the lock of a dead one blocks nobody.

A lease (filelock): the holder touches its file every two seconds. On the machine of a dead holder
the next one sees at once that the process is gone; on another machine, on a shared disk, it waits
until nothing was touched for the length of the lease, by its own clock. The kernel's locks would be
simpler, but shared disks keep them to one machine, or keep those of a machine that was lost.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from zhgpt import leaving
from zhgpt.errors import InputError
from zhgpt.session import LOCK, require_place

LEASE_SECONDS = 15
TOUCH_SECONDS = 2


@contextmanager
def alone(folder: Path, rank: int, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, no other command writes to `folder`; InputError where one does.

    Of several processes of one run the first one holds the lock. Folders that were made for it and
    stayed empty are removed.
    """
    if rank:
        yield
        return
    require_place(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock, leaves = _lease(folder), _sign_of_leaving(folder)
    _acquire(lock, folder, say)
    leaves.unlink(missing_ok=True)

    def release(*_: object) -> None:
        leaves.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()

    try:
        with leaving.last_act(release), leaving.first_act(leaves.touch):
            yield
    finally:
        release()


def _lease(folder: Path) -> filelock.SoftFileLease:
    def lost(how: filelock.LeaseCompromise) -> None:
        leaving.abandon(f"{folder} was taken over by another process ({how.reason}); leaving")

    return filelock.SoftFileLease(
        folder / LOCK,
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=TOUCH_SECONDS,
        on_compromise=lost,
        thread_local=False,
    )


def _sign_of_leaving(folder: Path) -> Path:
    """There while the holder saves its work to leave: the next one waits for it to end."""
    return folder / f"{LOCK}.leaving"


def _acquire(lock: filelock.SoftFileLease, folder: Path, say: Callable[[str], None]) -> None:
    try:
        lock.acquire(timeout=0)
        return
    except filelock.Timeout:
        holder, seen = lock.pid, _touched(lock)
    say(f"{folder} is in use by process {holder or '(unknown)'}; looking whether it is alive")
    # A lock without a holder's name was left by one that was killed before it could write it.
    patience = 2 * LEASE_SECONDS if holder else TOUCH_SECONDS
    leaves = _sign_of_leaving(folder)
    try:
        lock.acquire(
            timeout=patience,
            cancel_check=lambda: _touched(lock) != seen and not leaves.exists(),
        )
    except filelock.Timeout:
        if leaves.exists():
            say(f"{folder}: that process saves its work to leave; waiting for its end")
            lock.acquire()
            return
        if holder or _touched(lock) != seen:
            raise InputError(
                f"{folder} is in use: process {lock.pid or holder} trains there.\n"
                "Wait until it ends, or choose another place with --output_dir."
            ) from None
        lock.force_break()
        lock.acquire(timeout=0)
    say(f"{folder}: that process is gone; its lock is taken over")


def _touched(lock: filelock.SoftFileLease) -> float | None:
    """When the holder last showed that it lives; None in the moment between two holders."""
    try:
        return os.stat(lock.lock_file).st_mtime
    except FileNotFoundError:
        return None
