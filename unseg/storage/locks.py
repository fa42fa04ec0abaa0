"""One run at a time in an output folder: `.unseg-lock`, which names the process that holds it and its host.

The system's own lock, which `filelock` takes, decides between processes of one host, so that a killed run holds
nothing. This module adds who holds it, and signs of life, which decide where the system's lock does not tell: for a
holder on another host, and on a disk without locks. A holder touches the file every `BEAT` seconds, and is taken for
dead after `SILENCE`. Where signs of life decide, one of several runs takes a dead one's place in a single step.

A run looks before and after every file that it writes whether it still holds the folder (`Held`). A lease of `filelock`
does not do that, and whoever wants one must watch it for `SILENCE` seconds first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import has_fcntl, lock_descriptor

from unseg.errors import UserError
from unseg.storage.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, make_folders

LOCK_FILE = ".unseg-lock"
BEAT, SILENCE = 15.0, 120.0  # seconds
LOOKS, LOOK_AGAIN = 3, 0.02  # tries, and seconds between them: whoever only looks at a lock has it for a moment
# O_NOFOLLOW: a link in the output is not followed. O_NONBLOCK: nor is a pipe waited for.
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# EBADF: NFS gives no exclusive lock on a file that is open for reading only.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, or held it: pid and host are None where the file does not say.

    silent: seconds since its last sign of life.
    """

    pid: int | None
    host: str | None
    silent: float

    def __str__(self) -> str:
        if self.pid is None:
            return "an unknown process"
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Held:
    """An output folder and the lock in it as a run found them, by which each of its processes knows them again.

    lock: the lock's file. option: that named the folder. marks: where both are on the disk.
    """

    folder: Path
    lock: Path
    option: str
    marks: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path, lock: Path, option: str) -> Held:
        """Returns folder and lock as they are now, once the run has locked it."""
        return cls(folder, lock, option, _marks(folder, lock))

    def check(self) -> None:
        """Raises a UserError where the folder, or the lock in it, was removed, renamed or replaced meanwhile."""
        if _marks(self.folder, self.lock) != self.marks:
            raise UserError(
                f"{self.option} {self.folder}: was removed, renamed or replaced while this run was writing there, or"
                f" the file {self.lock.name} in it was; nothing more is written: run the same command again"
            )


def _marks(folder: Path, lock: Path) -> tuple[int, ...]:
    """Returns device and number of a folder, or of the link that stands for it, and of its lock; empty: not there."""
    try:
        found = os.lstat(folder), os.lstat(lock)
    except OSError:
        return ()
    return tuple(number for status in found for number in (status.st_dev, status.st_ino))


@contextmanager
def writing_into(held: Held | None) -> Iterator[None]:
    """Inside, something is written: checks before and after, whether that went well or not. None: nothing is held."""
    if held is None:
        yield
        return
    held.check()
    try:
        yield
    except (OSError, UserError):
        held.check()
        raise
    held.check()


