"""Image files: strict decoding, lossless encoding.

Pixels are upright: the EXIF orientation is applied when reading, because what is written carries none. Grey stays grey,
16 bits stay 16 bits, colour profiles and alpha are kept. What cannot be read whole is an error that names the file,
never a partly grey image; files are opened only if they are regular files of a size that their header explains.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import cv2
import numpy as np
from isal import isal_zlib
from PIL import ExifTags
from PIL import Image as Pillow

from unseg.errors import UserError
from unseg.storage.files import write_bytes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MULTI_PICTURE = "MPO"  # a JPEG with a second picture behind it, as many phones write; the first is the photograph
MAX_PIXELS = 200_000_000
BYTES_A_PIXEL = 8  # of the largest pixels that are read: four channels of 16 bits
METADATA_BYTES = 64 * 2**20  # beyond its pixels' bytes a file may be this large
JPEG_SCANS = 100  # ten are usual; each one costs a pass over all pixels, however few its bytes
WEBP_SIDE, JPEG_SIDE = 16_383, 65_500  # the most that libwebp and libjpeg write
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
Z_RLE, Z_FILTERED = 3, 1  # zlib strategies
ISAL_LEVEL = 2  # of its 0 to 3: 0.51 of the raw size in 13 ms a megapixel; 1: 0.52 in 12; 3: 0.51 in 21
PNG_HEADER_END = 33  # signature 8, IHDR 25
PNG_BAND, PNG_CHUNK = 2**18, 2**30  # bytes that are filtered at once; most bytes of a chunk
GREY_LEVEL_16 = 257  # 65535 / 255: a grey level of 255 in values of 16 bits
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
# What `--metadata keep` keeps of a file's main EXIF directory; the others describe how its pixels are stored.
KEPT_EXIF = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
)
SAID_BY_FILE = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
)
ORIENTATION, MAKER_NOTE = ExifTags.Base.Orientation, ExifTags.Base.MakerNote
EXIF, GPS, XMP, ICC = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, 700, 34675


class Deflater(Protocol):
    """A compressor of a stream, as zlib.compressobj makes it."""

    def compress(self, data: bytes | np.ndarray) -> bytes: ...
    def flush(self) -> bytes: ...


class ImageError(UserError):
    """A file that cannot be used as it is: `path` and `reason`; the message is both."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels.

    icc_profile: the colour profile of these pixels. exif: an EXIF block (a TIFF structure, without the "Exif" mark)
    without orientation, thumbnail and maker's notes, which hold pictures of their own. xmp: an XMP packet without
    orientation.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    def select(self, policy: str) -> Metadata:
        """What a copy carries under "keep" (all), "icc" (the colour profile) or "none"."""
        return {"keep": self, "icc": Metadata(self.icc_profile), "none": Metadata()}[policy]


@dataclass(frozen=True)
class Image:
    """A decoded image, upright.

    samples: H×W×C, C = 1 (grey) or 3 (RGB), uint8 or uint16, contiguous: the file's own values. alpha: H×W of the same
    type, or None. metadata: what may be kept. note: the conversion that decoding made ("palette to RGB"), or None.
    sha256: of the file's bytes. tells: kinds of metadata in the file that say more than colours ("EXIF", "XMP").
    """

    samples: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = Metadata()
    note: str | None = None
    sha256: str = ""
    tells: tuple[str, ...] = ()

    @property
    def pixels(self) -> np.ndarray:
        """H×W×3 uint8 RGB: what networks see. For 8-bit RGB the samples themselves."""
        return eight_bit_rgb(self.samples)


