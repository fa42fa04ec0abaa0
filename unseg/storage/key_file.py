"""Keys: 32 random bytes that decide the phases of a run's noise, kept in a file of their own that only its owner reads.

Whoever has the key can compute the noise and subtract it. So a key never lies among what is published.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from unseg.errors import UserError
from unseg.storage.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, sync_folder
from unseg.storage.text_encoding import open_text

KEY_BYTES = 32
SUFFIX = ".key"
_TEXT = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")


def new_key() -> bytes:
    """Returns a key from the system's source of randomness."""
    return secrets.token_bytes(KEY_BYTES)


def key_hash(key: bytes) -> str:
    """Returns what may be published of a key: it tells whether two keys are equal, and nothing of either."""
    return hashlib.blake2b(key, digest_size=16, person=b"unseg-key-hash").hexdigest()


def key_beside(out: Path) -> Path:
    """Returns where the key of an output folder is kept: beside it, never in it."""
    folder = Path(os.path.abspath(out))
    return folder.with_name(folder.name + SUFFIX)


def read_key(path: Path) -> bytes:
    """Returns the key in a file; raises UserError where it holds none."""
    try:
        with open_text(path) as file:
            text = file.read().strip().lower()
    except OSError as error:
        raise UserError(
            f"{path}: the key cannot be read ({error.strerror or error}); name the file that holds it with --key, or"
            " leave --key out where a new one may be drawn"
        ) from error
    except UnicodeDecodeError:
        text = ""
    if not _TEXT.fullmatch(text):
        raise UserError(f"{path}: holds no key of {KEY_BYTES} bytes in hexadecimal digits; name the right file")
    return bytes.fromhex(text)


def write_key(path: Path, key: bytes) -> None:
    """Writes a key that only its owner may read, whole or not at all; UserError where a file is there already."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{key.hex()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        _name(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: the key cannot be written ({error.strerror or error}); make room or allow writing, or name one"
            " with --key"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _name(temporary: Path, path: Path) -> None:
    """Gives a file its name, unless another has it already."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno == errno.EEXIST or os.path.lexists(path):
            raise
        os.rename(temporary, path)  # a file system without links
