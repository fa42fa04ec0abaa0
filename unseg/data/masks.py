"""What the values of a mask file mean, and the object that they show: H×W bool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from unseg.data.object_rule import ALL_OBJECTS, ObjectRule
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError
from unseg.storage.label_decoding import Label

MaskKind = Literal["binary", "index", "soft", "trimap"]
"""What a mask file's values are.

binary: two levels, the brighter one is the object, whatever the two are; where there are more, as soft. soft: grey
levels, the upper half is object. trimap: three levels, dark is background, the brightest is object, and what lies
between is unknown and belongs to the object. index: class ids.
"""
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
BINARY_THRESHOLD = 127  # above it is object; the published generation rounds value / 255, which is the same
UNKNOWN_FROM = 1 / 8  # of a trimap's brightest level: what is darker is background, were it not quite black
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: the brightness of red, green and blue


def check_kind(kind: MaskKind, rule: ObjectRule, option: str = "--mask-type") -> None:
    """Raises UserError where the rule asks for class ids, which only index masks hold. option: says otherwise."""
    if kind != "index" and isinstance(rule.which, tuple):
        raise UserError(
            f"--objects with class ids needs class-index masks, but the masks are {kind}: give"
            f" --objects all or {option} index"
        )


def object_mask(values_HW: np.ndarray, kind: MaskKind, rule: ObjectRule = ALL_OBJECTS) -> np.ndarray:
    """Returns the object, H×W bool.

    values: H×W integers as `values_of` gives them. kind: what they mean. rule: "all" or class ids, since a mask alone
    does not tell things from stuff. UserError for class ids of a mask that holds none.
    """
    check_kind(kind, rule)
    if kind != "index":
        return _bright(values_HW, kind)
    if isinstance(rule.which, tuple):
        chosen = np.isin(values_HW, rule.which)
    elif rule.background_label is None:
        chosen = np.ones(values_HW.shape, bool)
    else:
        chosen = values_HW != rule.background_label
    return chosen if rule.ignore_label is None else chosen & (values_HW != rule.ignore_label)


def _bright(levels_HW: np.ndarray, kind: MaskKind) -> np.ndarray:
    """Returns the object of grey levels; of one level alone it is everything from 128 on, and at 1."""
    lowest, highest = int(levels_HW.min(initial=0)), int(levels_HW.max(initial=0))
    if kind == "binary" and levels_HW.size:
        lowest = int(levels_HW.min())
        if lowest == highest:  # black or white all over; some tools write 0 and 1
            return np.full(levels_HW.shape, highest == 1 or highest > BINARY_THRESHOLD)
        if np.all((levels_HW == lowest) | (levels_HW == highest)):
            return levels_HW == highest
    full = 65535 if highest > 255 else 255
    if kind == "trimap":
        return levels_HW >= max(1, highest * UNKNOWN_FROM)
    return levels_HW > full // 2


def values_of(label: Label, kind: MaskKind, path: Path) -> np.ndarray:
    """Returns the values that a kind of mask is about, H×W integers: class ids, or grey levels.

    A palette image of class ids holds its indices; of any other kind it shows the brightness of its colours. JPEG
    changes values: a binary one is black or white from 128 on, and as class ids it is an ImageError, which names
    `path`.
    """
    if kind == "index":
        if label.lossy:
            raise ImageError(path, "JPEG changes class ids: save the mask as PNG")
        return label.values
    levels = grey_levels(label)
    return np.where(levels > BINARY_THRESHOLD, np.uint8(255), np.uint8(0)) if label.lossy else levels


def grey_levels(label: Label) -> np.ndarray:
    """Returns the brightness of a mask's pixels, H×W integers: of a palette's colours where there is one."""
    return label.values if label.palette is None else brightness(label.palette)[label.values]


def brightness(colours_K3: np.ndarray) -> np.ndarray:
    """Returns how bright colours are: K uint8."""
    return np.rint(colours_K3 @ LUMA).astype(np.uint8)


def fits(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Returns whether sizes (height, width) have the same proportions, but for the rounding of one side."""
    (height, width), (high, wide) = size, wanted
    return abs(width * high - wide * height) < max(high, height, wide, width)


def scaled(values_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the values at another size: each pixel takes that of the nearest one, so that no value is made up."""
    rows = (2 * np.arange(height) + 1) * values_HW.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * values_HW.shape[1] // (2 * width)
    return values_HW[rows[:, None], columns]


def box_spans(boxes_N4: Sequence[Sequence[float]], height: int, width: int) -> list[tuple[slice, slice]]:
    """Returns the rows and columns inside each of the boxes (XYXY, corners inclusive) that touches the image."""
    low, high = _corners(boxes_N4, height, width)
    return [
        (slice(top, bottom), slice(left, right))
        for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True)
    ]


def _corners(boxes_N4: Sequence[Sequence[float]], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first (x, y) and the one after the last, N×2 each, of the boxes that touch the image."""
    boxes = np.asarray(boxes_N4, np.float64).reshape(-1, 4)
    size = (width, height)
    low = np.ceil(boxes[:, :2]).clip(0, size).astype(np.intp)
    high = (np.floor(boxes[:, 2:]) + 1).clip(0, size).astype(np.intp)
    inside = (low < high).all(axis=1)
    return low[inside], high[inside]


def box_mask(boxes_N4: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Returns the pixels inside any of the boxes (XYXY, corners inclusive), H×W bool."""
    (left, top), (right, bottom) = (corners.T for corners in _corners(boxes_N4, height, width))
    # How many boxes begin at each corner, less those that end there: summed over both axes, how many cover each pixel.
    # So 50,000 boxes take no longer than one.
    covering = np.zeros((height + 1, width + 1), np.int32)
    for rows, columns, change in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(covering, (rows, columns), change)
    for axis in (0, 1):
        np.cumsum(covering, axis=axis, out=covering)
    return covering[:height, :width] > 0