def eight_bit_rgb(samples_HWC: np.ndarray) -> np.ndarray:
    """H×W×3 uint8 of samples H×W×1 or H×W×3, uint8 or uint16 (rounded to the nearest of 256 levels)."""
    if samples_HWC.ndim != 3 or samples_HWC.shape[2] not in (1, 3) or samples_HWC.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image: expected H×W×3 or H×W×1 of uint8 or uint16, got {samples_HWC.shape} {samples_HWC.dtype}"
        )
    if samples_HWC.dtype == np.uint16:
        # (v + 128) // 257 without leaving 16 bits
        samples_HWC = (samples_HWC // GREY_LEVEL_16 + (samples_HWC % GREY_LEVEL_16 > 128)).astype(np.uint8)
    return samples_HWC if samples_HWC.shape[2] == 3 else np.repeat(samples_HWC, 3, axis=2)


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


# --- decoding --------------------------------------------------------------------------------------------------------


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS, *, describe: bool = False) -> Image:
    """Decode `path` (JPEG, PNG, WebP, BMP, TIFF) completely or raise ImageError.

    8 bits a channel; 16 in PNG and TIFF. Palette, CMYK and YCbCr become RGB, black-and-white becomes grey, and the note
    says so. describe: also read EXIF and XMP into the metadata.
    """
    path = Path(path)
    return decode_image(path, _bytes_of_image(path, max_pixels), max_pixels, describe=describe)


def decode_image(path: Path, data: bytes, max_pixels: int = MAX_PIXELS, *, describe: bool = False) -> Image:
    """`read_image` for bytes that are in memory already; `path` is what errors name."""
    with _decoding(path, data, max_pixels) as image:
        bits = _check_kind(path, image, data)
        grey, has_alpha = image.mode in GREY_MODES, _has_alpha(image)
        orientation = image.getexif().get(ORIENTATION, 1)
        if bits == 16:
            samples, alpha, grey = _deep_samples(path, image, data, grey, has_alpha)
            notes = []
        else:
            target = ("L" if grey else "RGB") + ("A" if has_alpha else "")
            array = np.array(image if image.mode == target else image.convert(target))
            array = array if array.ndim == 3 else array[..., None]
            samples, alpha = (array[..., :-1], array[..., -1]) if has_alpha else (array, None)
            notes = (
                []
                if image.mode in (target, target.removesuffix("A"))
                else [f"{NAME_OF_MODE.get(image.mode, image.mode)} to {NAME_OF_MODE.get(target, target)}"]
            )
        metadata, left_out = _metadata(image, grey, describe)
        tells = _tells(image)
    samples, alpha = (
        None if part is None else np.ascontiguousarray(_upright(part, orientation)) for part in (samples, alpha)
    )
    return Image(samples, alpha, metadata, "; ".join(notes + left_out) or None, hashlib.sha256(data).hexdigest(), tells)


def open_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> Label:
    """Decode a mask or label map or raise ImageError: grey, palette or black-and-white, up to 32 bits a value.

    A colour image is accepted only where its channels are equal and nothing is transparent.
    """
    path = Path(path)
    return decode_label(path, _bytes_of_image(path, max_pixels), max_pixels)


def decode_label(path: Path, data: bytes, max_pixels: int = MAX_PIXELS) -> Label:
    """`open_label` for bytes that are in memory already; `path` is what errors name."""
    with _decoding(path, data, max_pixels) as image:
        mode, lossy = image.mode, image.format in ("JPEG", MULTI_PICTURE)
        if mode not in ("1", "L", "P", "I", "I;16", "I;16B", "LA", "RGB", "RGBA"):
            raise ImageError(path, f"a mask must be grey, palette or black-and-white, this one is {mode}")
        if mode in ("LA", "RGB", "RGBA") and _header_bits(image, data) > 8:
            raise ImageError(path, "mask with more than 8 bits a channel: save it as grey PNG, one class id a pixel")
        values = np.ascontiguousarray(_upright(np.asarray(image), image.getexif().get(ORIENTATION, 1)))
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


