"""Stores that are no disk, such as S3, seen as folders: all names at once, each content once it is read.

A mirror is a folder of scratch files. `listed` gives every file of a store an empty file of the same name, size and
time below it, whose permissions (`ABSENT`) say that the content is still away. `open_for_reading` brings it before it
opens the file, so that everything which works on folders works on stores. Contents that were read longest ago are
given up once they take more than `room` bytes together.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from unseg.errors import UserError
from unseg.storage.files import WINDOWS, files_under, make_folders, open_for_reading, stays_inside
from unseg.storage.kept_contents import ROOM, Kept, leave_absent, mode_of, temporary_beside
from unseg.storage.mounts import ABSENT, BROUGHT, mounted, mounts
from unseg.storage.ranges import open_ranges
from unseg.storage.store_library import Name, files_at, filesystem, put_file, store_errors

PREFIX, LOCK = "unseg-scratch-", ".lock"  # of a folder of scratch files, and in it
HOLD, HOLDS = "held-", ".holds"  # in it, too: second names of contents that are in use, and the lock of who counts them
COUNTED = 0.001  # seconds between looks whether another process has counted
URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.DOTALL)  # as a Path writes it, too, which has one slash only


def is_url(place: object) -> bool:
    """Returns whether a place is in a store, as `s3://bucket/folder` is, and not on the disk."""
    return isinstance(place, (str, Path)) and URL.fullmatch(str(place)) is not None


def url_of(place: str | Path) -> str:
    """Returns a place in a store as people write it; UserError where it says a password, which would be printed."""
    found = URL.fullmatch(str(place))
    if found is None:
        raise ValueError(f"{place} is no place in a store")
    if "@" in found[2].partition("/")[0]:
        raise UserError(f"{found[1]}://…: name no password in an address; set it as the library of the store reads it")
    return f"{found[1]}://{found[2].rstrip('/')}"


def as_written(place: Path) -> str:
    """Returns a place as people write it: with both slashes of an address, of which a Path keeps one."""
    return url_of(place) if is_url(place) else str(place)


@dataclass(frozen=True)
class Mirror:
    """A folder of scratch files that stands for stores: `s3://bucket/x` is `folder/s3/bucket/x`.

    room: bytes of contents that stay. kept: those that this process brought.
    """

    folder: Path
    room: int = ROOM
    kept: Kept = field(default_factory=Kept)

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process use the same mirror; it keeps count of its own contents."""
        return Mirror, (self.folder, self.room)

    def local(self, url: str | Path) -> Path:
        """Returns where a place in a store is mirrored."""
        protocol, _, rest = url_of(url).partition("://")
        if not stays_inside(rest) or "//" in rest or "/./" in rest:
            raise UserError(f"{url_of(url)}: has no name that a folder can have")
        return self.folder / protocol / rest

    def url(self, path: str | Path) -> str | None:
        """Returns the place that a path of the mirror stands for; None for any other path."""
        whole, root = os.path.normpath(os.path.abspath(path)), os.fspath(self.folder)
        parts = Path(whole).relative_to(root).parts if whole.startswith(root + os.sep) else ()
        return f"{parts[0]}://{'/'.join(parts[1:])}" if len(parts) > 1 else None

    def told(self, text: str) -> str:
        """Returns a text in which places in the stores stand for those in the mirror."""
        return re.sub(re.escape(os.fspath(self.folder)) + r"/([a-z][a-z0-9+.-]+)/", r"\1://", text)

    # --- names

    def listed(self, url: str | Path) -> Path:
        """Gives every file at or below a place its name in the mirror, and returns the place there.

        Where nothing is there, nothing is made. UserError where the store cannot be asked, or has names that no folder
        can have.
        """
        place = self.local(url)
        for file in files_at(url_of(url)):
            self._name(file)
        return place

    def _name(self, file: Name) -> None:
        path = self.local(file.url)
        try:
            make_folders(path.parent)
            if os.path.isdir(path):
                raise IsADirectoryError
            leave_absent(path, file.size, file.time_ns)
        except (NotADirectoryError, IsADirectoryError, FileExistsError):
            raise UserError(
                f"{file.url}: is a file and a folder at once, as only stores allow; rename one of them"
            ) from None

    def names(self, paths: Iterable[Path]) -> list[Name]:
        """Returns what another mirror needs to know those of the files that this one has."""
        found = []
        for path in sorted({os.path.normpath(path) for path in paths}):
            url = self.url(path)
            if url is not None and os.path.isfile(path):
                status = os.stat(path)
                found.append(Name(url, status.st_size, status.st_mtime_ns))
        return found

    @contextmanager
    def lent(self, names: Iterable[Name]) -> Iterator[None]:
        """Inside, files have the names that another mirror gave; afterwards here is what was before.

        Errors name the stores.
        """
        before = set(files_under(self.folder))
        try:
            for name in names:
                self._name(name)
            yield
        except UserError as error:
            raise UserError(self.told(str(error))) from error
        finally:
            self._leave_only(before)

    def _leave_only(self, files: set[Path]) -> None:
        for parent, folders, names in os.walk(self.folder, topdown=False):
            for path in (Path(parent) / name for name in names):
                if path not in files:
                    self.kept.forget(path)
                    path.unlink(missing_ok=True)
            for folder in folders:
                with suppress(OSError):  # it holds something still
                    os.rmdir(os.path.join(parent, folder))

    # --- contents

    def is_written(self, path: Path) -> bool:
        """Returns whether a file of the mirror has a content that its store has not."""
        return mode_of(path) not in (None, ABSENT, BROUGHT)

    def bring(self, path: str | Path) -> bool:
        """Brings the content of a file that is about to be opened; OSError where the store does not give it.

        Returns whether the content is the store's.
        """
        if not os.fspath(path).startswith(os.fspath(self.folder) + os.sep):
            return False
        real = Path(os.path.realpath(path))
        self._bring(real)
        return mode_of(real) in (ABSENT, BROUGHT)

    @contextmanager
    def held(self, path: str | Path) -> Iterator[None]:
        """Inside, the content of a file of the mirror is here, and stays; OSError where the store does not give it.

        What holds it is a second name, which all processes of the mirror see.
        """
        second = self._second_name(path) if os.fspath(path).startswith(os.fspath(self.folder) + os.sep) else None
        try:
            yield
        finally:
            if second is not None:
                second.unlink(missing_ok=True)

    def _second_name(self, given: str | Path) -> Path | None:
        path, second = Path(os.path.realpath(given)), self.folder.parent / f"{HOLD}{secrets.token_hex(8)}"
        while mode_of(path) in (ABSENT, BROUGHT):
            self._bring(path)
            with self.kept.lock, self._counting():
                if mode_of(path) == BROUGHT:  # else it was given up again in between
                    return _linked(path, second)
        return None

    def _counting(self) -> AbstractContextManager[Any]:
        """Returns a lock of whoever holds a content or gives one up, in any process, taken."""
        return FileLock(self.folder.parent / HOLDS).acquire(poll_interval=COUNTED)

    def in_ranges(self, path: str | Path) -> BinaryIO | None:
        """Opens a file whose content is in its store, and of which only what is read is brought; None for any other.

        What is read may raise OSError, as `held` does.
        """
        url = self.url(path)
        if url is None or mode_of(Path(path)) != ABSENT:
            return None

        def read(start: int, end: int) -> bytes:
            with store_errors(url):
                return bytes(filesystem(url).cat_file(url, start=start, end=end))

        return open_ranges(read, os.stat(path).st_size)

    def _bring(self, path: Path) -> None:
        if mode_of(path) != ABSENT:
            return
        url, before = self.url(path), os.stat(path)
        assert url is not None, "only files below the mirror's folder are brought"
        temporary = temporary_beside(path)
        try:
            with store_errors(url):
                filesystem(url).get_file(url, os.fspath(temporary))
            os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.chmod(temporary, BROUGHT)
            with self._counting():
                if mode_of(path) == ABSENT:  # else another thread or process was faster, and somebody may hold its own
                    os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.kept.add(path, self.room, self.give_up)

    def give_up(self, path: Path) -> bool:
        """Leaves the content of a file to the store, which has it; returns whether it did: not what somebody holds."""
        if not os.path.isfile(path):
            return True
        with self._counting():
            found = os.stat(path)
            if found.st_nlink > 1:
                return False
            with suppress(*((PermissionError,) if WINDOWS else ())):  # of a file that is open still
                leave_absent(path, found.st_size, found.st_mtime_ns)
                return True
        return False

    def send(self, path: Path, is_new: bool = False) -> None:
        """Puts a file of the mirror into its store, whole or not at all.

        UserError where the store refuses it. is_new: FileExistsError where something has the name there already.
        """
        url = self.url(path)
        assert url is not None, "only files below the mirror's folder are sent"
        try:
            with open_for_reading(path) as file, store_errors(url):
                if is_new:
                    content = file.read()
                    filesystem(url).pipe_file(url, content, mode="create")
                else:
                    put_file(path, url)
        except FileExistsError:
            raise
        except OSError as error:
            raise UserError(f"{url}: cannot be written: {error.strerror}") from error

    def remove(self, path: Path) -> None:
        """Removes what a path of the mirror stands for from its store, where it is there."""
        url = self.url(path)
        assert url is not None, "only files below the mirror's folder are removed"
        try:
            with store_errors(url):
                filesystem(url).rm_file(url)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{url}: cannot be removed: {error.strerror}") from error


def _linked(path: Path, second: Path) -> Path | None:
    """Gives a file a second name; None on a disk that has none, where a content stays until it is among the oldest."""
    with suppress(OSError):
        os.link(path, second)
        return second
    return None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Returns a folder for scratch files, in that of temporary ones, which goes at the end.

    Those of processes that were killed are removed first: they are locked as long as these live.
    """
    _remove_left_over(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, FileLock(Path(folder) / LOCK):
        yield Path(os.path.realpath(folder))


@contextmanager
def mirrored() -> Iterator[Mirror]:
    """Returns a mirror in a folder for scratch files, mounted; what is told of its files names the stores."""
    with scratch_folder() as folder:
        mirror = Mirror(folder / "stores")
        mirror.folder.mkdir()
        with mounted(mirror):
            try:
                yield mirror
            except UserError as error:
                raise UserError(mirror.told(str(error))) from error


def _remove_left_over(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            status = os.lstat(folder)
            ours = stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
            if ours and os.path.lexists(folder / LOCK):  # else it has just been made
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


def mirror_here() -> Mirror | None:
    """Returns the mirror that was mounted last in this process; None where there is none."""
    return next((mount for mount in reversed(mounts()) if isinstance(mount, Mirror)), None)
