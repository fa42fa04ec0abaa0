"""What a file's first bytes tell: of one in a store, no more than what is looked at is brought, and that once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from unseg.storage.files import open_for_reading
from unseg.storage.mounts import in_ranges, url_of_file

T = TypeVar("T")
REMEMBERED = 2**20  # looks at files in stores, some 400 bytes each


def seen_in(path: str | Path, look: Callable[[BinaryIO], T]) -> T:
    """Returns what `look` finds in a regular file; OSError where it cannot be read.

    look: a function of a module, which reads little of the file. What it found in a file of a store is remembered.
    """
    if url_of_file(path) is None:
        with open_for_reading(path) as file:
            return look(file)
    found = os.stat(path)
    return _remembered(look, os.fspath(path), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=REMEMBERED)
def _remembered(look: Callable[[BinaryIO], Any], path: str, size: int, time_ns: int) -> Any:
    with in_ranges(path) or open_for_reading(path) as file:
        return look(file)
