"""Which image files are opened: regular files of known formats, of a size that their header explains.

Whatever a decoder says of a broken file becomes one `ImageError` that names the file.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
from PIL import Image as Pillow

from unseg.errors import UserError
from unseg.storage.files import open_for_reading

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MULTI_PICTURE = "MPO"  # a JPEG with a second picture behind it, as many phones write; the first is the photograph
MAX_PIXELS = 200_000_000
BYTES_A_PIXEL = 8  # of the largest pixels that are read: four channels of 16 bits
METADATA_BYTES = 64 * 2**20  # beyond its pixels' bytes a file may be this large
# What Pillow and OpenCV raise on broken files of the formats above; anything else is a bug and must be seen.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    NotImplementedError,
    struct.error,
    zlib.error,
    cv2.error,
    Pillow.DecompressionBombError,
)
LONGEST_REASON = 200  # characters that a decoder may say


class ImageError(UserError):
    """A file that cannot be used as it is: `path` and `reason`; the message is both."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason


@contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Turns the decoders' many errors into one ImageError that says what is wrong."""
    try:
        yield
    except Pillow.UnidentifiedImageError as error:
        raise ImageError(path, f"not an image of a known format ({', '.join(FORMATS)})") from error
    except ImageError:
        raise
    except DECODE_ERRORS as error:
        said = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise ImageError(path, f"broken image: {said}") from error


@contextmanager
def own_size_limit() -> Iterator[None]:
    """Lets Pillow's own pixel limit (about 178 million, with a warning from 89) yield to this module's."""
    before, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Pillow.MAX_IMAGE_PIXELS = before


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keeps decoders from printing what they think of odd files: what matters is in the ledger, by the file's name."""
    log, pillow = cv2.utils.logging, logging.getLogger("PIL")
    levels = log.getLogLevel(), pillow.level
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    pillow.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        log.setLogLevel(levels[0])
        pillow.setLevel(levels[1])


# --- opening ---------------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """Opens the file for reading; raises ImageError where it is missing, unreadable or empty, or no regular file."""
    try:
        file = open_for_reading(path)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise ImageError(path, "the file is empty (0 bytes)")
    return file


def read_bytes(path: Path) -> bytes:
    """Returns the file's bytes; raises ImageError where it is missing, unreadable or empty."""
    with open_regular(path) as file:
        return file.read()


def bytes_of_image(path: Path, max_pixels: int) -> bytes:
    """Returns the bytes of a file whose header was looked at first, so that no file makes us read more than need be."""
    with open_regular(path) as file, image_errors(path):
        size = os.fstat(file.fileno()).st_size
        limit = max_pixels * BYTES_A_PIXEL + METADATA_BYTES
        if size > limit:
            raise ImageError(
                path,
                f"{size:,} bytes are more than an image of {max_pixels / 1e6:g} megapixels needs: raise"
                " --max-megapixels if it is one",
            )
        check_size(path, *webp_size(file.read(30)), max_pixels)
        file.seek(0)
        with Pillow.open(file, formats=FORMATS) as image:
            check_header(path, image, max_pixels)
            width, height = image.size
        limit = width * height * BYTES_A_PIXEL + METADATA_BYTES
        if size > limit:
            raise ImageError(path, f"{size:,} bytes are more than an image of {width}×{height} needs")
        file.seek(0)
        return file.read(limit)


# --- what headers promise --------------------------------------------------------------------------------------------


def pixel_count(file: Path | BinaryIO) -> int:
    """Returns how many pixels the file's header promises, without decoding; 0 where the header cannot be read."""
    try:
        if isinstance(file, Path):
            with open_regular(file) as opened:
                return pixel_count(opened)
        width, height = webp_size(file.read(30))
        if width:
            return width * height
        file.seek(0)
        with Pillow.open(file, formats=FORMATS) as image:
            return image.width * image.height
    except (ImageError, *DECODE_ERRORS):
        return 0


def check_header(path: Path, image: Pillow.Image, max_pixels: int) -> None:
    """Raises ImageError where the header promises more than `max_pixels`, or several frames or pages."""
    check_size(path, image.width, image.height, max_pixels)
    if image.format == MULTI_PICTURE:
        return
    try:
        image.seek(1)  # not n_frames: to count the pages of a TIFF is to read through them all
    except EOFError:
        image.seek(0)
    else:
        raise ImageError(path, "several frames or pages: only still images can be protected")


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError where width × height is over `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            path,
            f"{width}×{height} is over the limit of {max_pixels / 1e6:g} megapixels: raise"
            " --max-megapixels or make it smaller",
        )


def webp_size(start: bytes) -> tuple[int, int]:
    """Returns width and height that a WebP file's first 30 bytes promise (RFC 9649); 0 and 0 for anything else.

    It is asked before Pillow, which reads a WebP file whole and sets its canvas up when it opens it.
    """
    if len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0, 0
    if start[12:16] == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF
