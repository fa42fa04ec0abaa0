"""Noise of codes: every coded pixel moves by the whole budget, up or down as its code's pattern says.

No network runs and nothing is rounded: sums of whole numbers stop at the ends of the type, so that the bound holds by
construction. Where an image is white or black already, a pattern keeps the half that the type leaves it.
"""

from __future__ import annotations

from functools import reduce

import cv2
import numpy as np

from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, GREY_AXIS, NO_CODE, Axis, CodeBook, ImagePatterns, image_digest
from unseg.method.pixels import LUMINANCE, VALUES_A_GREY_LEVEL, bands, check_image, is_grey

FLAT_SHARE = 0.5  # of the budget, that masking by contrast leaves to areas without any texture
FULL_CONTRAST = 10.0  # grey levels: local standard deviation from which the whole budget is used
CONTRAST_SIDE = 16.0  # pixels at training size: side of the square whose contrast is taken


def apply_codes(
    image_HWC: np.ndarray,
    codes_HW: np.ndarray,
    book: CodeBook,
    key: bytes,
    budget: Budget,
    *,
    mask_by_contrast: bool = False,
    survive_grey: bool = False,
) -> np.ndarray:
    """Returns the image with the pattern of each pixel's code, within `budget.object`; others stay as they are.

    image: H×W×3 (RGB) or H×W×1 (grey), uint8 or uint16; in 16 bits the budget is that of 8 bits times 257. codes: H×W
    uint8, 1 to the book's last, `ABSENCE` or `NO_CODE`. Fractional budgets are rounded down to whole values. An image
    without colour gets the codes' grey twins with the whole budget, and stays without colour.

    mask_by_contrast: less on flat areas, where noise is seen, the whole budget on textured ones. survive_grey: colour
    images get patterns that are left in copies turned grey. Returns an array like `image`. ValueError where a code has
    no pattern.
    """
    check_image(image_HWC)
    if codes_HW.shape != image_HWC.shape[:2] or codes_HW.dtype != np.uint8:
        raise ValueError(f"codes: expected uint8 of the image's size, got {codes_HW.shape} {codes_HW.dtype}")
    height, width, channels = image_HWC.shape
    present = present_codes(codes_HW, book)
    if not present:
        return image_HWC.copy()
    level, grey = int(budget.object * VALUES_A_GREY_LEVEL[image_HWC.dtype]), is_grey(image_HWC)
    patterns = ImagePatterns(book, height, width, key=key, digest=image_digest(image_HWC), grey=grey or survive_grey)
    axes = {code: axis_of(book, code, grey=grey, survive_grey=survive_grey) for code in present}
    limits = _contrast_limits(image_HWC, level, patterns.scale) if mask_by_contrast else None
    changed = np.empty_like(image_HWC)
    for rows in bands(height, width):
        states = states_of(codes_HW, rows, present, patterns)
        up, down = _moves(states, axes, level, channels, image_HWC.dtype)
        if limits is not None:
            most = cv2.merge([limits[rows]] * channels)
            up, down = cv2.min(up, most), cv2.min(down, most)
        part = cv2.subtract(cv2.add(np.ascontiguousarray(image_HWC[rows]), up), down)
        changed[rows] = part.reshape(changed[rows].shape)
    return changed


def code_signs(image_HWC: np.ndarray, codes_HW: np.ndarray, book: CodeBook, key: bytes) -> np.ndarray:
    """Returns which way `apply_codes` would change each value with these codes and this key: H×W×3 int8 of −1, 0, 1.

    An image without colour gets the signs of the codes' grey twins, the same in all channels.
    """
    height, width = codes_HW.shape
    grey = is_grey(image_HWC)
    patterns = ImagePatterns(book, height, width, key=key, digest=image_digest(image_HWC), grey=grey)
    present = present_codes(codes_HW, book)
    axes = {code: axis_of(book, code, grey=grey, survive_grey=False) for code in present}
    signs = np.empty((height, width, 3), np.int8)
    for rows in bands(height, width):
        states = states_of(codes_HW, rows, present, patterns)
        up, down = (part.view(np.int8) for part in _moves(states, axes, 1, 3, np.dtype(np.uint8)))
        signs[rows] = up - down
    return signs


