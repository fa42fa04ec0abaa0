"""Files of scratch folders whose contents lie elsewhere: absent until they are brought, given up when they are many."""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unseg.storage.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from unseg.storage.mounts import ABSENT

ROOM, MOST = 2**31, 4096  # bytes of contents that stay, and files


class Kept:
    """Contents that a process brought, the oldest first, which are given up once there are too many, or too much."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._total = 0
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process keep count of its own."""
        return Kept, ()

    def add(self, path: Path, room: int, give_up: Callable[[Path], bool]) -> None:
        """Adds a file that was brought. room: bytes that may stay. give_up: leaves a content where it is from, and
        returns whether it did."""
        with self.lock:
            size, name = os.stat(path).st_size, os.fspath(path)
            self._total += size - self._sizes.get(name, 0)
            self._sizes[name] = size
            in_use = list[tuple[str, int]]()
            while (self._total > room or len(self._sizes) + len(in_use) > MOST) and len(self._sizes) > 1:
                oldest, size = self._sizes.popitem(last=False)
                if give_up(Path(oldest)):
                    self._total -= size
                else:
                    in_use.append((oldest, size))
            for oldest, size in reversed(in_use):
                self._sizes[oldest] = size
                self._sizes.move_to_end(oldest, last=False)

    def forget(self, path: Path) -> None:
        """Does not count a file any more, which goes."""
        with self.lock:
            self._total -= self._sizes.pop(os.fspath(path), 0)


def leave_absent(path: Path, size: int, time_ns: int) -> None:
    """Puts an absent file of a size in the place of a path; whoever reads it now goes on with what it had."""
    temporary = temporary_beside(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.truncate(temporary, size)
    os.utime(temporary, ns=(time_ns, time_ns))
    os.chmod(temporary, ABSENT)
    os.replace(temporary, path)


def mode_of(path: Path) -> int | None:
    """Returns a regular file's permissions; None where there is none."""
    return os.stat(path).st_mode & 0o777 if os.path.isfile(path) else None


def temporary_beside(path: Path) -> Path:
    """Returns a name that no file has, for what is to take a path's place."""
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
