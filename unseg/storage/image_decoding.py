"""Image files → samples, strictly.

Pixels are upright: the EXIF orientation is applied when reading, because what is written carries none. Grey stays grey,
16 bits stay 16 bits, colour profiles and alpha are kept. A file that cannot be read whole is an error that names it,
never a partly grey image.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import CONVERT, FORMATS, MAX_PIXELS, ImageError
from unseg.storage.image_metadata import NO_GEOREFERENCE, NO_METADATA, Metadata, exif_of, metadata_of, telling_kinds
from unseg.storage.image_opening import ORIENTATION, Opened, opened
from unseg.storage.png_structure import transparent_level
from unseg.storage.tiff_structure import georeference_of

GREY_LEVEL_16 = 257  # 65535 / 255: a grey level of 255 in values of 16 bits
ORIENTATIONS = range(1, 9)
TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
NAME_OF_MODE = {
    "1": "black-and-white",
    "P": "palette",
    "PA": "palette with alpha",
    "L": "grey",
    "LA": "grey with alpha",
    "La": "premultiplied grey",
    "RGBa": "premultiplied RGBA",
}
RGB_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
BAND = 2**20  # pixels that are taken from the decoder at a time: all at once they would be there three times
# Tags of TIFF 6.0.
BITS_PER_SAMPLE, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 338, 339


@dataclass(frozen=True)
class Image:
    """A decoded image, upright.

    samples: H×W×C, C = 1 (grey) or 3 (RGB), uint8 or uint16, contiguous: the file's own values. alpha: H×W of the same
    type, or None. metadata: what may be kept. note: the conversion that decoding made ("palette to RGB"), or None.
    sha256: of the file's bytes. tells: kinds of metadata in the file that say more than colours ("EXIF", "XMP").
    orientation: EXIF's, 1 to 8, of the file; 1 where it has none, and of a TIFF whose pixels were asked for as stored,
    since its decoder turns them all the same. turned: the orientation by which the pixels were turned. format: "png", …
    """

    samples: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA
    note: str | None = None
    sha256: str = ""
    tells: tuple[str, ...] = ()
    orientation: int = 1
    turned: int = 1
    format: str = ""

    @property
    def pixels(self) -> np.ndarray:
        """Returns the image as networks see it: H×W×3 uint8 RGB. For 8-bit RGB these are the samples themselves."""
        return eight_bit_rgb(self.samples)


def eight_bit_rgb(samples_HWC: np.ndarray) -> np.ndarray:
    """Returns H×W×3 uint8 of samples H×W×1 or H×W×3, uint8 or uint16 (rounded to the nearest of 256 levels)."""
    if samples_HWC.ndim != 3 or samples_HWC.shape[2] not in (1, 3) or samples_HWC.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image: expected H×W×3 or H×W×1 of uint8 or uint16, got {samples_HWC.shape} {samples_HWC.dtype}"
        )
    if samples_HWC.dtype == np.uint16:
        # (v + 128) // 257 without leaving 16 bits
        samples_HWC = (samples_HWC // GREY_LEVEL_16 + (samples_HWC % GREY_LEVEL_16 > 128)).astype(np.uint8)
    return samples_HWC if samples_HWC.shape[2] == 3 else np.repeat(samples_HWC, 3, axis=2)


# --- images ----------------------------------------------------------------------------------------------------------


def read_image(
    path: str | Path,
    max_pixels: int = MAX_PIXELS,
    *,
    describe: bool = False,
    upright: bool = True,
    within: Sequence[Path] = (),
) -> Image:
    """Returns the image in `path` (JPEG, PNG, WebP, BMP, TIFF), decoded completely, or raises ImageError.

    8 bits a channel; 16 in PNG and TIFF. Palette, CMYK and YCbCr become RGB, black-and-white becomes grey, and the note
    says so. describe: also read EXIF and XMP into the metadata. upright: turn the pixels as EXIF's orientation says;
    else they lie as they are stored. within: the folders that links on the way may not lead out of, where there are
    such.
    """
    path = Path(path)
    data = bytes_of_image(path, max_pixels, within)
    return decode_image(path, data, max_pixels, describe=describe, upright=upright)


def decode_image(
    path: Path, data: bytes, max_pixels: int = MAX_PIXELS, *, describe: bool = False, upright: bool = True
) -> Image:
    """Returns what `read_image` does for bytes that are in memory already; `path` is what errors name."""
    with _decoding(path, data, max_pixels) as found:
        image = found.image
        bits = _check_kind(path, image, data)
        grey, has_alpha = image.mode in GREY_MODES, _has_alpha(image)
        exif, notes = exif_of(image, found.sound_exif)
        orientation = known_orientation(exif.get(ORIENTATION, 1))
        turned = orientation if upright else 1
        if bits == 16:
            samples, alpha, grey = _deep_samples(path, image, data, grey=grey, has_alpha=has_alpha)
        else:
            samples, alpha, conversions = _shallow_samples(image, grey, has_alpha)
            if grey and image.format == "PNG" and alpha is not None and "transparency" in image.info:
                alpha = _alpha_of_level(samples, data)
            notes = conversions + notes
        metadata, left_out = metadata_of(image, exif, grey, describe)
        tells = telling_kinds(image, exif, found.cleaned.tells)
        if "a georeference" in tells and describe and found.turned_by == 1:
            metadata = replace(metadata, georeference=georeference_of(data))
        elif "a georeference" in tells:
            left_out.append(NO_GEOREFERENCE)
    stored = known_orientation(found.turned_by) if orientation == 1 else orientation
    return Image(
        samples=turn(samples, turned),
        alpha=None if alpha is None else turn(alpha, turned),
        metadata=metadata,
        note="; ".join(dict.fromkeys([*notes, *found.notes, *left_out])) or None,
        sha256=hashlib.sha256(data).hexdigest(),
        tells=tells,
        orientation=stored if upright else orientation,
        turned=stored if upright else known_orientation(found.turned_by),
        format=str(image.format).lower(),
    )


def decode_samples(data: bytes) -> np.ndarray:
    """Returns the samples, H×W×C uint8 with C = 1 or 3, of an 8-bit image that `unseg.storage.image_encoding` made."""
    with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
        samples = np.array(image.convert("L" if image.mode in ("L", "LA") else "RGB"))
    return samples if samples.ndim == 3 else samples[..., None]


@dataclass(frozen=True)
class Frame:
    """The size of an image as it lies, and how EXIF says that it was turned: orientation 1 to 8.

    channels: of colour, 1 or 3. bits: of a channel, 8 or 16. has_alpha: whether there is transparency beside them.
    """

    height: int
    width: int
    orientation: int = 1
    channels: int = 3
    bits: int = 8
    has_alpha: bool = False

    @property
    def is_turned(self) -> bool:
        """Returns whether being upright exchanges width and height."""
        return self.orientation in TURNED


def frame_of(path: Path, max_pixels: int = MAX_PIXELS, data: bytes | None = None, *, upright: bool = True) -> Frame:
    """Returns the frame of the image that `read_image` would return, from the header alone.

    data: the image's bytes, where `path` is no file of its own. An ImageError says where the header shows that the
    image cannot be used.
    """
    data = bytes_of_image(path, max_pixels) if data is None else data
    with opened(path, data, max_pixels) as found:
        image = found.image
        bits, has_alpha = _check_kind(path, image, data), _has_alpha(image)
        exif, _ = exif_of(image, found.sound_exif)
        orientation = known_orientation(exif.get(ORIENTATION, 1))
        height, width = size_upright(image, orientation) if upright else (image.height, image.width)
        is_grey = image.mode in GREY_MODES if bits == 8 or not has_alpha else _is_grey_png(image, data)
        return Frame(height, width, orientation, 1 if is_grey else 3, bits, has_alpha)


def size_upright(image: Pillow.Image, orientation: int) -> tuple[int, int]:
    """Returns height and width once the orientation is applied; of a TIFF, Pillow states the turned size already."""
    turned = orientation in TURNED and image.format != "TIFF"
    return (image.width, image.height) if turned else (image.height, image.width)


# --- decoding --------------------------------------------------------------------------------------------------------


@contextmanager
def _decoding(path: Path, data: bytes, max_pixels: int) -> Iterator[Opened]:
    """Opens the image and loads its pixels; what goes wrong inside is one ImageError."""
    with opened(path, data, max_pixels) as found:
        found.image.load()
        yield found


def _check_kind(path: Path, image: Pillow.Image, data: bytes) -> int:
    """Returns bits a channel, 8 or 16; raises ImageError for kinds of images that cannot be kept exactly."""
    bits = header_bits(image, data)
    if bits > 8:
        if unusable := _unusable_depth(image, bits):
            raise ImageError(path, f"{unusable}: {CONVERT}")
        bits = 16
    if image.mode not in (*GREY_MODES, *RGB_MODES):
        raise ImageError(path, f"{image.mode} colours: save it as RGB or grey first")
    return max(bits, 8)


def _unusable_depth(image: Pillow.Image, bits: int) -> str | None:
    """Returns why values of more than 8 bits cannot be kept exactly; None where they can."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    sample_formats = _tuple(tags.get(SAMPLE_FORMAT, 1))
    if image.mode == "F" or 3 in sample_formats:
        return "floating-point values"
    if 2 in sample_formats:
        return "signed values"
    if bits != 16 or (image.mode == "I" and image.format == "TIFF"):
        return f"{bits} bits a channel"
    if tags.get(PHOTOMETRIC, 1) == 0:
        return "16 bits with white as zero"
    if 1 in _tuple(tags.get(EXTRA_SAMPLES, 2)):
        return "16 bits with premultiplied alpha"
    return None


