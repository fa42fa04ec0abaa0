"""Files on disk: written whole or not at all, known by their hashes, never through a link that lies in the way.

Every file that is read is opened by `open_for_reading`, so that no pipe, device or folder in its place can hold us up.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, cast

from unseg.errors import UserError
from unseg.storage.mounts import opened
from unseg.storage.windows_names import leads_to_a_device

WINDOWS = os.name == "nt"
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".unseg-", ".tmp"
TEMPORARY = re.compile(r"\.unseg-(?:[0-9a-f]{16}|probe)\.tmp")
HALF_A_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # those between stand for bytes that are not UTF-8
BLOCK = 2**20
JUNCTION = 0xA0000003  # how Windows marks a folder that leads to another one
HELD_TRIES, HELD_WAIT = 20, 0.05  # on Windows: tries, and seconds between them, while another program has a file open
Times = tuple[int, int]

# --- reading ---------------------------------------------------------------------------------------------------------


def open_for_reading(path: str | Path) -> BinaryIO:
    """Opens a regular file; links are followed. OSError for anything else, whose `strerror` is fit for the user.

    It does not wait for the content of a pipe, which may never come, and reads no device, which may have no end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return opened(path, lambda: _regular(path, flags, "rb"))


def _regular(path: str | Path, flags: int, mode: str) -> BinaryIO:
    try:
        descriptor = os.open(path, flags, 0o666)
    except ValueError as error:  # a zero byte, or half of a character
        raise OSError(errno.EINVAL, "no file can have that name", os.fspath(path)) from error
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return cast("BinaryIO", os.fdopen(descriptor, mode))
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise OSError(errno.EISDIR, "is a folder", os.fspath(path))
    raise OSError(errno.EINVAL, "no regular file", os.fspath(path))


def is_missing(path: str | Path) -> bool:
    """Returns whether nothing has the name; False also where the system does not say, as in a locked folder."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def open_for_appending(path: str | Path) -> BinaryIO:
    """Opens a regular file to add to its end, making it where it is missing; OSError as `open_for_reading` has it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return _regular(path, flags, "ab")


def open_within(path: Path, roots: Sequence[Path]) -> BinaryIO:
    """Opens a regular file as `open_for_reading` does; OSError where a link leads to one outside all of the roots."""
    file = open_for_reading(path)
    real = os.path.realpath(path)
    # What was opened is compared with what was looked at: a link may have been changed in between.
    if not leads_out(real, roots) and os.path.samestat(os.fstat(file.fileno()), os.stat(real)):
        return file
    file.close()
    raise OSError(errno.EPERM, f"leads out of the data set, to {real}", os.fspath(path))


def leads_out(path: str | Path, roots: Sequence[Path]) -> bool:
    """Returns whether a path, its links followed, lies in none of the roots."""
    real = Path(os.path.realpath(path))
    return not any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def read_text(path: str | Path) -> str:
    """Returns the text of a regular file in UTF-8; OSError or UnicodeDecodeError where there is none."""
    with io.TextIOWrapper(open_for_reading(path), encoding="utf-8") as file:
        return file.read()


# --- writing ---------------------------------------------------------------------------------------------------------


def write_bytes(path: str | Path, data: bytes, durable: bool = False, times: Times | None = None) -> str:
    """Writes atomically, making missing folders, and returns the sha256. durable, times: as for `writing`."""
    return write_blocks(path, [data], durable, times)


