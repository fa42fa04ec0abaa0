"""What the values of a mask file mean, and the object that they show: H×W bool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unseg.compute.in_flight import PIXELS
from unseg.compute.progress import SILENT, Progress, track
from unseg.data.object_rule import ALL_OBJECTS, ObjectRule
from unseg.errors import UserError
from unseg.storage.image_decoding import Label, open_label
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError

BAND = 2**20  # pixels whose values are looked at together
MaskKind = Literal["binary", "index"]
"""What a mask file's values are: grey levels, above 127 is object, or class ids."""
BINARY_THRESHOLD = 127  # above it is object; the published generation rounds value / 255, which is the same
HIGHEST_CLASS_ID = 200  # no common segmentation set numbers its classes higher (COCO panoptic ends at 200)


def check_kind(kind: MaskKind, rule: ObjectRule, option: str = "--mask-type") -> None:
    """Raises UserError where the rule asks for class ids, which binary masks do not hold. option: says otherwise."""
    if kind == "binary" and isinstance(rule.which, tuple):
        raise UserError(
            "--objects with class ids needs class-index masks, but the masks are binary: give"
            f" --objects all or {option} index"
        )


def object_mask(values_HW: np.ndarray, kind: MaskKind, rule: ObjectRule = ALL_OBJECTS) -> np.ndarray:
    """Returns the object, H×W bool.

    values: H×W integers as `unseg.storage.image_decoding.read_label` gives them. kind: what they mean. rule: "all" or
    class ids, since a mask alone does not tell things from stuff. UserError for class ids of a binary mask.
    """
    check_kind(kind, rule)
    if kind == "binary":
        threshold = 0 if values_HW.max(initial=0) <= 1 else BINARY_THRESHOLD  # some tools write 0 and 1
        return values_HW > threshold
    if isinstance(rule.which, tuple):
        chosen = np.isin(values_HW, rule.which)
    elif rule.background_label is None:
        chosen = np.ones(values_HW.shape, bool)
    else:
        chosen = values_HW != rule.background_label
    return chosen if rule.ignore_label is None else chosen & (values_HW != rule.ignore_label)


def box_mask(boxes_N4: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Returns the pixels inside any of the boxes (XYXY, corners inclusive), H×W bool."""
    boxes = np.asarray(boxes_N4, np.float64).reshape(-1, 4)
    size = (width, height)
    low = np.ceil(boxes[:, :2]).clip(0, size).astype(np.intp)
    high = (np.floor(boxes[:, 2:]) + 1).clip(0, size).astype(np.intp)
    inside = (low < high).all(axis=1)
    (left, top), (right, bottom) = low[inside].T, high[inside].T
    # How many boxes begin at each corner, less those that end there: summed over both axes, how many cover each pixel.
    # So 50,000 boxes take no longer than one.
    covering = np.zeros((height + 1, width + 1), np.int32)
    for rows, columns, change in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(covering, (rows, columns), change)
    for axis in (0, 1):
        np.cumsum(covering, axis=axis, out=covering)
    return covering[:height, :width] > 0


@dataclass(frozen=True)
class Detected:
    """What the masks of a folder are.

    statement: tells the user what was found. otherwise: says what to do if that is wrong.
    """

    kind: MaskKind
    statement: str
    otherwise: str = ""


def detect_kind(
    paths: Sequence[Any],
    executor: Executor | None = None,
    progress: Progress = SILENT,
    opener: Callable[[Any], Label] = open_label,
) -> Detected:
    """Decides for all the masks of a folder together, so that one file cannot be read unlike its neighbours.

    A palette anywhere means class ids. Else only 0 and 255 (or JPEG files) mean binary. Else 255 beside values over 200
    without a palette means binary with grey edges. Else class ids. Files that cannot be read do not vote. opener: what
    reads one of `paths`, for masks that lie elsewhere than in files of their own.
    """
    seen: set[int] = set()
    lossy = False
    looks = (executor.map if executor else map)(lambda item: _look(item, opener), paths)
    for look in track(progress, looks, len(paths), "masks"):
        if look is None:
            continue
        if look.palette:
            return Detected("index", "class ids (palette PNG)")
        lossy |= look.lossy
        seen |= look.values
    return _kind_of_values(seen, lossy)


def _kind_of_values(seen: set[int], lossy: bool) -> Detected:
    """Decides from every value that the masks hold. lossy: whether a JPEG is among them, whose values do not count."""
    between = np.array(sorted(seen - {0, 255}), dtype=int)
    if seen and max(seen) > 255:
        return Detected("index", "class ids (values over 255)")
    if between.size == 0:
        return Detected("binary", "binary (above 127 is object)" if lossy else "binary (0 and 255)")
    if 255 in seen and between.max() > HIGHEST_CLASS_ID:
        return Detected(
            "binary",
            f"binary with grey edges (values such as {between.max()} beside 0 and 255): above 127 is object",
            "; if they are class ids give --mask-type index",
        )
    return Detected(
        "index",
        f"class ids ({between.size} of them, {between.min()} to {between.max()})",
        "; if they are grey levels give --mask-type binary",
    )


@dataclass(frozen=True)
class _Look:
    """What one mask file shows: the little that may be kept for each of a hundred thousand files."""

    palette: bool
    lossy: bool
    values: frozenset[int]


def _look(item: Any, opener: Callable[[Any], Label]) -> _Look | None:
    try:
        with PIXELS.room_for(pixel_count(item) if isinstance(item, Path) else 0):
            label = opener(item)
            return _Look(label.palette, label.lossy, frozenset(_values_of(label)))
    except ImageError:
        return None  # reported by name when its image is protected


def _values_of(label: Label) -> set[int]:
    """Returns the values that say what kind of mask it is, a band of rows at a time: sorting copies them."""
    if label.palette or label.lossy:
        return set()
    rows = max(1, BAND // label.values.shape[1])
    bands = (label.values[top : top + rows] for top in range(0, len(label.values), rows))
    return {value for band in bands for value in np.unique(band).tolist()}
