"""A page in one file: where it may be written, and what it may run."""

import base64
import hashlib
import os
from pathlib import Path

from zhgpt import disk
from zhgpt.errors import InputError


def beginning(what: str) -> str:
    """The first line of a command's pages, by which it knows them again."""
    return f"<!doctype html><!-- {what} by zhgpt -->\n"


def require_free(path: Path, what: str, overwrite: bool) -> None:
    """InputError unless a page may and can be written there; nothing is touched."""
    if path.exists():
        if not (path.is_file() and _begins(path, beginning(what))):
            raise InputError(
                f"--output: {path} exists and is no page of this command; nothing was touched."
                " Choose another place."
            )
        if not overwrite:
            raise InputError(
                f"--output: {path} exists; nothing was touched. Add --overwrite to replace it, or"
                " choose another place."
            )
    folder = path.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--output: {folder} is no folder that can be written to.")


def _begins(path: Path, line: str) -> bool:
    with path.open("rb") as file:
        return file.read(len(line)) == line.encode("utf-8")


def write(path: Path, what: str, page: str, overwrite: bool) -> None:
    """`page`, which has `beginning`, complete under its name or not there at all."""
    require_free(path, what, overwrite)
    try:
        disk.write_whole(path, page)
    except OSError as error:
        raise InputError(f"--output: {path} cannot be written ({error.strerror}).") from None


def sources(*texts: str) -> str:
    """A list for `style-src` or `script-src` that allows these texts and nothing else.

    Form: https://www.w3.org/TR/CSP3/#grammardef-hash-source
    """
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)
