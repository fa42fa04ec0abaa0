"""Whether results were made from the same files: short hashes of names and contents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unseg.errors import UserError
from unseg.storage.files import sha256_or_refuse

SHORT = 16  # characters of a hash in results.json


def fingerprint(paths: Iterable[Path]) -> str:
    """Returns a short hash over the names and contents of files, in the order in which they are given."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {digest(path)}\n".encode())
    return total.hexdigest()[:SHORT]


def digest(path: Path) -> str:
    """Returns the sha256 of a file's content, which is read once as long as size and time stamp stay.

    Raises UserError where the file cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    return sha256_or_refuse(path)


def weights_identity(path: Path) -> dict[str, Any]:
    """Returns the name of pretrained weights and a short hash of the file, or of all files of the folder."""
    if path.is_file():
        return {"name": path.name, "sha256": digest(path)[:SHORT]}
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return {"name": path.name, "sha256": fingerprint(files)}