def present_codes(codes_HW: np.ndarray, book: CodeBook) -> list[int]:
    """Returns the codes that a map holds and that have a pattern."""
    known = codes_HW * (codes_HW != NO_CODE)
    last = int(known.max(initial=ABSENCE))
    if last > book.codes:
        raise ValueError(f"codes: {last} has no pattern; the book {book.version} ends at {book.codes}")
    return [code for code in range(1, last + 1) if (known == code).any()]


def axis_of(book: CodeBook, code: int, grey: bool, survive_grey: bool) -> Axis:
    """Returns the colours that a code alternates between, in an image with or without colour."""
    if grey:
        return GREY_AXIS
    return book.grey_safe_axis if survive_grey else book.patterns[code - 1].axis


def states_of(codes_HW: np.ndarray, rows: slice, present: list[int], patterns: ImagePatterns) -> np.ndarray:
    """Returns, for rows of an image, H×W uint8: 2·code where its pattern is +, 2·code − 1 where it is −, else 0."""
    codes = codes_HW[rows]
    states = np.zeros(codes.shape, np.uint8)
    for code in present:
        here = (codes == code).view(np.uint8)
        left, top, width, height = cv2.boundingRect(here)
        if width == 0:
            continue
        inside = (slice(top, top + height), slice(left, left + width))
        below = slice(rows.start + top, rows.start + top + height)
        here = here[inside]
        states[inside] += here * (2 * code - 1) + (here & patterns.signs(code, below, inside[1]).view(np.uint8))
    return states


def _moves(
    states_HW: np.ndarray, axes: dict[int, Axis], level: int, channels: int, kind: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how far values move up and how far down, by `level` or 0: each H×W×channels of the type `kind`.

    states: as of `states_of`. Comparing whole planes and joining them is several times as fast as OpenCV's tables.
    """
    plus: dict[Axis, np.ndarray] = {}
    minus: dict[Axis, np.ndarray] = {}
    for code, axis in axes.items():
        for found, state in ((plus, 2 * code), (minus, 2 * code - 1)):
            here = (states_HW == state).view(np.uint8)
            found[axis] = found[axis] | here if axis in found else here
    nowhere = np.zeros(states_HW.shape, np.uint8)
    planes: dict[tuple[int, ...], np.ndarray] = {}

    def plane(directions: tuple[int, ...]) -> np.ndarray:
        """Joins for each axis where it goes this way: plus where the channel's number is 1, minus where it is −1."""
        if directions not in planes:
            moved = [(plus if way > 0 else minus)[axis] for axis, way in zip(plus, directions, strict=True) if way]
            planes[directions] = reduce(np.bitwise_or, moved, nowhere).astype(kind, copy=False) * level
        return planes[directions]

    ways = [tuple(axis[channel] for axis in plus) for channel in range(channels)]
    shape = (*states_HW.shape, channels)
    up = cv2.merge([plane(way) for way in ways])
    down = cv2.merge([plane(tuple(-number for number in way)) for way in ways])
    return up.reshape(shape), down.reshape(shape)


def _contrast_limits(image_HWC: np.ndarray, level: int, scale: float) -> np.ndarray:
    """Returns the most that each pixel may change, H×W like the image: from a share of `level` on flat areas to all."""
    values = VALUES_A_GREY_LEVEL[image_HWC.dtype]
    shares = np.array([LUMINANCE if image_HWC.shape[2] == 3 else (1.0,)], np.float32) / values
    brightness = cv2.transform(image_HWC.astype(np.float32), shares)
    share = contrast_shares(brightness, scale)
    return np.floor(share * level + 1e-3).astype(image_HWC.dtype)


def contrast_shares(brightness_HW: np.ndarray, scale: float) -> np.ndarray:
    """Returns the share of the budget that each pixel's surroundings allow, H×W float32: `FLAT_SHARE` to 1.

    brightness: H×W float32 in grey levels of 255. scale: how many times larger the image is than training images.
    """
    side = 2 * round(CONTRAST_SIDE * scale / 2) + 1
    mean, square = cv2.blur(brightness_HW, (side, side)), cv2.blur(brightness_HW * brightness_HW, (side, side))
    contrast = np.sqrt(np.maximum(square - mean * mean, 0))
    return FLAT_SHARE + (1 - FLAT_SHARE) * np.minimum(contrast / FULL_CONTRAST, 1)
