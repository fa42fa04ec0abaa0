"""Samples → the bytes of image files: lossless PNG, TIFF and WebP, and JPEG at its best."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from unseg.storage.deflate import deflater
from unseg.storage.files import write_durably
from unseg.storage.image_metadata import NO_METADATA, Metadata
from unseg.storage.tiff_tags import SIZES, Order

WEBP_SIDE, JPEG_SIDE = 16_383, 65_500  # the most that libwebp and libjpeg write
Z_RLE, Z_FILTERED = 3, 1  # zlib strategies
PNG_HEADER_END = 33  # signature 8, IHDR 25
PNG_BAND, PNG_CHUNK = 2**18, 2**30  # bytes that are filtered at once; most bytes of a chunk
TIFF_STRIP = 2**20  # bytes of pixels in a strip, at most
TIFF_SHORT, TIFF_LONG, TIFF_BYTES = (3, 2), (4, 4), (7, 1)  # a value's type in TIFF 6.0, and its size in bytes
XMP_TAG, ICC_TAG = 700, 34675


def unsupported(form: str, samples_HWC: np.ndarray, alpha_HW: np.ndarray | None) -> str | None:
    """Returns why `form` ("png", "tiff", "webp", "jpeg") cannot hold an image, with the remedy; None where it can."""
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
    metadata: Metadata = NO_METADATA,
    level: int = 1,
) -> bytes:
    """Returns the bytes of an image file that `unsupported` does not refuse.

    level: see `encode_png`; TIFF has it too.
    """
    if form == "png":
        return encode_png(samples_HWC, level, alpha=alpha_HW, metadata=metadata)
    if form == "tiff":
        return encode_tiff(samples_HWC, level, alpha=alpha_HW, metadata=metadata)
    if form == "webp":
        return encode_webp(samples_HWC, alpha=alpha_HW, metadata=metadata)
    return encode_jpeg(samples_HWC, metadata=metadata)


# --- PNG -------------------------------------------------------------------------------------------------------------


def write_png(
    path: str | Path,
    pixels: np.ndarray,
    level: int = 1,
    *,
    alpha: np.ndarray | None = None,
    within: Path | None = None,
) -> str:
    """Writes a PNG durably and returns its sha256. pixels: H×W×3 or H×W, uint8 or uint16; alpha: H×W alike.

    A UserError says where the disk does not take it. within: a folder that must be there.
    """
    return write_durably(path, encode_png(pixels, level, alpha=alpha), within)


def encode_png(
    pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None, metadata: Metadata = NO_METADATA
) -> bytes:
    """Returns PNG bytes. level: 0 (stored) to 9 (smallest).

    Level 1 is differences between rows, deflated by ISA-L: for noised photographs 14 ms a megapixel on one core of 2022
    and 0.51 of the raw size. 8-bit images of the levels 2 to 8 take 77 ms for 0.49: libpng's choice of filters and
    run-length matching, which no level of zlib makes smaller or faster; level 9 takes twice as long.
    docs/research/performance.md has what was tried.
    """
    chunks = []
    if pixels.dtype == np.uint16 or level == 1:
        data = _png_of_row_differences(_with_alpha(pixels, alpha), level)
        if metadata.icc_profile:
            chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile)))
    else:
        strategy = Z_FILTERED if level == 9 else Z_RLE
        data = _by_pillow(
            pixels, alpha, "PNG", compress_level=level, compress_type=strategy, icc_profile=metadata.icc_profile
        )
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    extra = b"".join(png_chunk(kind, content) for kind, content in chunks)
    return data[:PNG_HEADER_END] + extra + data[PNG_HEADER_END:] if extra else data


def encode_ids(ids_HW: np.ndarray, colours_K3: np.ndarray) -> bytes:
    """Returns a PNG whose values are numbers, of objects or classes. ids: H×W uint8. colours: of each number, RGB.

    Readers of masks get the numbers, people see the colours.
    """
    image = Pillow.fromarray(ids_HW)
    image.putpalette(np.ascontiguousarray(colours_K3, np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _png_of_row_differences(samples_HWC: np.ndarray, level: int) -> bytes:
    """Returns a PNG of 8 or 16 bits a channel, C = 1 to 4; every row is the difference to the one above (filter Up)."""
    height, width, channels = samples_HWC.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * samples_HWC.itemsize, colour_type, 0, 0, 0)
    packer, packed = deflater(level), []
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
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *_data_chunks(b"".join(packed)), png_chunk(b"IEND", b"")]
    )


def _data_chunks(content: bytes) -> Iterator[bytes]:
    """Yields IDAT chunks; one holds less than 2^31 bytes."""
    for start in range(0, len(content), PNG_CHUNK):
        yield png_chunk(b"IDAT", content[start : start + PNG_CHUNK])


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG file: length, kind (four letters), content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# --- TIFF ------------------------------------------------------------------------------------------------------------


def encode_tiff(
    pixels: np.ndarray, level: int = 1, *, alpha: np.ndarray | None = None, metadata: Metadata = NO_METADATA
) -> bytes:
    """Returns TIFF bytes: deflated strips with horizontal differences (TIFF 6.0, predictor 2). level: see `encode_png`.

    An EXIF block is a TIFF file without picture, so it is the start of the file: what its entries point to stays where
    it is, and only its first directory is written anew, with the picture's entries among its own.
    """
    start = metadata.exif or b"II*\0" + bytes(4)
    order: Order = "<" if start[:2] == b"II" else ">"
    samples = _with_alpha(pixels, alpha)
    height, width, channels = samples.shape
    rows = max(1, TIFF_STRIP // (width * channels * samples.itemsize))
    strips = [_tiff_strip(samples[top : top + rows], level, order) for top in range(0, height, rows)]
    offsets = np.cumsum([len(start), *map(len, strips)]).tolist()
    values = {  # values that do not fit into an entry follow the directory in this order
        258: (TIFF_SHORT, [8 * samples.itemsize] * channels),
        259: (TIFF_SHORT, [8]),  # deflated
        262: (TIFF_SHORT, [2 if channels > 2 else 1]),  # RGB, or grey with black as zero
        277: (TIFF_SHORT, [channels]),
        284: (TIFF_SHORT, [1]),  # channels side by side
        317: (TIFF_SHORT, [2]),  # horizontal differences
        256: (TIFF_LONG, [width]),
        257: (TIFF_LONG, [height]),
        273: (TIFF_LONG, offsets[:-1]),
        278: (TIFF_LONG, [rows]),
        279: (TIFF_LONG, [len(strip) for strip in strips]),
    }
    if alpha is not None:
        values[338] = TIFF_SHORT, [2]  # straight, not premultiplied
    own = {tag: (kind, np.array(numbers, f"{order}u{kind[1]}").tobytes()) for tag, (kind, numbers) in values.items()}
    for tag, content in ((ICC_TAG, metadata.icc_profile), (XMP_TAG, metadata.xmp)):
        if content:
            own[tag] = TIFF_BYTES, content
    for tag, type_, content in metadata.georeference:
        size = SIZES[type_]
        own[tag] = (type_, size), np.frombuffer(content, f"<u{size}").astype(f"{order}u{size}").tobytes()
    padding = bytes(offsets[-1] % 2)  # directories and values start at even places
    end = offsets[-1] + len(padding)
    header = start[:4] + struct.pack(f"{order}I", end) + start[8:]
    return b"".join([header, *strips, padding, _tiff_directory(_tiff_entries(start, order), own, end, order)])


def _tiff_strip(rows_HWC: np.ndarray, level: int, order: Order) -> bytes:
    """Returns rows as differences to the sample on the left, deflated."""
    strip = rows_HWC.copy()
    strip[:, 1:] -= rows_HWC[:, :-1]
    packer = deflater(level)
    return packer.compress(strip.astype(strip.dtype.newbyteorder(order)).tobytes()) + packer.flush()


def _tiff_directory(
    entries: dict[int, bytes], own: dict[int, tuple[tuple[int, int], bytes]], place: int, order: Order
) -> bytes:
    """Returns a directory that stands at `place` in its file, and behind it the values too large for its entries.

    entries: those that are ready, 12 bytes each, by tag. own: by tag, a value's type and size, and its bytes.
    """
    entries, beyond = dict(entries), []
    place += 2 + 12 * len(entries.keys() | own.keys()) + 4
    for tag, ((kind, size), content) in own.items():
        value = content.ljust(4, b"\0")
        if len(content) > 4:
            value = struct.pack(f"{order}I", place)
            beyond.append(content + bytes(len(content) % 2))
            place += len(beyond[-1])
        entries[tag] = struct.pack(f"{order}HHI4s", tag, kind, len(content) // size, value)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return directory + b"".join(beyond)


def _tiff_entries(block: bytes, order: Order) -> dict[int, bytes]:
    """Returns the entries of a TIFF structure's first directory, 12 bytes each, by tag."""
    (place,) = struct.unpack_from(f"{order}I", block, 4)
    if place == 0:
        return {}
    (count,) = struct.unpack_from(f"{order}H", block, place)
    rows = (block[place + 2 + 12 * number : place + 14 + 12 * number] for number in range(count))
    return {struct.unpack_from(f"{order}H", row)[0]: row for row in rows}