def upright_size(path: Path, max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> tuple[int, int]:
    """Height and width that `read_image` would find, from the header alone. data: the file's bytes, where it is none of its
    own. ImageError for what the header shows to be unusable.
    """
    data = _bytes_of_image(path, max_pixels) if data is None else data
    with _image_errors(path):
        _check_size(path, *_webp_size(data[:30]), max_pixels)
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(path, image, max_pixels)
            _check_kind(path, image, data)
            # Pillow decodes a PNG to look for EXIF behind its pixels; there is none without the chunk's name.
            exif = image.getexif() if image.format != "PNG" or b"eXIf" in data else Pillow.Image.getexif(image)
            turned = exif.get(ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)


def pixel_count(file: Path | BinaryIO) -> int:
    """Pixels that the file's header promises, without decoding; 0 where the header cannot be read."""
    try:
        if isinstance(file, Path):
            with open_regular(file) as opened:
                return pixel_count(opened)
        width, height = _webp_size(file.read(30))
        if width:
            return width * height
        file.seek(0)
        with Pillow.open(file, formats=FORMATS) as image:
            return image.width * image.height
    except (ImageError, *DECODE_ERRORS):
        return 0


def open_regular(path: Path) -> BinaryIO:
    """The file, opened for reading; ImageError where it is missing, unreadable or empty, or no regular file.

    A pipe would wait for ever for what it holds, and some devices have no end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise ImageError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    file = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        file.close()
        regular = stat.S_ISREG(found.st_mode)
        raise ImageError(path, "the file is empty (0 bytes)" if regular else "cannot be read: no regular file")
    return file


def read_bytes(path: Path) -> bytes:
    """The file's bytes; ImageError where it is missing, unreadable or empty."""
    with open_regular(path) as file:
        return file.read()


@contextmanager
def own_size_limit() -> Iterator[None]:
    """Inside, Pillow's own pixel limit (about 178 million, with a warning from 89) yields to this module's."""
    before, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Pillow.MAX_IMAGE_PIXELS = before


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Inside, decoders do not print what they think of odd files: what matters is in the ledger, by the file's name."""
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


@contextmanager
def _decoding(path: Path, data: bytes, max_pixels: int) -> Iterator[Pillow.Image]:
    """The loaded image; what goes wrong inside is one ImageError."""
    with _image_errors(path):
        _check_size(path, *_webp_size(data[:30]), max_pixels)
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(path, image, max_pixels)
            if image.format in ("JPEG", MULTI_PICTURE) and data.count(b"\xff\xda") > JPEG_SCANS:
                raise ImageError(path, f"more than {JPEG_SCANS} scans: made to keep a decoder busy, or damaged")
            image.load()
            yield image


@contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    """The decoders' many errors turned into one ImageError that says what is wrong."""
    try:
        yield
    except Pillow.UnidentifiedImageError as error:
        raise ImageError(path, f"not an image of a known format ({', '.join(FORMATS)})") from error
    except ImageError:
        raise
    except DECODE_ERRORS as error:
        said = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise ImageError(path, f"broken image: {said}") from error


def _bytes_of_image(path: Path, max_pixels: int) -> bytes:
    """The bytes of a file whose header was looked at first, so that no file makes us read more than it can need."""
    with open_regular(path) as file, _image_errors(path):
        size = os.fstat(file.fileno()).st_size
        limit = max_pixels * BYTES_A_PIXEL + METADATA_BYTES
        if size > limit:
            raise ImageError(
                path,
                f"{size:,} bytes are more than an image of {max_pixels / 1e6:g} megapixels needs: raise"
                " --max-megapixels if it is one",
            )
        _check_size(path, *_webp_size(file.read(30)), max_pixels)
        file.seek(0)
        with Pillow.open(file, formats=FORMATS) as image:
            _check_header(path, image, max_pixels)
            width, height = image.size
        limit = width * height * BYTES_A_PIXEL + METADATA_BYTES
        if size > limit:
            raise ImageError(path, f"{size:,} bytes are more than an image of {width}×{height} needs")
        file.seek(0)
        return file.read(limit)


def _check_header(path: Path, image: Pillow.Image, max_pixels: int) -> None:
    _check_size(path, image.width, image.height, max_pixels)
    if image.format == MULTI_PICTURE:
        return
    try:
        image.seek(1)  # not n_frames: to count the pages of a TIFF is to read through them all
    except EOFError:
        image.seek(0)
    else:
        raise ImageError(path, "several frames or pages: only still images can be protected")


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            path,
            f"{width}×{height} is over the limit of {max_pixels / 1e6:g} megapixels: raise"
            " --max-megapixels or make it smaller",
        )


def _webp_size(start: bytes) -> tuple[int, int]:
    """Width and height that a WebP file's first 30 bytes promise (RFC 9649); 0 and 0 for anything else.

    Asked before Pillow, which reads a WebP file whole and sets its canvas up when it opens it.
    """
    if len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0, 0
    if start[12:16] == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF


