"""BigTIFF from the high byte, which Pillow does not read → the same picture as TIFF 6.0, which it does.

The pixels stay where they are; a directory with shorter places is put behind them. Sources: TIFF 6.0, section 2; the
BigTIFF proposal.
"""

from __future__ import annotations

import struct

import numpy as np

from unseg.storage.tiff_tags import LONG_TYPES, SIZES, SUB_DIRECTORIES, BadTiff, Directory, Field

HEADER = b"MM\0+"  # of the files that are changed
INLINE = 4  # bytes of values that stand in a directory's entry itself
LIMIT = 2**32


def as_classic(data: bytes, directory: Directory) -> bytes:
    """Returns a BigTIFF file as TIFF 6.0. directory: its first one; the directories that it names are left out.

    Raises BadTiff where a value lies beyond the file, or beyond what such a file can name.
    """
    file = bytearray(data + bytes(len(data) % 2))
    entries = []
    for tag, field in sorted(directory.fields.items()):
        if tag in SUB_DIRECTORIES or field.kind not in SIZES:
            continue
        kind, values = _shorter(data, field)
        if len(values) > INLINE:
            place = len(file)
            file += values + bytes(len(values) % 2)
            values = struct.pack(">I", place)
        entries.append(struct.pack(">HHI", tag, kind, field.count) + values.ljust(INLINE, b"\0"))
    start = len(file)
    file += struct.pack(">H", len(entries)) + b"".join(entries) + bytes(INLINE)
    if len(file) >= LIMIT:
        raise BadTiff("it is too large")
    file[:8] = struct.pack(">2sHI", b"MM", 42, start)
    return bytes(file)


def _shorter(data: bytes, field: Field) -> tuple[int, bytes]:
    """Returns the type and the bytes of an entry's values, whole numbers of 8 bytes as such of 4."""
    values = data[field.place : field.place + field.size]
    if len(values) < field.size:
        raise BadTiff("it ends too early")
    if field.kind not in LONG_TYPES:
        return field.kind, values
    numbers = np.frombuffer(values, ">i8" if LONG_TYPES[field.kind] == 9 else ">u8")
    shorter = numbers.astype(">i4" if LONG_TYPES[field.kind] == 9 else ">u4")
    if not np.array_equal(numbers, shorter):
        raise BadTiff("a place beyond what it can name")
    return LONG_TYPES[field.kind], shorter.tobytes()
