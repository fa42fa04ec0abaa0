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
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from unseg.errors import UserError, naming_the_extra
from unseg.storage.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, make_folders, open_for_reading, stays_inside
from unseg.storage.mounts import mounted, mounts

# Permissions of a file of a mirror: nobody may read it here, its content is in its store; its content is the store's.
ABSENT, BROUGHT = 0o200, 0o400
PREFIX, LOCK = "unseg-mirror-", ".lock"  # of the folder around a mirror, and in it
ROOM, MOST = 2**31, 4096  # bytes of contents that a mirror keeps, and files
URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.DOTALL)  # as a Path writes it, too, which has one slash only

# What the names of faults mean that users can mend.
IN_WORDS = {
    "PermissionError": "the store refuses access; look at the credentials in use, and at what they allow",
    "NoCredentialsError": "no credentials are found, neither in AWS_ACCESS_KEY_ID nor in ~/.aws nor of this machine",
    "EndpointConnectionError": "nobody answers at the server; is AWS_ENDPOINT_URL right, and is there a network?",
}


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


class Name(NamedTuple):
    """A file of a store. size: in bytes. time_ns: when it was changed."""

    url: str
    size: int
    time_ns: int


@dataclass(frozen=True)
class Mirror:
    """A folder of scratch files that stands for stores: `s3://bucket/x` is `folder/s3/bucket/x`.

    room: bytes of contents that stay. kept: those that this process brought.
    """

    folder: Path
    room: int = ROOM
    kept: Kept = field(default_factory=lambda: Kept())

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
        for file in _listed(url_of(url)):
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
        """Inside, files have the names that another mirror gave; afterwards nothing is here. Errors name the stores."""
        try:
            for name in names:
                self._name(name)
            yield
        except UserError as error:
            raise UserError(self.told(str(error))) from error
        finally:
            self.kept.clear()
            for folder in self.folder.iterdir():
                shutil.rmtree(folder, ignore_errors=True)

    # --- contents

    def is_written(self, path: Path) -> bool:
        """Returns whether a file of the mirror has a content that its store has not."""
        return os.path.isfile(path) and os.stat(path).st_mode & 0o777 not in (ABSENT, BROUGHT)

    def bring(self, given: str | Path) -> None:
        """Brings the content of a file that is about to be read; OSError where the store does not give it."""
        if not os.fspath(given).startswith(os.fspath(self.folder) + os.sep):
            return
        path = Path(os.path.realpath(given))
        if not os.path.isfile(path) or os.stat(path).st_mode & 0o777 != ABSENT:
            return
        url, before = self.url(path), os.stat(path)
        assert url is not None, "only files below the mirror's folder are brought"
        temporary = _temporary(path)
        try:
            with _store_errors(url):
                _filesystem(url).get_file(url, os.fspath(temporary))
            os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.chmod(temporary, BROUGHT)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.kept.add(path, self.room, self.give_up)

    def give_up(self, path: Path) -> None:
        """Leaves the content of a file to the store, which has it."""
        if os.path.isfile(path):
            found = os.stat(path)
            leave_absent(path, found.st_size, found.st_mtime_ns)

    def send(self, path: Path, is_new: bool = False) -> None:
        """Puts a file of the mirror into its store, whole or not at all.

        UserError where the store refuses it. is_new: FileExistsError where something has the name there already.
        """
        url = self.url(path)
        assert url is not None, "only files below the mirror's folder are sent"
        try:
            with open_for_reading(path) as file, _store_errors(url):
                if is_new:
                    content = file.read()
                    _filesystem(url).pipe_file(url, content, mode="create")
                else:
                    _filesystem(url).put_file(os.fspath(path), url)
        except FileExistsError:
            raise
        except OSError as error:
            raise UserError(f"{url}: cannot be written: {error.strerror}") from error

    def remove(self, path: Path) -> None:
        """Removes what a path of the mirror stands for from its store, where it is there."""
        url = self.url(path)
        assert url is not None, "only files below the mirror's folder are removed"
        try:
            with _store_errors(url):
                _filesystem(url).rm_file(url)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{url}: cannot be removed: {error.strerror}") from error