def _check_kind(path: Path, image: Pillow.Image, data: bytes) -> int:
    """Bits a channel, 8 or 16; ImageError for kinds of images that cannot be kept exactly."""
    bits = _bits_per_channel(path, image, data)
    if image.mode not in (*GREY_MODES, *RGB_MODES):
        raise ImageError(path, f"{image.mode} colours: save it as RGB or grey first")
    return bits


def _bits_per_channel(path: Path, image: Pillow.Image, data: bytes) -> int:
    """8 or 16; ImageError for other depths and for kinds of 16 bits that cannot be kept exactly."""
    bits = _header_bits(image, data)
    if bits <= 8:
        return 8
    tags = image.tag_v2 if image.format == "TIFF" else {}
    kind = (
        "floating-point values"
        if image.mode == "F" or 3 in _tuple(tags.get(339, 1))
        else "signed values"
        if 2 in _tuple(tags.get(339, 1))
        else f"{bits} bits a channel"
        if bits != 16 or image.mode == "I" and image.format == "TIFF"
        else "16 bits with white as zero"
        if tags.get(262, 1) == 0
        else "16 bits with premultiplied alpha"
        if 1 in _tuple(tags.get(338, 2))
        else None
    )
    if kind:
        raise ImageError(path, f"{kind}: convert it to 8 or 16 bits a channel, unsigned, first")
    return 16


def _header_bits(image: Pillow.Image, data: bytes) -> int:
    """Pillow quietly cuts 16-bit RGB to 8, so the file's own header is asked."""
    if image.format == "PNG":
        return data[24]  # IHDR: 8 signature, 8 chunk header, 4 width, 4 height, then the bit depth
    if image.format == "TIFF":
        return max(_tuple(image.tag_v2.get(258, 1)))
    return 16 if image.mode.startswith(("I", "F")) else 8


