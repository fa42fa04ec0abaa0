"""Pictures out of a zip file that a stranger may have made: what unpacks is counted, and names lead nowhere."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from unseg.storage.files import open_for_reading
from unseg.storage.picture_kinds import START, is_picture_name, kind_of
from unseg.web.refusals import Refusal
from unseg.web.uploads import IMAGE_BYTES, MB, relative_name

MEMBERS = 20_000  # files in one archive
READ_AT_ONCE = 16 * MB  # no part of an archive's own tables is larger: a name of 64 kB each would be more than fits
# What Python's reader raises on broken archives; NotImplementedError: of a compression that it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError, RuntimeError)
HIDDEN = "__MACOSX"  # the folder in which macOS keeps what no other system needs


@dataclass(frozen=True)
class Unpacked:
    """A member of an archive. path: its file; None where it was left out, and `reason` says why."""

    name: str
    path: Path | None = None
    reason: str | None = None


class _Guarded(io.RawIOBase):
    """A file that gives nobody more than READ_AT_ONCE: the list of members is read at once, however long it claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(READ_AT_ONCE + 1 if size < 0 else min(size, READ_AT_ONCE + 1))
        if len(data) > READ_AT_ONCE:
            raise zipfile.BadZipFile("its list of files is too long")
        return data


def unpacked(archive: Path, name: str, folder: Path, room: Callable[[], int]) -> Iterator[Unpacked]:
    """Yields an archive's pictures, each written to a file of its own in `folder`, and what was left out.

    name: what errors call the archive. room: how many bytes may still be unpacked, asked before each member. Refusal
    where the archive cannot be read, or unpacks to more.
    """
    with open_for_reading(archive) as file:
        try:
            opened = zipfile.ZipFile(_Guarded(file))
            members = opened.infolist()
        except ZIP_ERRORS as error:
            raise Refusal(422, f"{name}: cannot be read as a zip file ({error}); pack it anew") from error
        if len(members) > MEMBERS:
            raise Refusal(413, f"{name}: holds {len(members):,} files, over {MEMBERS:,}; pack fewer together")
        with opened:
            for number, member in enumerate(members):
                if not member.is_dir() and not _is_hidden(member.filename):
                    yield _member(opened, member, folder / f"member-{number}", room())


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == HIDDEN or any(part.startswith(".") and part != ".." for part in parts)


def _member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> Unpacked:
    """Unpacks one file; Refusal where it would take more than `room` bytes."""
    try:
        name = relative_name(member.filename)
    except Refusal as refusal:
        return Unpacked(member.filename[:80], reason=str(refusal).partition(": ")[2])
    if stat.S_ISLNK(member.external_attr >> 16):
        return Unpacked(name, reason="is a link, which is not followed")
    if member.flag_bits & 1:
        return Unpacked(name, reason="is encrypted; pack it without a password")
    try:
        with opened.open(member) as source:
            start = source.read(START)
            if kind_of(start) is None and not is_picture_name(name):
                return Unpacked(name, reason="is no picture")
            written = _copied(start, source, target, min(room, IMAGE_BYTES))
    except ZIP_ERRORS as error:
        target.unlink(missing_ok=True)
        return Unpacked(name, reason=f"cannot be unpacked ({str(error).splitlines()[0] if str(error) else 'cut off'})")
    if written:
        return Unpacked(name, target)
    target.unlink()
    if room < IMAGE_BYTES:
        raise Refusal(413, f"{name}: the pictures unpack to more than this server keeps; send fewer at a time")
    return Unpacked(name, reason=f"unpacks to more than {IMAGE_BYTES / MB:,.0f} MB")


def _copied(start: bytes, source: IO[bytes], target: Path, limit: int) -> bool:
    """Writes `start` and the rest of `source` to a new file; returns whether that is at most `limit` bytes."""
    left = limit - len(start)
    with open(target, "xb") as file:
        file.write(start)
        while left >= 0 and (block := source.read(1 << 20)):
            left -= len(block)
            if left >= 0:
                file.write(block)
    return left >= 0
