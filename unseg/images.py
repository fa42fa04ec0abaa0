"""Image files: strict decoding, lossless and atomic encoding.

Pixels are upright: the EXIF orientation is applied when reading, because what is written carries no EXIF. Colour
profiles and alpha are kept. What cannot be read whole is an error that names the file, never a partly grey image.
"""
from __future__ import annotations

import hashlib
import io
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from typing import BinaryIO

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from unseg.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MULTI_PICTURE = "MPO"  # a JPEG with a second picture behind it, as many phones write; the first is the photograph
MAX_PIXELS = 200_000_000
WEBP_SIDE, JPEG_SIDE = 16_383, 65_500  # the most that libwebp and libjpeg write
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".unseg-", ".tmp"
# What Pillow raises on broken files of the formats above; anything else is a bug and must be seen.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, TypeError, KeyError, IndexError,
                 struct.error, zlib.error, Pillow.DecompressionBombError)
Z_RLE, Z_FILTERED = 3, 1  # zlib strategies


class ImageError(UserError):
    """A file that cannot be used as it is: `path` and `reason`; the message is both."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason


@dataclass(frozen=True)
class Image:
    """A decoded image, upright.

    pixels: H×W×3 uint8 RGB, contiguous. alpha: H×W uint8 or None. icc_profile: RGB colour profile or None.
    note: the conversion that decoding made ("grey to RGB") or None. sha256: of the file's bytes.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    note: str | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Label:
    """A decoded mask or label map, upright.

    values: H×W integers (palette images: the indices; black-and-white images: 0 and 255). palette: it has a palette.
    lossy: it comes from a format that changes values (JPEG), so that class ids cannot be trusted.
    """

    values: np.ndarray
    palette: bool
    lossy: bool
    sha256: str


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode `path` (JPEG, PNG, WebP, BMP, TIFF) completely or raise ImageError. 16 bits a channel are refused."""
    path = Path(path)
    data = read_bytes(path)
    with _decoding(path, data, max_pixels) as image:
        if _bits_per_channel(image, data) > 8:
            raise ImageError(path, "more than 8 bits a channel: convert it to 8 bits first")
        icc_profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
        mode, has_alpha = image.mode, _has_alpha(image)
        image = ImageOps.exif_transpose(image)
        target = "RGBA" if has_alpha else "RGB"
        pixels = np.array(image if image.mode == target else image.convert(target))
    alpha = np.ascontiguousarray(pixels[..., 3]) if has_alpha else None
    return Image(np.ascontiguousarray(pixels[..., :3]), alpha, icc_profile, _note(mode, target),
                 hashlib.sha256(data).hexdigest())


def open_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> Label:
    """Decode a mask or label map or raise ImageError: grey, palette or black-and-white, up to 32 bits a value.

    A colour image is accepted only where its channels are equal and nothing is transparent.
    """
    path = Path(path)
    return decode_label(path, read_bytes(path), max_pixels)


def decode_label(path: Path, data: bytes, max_pixels: int = MAX_PIXELS) -> Label:
    """`open_label` for bytes that are in memory already; `path` is what errors name."""
    with _decoding(path, data, max_pixels) as image:
        mode, lossy = image.mode, image.format in ("JPEG", MULTI_PICTURE)
        if mode not in ("1", "L", "P", "I", "I;16", "I;16B", "LA", "RGB", "RGBA"):
            raise ImageError(path, f"a mask must be grey, palette or black-and-white, this one is {mode}")
        values = np.array(ImageOps.exif_transpose(image))
    if mode == "1":
        values = values.astype(np.uint8) * 255
    if mode in ("LA", "RGBA") and (values[..., -1] != 255).any():
        raise ImageError(path, "mask with transparency: save it as grey or palette PNG without alpha")
    if mode in ("RGB", "RGBA") and (values[..., :1] != values[..., 1:3]).any():
        raise ImageError(path, "colour mask: save it as grey or palette PNG, one class id a pixel")
    values = values if values.ndim == 2 else values[..., 0]
    return Label(np.ascontiguousarray(values), mode == "P", lossy, hashlib.sha256(data).hexdigest())


def read_label(path: str | Path) -> np.ndarray:
    """The values of a mask or label map, H×W integers; see `open_label`."""
    return open_label(path).values


def pixel_count(file: Path | BinaryIO) -> int:
    """Pixels that the file's header promises, without decoding; 0 where the header cannot be read."""
    try:
        with Pillow.open(file, formats=FORMATS) as image:
            return image.width * image.height
    except DECODE_ERRORS:
        return 0