def header_bits(image: Pillow.Image, data: bytes) -> int:
    """Returns the bits a channel that the file's own header states: Pillow quietly cuts 16-bit RGB to 8."""
    if image.format == "PNG":
        return data[24]  # IHDR: 8 signature, 8 chunk header, 4 width, 4 height, then the bit depth
    if isinstance(image, TiffImageFile):
        return max(_tuple(image.tag_v2.get(BITS_PER_SAMPLE, 1)))
    return 16 if image.mode.startswith(("I", "F")) else 8


def _tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _shallow_samples(
    image: Pillow.Image, grey: bool, has_alpha: bool
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Returns samples H×W×C and alpha H×W of an 8-bit image, and the conversion that it took, if any."""
    kept = "L" if grey else "RGB"
    target = f"{kept}A" if has_alpha else kept
    array = in_bands(image, lambda part: np.asarray(part if part.mode == target else part.convert(target)))
    array = array if array.ndim == 3 else array[..., None]
    samples, alpha = (array[..., :-1], array[..., -1]) if has_alpha else (array, None)
    if image.mode in (target, kept):
        return samples, alpha, []
    names = NAME_OF_MODE.get(image.mode, image.mode), NAME_OF_MODE.get(target, target)
    return samples, alpha, [" to ".join(names)]


def _deep_samples(
    path: Path, image: Pillow.Image, data: bytes, *, grey: bool, has_alpha: bool
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Returns samples and alpha of a 16-bit image, as its file has them, and whether it is grey.

    Pillow reads 16-bit grey and the high bytes of 16-bit colour; OpenCV reads all bits. What they agree on is right,
    and kinds that one of them misreads (planes stored apart) are refused.
    """
    if grey and not has_alpha:
        return in_bands(image, lambda part: np.asarray(part).astype(np.uint16))[..., None], None, True
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != (image.height, image.width):
        raise ImageError(path, "16 bits a channel, stored in a way that is not read: save it as 16-bit PNG")
    values = values if values.ndim == 3 else values[..., None]
    values = values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] >= 3 else values  # OpenCV's order is BGR
    colours, alpha = values[..., :3], values[..., 3] if values.shape[2] == 4 else None
    if "transparency" in image.info and alpha is None:  # one colour stands for what is transparent
        alpha = (colours != np.asarray(image.info["transparency"], np.uint16)).any(axis=2) * np.uint16(65535)
    if not _high_bytes_agree(image, colours, alpha):
        raise ImageError(path, "16 bits a channel, stored in a way that is not read exactly: save it as 16-bit PNG")
    grey = _is_grey_png(image, data)
    return colours[..., :1] if grey else colours, alpha, grey


