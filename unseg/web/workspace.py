"""A folder for what is uploaded, which only its owner reads: gone when the server ends, or when the next one starts.

Beside it lies a lock that the system takes back when its holder ends, however that was. So a server that starts knows
which folders of earlier ones nobody uses any more.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unseg.errors import UserError

PREFIX, LOCK = "unseg-web-", ".lock"


@contextmanager
def workspace(parent: Path | None = None) -> Iterator[Path]:
    """Makes a folder that is removed at the end, and removes those that killed servers left.

    parent: where it is made; None: where the system keeps temporary files.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(parent)
    folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
    lock = FileLock(folder.with_suffix(LOCK), mode=0o600)
    try:
        lock.acquire(timeout=0)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"{parent}: cannot be written ({error.strerror or error}); set TMPDIR to a folder with room"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        with suppress(OSError):
            os.unlink(lock.lock_file)


def sweep(parent: Path) -> None:
    """Removes the folders of servers that have ended without removing them."""
    for path in parent.glob(f"{PREFIX}*{LOCK}"):
        if not _is_ours(path, stat.S_ISREG):
            continue  # another user's; a link could lead to a file of ours, which locking it would empty
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        folder = path.with_suffix("")
        if _is_ours(folder, stat.S_ISDIR):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        with suppress(OSError):
            path.unlink()


def _is_ours(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Returns whether a path is itself of a kind, not a link to one, and belongs to this user."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return is_kind(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())
