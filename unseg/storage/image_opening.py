"""A picture's bytes → an image that Pillow has opened and not yet decoded: checked, and cleaned of what harms it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from unseg.errors import is_there, needs
from unseg.storage.bmp_structure import check_bmp
from unseg.storage.cleaned_file import KEEPS_BUSY, CleanedFile
from unseg.storage.gif_structure import clean_gif
from unseg.storage.image_headers import promised_size
from unseg.storage.image_limits import (
    CONVERT,
    FORMATS,
    SEVERAL_FRAMES,
    ImageError,
    check_header,
    check_size,
    image_errors,
)
from unseg.storage.jpeg_structure import clean_jpeg
from unseg.storage.jxl_structure import jxl_header
from unseg.storage.picture_kinds import PLANES, START, kind_of
from unseg.storage.png_structure import clean_png
from unseg.storage.tiff_structure import check_tiff, holds_floats
from unseg.storage.tiff_tags import has_sound_exif, unfolds

PLUGINS = {"HEIF": ("HEIC", "pillow_heif"), "JXL": ("JPEG XL", "pillow_jxl")}
CLEANERS = {"BMP": check_bmp, "PNG": clean_png, "JPEG": clean_jpeg, "GIF": clean_gif, "TIFF": check_tiff}
ORIENTATION = ExifTags.Base.Orientation
EXIF_MARK = b"Exif\0\0"
AV1_CONFIGURATION = b"av1C"  # whose third byte says whether there are more than 8 bits (AV1-ISOBMFF, 2.3.3)


@dataclass(frozen=True)
class Opened:
    """An image whose header is read.

    cleaned: its file. sound_exif: whether its EXIF may be read. turned_by: a TIFF file's orientation, by which Pillow
    turns its pixels when it loads them, and forgets it; 1 for other formats.
    """

    image: Pillow.Image
    cleaned: CleanedFile
    sound_exif: bool
    turned_by: object

    @property
    def notes(self) -> list[str]:
        """Returns a sentence for each thing that its output will lack."""
        deep = self._depth() > 8
        return [*self.cleaned.left_out, *([f"{self._depth()} bits a channel to 8"] if deep else [])]

    def _depth(self) -> int:
        """Returns the bits a channel of formats whose decoder gives 8 whatever they have; 8 for the others."""
        if self.image.format == "HEIF":
            return int(self.image.info.get("bit_depth", 8))
        if self.image.format == "JXL" and self.image.mode in ("RGB", "RGBA", "L", "LA"):
            header = jxl_header(self.cleaned.data)
            return 8 if header is None else header.depth
        place = self.cleaned.data.find(AV1_CONFIGURATION) if self.image.format == "AVIF" else -1
        flags = self.cleaned.data[place + 6] if 0 <= place < len(self.cleaned.data) - 6 else 0
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


@contextmanager
def opened(path: Path, data: bytes, max_pixels: int) -> Iterator[Opened]:
    """Opens an image of a known format and checks what its header promises.

    What goes wrong inside is one ImageError.
    """
    with image_errors(path):
        kind = _known_kind(path, data)
        check_size(path, *promised_size(io.BytesIO(data)), max_pixels)
        cleaner = CLEANERS.get(kind)
        if cleaner is not None:
            cleaned = cleaner(path, data)
        elif unfolds(data):
            raise ImageError(path, f"metadata that unfold into more than the file: {KEEPS_BUSY}")
        else:
            cleaned = CleanedFile(data)
        with _recognised(path, cleaned.data, kind) as image:
            check_header(path, image, max_pixels)
            _upright(image)
            turned_by = image.tag_v2.get(ORIENTATION, 1) if isinstance(image, TiffImageFile) else 1
            yield Opened(image, cleaned, _has_sound_exif(image), turned_by)


def _recognised(path: Path, data: bytes, kind: str) -> Pillow.Image:
    try:
        return Pillow.open(io.BytesIO(data), formats=[kind])
    except UnidentifiedImageError:
        if kind == "TIFF" and holds_floats(data):
            raise ImageError(path, f"floating-point values: {CONVERT}") from None
        raise


def _known_kind(path: Path, data: bytes) -> str:
    """Returns the format of a picture that can be read; ImageError names what cannot."""
    kind = kind_of(data[:START])
    if kind is None:
        raise ImageError(path, f"not an image of a known format ({', '.join(FORMATS)})")
    if kind in PLANES:
        remedy = "save it as PNG, or give its file to unseg protect --out FOLDER"
        raise ImageError(path, f"{kind} is not read here: {remedy}")
    if kind not in FORMATS:
        raise ImageError(path, f"{kind} is not read: save it as PNG or TIFF first")
    if kind in PLUGINS:
        name, module = PLUGINS[kind]
        if not is_there(module):
            raise ImageError(path, f"{name} {needs(module)}")
        plugin = import_module(module)
        if kind == "HEIF":
            plugin.register_heif_opener()
    if kind == "JXL":
        _check_jxl(path, data)
    return kind


def _check_jxl(path: Path, data: bytes) -> None:
    """Raises ImageError where a JPEG XL file's header does not say its size, since its decoder decodes as it opens."""
    header = jxl_header(data)
    if header is None:
        raise ImageError(path, "broken image: its header says no size")
    if header.animated:
        raise ImageError(path, SEVERAL_FRAMES)


def _upright(image: Pillow.Image) -> None:
    """Takes the orientation out of the EXIF of a JPEG XL image, whose decoder applies its own, which is the same."""
    block = image.info.get("exif")
    if image.format != "JXL" or not block or getattr(image, "jpeg", False):  # a JPEG inside is decoded as it is stored
        return
    if not has_sound_exif(io.BytesIO(bytes(block).removeprefix(EXIF_MARK))):
        return
    found = Pillow.Exif()
    found.load(bytes(block))
    if ORIENTATION in found:
        del found[ORIENTATION]
        image.info["exif"] = found.tobytes()


def _has_sound_exif(image: Pillow.Image) -> bool:
    """Returns whether an image has EXIF that can be read, or none."""
    if image.format == "TIFF":
        return True  # what is not has been taken out
    block = image.info.get("exif")
    if block is None and "Raw profile type exif" in image.info:  # as ImageMagick writes it into PNG: in hexadecimal
        try:
            block = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        except ValueError:
            return False
    return not block or has_sound_exif(io.BytesIO(bytes(block).removeprefix(EXIF_MARK)))