@contextmanager
def mirrored() -> Iterator[Mirror]:
    """Returns a mirror in a folder for temporary files, mounted; what is told of its files names the stores.

    Folders of processes that were killed are removed first: theirs are locked as long as they live.
    """
    _remove_left_over(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, FileLock(Path(folder) / LOCK):
        mirror = Mirror(Path(os.path.realpath(folder)) / "stores")
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
    """Returns the mirror that is mounted in this process; None where there is none."""
    return next((mount for mount in mounts() if isinstance(mount, Mirror)), None)


class Kept:
    """Contents that a process brought, the oldest first, which are given up once there are too many, or too much."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process keep count of its own."""
        return Kept, ()

    def add(self, path: Path, room: int, give_up: Callable[[Path], None]) -> None:
        """Adds a file that was brought. room: bytes that may stay. give_up: leaves a content where it is from."""
        with self._lock:
            size, name = os.stat(path).st_size, os.fspath(path)
            self._total += size - self._sizes.get(name, 0)
            self._sizes[name] = size
            while (self._total > room or len(self._sizes) > MOST) and len(self._sizes) > 1:
                oldest, size = self._sizes.popitem(last=False)
                self._total -= size
                give_up(Path(oldest))

    def clear(self) -> None:
        """Counts none any more."""
        with self._lock:
            self._sizes.clear()


def leave_absent(path: Path, size: int, time_ns: int) -> None:
    """Puts an absent file of a size in the place of a path; whoever reads it now goes on with what it had."""
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.truncate(temporary, size)
    os.utime(temporary, ns=(time_ns, time_ns))
    os.chmod(temporary, ABSENT)
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"


# --- the library


def _filesystem(url: str) -> Any:
    try:
        with naming_the_extra(url):
            return _driver(url.partition("://")[0])
    except ImportError as error:
        raise UserError(f"{url}: needs a driver of its store ({str(error)[:80]})") from error
    except ValueError as error:
        raise UserError(f"{url}: {str(error)[:80]}; give a folder or s3://bucket/folder") from error


@cache  # which every thread may use
def _driver(protocol: str) -> Any:
    import fsspec

    if protocol == "s3":
        import_module("s3fs")  # whose absence fsspec tells in words of its own
    return fsspec.filesystem(protocol, use_listings_cache=False)  # other machines write there, too


def _listed(url: str) -> Iterator[Name]:
    """Yields every file at or below a place."""
    filesystem = _filesystem(url)
    try:
        with _store_errors(url):
            if filesystem.isfile(url):
                yield _facts(url, filesystem.info(url))
                return
            start = len(filesystem._strip_protocol(url))
            for name, facts in _found(filesystem, url):
                if not name.endswith("/"):  # how some tools write an empty folder
                    yield _facts(f"{url}{name[start:]}", facts)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{url}: cannot be listed: {error.strerror}") from error


def _found(filesystem: Any, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and facts of everything below a place; of S3, memory holds a page of them, a thousand at most.

    Not folder by folder: a walk leaves out keys with two slashes in a row without a word.
    """
    if not url.startswith("s3://"):
        yield from filesystem.find(url, detail=True).items()
        return
    bucket, key, _ = filesystem.split_path(url)
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **filesystem.req_kw}
    while True:
        page = filesystem.call_s3("list_objects_v2", **asked)
        for facts in page.get("Contents", ()):
            yield f"{bucket}/{facts['Key']}", {**facts, "size": facts["Size"]}
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _facts(url: str, found: dict[str, Any]) -> Name:
    changed = found.get("LastModified") or found.get("created") or found.get("mtime") or 0
    seconds = changed if isinstance(changed, (int, float)) else changed.timestamp()
    return Name(url, int(found.get("size") or 0), int(seconds * 1e9))


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """Makes one kind of error, OSError with a short `strerror`, of all that a store's library raises.

    Its own texts are left out where they may hold more than the name of the fault.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError) as error:
        raise type(error)(
            error.errno, "is not there" if isinstance(error, FileNotFoundError) else "is there", url
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or _in_words(error)}"[:120], url) from None
    except _library_errors() as error:
        raise OSError(None, _in_words(error), url) from None


def _in_words(error: Exception) -> str:
    name = type(error).__name__
    return IN_WORDS.get(name, name)


def _library_errors() -> tuple[type[Exception], ...]:
    """Returns what drivers raise besides OSError: a missing password, a network that is not there."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    return BotoCoreError, ClientError
