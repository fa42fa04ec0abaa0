"""What another decoder reads: OpenCV of PNG and WebP, tifffile of TIFF. What two decoders agree on is in the file.

A reader that loses a channel loses it on both sides of a comparison, which then finds nothing missing.
"""

from __future__ import annotations

import io

import cv2
import numpy as np

from unseg.storage.image_decoding import Image
from unseg.storage.image_limits import DECODE_ERRORS
from unseg.storage.png_structure import bare_png
from unseg.storage.tiff_structure import PREMULTIPLIED

READ = ("png", "tiff", "webp")
LOSSLESS = (1, 5, 8, 32773, 32946)  # of TIFF: as it is, LZW, deflated, run lengths, deflated in an older way
CHANNELS = {1: "grey", 2: "grey and transparency", 3: "RGB", 4: "RGB and transparency"}


def disagreement(data: bytes, image: Image, *, must_read: bool) -> str | None:
    """Returns how another decoder's reading of a file differs from `image`, which was decoded from it.

    Returns None where the two agree, and where there is nothing to compare: formats that lose values leave their
    decoders some choice. must_read: whether it is a fault if the other decoder cannot read it, as it is of our own
    files; those of others may be packed in ways that it does not know.
    """
    if image.format not in READ or (image.format == "webp" and not must_read and b"VP8L" not in data[:4096]):
        return None
    if image.format == "png" and not must_read:
        data = bare_png(data)  # libpng says on standard error what it thinks of odd metadata
    try:
        other = _of_tiff(data) if image.format == "tiff" else _of_opencv(data)
    except DECODE_ERRORS:
        other = None
    if other is None:
        return "a second decoder cannot read it" if must_read else None
    return _difference(_turned_back(image), other)


def _of_opencv(data: bytes) -> np.ndarray | None:
    """Returns H×W×C as OpenCV reads it, RGB in order."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim == 2:
        return None if values is None else values[..., None]
    return values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] >= 3 else values


def _of_tiff(data: bytes) -> np.ndarray | None:
    """Returns H×W×C as tifffile reads it; None where it is packed in a way that it does not read, or shown by rules.

    A palette, CMYK, YCbCr, white as zero or premultiplied colours are not the samples that `unseg` keeps, and packing
    as JPEG leaves decoders a choice.
    """
    import tifffile  # when it is used: it takes a quarter of a second

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        if not isinstance(page, tifffile.TiffPage) or page.photometric not in (1, 2):
            return None
        if page.compression not in LOSSLESS or page.bitspersample not in (8, 16) or PREMULTIPLIED in page.extrasamples:
            return None
        values = np.asarray(page.asarray())
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
    return values if values.ndim == 3 else values[..., None]


def _turned_back(image: Image) -> np.ndarray:
    """Returns samples, and alpha behind them, as the file has them: H×W×C before its orientation was applied."""
    values = image.samples if image.alpha is None else np.dstack([image.samples, image.alpha])
    orientation = image.turned
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values.swapaxes(0, 1) if orientation > 4 else values


def _difference(ours_HWC: np.ndarray, others_HWC: np.ndarray) -> str | None:
    ours, others = ours_HWC, others_HWC
    if others.shape[2] > 2 and ours.shape[2] <= 2:  # OpenCV gives grey with transparency as colour
        ours = ours[..., [0, 0, 0, 1][: 3 + (ours.shape[2] == 2)]]
    if ours.shape[2] == others.shape[2] + 1:  # it does not read one colour that is transparent
        ours = ours[..., :-1]
    if others.shape[2] == ours.shape[2] + 1 and (others[..., -1] == np.iinfo(others.dtype).max).all():
        others = others[..., :-1]  # it says that nothing is transparent
    if ours.shape != others.shape or ours.dtype != others.dtype:
        read = f"{others.shape[1]}×{others.shape[0]} of {others.shape[2]} channels in {8 * others.itemsize} bits"
        return f"a second decoder reads {read}, not {CHANNELS[ours_HWC.shape[2]]} in {8 * ours.itemsize} bits"
    return None if np.array_equal(ours, others) else "a second decoder reads other values"
