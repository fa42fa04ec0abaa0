"""Files on disk: written whole or not at all, known by their hashes, never through a link that lies in the way."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from unseg.errors import UserError

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".unseg-", ".tmp"
TEMPORARY = re.compile(r"\.unseg-(?:[0-9a-f]{16}|probe)\.tmp")
BLOCK = 2**20
Times = tuple[int, int]

# --- reading ---------------------------------------------------------------------------------------------------------


def open_for_reading(path: str | Path) -> BinaryIO:
    """Opens a regular file; links are followed. OSError for anything else, whose `strerror` is fit for the user.

    It does not wait for the content of a pipe, which may never come, and reads no device, which may have no end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a zero byte, or half of a character
        raise OSError(errno.EINVAL, "no file can have that name", os.fspath(path)) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a folder", os.fspath(path))
    raise OSError(errno.EINVAL, "no regular file", os.fspath(path))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_bytes(path: str | Path, data: bytes, durable: bool = False, times: Times | None = None) -> str:
    """Writes atomically, making missing folders, and returns the sha256. durable, times: as for `writing`."""
    return write_blocks(path, [data], durable, times)


def write_blocks(path: str | Path, blocks: Iterable[bytes], durable: bool = False, times: Times | None = None) -> str:
    """Writes blocks one after the other as `write_bytes` does, for content that does not fit in memory."""
    digest = hashlib.sha256()
    with writing(path, durable, times) as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(path: str | Path, durable: bool = False, times: Times | None = None) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` once all is written (temporary file beside it, then rename).

    durable: also waits until the disk has it, so that after a loss of power the name holds the old file or the whole
    new one. times: of last access and last change, in ns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if times is not None:
            os.utime(temporary, ns=times)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: str | Path, data: bytes) -> str:
    """Writes so that `path` holds either its old content or all of `data`, whatever happens; returns the sha256.

    A UserError says where the disk does not take it.
    """
    try:
        return write_bytes(path, data, durable=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); check space and permissions") from None


def check_room(folder: Path, size: int) -> None:
    """Raises a UserError where a file of so many bytes cannot be written into `folder`, which is made if missing.

    The room is asked for by a temporary file that takes it, so that quotas and limits of a file's size count, too.
    """
    probe = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(probe, "xb") as file:
                _take_room(file, size)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: has no room for {size / 1e6:,.0f} MB ({error.strerror or error}); check space and permissions"
        ) from None


def _take_room(file: BinaryIO, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    elif shutil.disk_usage(os.path.dirname(file.name)).free < size:  # macOS, Windows
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raises a UserError where one of the files to be written is there already."""
    for path in paths:
        if os.path.lexists(path):
            raise UserError(f"{path}: exists already; give another name, or move it away")


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's names; does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    """Yields the file's content from where it stands, a mebibyte at a time."""
    while block := file.read(BLOCK):
        yield block


def sha256_of(path: Path) -> str | None:
    """Returns the sha256 of a regular file, or None where there is none, or it is unreadable."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for block in blocks_of(file):
                digest.update(block)
        return digest.hexdigest()
    except OSError:
        return None


def sha256_or_refuse(path: Path) -> str:
    """Returns the sha256 of a regular file; raises a UserError where there is none, or it is unreadable."""
    found = sha256_of(path)
    if found is None:
        raise UserError(f"{path}: cannot be read; check its permissions")
    return found


def remove_temporaries(folder: Path, below: bool = True) -> None:
    """Removes the temporary files that killed runs left in `folder`, and in the folders below it."""
    for path in files_under(folder) if below else folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def files_under(folder: Path) -> Iterator[Path]:
    """Yields everything under `folder` that is no folder; links are listed, not followed."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        yield from (Path(parent) / name for name in names)
        yield from (Path(parent) / name for name in folders if os.path.islink(os.path.join(parent, name)))


def _raise(error: OSError) -> None:
    raise error


def printable(name: str) -> str:
    """Returns `name` in one line, with stray bytes and characters that terminals obey written as escapes."""
    text = name.encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def stays_inside(name: str, windows: bool = os.name == "nt") -> bool:
    """Returns whether a name relative to a folder stays in it: no way up, no root, no drive, no zero byte."""
    path = PureWindowsPath(name) if windows else PurePosixPath(name)
    return bool(path.parts) and not ("\0" in name or path.drive or path.root or ".." in path.parts)


def link_on_the_way(folder: Path, name: str) -> str | None:
    """Returns the first part of `name` under `folder` that is a link, itself included; None where there is none.

    `folder` itself may be a link, because the user named it.
    """
    path = PurePosixPath(name)
    for part in (*reversed(path.parents), path):
        if part.parts and os.path.islink(folder / part):
            return str(part)
    return None
