"""What is on the disk, and under which name, when the process or the power ends."""

import errno
import os
import shutil
from pathlib import Path


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there already: on whose disk it would lie."""
    return next(p for p in [folder, *folder.absolute().parents] if p.exists())


def free(folder: Path) -> int:
    """Bytes, on the disk of a folder that need not be there yet."""
    return shutil.disk_usage(existing(folder)).free


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk.

    A seal must not outlive what it seals.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do this for folders, and order renames by themselves.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def write_whole(path: Path, content: str) -> None:
    """On disk under its name, or not at all; a kill leaves NAME.partial, the next write takes it.

    OSError where the disk refuses it; what was under the name is then as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(content, encoding="utf-8")
        sync(partial)
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk every byte counts
        raise
    os.replace(partial, path)
