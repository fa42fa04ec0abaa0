"""Mask files and label maps → whole numbers, strictly: a file that says more than one value a pixel is an error."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from unseg.storage.image_decoding import header_bits, in_bands, known_orientation, size_upright, turn
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import MAX_PIXELS, ImageError
from unseg.storage.image_metadata import exif_of
from unseg.storage.image_opening import ORIENTATION, opened

LOSSY = ("JPEG", "AVIF", "HEIF")
LABEL_BYTES = {"I": 8, "LA": 5, "RGB": 5, "RGBA": 5, "I;16": 4, "I;16B": 4}  # a pixel, of decoder and values together
LABEL_MEMORY = 600_000_000
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "LA", "RGB", "RGBA")


@dataclass(frozen=True)
class Label:
    """A decoded mask or label map, upright.

    values: H×W integers (palette images: the indices; black-and-white images: 0 and 255). palette: K×3 uint8 RGB, the
    colour of each index; None without a palette. lossy: it comes from a format that changes values (JPEG), so that
    class ids cannot be trusted. orientation: EXIF's, as the file has it.
    """

    values: np.ndarray
    palette: np.ndarray | None
    lossy: bool
    sha256: str
    orientation: int = 1


class OtherSize(ImageError):
    """A mask of another size than its image, whichever way it lies.

    size: its height and width, upright. orientation: EXIF's.
    """

    def __init__(self, path: Path, size: tuple[int, int], expected: tuple[int, int], orientation: int = 1) -> None:
        there, image = ("×".join(map(str, reversed(sides))) for sides in (size, expected))
        super().__init__(path, f"is {there}, the image (upright) is {image}: make them one size")
        self.size, self.orientation = size, orientation


def open_label(path: str | Path, max_pixels: int = MAX_PIXELS, expected: tuple[int, int] | None = None) -> Label:
    """Returns a mask or label map, or raises ImageError: grey, palette or black-and-white, up to 32 bits a value.

    A colour image is accepted only where its channels are equal and nothing is transparent. expected: height and width
    of its image, upright; a mask of another size, whichever way it lies, is an `OtherSize`, and is not decoded.
    """
    path = Path(path)
    return decode_label(path, bytes_of_image(path, max_pixels), max_pixels, expected)


def decode_label(
    path: Path, data: bytes, max_pixels: int = MAX_PIXELS, expected: tuple[int, int] | None = None
) -> Label:
    """Returns what `open_label` does for bytes that are in memory already; `path` is what errors name."""
    with opened(path, data, max_pixels) as found:
        image = found.image
        if image.mode not in LABEL_MODES:
            raise ImageError(path, f"a mask must be grey, palette or black-and-white, this one is {image.mode}")
        if image.mode in ("LA", "RGB", "RGBA") and header_bits(image, data) > 8:
            raise ImageError(path, "mask with more than 8 bits a channel: save it as grey PNG, one class id a pixel")
        exif, _ = exif_of(image, found.sound_exif)
        orientation, palette = known_orientation(exif.get(ORIENTATION, 1)), _palette_of(image)
        size = size_upright(image, orientation)
        if expected is None:
            _check_label_memory(path, image)
        elif size not in (expected, expected[::-1]):
            raise OtherSize(path, size, expected, orientation)
        image.load()
        turned = 1 if image.format == "TIFF" else orientation
        values = turn(in_bands(image, lambda part: _label_values(path, part)), turned)
        lossy = image.format in LOSSY
    return Label(values, palette, lossy, hashlib.sha256(data).hexdigest(), orientation)


def _label_values(path: Path, part: Pillow.Image) -> np.ndarray:
    """Returns the values of a part of a mask, H×W; ImageError where colours or transparency say more than one value."""
    values, mode = np.asarray(part), part.mode
    if mode == "1":
        values = values.astype(np.uint8) * 255
    if mode in ("LA", "RGBA") and (values[..., -1] != 255).any():
        raise ImageError(path, "mask with transparency: save it as grey or palette PNG without alpha")
    if mode in ("RGB", "RGBA") and (values[..., :1] != values[..., 1:3]).any():
        raise ImageError(path, "colour mask: save it as grey or palette PNG, one class id a pixel")
    return values if values.ndim == 2 else values[..., 0]


def _check_label_memory(path: Path, image: Pillow.Image) -> None:
    """Raises ImageError where a mask, for which no image vouches, takes far more memory than one of 8 bits can."""
    if image.width * image.height * LABEL_BYTES.get(image.mode, 2) > LABEL_MEMORY:
        raise ImageError(
            path, f"a mask of {image.width}×{image.height} in {image.mode}: save it as grey, 8 bits a pixel"
        )


def _palette_of(image: Pillow.Image) -> np.ndarray | None:
    """Returns the colour of each of 256 indices, 256×3 uint8, black where the file names none; None without palette."""
    if image.mode != "P":
        return None
    colours = np.zeros((256, 3), np.uint8)
    named = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    colours[: len(named)] = named
    return colours


def read_label(path: str | Path) -> np.ndarray:
    """Returns the values of a mask or label map, H×W integers; see `open_label`."""
    return open_label(path).values