def write_blocks(
    path: str | Path,
    blocks: Iterable[bytes],
    durable: bool = False,
    times: Times | None = None,
    within: Path | None = None,
) -> str:
    """Writes blocks one after the other as `write_bytes` does, for content that does not fit in memory.

    within: as for `writing`.
    """
    digest = hashlib.sha256()
    with writing(path, durable, times, within) as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(
    path: str | Path, durable: bool = False, times: Times | None = None, within: Path | None = None
) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` once all is written (temporary file beside it, then rename).

    durable: also waits until the disk has it, so that after a loss of power the name holds the old file or the whole
    new one. times: of last access and last change, in ns. within: a folder that must be there: only folders below it
    are made.
    """
    path = Path(path)
    make_folders(path.parent, within)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if times is not None:
            os.utime(temporary, ns=times)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """Gives a file its name, in the place of another; waits on Windows where a virus scanner, say, has one open."""
    for _ in range(HELD_TRIES - 1 if WINDOWS else 0):
        with suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(HELD_WAIT)
    os.replace(temporary, path)


@contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """Yields the path of a file in `folder` that nobody has, for libraries that write files themselves; it is removed
    at the end, and by `remove_temporaries` where a run is killed."""
    temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def make_folders(folder: Path, within: Path | None = None) -> list[Path]:
    """Makes a folder and those that lead to it; returns those that were made, the lowest first.

    within: a folder that is not made: FileNotFoundError where it is missing. Unlike `mkdir(parents=True)`, this has no
    limit to the depth but that of the system.
    """
    missing: list[Path] = []
    while not os.path.isdir(folder):
        if folder == within or folder == folder.parent:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        try:
            os.mkdir(made)
        except FileExistsError:
            if not os.path.isdir(made):  # no other process was just faster
                raise
    return missing


def write_durably(path: str | Path, data: bytes, within: Path | None = None) -> str:
    """Writes so that `path` holds either its old content or all of `data`, whatever happens; returns the sha256.

    A UserError says where the disk does not take it. within: as for `writing`.
    """
    try:
        return write_blocks(path, [data], durable=True, within=within)
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
    if WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- known by their content, and found -------------------------------------------------------------------------------


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    """Yields the file's content from where it stands, a mebibyte at a time."""
    while block := file.read(BLOCK):
        yield block


def sha256_of(path: Path) -> str | None:
    """Returns the sha256 of a regular file, or None where there is none, or it is unreadable."""
    try:
        with open_for_reading(path) as file:
            return sha256_of_blocks(blocks_of(file))
    except OSError:
        return None


def sha256_of_blocks(blocks: Iterable[bytes]) -> str:
    """Returns the sha256 of blocks one after the other."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def sha256_or_refuse(path: Path) -> str:
    """Returns the sha256 of a regular file; raises a UserError where there is none, or it is unreadable."""
    found = sha256_of(path)
    if found is None:
        raise UserError(f"{path}: cannot be read; check its permissions")
    return found


def remove_temporaries(folder: Path, below: bool = True) -> None:
    """Removes the temporary files that killed runs left in `folder`, and in the folders below it.

    Windows removes no file that is open still: the next run does."""
    for parent, folders, names in walk_folders(folder, raised, wanted=lambda _, name: TEMPORARY.fullmatch(name)):
        for path in (Path(parent) / name for name in (*names, *filter(TEMPORARY.fullmatch, folders))):
            if is_link(path) or not path.is_dir():
                with suppress(*((PermissionError,) if WINDOWS else ())):
                    path.unlink(missing_ok=True)
        if not below:
            return


def files_under(folder: Path) -> Iterator[Path]:
    """Yields everything under `folder` that is no folder; links are listed, not followed."""
    for parent, folders, names in walk_folders(folder, raised):
        yield from (Path(parent) / name for name in names)
        yield from (Path(parent) / name for name in folders if is_link(os.path.join(parent, name)))


def walk_folders(
    folder: Path,
    unreadable: Callable[[OSError], None],
    follow_links: bool = False,
    enters: Callable[[str], bool] | None = None,
    wanted: Callable[[str, str], object] = lambda parent, name: True,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each folder with the names of the folders and other files in it, as `os.walk` does from the top down.

    The names of folders may be changed before the next step. unreadable: is told of a folder that cannot be looked
    into. follow_links: links to folders are followed. enters: says of each folder whether it is looked into; None: once
    each, however it is reached. wanted: says which files are held. Before Python 3.12 `os.walk` calls itself, which a
    thousand nested folders bring to an end."""
    visited: set[tuple[int, int]] = set()

    def is_new(path: str) -> bool:
        found = os.stat(path)
        place = found.st_dev, found.st_ino
        known = place in visited and found.st_ino != 0  # 0: a network disk of Windows that numbers no files
        visited.add(place)
        return not known

    left = [os.fspath(folder)]
    while left:
        parent = left.pop()
        folders: list[str] = []
        names: list[str] = []
        try:
            if not (enters or is_new)(parent):
                continue
            with os.scandir(parent) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        folders.append(entry.name)
                    elif wanted(parent, entry.name):
                        names.append(entry.name)
        except OSError as error:
            unreadable(error)
            continue
        yield parent, folders, names
        below = [os.path.join(parent, name) for name in reversed(folders)]
        left += [path for path in below if follow_links or not is_link(path)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link in a circle
        return entry.is_dir()
    return False


def raised(error: OSError) -> None:
    """Raises an error: what `walk_folders` is given where no folder may be unreadable."""
    raise error


def printable(name: str) -> str:
    """Returns `name` in one line, with stray bytes and characters that terminals obey written as escapes."""
    text = name.encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def is_link(path: str | Path) -> bool:
    """Returns whether something leads elsewhere: a link, or a junction, as Windows has them for folders."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", 0) == JUNCTION


def stays_inside(name: str, windows: bool = WINDOWS) -> bool:
    """Returns whether a name relative to a folder is that of something in it; on Windows, of no device either."""
    return is_relative(name, windows) and not (windows and leads_to_a_device(name))


def is_relative(name: str, windows: bool = WINDOWS) -> bool:
    """Returns whether a name leads to no place outside the folder that it is relative to: no way up, no root, no drive.

    No file has a zero byte in its name, nor half of a character (a lone surrogate that stands for no byte).
    """
    path = PureWindowsPath(name) if windows else PurePosixPath(name)
    if not path.parts or "\0" in name or HALF_A_CHARACTER.search(name):
        return False
    return not (path.drive or path.root or ".." in path.parts)


def link_on_the_way(folder: Path, name: str) -> str | None:
    """Returns the first part of `name` under `folder` that is a link, itself included; None where there is none.

    `folder` itself may be a link, because the user named it.
    """
    path = PurePosixPath(name)
    for part in (*reversed(path.parents), path):
        if part.parts and is_link(folder / part):
            return str(part)
    return None
