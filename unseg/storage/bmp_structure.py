"""What the header of a BMP file promises, and whether the file can keep it. Source: [MS-WMF] 2.2.2.3 to 2.2.2.5."""

from __future__ import annotations

import struct
from pathlib import Path

from unseg.storage.cleaned_file import CleanedFile, check_length

OLD_HEADER = 12  # bytes of the second header in its first form
PLAIN = 0  # the compression of rows that stand as they are


def bmp_size(start: bytes) -> tuple[int, int]:
    """Returns width and height that a BMP file's first 26 bytes promise. A negative height means rows from the top."""
    if int.from_bytes(start[14:18], "little") == OLD_HEADER:
        width, height = struct.unpack("<HH", start[18:22])
    else:
        width, height = struct.unpack("<ii", start[18:26])
    return abs(width), abs(height)


def check_bmp(path: Path, data: bytes) -> CleanedFile:
    """Returns the file as it is; ImageError where it is shorter than its rows."""
    start = data[:54].ljust(54, b"\0")
    old = int.from_bytes(start[14:18], "little") == OLD_HEADER
    bits = int.from_bytes(start[24:26] if old else start[28:30], "little")
    if old or int.from_bytes(start[30:34], "little") == PLAIN:
        width, height = bmp_size(start)
        check_length(path, (width, height), (width * bits + 7) // 8 * height, len(data))
    return CleanedFile(data)