class FolderLock:
    """A context that makes `folder` and holds its lock; entering it raises a UserError where another run does.

    stale: who held the lock last, where that run was killed. held: by which the run sees that it has the folder still.
    Folders that were made are removed again if an error ends the context before anything lies in them.
    """

    held: Held

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK_FILE
        self.stale: Holder | None = None
        self._made: list[Path] = []
        self._done = threading.Event()

    def __enter__(self) -> FolderLock:
        try:
            self._made = make_folders(self.folder)
            self._descriptor = self._acquire()
        except (FileExistsError, NotADirectoryError) as error:
            self._remove_made()
            raise UserError(f"--out {self.folder}: is no folder, or lies in a file; give another one") from error
        except OSError as error:
            self._remove_made()
            which = f" ({LOCK_FILE} in it)" if error.filename == os.fspath(self.path) else ""
            raise UserError(f"--out {self.folder}: cannot be written: {error.strerror or error}{which}") from error
        self.held = Held.of(self.folder, self.path, "--out")
        self._thread = threading.Thread(target=self._beat, name="unseg-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        ours = _is_still(self._descriptor, self.path)
        if not has_fcntl:  # Windows removes no open file
            os.close(self._descriptor)
        if ours:
            with suppress(OSError):  # a disk that has become read-only: the lock goes with the process
                self.path.unlink(missing_ok=True)
        if has_fcntl:
            os.close(self._descriptor)
        if kind is not None and ours:  # else it is not the folder that was made
            self._remove_made()

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # something lies in it, or it was never made
                return

    def _acquire(self) -> int:
        """Returns the descriptor of the lock file, signed by this process; UserError where another run has it."""
        while True:
            descriptor, is_new = _open(self.path)
            try:
                holder, taken = _read(descriptor), _take(descriptor)
                if taken is False or not (is_new or _is_free(descriptor, holder, taken)):
                    _mind_the_future(descriptor, self.path)
                    raise self._refusal(holder)
                if _is_still(descriptor, self.path):
                    self.stale = holder
                    if is_new or taken and _is_ours_to_judge(holder):
                        self._sign(descriptor, self.path)
                        return descriptor
                    successor = self._succeed(descriptor)
                    if successor is not None:
                        if successor != descriptor:
                            os.close(descriptor)
                        return successor
            except (OSError, UserError):
                os.close(descriptor)
                raise
            os.close(descriptor)  # another run removed the file or took it over between our two calls

    def _refusal(self, holder: Holder | None) -> UserError:
        elsewhere = ""
        if holder and not (has_fcntl and holder.host == socket.gethostname()):
            elsewhere = f" (after {SILENCE:g} s without a sign of life it is taken for dead)"
        return UserError(
            f"--out {self.folder}: {holder or 'another process'} is writing there{elsewhere}; wait until it ends, or"
            " give another folder"
        )

    def _sign(self, descriptor: int, path: Path) -> None:
        """Writes who holds the lock; where the disk does not take even that, removes the file."""
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise

    def _succeed(self, dead: int) -> int | None:
        """Returns the descriptor of a lock in the place of a dead run's; None where that is not the lock any more.

        UserError where another run is about to do the same. The new file has a name that only successors of this very
        lock use and only one of them can make, is signed, and takes the lock's place in one step. Whose file is then
        found there holds the lock, whatever happened in between.
        """
        before = os.fstat(dead)
        mark = hashlib.sha256(f"{before.st_ino} {before.st_mtime_ns} {_content(dead)!r}".encode()).hexdigest()[:16]
        claim = self.folder / f"{TEMPORARY_PREFIX}{mark}{TEMPORARY_SUFFIX}"
        try:
            descriptor = os.open(claim, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o644)
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - os.lstat(claim).st_mtime < SILENCE:
                    raise self._refusal(None) from None
                claim.unlink()  # of a run that was killed at this point
            return None
        if not has_fcntl:
            os.close(descriptor)
            return self._sign_for_the_dead(dead, before, claim)
        try:
            self._sign(descriptor, claim)
            _take(descriptor)
            if _is_still(dead, self.path) and os.fstat(dead).st_mtime_ns == before.st_mtime_ns:
                with suppress(FileNotFoundError):  # what became of it, the name tells
                    os.replace(claim, self.path)
            if _is_still(descriptor, self.path):
                return descriptor
            if _is_still(descriptor, claim):
                claim.unlink()
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _sign_for_the_dead(self, dead: int, before: os.stat_result, claim: Path) -> int | None:
        """Signs a dead run's lock, where no open file can be replaced (Windows); returns its descriptor, or None.

        before: the lock as it was when `claim` was made for it, which one run alone can do. What others see of the lock
        from the signature on is a sign of life, for which they make no claim.
        """
        try:
            if not _is_still(dead, self.path) or os.fstat(dead).st_mtime_ns != before.st_mtime_ns:
                return None
            self._sign(dead, self.path)
            _touch(dead, self.path)
            return dead
        finally:
            with suppress(OSError):
                claim.unlink()

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            if _is_still(self._descriptor, self.path):
                _touch(self._descriptor, self.path)


def told_of_stale(holder: Holder) -> str:
    """Returns what a run tells that takes the place of one that was killed."""
    return f"note: an earlier run ({holder}) was cut off; this one goes on from there"


def holder_of(folder: Path) -> Holder | None:
    """Returns whoever is writing into `folder` now, None where nobody is. Writes nothing.

    UserError where something else than a file has the lock's name.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path}: is no regular file; remove it")
        holder, taken = _read(descriptor), _take(descriptor)
        if taken is not False and (_is_free(descriptor, holder, taken) or -_silence(descriptor) >= SILENCE):
            return None
        return holder or Holder(None, None, 0.0)
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """Returns the descriptor of the lock file, and whether this call made it: of several runs, only one can."""
    while True:
        with suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o644), True
        with suppress(FileNotFoundError):  # its holder has just removed it
            descriptor = os.open(path, os.O_RDWR | _FLAGS)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor, False
            os.close(descriptor)
            raise OSError(errno.EINVAL, "no regular file", os.fspath(path))


def _content(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 4096)


def _read(descriptor: int) -> Holder | None:
    """Returns who wrote the lock file; None where it is new."""
    data = _content(descriptor)
    if not data:
        return None
    try:
        content = json.loads(data)
        pid, host = content["pid"], content["host"]
    except (ValueError, TypeError, KeyError, RecursionError):  # cut short by a kill
        pid = host = None
    return Holder(pid, host, _silence(descriptor))


def _silence(descriptor: int) -> float:
    """Returns the seconds since the last sign of life; below 0 where that has a time that is still to come."""
    return time.time() - os.fstat(descriptor).st_mtime


def _is_ours_to_judge(holder: Holder | None) -> bool:
    """Returns whether the system's lock tells all of a holder: it is of this host, or was killed before it signed."""
    return holder is None or holder.host in (None, socket.gethostname())


def _is_free(descriptor: int, holder: Holder | None, taken: bool | None) -> bool:
    """Returns whether nobody holds the lock. taken: whether this process has the system's lock, as `_take` tells."""
    return bool(taken and _is_ours_to_judge(holder)) or _silence(descriptor) >= SILENCE


def _mind_the_future(descriptor: int, path: Path) -> None:
    """Gives a lock whose time is still to come the time of now, so that it goes stale `SILENCE` seconds from now.

    Clocks are set, and those of two hosts differ. A holder that lives gives it the time of its own clock again.
    """
    if _silence(descriptor) < 0:
        _touch(descriptor, path)


def _touch(descriptor: int, path: Path) -> None:
    with suppress(OSError):
        os.utime(descriptor if os.utime in os.supports_fd else path)


def _take(descriptor: int) -> bool | None:
    """Returns whether the system's lock was free, and is now this process's; None where the system has no such locks.

    Windows has them, but there they also keep others from reading who the holder is.
    """
    if not has_fcntl:
        return None
    try:
        for _ in range(LOOKS - 1):
            if lock_descriptor(descriptor, blocking=False):
                return True
            time.sleep(LOOK_AGAIN)
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None


def _is_still(descriptor: int, path: Path) -> bool:
    """Returns whether the file behind `descriptor` is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
