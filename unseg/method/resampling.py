"""Bilinear resizing where output and scale are apart: a part of a square that is never built, without torch.

An output pixel i looks at (i + 0.5)·step − 0.5 in the source, as PyTorch's `interpolate` has it without aligned
corners; values differ from its kernels by a few units in the last place. Everything works on one thread, in single
precision, columns before rows, so the result does not depend on how many cores there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from unseg.method.pixels import bands


@dataclass(frozen=True)
class Taps:
    """Holds the two sources of every output along an axis: `first` and `second`, whose share is `share` (float32)."""

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray


def taps(outputs: int, inputs: int, step: float) -> Taps:
    """Returns the sources of the first so many outputs. step: sources an output. Places are rounded as PyTorch's."""
    place = ((np.arange(outputs) + 0.5) * float(np.float32(step)) - 0.5).astype(np.float32).clip(0)
    first = np.minimum(place.astype(np.int64), inputs - 1)
    return Taps(first, np.minimum(first + 1, inputs - 1), (place - first.astype(np.float32)).clip(max=1))


def resized_columns(image_HWC: np.ndarray, columns: Taps) -> np.ndarray:
    """Returns an image whose columns are resized: H×outputs×C float32."""
    wide, change = (
        np.take(image_HWC, side, axis=1).astype(np.float32, copy=False) for side in (columns.first, columns.second)
    )
    change -= wide
    change *= columns.share[:, None]
    wide += change
    return wide


def resized_bands(square_NNC: np.ndarray, height: int, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the crop at the top left of a square that is resized to the long side: rows, and their rows×W×C float32.

    The values may be overwritten, and are when the next band comes. The square itself is never built: a 20,000×20 image
    would need 4.8 GB for its noise.
    """
    side, channels = len(square_NNC), square_NNC.shape[2]
    step = side / max(height, width)
    rows = taps(height, side, step)
    seen = square_NNC[: int(rows.second[-1]) + 1]
    wide = resized_columns(seen, taps(width, side, step)).reshape(len(seen), width * channels)
    change = np.zeros_like(wide)  # to the next row; there is none after the last
    np.subtract(wide[1:], wide[:-1], out=change[:-1])
    room = np.empty((0, width * channels), np.float32)
    for part in bands(height, width):
        count = part.stop - part.start
        if len(room) < count:
            room = np.empty((count, width * channels), np.float32)
        band = room[:count]
        _between_rows(wide, change, rows, part, band)
        yield part, band.reshape(count, width, channels)


def _between_rows(wide: np.ndarray, change: np.ndarray, rows: Taps, part: slice, band: np.ndarray) -> None:
    """Writes the rows of a band: those that lie between the same two source rows together."""
    first = rows.first[part]
    starts = [0, *(np.flatnonzero(np.diff(first)) + 1).tolist(), len(first)]
    for start, stop in zip(starts, starts[1:], strict=False):
        source, here = first[start], band[start:stop]
        np.multiply(change[source], rows.share[part][start:stop, None], out=here)
        here += wide[source]


def shrunk(image_HWC: np.ndarray, size: int, antialias: bool) -> np.ndarray:
    """Returns an image in the frame: size×size×C float32 in grey levels, padded with zeros right and below to a square.

    antialias: an output averages over the area that it covers, with a triangle's weights; else it looks at four pixels.
    """
    height, width = image_HWC.shape[:2]
    side = max(height, width)
    part = _averaged(image_HWC, side, size) if antialias and side > size else _interpolated(image_HWC, side, size)
    frame = np.zeros((size, size, image_HWC.shape[2]), np.float32)
    frame[: len(part), : part.shape[1]] = part
    return frame


def _interpolated(image_HWC: np.ndarray, side: int, size: int) -> np.ndarray:
    """Returns the outputs that see the image, each from the four pixels around its place."""
    height, width, channels = image_HWC.shape
    step = side / size
    rows, columns = (taps(min(size, math.ceil((length + 1) / step) + 1), side, step) for length in (height, width))
    seen = np.unique(np.concatenate([rows.first, rows.second]))  # of a photograph, a few rows of many
    seen = seen[seen < height]
    padded = np.zeros((len(seen) + 1, width + 1, channels), image_HWC.dtype)  # what lies beyond is black
    padded[:-1, :-1] = image_HWC[seen]
    beyond = Taps(np.minimum(columns.first, width), np.minimum(columns.second, width), columns.share)
    narrow = resized_columns(padded, beyond)
    first, second = (np.where(row < height, np.searchsorted(seen, row), len(seen)) for row in (rows.first, rows.second))
    upper, lower = narrow[first], narrow[second]
    lower -= upper
    lower *= rows.share[:, None, None]
    upper += lower
    return upper


def _averaged(image_HWC: np.ndarray, side: int, size: int) -> np.ndarray:
    """Returns the outputs that see the image, each averaged over what it covers: Pillow's filter on floats."""
    height, width, channels = image_HWC.shape
    step = side / size
    rows, columns = (min(size, math.ceil((length + step) / step) + 1) for length in (height, width))
    narrow = np.zeros((channels, min(side, math.ceil(rows * step + step)), columns), np.float32)
    reach = min(side, math.ceil(columns * step + step))
    for part in bands(height, width):
        planes = np.zeros((part.stop - part.start, reach), np.float32)
        for channel, plane in enumerate(cv2.split(np.ascontiguousarray(image_HWC[part]))):
            planes[:, :width] = plane
            box = (0, 0, columns * step, len(planes))
            shown = Image.fromarray(planes).resize((columns, len(planes)), Image.Resampling.BILINEAR, box)
            narrow[channel, part] = np.asarray(shown)
    box = (0, 0, columns, rows * step)
    averaged = [Image.fromarray(plane).resize((columns, rows), Image.Resampling.BILINEAR, box) for plane in narrow]
    return np.stack([np.asarray(plane) for plane in averaged], axis=2)
