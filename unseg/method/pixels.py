"""What the noise of every kind takes an image to be: its values, its grey levels, its colours, and parts of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

GREY_LEVELS = 255.0
VALUES_A_GREY_LEVEL = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 257}  # 65535 / 255
LUMINANCE = (0.299, 0.587, 0.114)
BAND = 2**17  # pixels: of 2^13 to 2^18 the fastest, for photographs of 0.25 and of 24 megapixels


def bands(height: int, width: int) -> Iterator[slice]:
    """Yields an image's rows, `BAND` pixels at a time: several steps on them stay in a processor's cache."""
    step = max(1, BAND // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def check_image(image_HWC: np.ndarray) -> None:
    """Raises ValueError where an array is no image: H×W×3 or H×W×1, uint8 or uint16."""
    if image_HWC.dtype not in VALUES_A_GREY_LEVEL or image_HWC.ndim != 3 or image_HWC.shape[2] not in (1, 3):
        raise ValueError(f"image: expected H×W×3 or H×W×1 of uint8 or uint16, got {image_HWC.shape} {image_HWC.dtype}")


def is_grey(image_HWC: np.ndarray) -> bool:
    """Returns whether an image shows no colour: it has one channel, or three that are equal at every pixel.

    Where no channel is a number, there is no colour.
    """
    if image_HWC.shape[2] == 1:
        return True
    floats = image_HWC.dtype.kind == "f"
    if not _are_equal(image_HWC[::16, ::16], floats):  # so most colour images are told at once
        return False
    return _are_equal(image_HWC, floats)


def _are_equal(image_HWC: np.ndarray, floats: bool) -> bool:
    return all(np.array_equal(image_HWC[..., 0], image_HWC[..., channel], equal_nan=floats) for channel in (1, 2))
