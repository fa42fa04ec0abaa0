"""The directories of TIFF files and EXIF blocks, read without trust: which entries there are, and what they claim.

Sources: TIFF 6.0, section 2; the BigTIFF proposal; EXIF 2.3, section 4.6.
"""

from __future__ import annotations

import io
import os
import re
import struct
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Literal

import numpy as np

Order = Literal["<", ">"]  # of bytes: the least significant first, or last
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # bytes
PLAIN = (1, 2, 3, 4, 6, 7, 8, 9, 11, 12)  # types of one number or letter a value, which any TIFF file may have
NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of whole numbers → struct's letter
LONG_TYPES = {16: 4, 17: 9, 18: 4}  # types of BigTIFF alone → those of half as many bytes
EXIF_DIRECTORY, GPS_DIRECTORY, INTEROP_DIRECTORY = 34665, 34853, 40965
SUB_DIRECTORIES = (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROP_DIRECTORY)
MEANINGLESS = 65_000  # a private tag
ENOUGH = 2**21  # bytes: a directory has 65,535 entries of 12 or 20 bytes at most
HEADER = re.compile(rb"II[*+]\0|MM\0[*+]")
MOST_HEADERS = 64  # TIFF structures in a file of another format; EXIF and maker's notes are a few
MOST_NUMBERS = 16  # of an entry that `Directory.numbers` returns; a tag of channels has a few


class BadTiff(Exception):
    """Says why a TIFF structure cannot be read."""


@dataclass(frozen=True)
class Field:
    """One entry: the type of its values, how many there are, the place of the first, and where it stands itself."""

    kind: int
    count: int
    place: int
    entry: int

    @property
    def size(self) -> int:
        """Returns how many bytes its values take."""
        return SIZES.get(self.kind, 1) * self.count


@dataclass(frozen=True)
class Directory:
    """One directory of a TIFF structure.

    fields: by tag. length: of the whole structure in bytes. following: the place of the next directory, 0 for none.
    """

    file: BinaryIO
    order: Order
    fields: dict[int, Field]
    length: int
    following: int = 0

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Returns an entry's whole numbers, `MOST_NUMBERS` at most; the default where it has none."""
        field = self.fields.get(tag)
        letter = None if field is None else NUMBERS.get(field.kind)
        if field is None or letter is None or not field.count:
            return default
        count = min(field.count, MOST_NUMBERS)
        data = _read(self.file, field.place, count * SIZES[field.kind])
        return struct.unpack(f"{self.order}{count}{letter}", data)

    def number(self, tag: int, default: int) -> int:
        """Returns an entry's first whole number, or the default."""
        return self.numbers(tag, (default,))[0]

    def values(self, tag: int) -> tuple[int, bytes] | None:
        """Returns an entry's type and its values' bytes, the least significant first; None where there is none.

        Types whose values have two parts, and those of BigTIFF alone, count as none.
        """
        field = self.fields.get(tag)
        if field is None or field.kind not in PLAIN:
            return None
        data = _read(self.file, field.place, field.size)
        swapped = np.frombuffer(data, f"{self.order}u{SIZES[field.kind]}")
        return field.kind, swapped.astype(f"<u{SIZES[field.kind]}").tobytes()

    @property
    def claims_too_much(self) -> bool:
        """Returns whether its values take more bytes than there are: entries that share bytes unfold when read."""
        return sum(field.size for field in self.fields.values()) > self.length


def read_directory(file: BinaryIO, place: int | None = None) -> Directory:
    """Returns the first directory of a TIFF structure that is the whole `file`, or the one at `place`.

    Raises BadTiff where there is none.
    """
    length = file.seek(0, os.SEEK_END)
    start = _read(file, 0, 8)
    order: Order = ">" if start[:2] == b"MM" else "<"
    version = struct.unpack(f"{order}H", start[2:4])[0]
    if start[:2] not in (b"II", b"MM") or version not in (42, 43):
        raise BadTiff("no TIFF header")
    big = version == 43
    if place is None:
        place = struct.unpack(f"{order}{'Q' if big else 'I'}", _read(file, 8, 8) if big else start[4:8])[0]
    count_format, entry_size, inline = ("Q", 20, 8) if big else ("H", 12, 4)
    count_size = struct.calcsize(f"<{count_format}")
    (count,) = struct.unpack(f"{order}{count_format}", _read(file, place, count_size))
    if count * entry_size > length or count > 0xFFFF:
        raise BadTiff("its directory is longer than the file")
    block = _read(file, place + count_size, count * entry_size)
    fields = {}
    for number in range(count):
        tag, kind, values = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", block, number * entry_size)
        own = place + count_size + number * entry_size + entry_size - inline
        if SIZES.get(kind, 1) * values > inline:
            own = struct.unpack(
                f"{order}{'Q' if big else 'I'}", block[(number + 1) * entry_size - inline : (number + 1) * entry_size]
            )[0]
        fields[tag] = Field(kind, values, own, entry=place + count_size + number * entry_size)
    end = file.read(inline)
    following = int.from_bytes(end, "big" if order == ">" else "little")
    return Directory(file, order, fields, length, following)


def has_sound_exif(file: BinaryIO) -> bool:
    """Returns whether EXIF can be read from a TIFF structure without unfolding into more than it is."""
    try:
        main = read_directory(file)
        directories = [main]
        directories += [read_directory(file, main.number(tag, 0)) for tag in SUB_DIRECTORIES if tag in main.fields]
        for directory in directories[1:]:
            if INTEROP_DIRECTORY in directory.fields:
                directories.append(read_directory(file, directory.number(INTEROP_DIRECTORY, 0)))
        return not any(directory.claims_too_much for directory in directories)
    except BadTiff:
        return False


def without_exif(data: bytes, directory: Directory) -> bytes:
    """Returns a TIFF file whose first directory, which is given, names no EXIF and no places."""
    changed = bytearray(data)
    for tag in SUB_DIRECTORIES:
        if tag in directory.fields:
            struct.pack_into(f"{directory.order}H", changed, directory.fields[tag].entry, MEANINGLESS)
    return bytes(changed)


def unfolds(data: bytes) -> bool:
    """Returns whether a TIFF structure anywhere in a file would unfold, when it is read, into more than the file."""
    headers = list(islice(HEADER.finditer(data), MOST_HEADERS + 1))
    return len(headers) > MOST_HEADERS or any(_claims_too_much(data, found.start()) for found in headers)


def _claims_too_much(data: bytes, start: int) -> bool:
    """Returns whether a TIFF structure that begins at `start` has entries that share bytes; its start tells."""
    try:
        directory = read_directory(io.BytesIO(data[start : start + ENOUGH]))
    except BadTiff:
        return False
    return sum(field.size for field in directory.fields.values()) > len(data) - start


def _read(file: BinaryIO, place: int, count: int) -> bytes:
    if place < 0 or place > 2**62:
        raise BadTiff("an offset beyond the file")
    file.seek(place)
    data = file.read(count)
    if len(data) < count:
        raise BadTiff("it ends too early")
    return data