def _is_grey_png(image: Pillow.Image, data: bytes) -> bool:
    return image.format == "PNG" and data[25] in (0, 4)  # colour types without colour


def _high_bytes_agree(image: Pillow.Image, colours_HW3: np.ndarray, alpha_HW: np.ndarray | None) -> bool:
    """Returns whether Pillow, where it reads colour, has the high bytes of these 16-bit values."""
    if image.mode not in ("RGB", "RGBA"):
        return True
    seen = np.asarray(image.convert("RGB" if alpha_HW is None else "RGBA"))
    if not np.array_equal(seen[..., :3], colours_HW3 >> 8):
        return False
    return image.mode == "RGB" or (alpha_HW is not None and np.array_equal(seen[..., 3], alpha_HW >> 8))


def _alpha_of_level(samples_HW1: np.ndarray, data: bytes) -> np.ndarray:
    """Returns the alpha of an 8-bit grey image of a PNG in which one grey level is transparent.

    The level is written in the file's own bits, 1 to 8, whereas the samples reach from 0 to 255 (PNG, 11.3.1.1).
    """
    level, highest = transparent_level(data), 2 ** data[24] - 1
    opaque = np.ones(samples_HW1.shape[:2], bool) if level is None else samples_HW1[..., 0] != level * (255 // highest)
    return opaque * np.uint8(255)


def _has_alpha(image: Pillow.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def in_bands(image: Pillow.Image, values_of: Callable[[Pillow.Image], np.ndarray]) -> np.ndarray:
    """Returns H×W… values of a decoded image, of which `values_of` is given a band of rows at a time."""
    rows = max(1, BAND // image.width)
    if rows >= image.height:
        return np.array(values_of(image))  # torch takes only memory that may be written
    values = None
    for top in range(0, image.height, rows):
        band = values_of(image.crop((0, top, image.width, min(top + rows, image.height))))
        if values is None:
            values = np.empty((image.height, *band.shape[1:]), band.dtype)
        values[top : top + len(band)] = band
    assert values is not None, "an image has rows"
    return values


def known_orientation(value: object) -> int:
    """Returns EXIF's orientation; 1, as it lies, for anything that is none."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Returns H×W… turned and mirrored as EXIF's orientation (1 to 8) says, contiguous."""
    if orientation in TURNED:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)
