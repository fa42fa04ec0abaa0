"""Which image files are opened: regular files of known formats, of a size that their header explains.

Whatever a decoder says of a broken file becomes one `ImageError` that names the file.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
from PIL import Image as Pillow

from unseg.errors import UserError
from unseg.storage.files import open_for_reading, open_within

# Names of pictures that are read, and their formats in Pillow's words; HEIF and JPEG XL need plugins of Pillow.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".hif", ".jxl"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF", "JXL")
MAX_PIXELS = 200_000_000
CONVERT = "convert it to 8 or 16 bits a channel, unsigned, first"
SEVERAL_FRAMES = "several frames or pages: only still images can be protected"
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
    RuntimeError,  # of libavif and libheif
    struct.error,
    zlib.error,
    cv2.error,
    Pillow.DecompressionBombError,
)
LOGGERS = ("PIL", "tifffile", "pydicom", "nibabel", "nibabel.global", "rasterio")
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
        raise ImageError(path, "damaged, or of a kind that is not read: save it as PNG or TIFF first") from error
    except ImageError:
        raise
    except DECODE_ERRORS as error:
        raise ImageError(path, f"broken image: {said_of(error, path)}") from error


def said_of(error: Exception, path: Path) -> str:
    """Returns what a library says of a file, in one line, without the folder: a manifest does not depend on it."""
    folder = os.fspath(path.parent)
    said = str(error) if folder == os.curdir else str(error).replace(folder + os.sep, "")
    return " ".join(said.split())[:LONGEST_REASON] or type(error).__name__


class _PillowsLimit:
    """Pillow's own pixel limit, which is one for all threads. before: what it was when the first of them lifted it."""

    def __init__(self) -> None:
        self.before: int | None = None
        self.lifted = 0
        self.lock = threading.Lock()


_LIMIT = _PillowsLimit()


@contextmanager
def own_size_limit() -> Iterator[None]:
    """Lets Pillow's own pixel limit (about 178 million, with a warning from 89) yield to this module's.

    Several threads may be inside: the limit is back once the last of them has left.
    """
    with _LIMIT.lock:
        if not _LIMIT.lifted:
            _LIMIT.before, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        _LIMIT.lifted += 1
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.lifted -= 1
            if not _LIMIT.lifted:
                Pillow.MAX_IMAGE_PIXELS = _LIMIT.before


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keeps decoders from printing what they think of odd files: what matters is in the ledger, by the file's name."""
    log, others = cv2.utils.logging, [logging.getLogger(name) for name in LOGGERS]
    levels = log.getLogLevel(), [other.level for other in others]
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    for other in others:
        other.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom|nibabel|rasterio)\b")
            yield
    finally:
        log.setLogLevel(levels[0])
        for other, level in zip(others, levels[1], strict=True):
            other.setLevel(level)


# --- opening ---------------------------------------------------------------------------------------------------------


def open_regular(path: Path, within: Sequence[Path] = ()) -> BinaryIO:
    """Opens the file for reading; raises ImageError where it is missing, unreadable or empty, or no regular file.

    within: the folders that links on the way may not lead out of, where there are such.
    """
    try:
        file = open_within(path, within) if within else open_for_reading(path)
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


# --- what headers promise --------------------------------------------------------------------------------------------


def check_header(path: Path, image: Pillow.Image, max_pixels: int) -> None:
    """Raises ImageError where the header promises more than `max_pixels`, or several frames or pages."""
    check_size(path, image.width, image.height, max_pixels)
    try:
        image.seek(1)  # not n_frames: to count the pages of a TIFF is to read through them all
    except EOFError:
        image.seek(0)
    else:
        raise ImageError(path, SEVERAL_FRAMES)


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError where width × height is over `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            path,
            f"{width}×{height} is over the limit of {max_pixels / 1e6:g} megapixels: raise"
            " --max-megapixels or make it smaller",
        )
