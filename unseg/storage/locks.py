"""One run at a time in an output folder: `.unseg-lock`, which names the process that holds it and its host.

The system's own lock, which `filelock` takes, decides between processes of one host, so that a killed run holds
nothing. This module adds who holds it, and signs of life, which decide where the system's lock does not tell: for a
holder on another host, and on a disk without locks. A holder touches the file every `BEAT` seconds, and is taken for
dead after `SILENCE`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import has_fcntl, lock_descriptor

from unseg.errors import UserError

LOCK_FILE = ".unseg-lock"
BEAT, SILENCE = 15.0, 120.0  # seconds
LOOKS, LOOK_AGAIN = 3, 0.02  # tries, and seconds between them: whoever only looks at a lock has it for a moment
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


class FolderLock:
    """A context that makes `folder` and holds its lock; entering it raises a UserError where another run does.

    stale: who held the lock last, where that run was killed. Folders that were made are removed again if an error ends
    the context before anything lies in them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK_FILE
        self.stale: Holder | None = None
        self._made: list[Path] = []
        self._done = threading.Event()

    def __enter__(self) -> FolderLock:
        try:
            self._make_folder()
            self._descriptor = self._acquire()
        except OSError as error:
            self._remove_made()
            raise UserError(f"--out {self.folder}: cannot be written: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._beat, name="unseg-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if not has_fcntl:  # Windows removes no open file
            os.close(self._descriptor)
        with suppress(OSError):  # a disk that has become read-only: the lock goes with the process
            self.path.unlink(missing_ok=True)
        if has_fcntl:
            os.close(self._descriptor)
        if kind is not None:
            self._remove_made()

    def _make_folder(self) -> None:
        missing = self.folder
        while not missing.exists():
            self._made.append(missing)
            missing = missing.parent
        self.folder.mkdir(parents=True, exist_ok=True)

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # something lies in it, or it was never made
                return

    def _acquire(self) -> int:
        """Returns the descriptor of the lock file, signed by this process; UserError where another run has it."""
        while True:
            # O_NOFOLLOW: a link in the output is not followed
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            try:
                holder = _read(descriptor)
                if _is_held(descriptor, holder):
                    raise self._refusal(holder)
                if _is_still(descriptor, self.path):
                    self.stale = holder
                    self._sign(descriptor)
                    return descriptor
            except (OSError, UserError):
                os.close(descriptor)
                raise
            os.close(descriptor)  # the last holder removed the file between our two calls

    def _refusal(self, holder: Holder | None) -> UserError:
        elsewhere = ""
        if holder and holder.host != socket.gethostname():
            elsewhere = f" (after {SILENCE:g} s without a sign of life it is taken for dead)"
        return UserError(
            f"--out {self.folder}: {holder or 'another process'} is writing there{elsewhere}; wait until it ends, or"
            " give another folder"
        )

    def _sign(self, descriptor: int) -> None:
        """Writes who holds the lock; where the disk does not take even that, removes the file."""
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except OSError:
            with suppress(OSError):
                self.path.unlink()
            raise

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)


def holder_of(folder: Path) -> Holder | None:
    """Returns whoever is writing into `folder` now, None where nobody is. Writes nothing."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        holder = _read(descriptor)
        return (holder or Holder(None, None, 0.0)) if _is_held(descriptor, holder) else None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Holder | None:
    """Returns who wrote the lock file; None where it is new."""
    found = os.fstat(descriptor)
    if found.st_size == 0:
        return None
    try:
        content = json.loads(os.read(descriptor, 4096))
        pid, host = content["pid"], content["host"]
    except (ValueError, TypeError, KeyError, RecursionError):  # cut short by a kill
        pid = host = None
    return Holder(pid, host, time.time() - found.st_mtime)


def _is_held(descriptor: int, holder: Holder | None) -> bool:
    """Returns whether another run holds the lock; where none does, this process has the system's lock, if any."""
    taken = _take(descriptor)
    if taken is False:
        return True
    if holder is None or (taken and holder.host in (None, socket.gethostname())):
        return False
    return holder.silent < SILENCE


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
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
