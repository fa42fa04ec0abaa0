"""What files promise before they are decoded: their size in pixels, read from as few bytes as that takes.

The bytes of a file are read only as far as an image of its size can need them. Nothing here asks a decoder, whose time
would depend on what a stranger wrote between the header and the pixels.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from unseg.storage.bmp_structure import bmp_size
from unseg.storage.gif_structure import gif_size
from unseg.storage.image_limits import ImageError, check_size, open_regular
from unseg.storage.jpeg_structure import jpeg_size
from unseg.storage.jxl_structure import jxl_header
from unseg.storage.picture_kinds import START, kind_of
from unseg.storage.png_structure import png_size
from unseg.storage.tiff_structure import tiff_size

BYTES_A_PIXEL = 8  # of the largest pixels that are read: four channels of 16 bits
METADATA_BYTES = 64 * 2**20  # beyond its pixels' bytes a file may be this large
EXTENT = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)  # an image's size in HEIF and AVIF (ISO/IEC 23008-12, 6.5.3)
BOXES = 2**20  # bytes at a file's start in which such sizes are looked for


def bytes_of_image(path: Path, max_pixels: int, within: Sequence[Path] = ()) -> bytes:
    """Returns the bytes of a file whose header was looked at first, so that no file makes us read more than need be.

    within: as for `open_regular`.
    """
    with open_regular(path, within) as file:
        size = os.fstat(file.fileno()).st_size
        limit = max_pixels * BYTES_A_PIXEL + METADATA_BYTES
        if size > limit:
            raise ImageError(
                path,
                f"{size:,} bytes are more than an image of {max_pixels / 1e6:g} megapixels needs: raise"
                " --max-megapixels if it is one",
            )
        width, height = promised_size(file)
        check_size(path, width, height, max_pixels)
        if width * height:
            limit = width * height * BYTES_A_PIXEL + METADATA_BYTES
            if size > limit:
                raise ImageError(path, f"{size:,} bytes are more than an image of {width}×{height} needs")
        elif size > METADATA_BYTES:
            raise ImageError(path, "not an image of a known format, or its header is damaged")
        file.seek(0)
        return file.read(limit)


def bytes_of_stream(stream: BinaryIO, path: Path, max_pixels: int) -> bytes:
    """Returns all bytes of a stream that cannot be looked at first, such as a pipe; ImageError, which names `path`.

    No more is read than an image of the size can need that the first bytes promise.
    """
    try:
        start = stream.read(METADATA_BYTES)
        if not start:
            raise ImageError(path, "is empty (0 bytes)")
        width, height = promised_size(io.BytesIO(start))
        check_size(path, width, height, max_pixels)
        room = width * height * BYTES_A_PIXEL + METADATA_BYTES - len(start)
        rest = stream.read(room + 1) if width * height else stream.read(1)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    if rest and not width * height:
        raise ImageError(path, "not an image of a known format, or its header is damaged")
    if len(rest) > room:
        raise ImageError(path, f"holds more bytes than an image of {width}×{height} needs")
    return start + rest


def pixel_count(file: Path | BinaryIO) -> int:
    """Returns how many pixels the file's header promises, without decoding; 0 where the header cannot be read."""
    if isinstance(file, Path):
        try:
            with open_regular(file) as opened:
                return pixel_count(opened)
        except ImageError:
            return 0
    width, height = promised_size(file)
    return width * height


def promised_size(file: BinaryIO) -> tuple[int, int]:
    """Returns width and height, not turned upright, that a file's header promises; 0 and 0 where that cannot be read.

    `file` is read from its start, and left somewhere in it.
    """
    file.seek(0)
    start = file.read(START)
    kind = kind_of(start)
    try:
        if kind == "TIFF":
            return tiff_size(file)
        if kind == "JPEG":
            return _jpeg_size(file)
        if kind in ("AVIF", "HEIF"):
            file.seek(0)
            return _largest_extent(file.read(BOXES))
        if kind == "JXL":
            file.seek(0)
            header = jxl_header(file.read(BOXES))
            return (0, 0) if header is None else (header.width, header.height)
        of_start = {"PNG": png_size, "WEBP": webp_size, "BMP": bmp_size, "GIF": gif_size}.get(kind or "")
        return (0, 0) if of_start is None else of_start(start.ljust(START, b"\0"))
    except OSError:
        return 0, 0


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    """Returns width and height, reading as far as the segment that says them, which follows the metadata."""
    for length in (2**16, 2**20, METADATA_BYTES):
        file.seek(0)
        start = file.read(length)
        found = jpeg_size(start)
        if found != (0, 0) or len(start) < length:
            return found
    return 0, 0


def _largest_extent(start: bytes) -> tuple[int, int]:
    """Returns width and height of the largest picture that a HEIF or AVIF file's boxes speak of: tiles are smaller."""
    sizes = [struct.unpack(">II", found) for found in EXTENT.findall(start)]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def webp_size(start: bytes) -> tuple[int, int]:
    """Returns width and height that a WebP file's first 30 bytes promise (RFC 9649); 0 and 0 for anything else."""
    if len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0, 0
    if start[12:16] == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF
