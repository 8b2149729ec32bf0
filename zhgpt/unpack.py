"""A file, packed or not, or an archive to streams of its members; nothing is written to disk."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow
import zstandard

from zhgpt import files
from zhgpt.errors import InputError
from zhgpt.tally import Tally


@dataclass(frozen=True)
class Member:
    """One file's content: `name` for messages (path or path!member), its kind, a buffered stream.

    The stream goes forward only, unless it is `seekable`; it is closed before the next member's.
    """

    name: str
    kind: str
    file: io.BufferedReader
    seekable: bool = False


class _Zstd(io.RawIOBase):
    """All frames of a .zst file; the library's own reader takes one cut short for a whole one."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._parts = self._unpack()
        self._rest = memoryview(b"")

    def _unpack(self) -> Iterator[bytes]:
        frame = None
        # A block of 128 kB takes 4 bytes at least, so what is unpacked at once stays below 32 MB.
        while raw := self._file.read(1 << 10):
            while raw:
                # 2 GB is the window of zstd --long=31, the largest there is.
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                yield frame.decompress(raw)
                raw, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if frame:
            raise EOFError("it ends in the middle of a frame")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _Zstd,
}
_TAR_OPENERS = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}
# What the decompressors and pyarrow raise for a damaged or truncated file, besides OSError.
_DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    zipfile.BadZipFile,
    tarfile.TarError,
    pyarrow.ArrowException,
)

# Text packs to a tenth, logs to a fiftieth; a thousand blanks would pack to less than this, and so
# a small file may be anything.
_LARGEST_RATIO, _HARMLESS = 250, 64 << 20


@contextmanager
def named(name: Path | str) -> Iterator[None]:
    """Whatever goes wrong while a file is read names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: gone since the files were listed. Start again.") from None
    except _DAMAGE as error:
        raise InputError(f"{name}: damaged ({error}). Copy or download it again.") from None
    except OSError as error:
        # The system's own errors have a number; those of gzip, bz2 and parquet have none.
        if error.errno is None:
            raise InputError(f"{name}: damaged ({error}). Copy or download it again.") from None
        raise InputError(f"{name}: cannot be read ({error.strerror}).") from None


def members(path: Path, tally: Tally) -> Iterator[Member]:
    """The file itself, unpacked, or the readable members of an archive in its order.

    What is not read of an archive is counted in `tally`. InputError for an encrypted member, for
    what unpacks to more than text can, and for a file that changes meanwhile.
    """
    with path.open("rb", buffering=1 << 20) as file:
        before = os.fstat(file.fileno())
        yield from _members(path, file, tally)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InputError(
                f"{path}: changed while it was read ({before.st_size:,} bytes before,"
                f" {after.st_size:,} after).\nStart again when nothing writes to it any more."
            )


def _members(path: Path, file: io.BufferedReader, tally: Tally) -> Iterator[Member]:
    kind, packing = files.ending(path), path.suffix.lower()
    meter = _Meter(path, os.fstat(file.fileno()).st_size)
    if kind == ".zip":
        # An empty one is no archive; in a folder of many files it is no reason to stop.
        yield from _zip(path, file, meter, tally) if file.peek(1) else ()
        return
    opener = _OPENERS.get(_TAR_OPENERS.get(packing, packing))
    stream = _metered(opener(file), meter) if opener and file.peek(1) else file
    if kind == ".tar":
        yield from _tar(path, stream, tally) if stream.peek(1) else ()
    else:
        yield Member(str(path), kind, stream, seekable=stream is file)


class _Meter:
    """Bytes unpacked of one file, all members together."""

    def __init__(self, path: Path, packed: int):
        self._path, self._packed, self._unpacked = path, packed, 0

    def add(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > max(_HARMLESS, _LARGEST_RATIO * self._packed):
            raise InputError(
                f"{self._path}: {self._packed:,} bytes unpack to more than {self._unpacked:,}, over"
                f" {_LARGEST_RATIO} times as much; text does not.\nIf it is no trap, unpack it"
                " yourself and name the files in it."
            )


class _Metered(io.RawIOBase):
    def __init__(self, stream: Any, meter: _Meter):
        self._stream, self._meter = stream, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._stream.readinto(buffer)
        self._meter.add(size)
        return size


def _metered(stream: Any, meter: _Meter) -> io.BufferedReader:
    return io.BufferedReader(_Metered(stream, meter), 1 << 20)


def _zip(path: Path, file: BinaryIO, meter: _Meter, tally: Tally) -> Iterator[Member]:
    archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = info.filename
        if not info.flag_bits & 0x800:  # then it is not said to be UTF-8, and was read as cp437
            name = _decoded(name.encode("cp437", "replace"))
        link = stat.S_ISLNK(info.external_attr >> 16)
        if reason := "links or devices" if link else _passed_over(name):
            tally.pass_over(str(path), reason)
            continue
        if info.flag_bits & 0x1:
            raise InputError(f"{path}!{name}: encrypted; unpack it with its password first.")
        try:
            stream = archive.open(info)
        except NotImplementedError as error:
            raise InputError(f"{path}!{name}: {error}; pack it again as plain zip.") from None
        with stream:
            yield Member(f"{path}!{name}", files.ending(Path(name)), _metered(stream, meter))


class _Header(tarfile.TarInfo):
    """Of headers that are wrong or cut off, tarfile takes all but the first for the end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end mark: {error}") from None


def _tar(path: Path, stream: io.BufferedReader, tally: Tally) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        while info := archive.next():
            archive.members = []  # it would keep all of them
            name = _decoded(info.name.encode("utf-8", "surrogateescape"))
            if info.isdir():
                continue
            special = not info.isreg() or info.issparse()
            if reason := "links or devices" if special else _passed_over(name):
                tally.pass_over(str(path), reason)
                continue
            with archive.extractfile(info) as file:
                yield Member(f"{path}!{name}", files.ending(Path(name)), file)
    while stream.read(1 << 20):  # a packing has its checksum at the end
        pass


def _decoded(name: bytes) -> str:
    """A member's name, for the eye and for its ending; it is never used as a path."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = name.decode("gb18030", "replace")
    # Control characters would be commands to the terminal.
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _passed_over(name: str) -> str:
    """Why a member is not read, or "" if it is."""
    path = PurePosixPath(name)
    if any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in path.parts):
        return "hidden"
    if path.suffix.lower() in files.PACKED:
        return "packed again"
    return "" if files.ending(Path(name)) in files.KINDS else path.suffix or "without ending"


def front(path: Path, size: int) -> bytes:
    """What the first `size` bytes of a packed file (not of an archive) unpack to."""
    with path.open("rb") as file:
        raw = file.read(size)
    stream, parts = _OPENERS[path.suffix.lower()](io.BytesIO(raw)), []
    try:
        while part := stream.read(1 << 16):
            parts.append(part)
    except EOFError:  # the rest was not given
        if len(raw) < size:
            raise
    return b"".join(parts)
