"""What comes in: bodies that are counted while they are read, and names that may lead nowhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from starlette.requests import Request

from unseg.storage.files import stays_inside
from unseg.web.refusals import Refusal

MB = 1_000_000
IMAGE_BYTES = 512 * MB  # of one picture's file
ARCHIVE_BYTES = 4_000 * MB  # of one zip file
TAB_BYTES = 8_000 * MB  # of all pictures of a tab, unpacked
TAB_PICTURES = 5_000
FORM_BYTES = 2**16  # of a request's words
NAME_BYTES, PART_BYTES = 1_000, 200  # of a relative name, and of a folder's or file's in it
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\\]")


async def counted(request: Request, limit: int, what: str) -> AsyncGenerator[bytes, None]:
    """Yields a request's body; Refusal once it is larger than `limit` bytes, whatever its headers say."""
    over = Refusal(413, f"{what} is over {_size(limit)}, the most that this server takes; send less at a time")
    promised = request.headers.get("content-length", "0")
    if not promised.isdecimal() or int(promised) > limit:
        raise over
    got = 0
    async for chunk in request.stream():
        got += len(chunk)
        if got > limit:
            raise over
        yield chunk


def _size(limit: int) -> str:
    return f"{limit / MB:,.0f} MB" if limit >= MB else f"{limit:,} bytes"


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """Returns a request's body; Refusal where it is larger than `limit` bytes."""
    return b"".join([chunk async for chunk in counted(request, limit, what)])


async def body_to_file(request: Request, path: Path, limit: int, what: str) -> int:
    """Writes a request's body to a new file and returns its size; Refusal where it is larger or empty."""
    size = 0
    with open(path, "xb") as file:
        async for chunk in counted(request, limit, what):
            size += file.write(chunk)
    if size == 0:
        raise Refusal(422, f"{what} is empty (0 bytes)")
    return size


def relative_name(given: str) -> str:
    """Returns a picture's name relative to what was dropped, with forward slashes; Refusal where it leads elsewhere.

    Browsers and archives name what a stranger may have written: no way up, no root, no drive, nothing hidden.
    """
    name = unicodedata.normalize("NFC", given).strip("/")
    parts = name.split("/")
    good = (
        stays_inside(name)
        and stays_inside(name, windows=True)
        and not _CONTROLS.search(name)
        and all(part and part[0] != "." and len(part.encode()) <= PART_BYTES for part in parts)
        and len(name.encode()) <= NAME_BYTES
    )
    if not good:
        raise Refusal(422, f"{given[:80]!r}: is no name that a picture may have here; rename it")
    return name


def free_name(name: str, key_of: Callable[[str], str], taken: set[str]) -> str:
    """Returns a name whose key is not taken: "cat.jpg" or "cat-2.jpg", "cat-3.jpg", …"""
    stem, dot, suffix = name.rpartition(".")
    if not dot or "/" in suffix:
        stem, suffix = name, ""
    number, candidate = 1, name
    while key_of(candidate) in taken:
        number += 1
        candidate = f"{stem}-{number}{dot if suffix else ''}{suffix}"
    return candidate