def read_bytes(path: Path) -> bytes:
    """The file's bytes; ImageError where it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageError(path, "the file is empty (0 bytes)")
    return data


def write_png(path: str | Path, pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None,
              icc_profile: bytes | None = None) -> str:
    """Write a PNG atomically and return its sha256. pixels: H×W×3 or H×W uint8; alpha: H×W uint8."""
    return write_bytes(path, encode_png(pixels, level, alpha=alpha, icc_profile=icc_profile))


def encode_png(pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None,
               icc_profile: bytes | None = None) -> bytes:
    """PNG bytes. level: 0 (stored) to 9 (smallest).

    Run-length matching is used below level 9: on noised 512×512 photographs it gave 440 kB in 25 ms at any level;
    zlib's other strategies gave 489 kB in 30 ms at level 1, 440 kB in 93 ms at level 6; level 9 gives 438 kB in 169 ms.
    """
    strategy = Z_FILTERED if level == 9 else Z_RLE
    return _encode(pixels, alpha, "PNG", compress_level=level, compress_type=strategy, icc_profile=icc_profile)


def encode_webp(pixels: np.ndarray, *, alpha: np.ndarray | None = None, icc_profile: bytes | None = None) -> bytes:
    """Lossless WebP: smaller and slower than PNG, at most 16,383 pixels a side (ValueError beyond)."""
    extra = {} if icc_profile is None else {"icc_profile": icc_profile}
    return _encode(pixels, alpha, "WEBP", lossless=True, exact=True, quality=20, method=0, **extra)


def encode_jpeg(pixels: np.ndarray, *, icc_profile: bytes | None = None) -> bytes:
    """JPEG at its best (quality 100, no chroma subsampling). It still changes values: see `unseg protect --format`."""
    extra = {} if icc_profile is None else {"icc_profile": icc_profile}
    return _encode(pixels, None, "JPEG", quality=100, subsampling=0, **extra)


def decode_pixels(data: bytes) -> np.ndarray:
    """H×W×3 uint8 of an image that this module encoded."""
    with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
        return np.array(image.convert("RGB"))


def write_bytes(path: str | Path, data: bytes, durable: bool = False) -> str:
    """Write atomically and return the sha256; makes missing folders. durable: as for `writing`."""
    with writing(path, durable) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def writing(path: str | Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once all is written (temporary file beside it, then rename).

    durable: also wait until the disk has it, so that it outlives a loss of power.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str | None:
    """sha256 of a file, or None where it is missing or unreadable."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
                else hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


@contextmanager
def own_size_limit() -> Iterator[None]:
    """Inside, Pillow's own pixel limit (about 178 million, with a warning from 89) yields to this module's."""
    before, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Pillow.MAX_IMAGE_PIXELS = before


@contextmanager
def _decoding(path: Path, data: bytes, max_pixels: int) -> Iterator[Pillow.Image]:
    """The loaded image, with Pillow's many errors turned into one ImageError that says what is wrong."""
    try:
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width}×{image.height}"
                raise ImageError(path, f"{size} is over the limit of {max_pixels / 1e6:g} megapixels: raise"
                                       " --max-megapixels or make it smaller")
            if image.format != MULTI_PICTURE and getattr(image, "n_frames", 1) > 1:
                raise ImageError(path, f"{image.n_frames} frames or pages: only still images can be protected")
            image.load()
            yield image
    except Pillow.UnidentifiedImageError as error:
        raise ImageError(path, f"not an image of a known format ({', '.join(FORMATS)})") from error
    except ImageError:
        raise
    except DECODE_ERRORS as error:
        raise ImageError(path, f"broken image: {error}") from error


def _bits_per_channel(image: Pillow.Image, data: bytes) -> int:
    """Pillow quietly cuts 16-bit RGB to 8, so the file's own header is asked."""
    if image.mode.startswith(("I", "F")):
        return 16
    if image.format == "PNG":
        return data[24]  # IHDR: 8 signature, 8 chunk header, 4 width, 4 height, then the bit depth
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def _has_alpha(image: Pillow.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _note(mode: str, target: str) -> str | None:
    names = {"1": "black-and-white", "L": "grey", "LA": "grey with alpha", "P": "palette", "PA": "palette with alpha"}
    return None if mode == target else f"{names.get(mode, mode)} to {target}"


def _encode(pixels: np.ndarray, alpha: np.ndarray | None, form: str, **options: object) -> bytes:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels: expected uint8, got {pixels.dtype}")
    array = pixels if alpha is None else np.dstack([pixels, alpha])
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(array)).save(buffer, form, **options)
    return buffer.getvalue()