# --- WebP and JPEG ---------------------------------------------------------------------------------------------------


def encode_webp(pixels: np.ndarray, *, alpha: np.ndarray | None = None, metadata: Metadata = NO_METADATA) -> bytes:
    """Returns lossless WebP: smaller and slower than PNG, at most 16,383 pixels a side (ValueError beyond)."""
    return _by_pillow(pixels, alpha, "WEBP", lossless=True, exact=True, quality=20, method=0, **_given(metadata))


def encode_jpeg(pixels: np.ndarray, *, metadata: Metadata = NO_METADATA) -> bytes:
    """Returns JPEG at its best: quality 100, no chroma subsampling. It still changes values, as all JPEG does."""
    return _by_pillow(pixels, None, "JPEG", quality=100, subsampling=0, **_given(metadata))


def _given(metadata: Metadata) -> dict[str, bytes]:
    """Returns the metadata as Pillow's encoders of JPEG and WebP take them."""
    exif = b"Exif\0\0" + metadata.exif if metadata.exif else None
    named = {"icc_profile": metadata.icc_profile, "exif": exif, "xmp": metadata.xmp}
    return {name: value for name, value in named.items() if value}


def _by_pillow(pixels: np.ndarray, alpha: np.ndarray | None, form: str, **options: Any) -> bytes:
    """Returns the bytes that Pillow writes in `form` with its own `options`. pixels, alpha: uint8."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels: expected uint8, got {pixels.dtype}")
    array = _with_alpha(pixels, alpha)
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(array if array.shape[2] > 1 else array[..., 0])).save(buffer, form, **options)
    return buffer.getvalue()


def _with_alpha(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Returns H×W×C with the alpha channel, if any, as the last one."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return pixels if alpha is None else np.dstack([pixels, alpha])