def _tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _deep_samples(
    path: Path, image: Pillow.Image, data: bytes, grey: bool, has_alpha: bool
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Samples and alpha of a 16-bit image, as its file has them, and whether it is grey.

    Pillow reads 16-bit grey and the high bytes of 16-bit colour; OpenCV reads all bits. What they agree on is right,
    and kinds that one of them misreads (planes stored apart) are refused.
    """
    if grey and not has_alpha:
        return np.asarray(image).astype(np.uint16)[..., None], None, True
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != (image.height, image.width):
        raise ImageError(path, "16 bits a channel, stored in a way that is not read: save it as 16-bit PNG")
    values = values if values.ndim == 3 else values[..., None]
    values = values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] >= 3 else values  # OpenCV's order is BGR
    colours, alpha = values[..., :3], values[..., 3] if values.shape[2] == 4 else None
    if "transparency" in image.info and alpha is None:  # one colour stands for what is transparent
        alpha = (colours != np.asarray(image.info["transparency"], np.uint16)).any(axis=2) * np.uint16(65535)
    grey = image.format == "PNG" and data[25] in (0, 4)  # colour types without colour
    seen = np.asarray(image.convert("RGBA" if alpha is not None else "RGB")) if image.mode in ("RGB", "RGBA") else None
    if seen is not None and not (
        np.array_equal(seen[..., :3], colours >> 8)
        and (image.mode == "RGB" or np.array_equal(seen[..., 3], alpha >> 8))
    ):
        raise ImageError(path, "16 bits a channel, stored in a way that is not read exactly: save it as 16-bit PNG")
    return colours[..., :1] if grey else colours, alpha, grey


def _upright(values: np.ndarray, orientation: object) -> np.ndarray:
    """H×W… turned and mirrored as EXIF's orientation (1 to 8) says; anything else leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _has_alpha(image: Pillow.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


# --- metadata --------------------------------------------------------------------------------------------------------


def _metadata(image: Pillow.Image, grey: bool, describe: bool) -> tuple[Metadata, list[str]]:
    """The metadata that fit the decoded samples, and a sentence for each that had to be left out."""
    left_out = []
    icc_profile = image.info.get("icc_profile") or None
    kind = icc_profile[16:20] if icc_profile else b""  # the profile's colour space (ICC.1, 7.2)
    if icc_profile and kind != (b"GRAY" if grey else b"RGB "):
        left_out.append(f"its colour profile is for {kind.decode('ascii', 'replace').strip()!r} and was left out")
        icc_profile = None
    if icc_profile is None and "gamma" in image.info and abs(image.info["gamma"] - 1 / 2.2) > 1e-3:
        left_out.append(f"its gamma of {image.info['gamma']:g} was left out: it may look different")
    exif = xmp = None
    if describe:
        try:
            exif = _exif(image)
        except DECODE_ERRORS:
            left_out.append("its EXIF is damaged and was left out")
        xmp, sentence = _xmp(image)
        left_out += sentence
    return Metadata(icc_profile, exif, xmp), left_out


def _exif(image: Pillow.Image) -> bytes | None:
    """The EXIF block that may be kept: see `Metadata`."""
    found, kept = image.getexif(), Pillow.Exif()
    for tag in KEPT_EXIF:
        if tag in found:
            kept[tag] = found[tag]
    for directory in (EXIF, GPS):
        values = {
            tag: value
            for tag, value in found.get_ifd(directory).items()
            if tag not in (MAKER_NOTE, ExifTags.IFD.Interop)
        }
        if values:
            kept[directory] = values
    return kept.tobytes().removeprefix(b"Exif\0\0") if kept else None


def _xmp(image: Pillow.Image) -> tuple[bytes | None, list[str]]:
    """The XMP packet that may be kept, and why one is not."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet or b"")
    if not packet:
        return None, []
    if b"xmpGImg" in packet or b"Thumbnails" in packet:
        return None, ["its XMP holds a thumbnail and was left out"]
    if b"tiff:Orientation" in packet:
        return None, ["its XMP holds an orientation and was left out"]
    return packet, []


def _tells(image: Pillow.Image) -> tuple[str, ...]:
    """The kinds of metadata in a file that say who, where or with what it was taken."""
    exif = image.getexif()
    told = {
        "EXIF": any(tag in exif for tag in (*SAID_BY_FILE, EXIF, GPS)),
        "XMP": bool(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")),
        "IPTC": bool(image.info.get("photoshop")),
        "a comment": bool(image.info.get("comment") or getattr(image, "text", None)),
    }
    return tuple(kind for kind, found in told.items() if found)


# --- encoding --------------------------------------------------------------------------------------------------------


def unsupported(form: str, samples_HWC: np.ndarray, alpha_HW: np.ndarray | None) -> str | None:
    """Why `form` ("png", "tiff", "webp", "jpeg") cannot hold an image, with the remedy; None where it can."""
    height, width, channels = samples_HWC.shape
    name = {"png": "PNG", "tiff": "TIFF", "webp": "WebP", "jpeg": "JPEG"}[form]
    side = {"webp": WEBP_SIDE, "jpeg": JPEG_SIDE}.get(form)
    if side and max(height, width) > side:
        return f"{name} holds at most {side} pixels a side: use --format png"
    if side and samples_HWC.dtype == np.uint16:
        return f"{name} holds 8 bits a channel, it has 16: use --format png or tiff"
    if form == "jpeg" and alpha_HW is not None:
        return "JPEG cannot keep its transparency: use --format png"
    if form == "tiff" and channels == 1 and alpha_HW is not None and samples_HWC.dtype == np.uint16:
        return "16-bit grey TIFF with transparency is read by few programs, this one not among them: use --format png"
    return None


def encode(
    form: str,
    samples_HWC: np.ndarray,
    alpha_HW: np.ndarray | None = None,
    metadata: Metadata = Metadata(),
    level: int = 1,
) -> bytes:
    """The bytes of an image file that `unsupported` does not refuse. level: see `encode_png`; TIFF has it too."""
    if form == "png":
        return encode_png(samples_HWC, level, alpha=alpha_HW, metadata=metadata)
    if form == "tiff":
        return encode_tiff(samples_HWC, level, alpha=alpha_HW, metadata=metadata)
    if form == "webp":
        return encode_webp(samples_HWC, alpha=alpha_HW, metadata=metadata)
    return encode_jpeg(samples_HWC, metadata=metadata)


def write_png(path: str | Path, pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None) -> str:
    """Write a PNG atomically and return its sha256. pixels: H×W×3 or H×W, uint8 or uint16; alpha: H×W alike."""
    return write_bytes(path, encode_png(pixels, level, alpha=alpha))


def encode_png(
    pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None, metadata: Metadata = Metadata()
) -> bytes:
    """PNG bytes. level: 0 (stored) to 9 (smallest).

    Level 1 is differences between rows, deflated by ISA-L: for noised photographs 14 ms a megapixel on one core of 2022 and
    0.51 of the raw size. 8-bit images of the levels 2 to 8 take 77 ms for 0.49: libpng's choice of filters and run-length
    matching, which no level of zlib makes smaller or faster; level 9 twice as long. docs/performance.md has what was tried.
    """
    chunks = []
    if pixels.dtype == np.uint16 or level == 1:
        data = _png_of_row_differences(_with_alpha(pixels, alpha), level)
        if metadata.icc_profile:
            chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile)))
    else:
        strategy = Z_FILTERED if level == 9 else Z_RLE
        data = _encode(
            pixels, alpha, "PNG", compress_level=level, compress_type=strategy, icc_profile=metadata.icc_profile
        )
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    extra = b"".join(_png_chunk(kind, content) for kind, content in chunks)
    return data[:PNG_HEADER_END] + extra + data[PNG_HEADER_END:] if extra else data


def encode_tiff(
    pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None, metadata: Metadata = Metadata()
) -> bytes:
    """TIFF bytes: deflated strips with horizontal differences (TIFF 6.0, predictor 2). level: as for `encode_png`.

    An EXIF block is a TIFF file without picture, so it is the start of the file: what its entries point to stays where it
    is, and only its first directory is written anew, with the picture's entries among its own.
    """
    start = metadata.exif or b"II*\0" + bytes(4)
    order = "<" if start[:2] == b"II" else ">"
    samples = _with_alpha(pixels, alpha)
    height, width, channels = samples.shape
    rows = max(1, 2**20 // (width * channels * samples.itemsize))
    strips = []
    for top in range(0, height, rows):
        strip = samples[top : top + rows].copy()
        strip[:, 1:] -= samples[top : top + rows, :-1]
        packer = _deflater(level)
        strips.append(packer.compress(strip.astype(strip.dtype.newbyteorder(order)).tobytes()) + packer.flush())
    offsets = np.cumsum([len(start), *map(len, strips)]).tolist()
    own = {
        tag: (3, 2, np.array(values, f"{order}u2").tobytes())
        for tag, values in (
            (258, [8 * samples.itemsize] * channels),
            (259, 8),
            (262, 2 if channels > 2 else 1),
            (277, channels),
            (284, 1),
            (317, 2),
        )
    }
    own |= {
        tag: (4, 4, np.array(values, f"{order}u4").tobytes())
        for tag, values in (
            (256, width),
            (257, height),
            (273, offsets[:-1]),
            (278, rows),
            (279, [len(strip) for strip in strips]),
        )
    }
    if alpha is not None:
        own[338] = 3, 2, struct.pack(f"{order}H", 2)  # straight, not premultiplied
    own |= {tag: (7, 1, content) for tag, content in ((ICC, metadata.icc_profile), (XMP, metadata.xmp)) if content}
    entries = _tiff_entries(start, order)
    end = offsets[-1] + offsets[-1] % 2  # directories and values start at even places
    beyond, place = [], end + 2 + 12 * len(entries.keys() | own.keys()) + 4
    for tag, (kind, size, content) in own.items():
        value = content.ljust(4, b"\0")
        if len(content) > 4:
            value = struct.pack(f"{order}I", place)
            beyond.append(content + bytes(len(content) % 2))
            place += len(beyond[-1])
        entries[tag] = struct.pack(f"{order}HHI4s", tag, kind, len(content) // size, value)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    header = start[:4] + struct.pack(f"{order}I", end) + start[8:]
    return b"".join([header, *strips, bytes(end - offsets[-1]), directory, *beyond])


def _tiff_entries(block: bytes, order: str) -> dict[int, bytes]:
    """The entries of a TIFF structure's first directory, 12 bytes each, by tag."""
    (place,) = struct.unpack_from(f"{order}I", block, 4)
    if place == 0:
        return {}
    (count,) = struct.unpack_from(f"{order}H", block, place)
    rows = (block[place + 2 + 12 * number : place + 14 + 12 * number] for number in range(count))
    return {struct.unpack_from(f"{order}H", row)[0]: row for row in rows}


def encode_webp(pixels: np.ndarray, *, alpha: np.ndarray | None = None, metadata: Metadata = Metadata()) -> bytes:
    """Lossless WebP: smaller and slower than PNG, at most 16,383 pixels a side (ValueError beyond)."""
    return _encode(pixels, alpha, "WEBP", lossless=True, exact=True, quality=20, method=0, **_given(metadata))


def encode_jpeg(pixels: np.ndarray, *, metadata: Metadata = Metadata()) -> bytes:
    """JPEG at its best (quality 100, no chroma subsampling). It still changes values: see `unseg protect --format`."""
    return _encode(pixels, None, "JPEG", quality=100, subsampling=0, **_given(metadata))


def decode_samples(data: bytes) -> np.ndarray:
    """H×W×C uint8 of an 8-bit image that this module encoded, C = 1 or 3."""
    with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
        samples = np.array(image.convert("L" if image.mode in ("L", "LA") else "RGB"))
    return samples if samples.ndim == 3 else samples[..., None]


def _given(metadata: Metadata) -> dict[str, bytes]:
    """The metadata as Pillow's encoders of JPEG and WebP take them."""
    exif = b"Exif\0\0" + metadata.exif if metadata.exif else None
    named = {"icc_profile": metadata.icc_profile, "exif": exif, "xmp": metadata.xmp}
    return {name: value for name, value in named.items() if value}


def _png_of_row_differences(samples_HWC: np.ndarray, level: int) -> bytes:
    """PNG of 8 or 16 bits a channel, C = 1 to 4, every row as its difference to the one above (filter type 2, Up)."""
    height, width, channels = samples_HWC.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * samples_HWC.itemsize, colour_type, 0, 0, 0)
    packer, packed = _deflater(level), []
    step = max(1, PNG_BAND // (width * channels * samples_HWC.itemsize))
    above = np.zeros((1, width * channels * samples_HWC.itemsize), np.uint8)
    for top in range(0, height, step):  # a band at a time stays in the processor's cache and takes no memory
        band = samples_HWC[top : top + step]
        if band.dtype == np.uint16:
            band = band.astype(">u2")
        rows = np.ascontiguousarray(band).view(np.uint8).reshape(len(band), -1)
        filtered = np.full((len(rows), rows.shape[1] + 1), 2, np.uint8)
        np.subtract(rows[0], above[0], out=filtered[0, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        packed.append(packer.compress(filtered))
        above = rows[-1:]
    packed.append(packer.flush())
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", _png_chunk(b"IHDR", header), *_data_chunks(b"".join(packed)), _png_chunk(b"IEND", b"")]
    )


def _data_chunks(content: bytes) -> Iterator[bytes]:
    """IDAT chunks; one holds less than 2^31 bytes."""
    for start in range(0, len(content), PNG_CHUNK):
        yield _png_chunk(b"IDAT", content[start : start + PNG_CHUNK])


def _deflater(level: int) -> Deflater:
    """A stream compressor of the zlib format. level: see `encode_png`."""
    return isal_zlib.compressobj(ISAL_LEVEL) if level == 1 else zlib.compressobj(level)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _with_alpha(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """H×W×C with the alpha channel, if any, as the last one."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return pixels if alpha is None else np.dstack([pixels, alpha])


def _encode(pixels: np.ndarray, alpha: np.ndarray | None, form: str, **options: object) -> bytes:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels: expected uint8, got {pixels.dtype}")
    array = _with_alpha(pixels, alpha)
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(array if array.shape[2] > 1 else array[..., 0])).save(buffer, form, **options)
    return buffer.getvalue()
