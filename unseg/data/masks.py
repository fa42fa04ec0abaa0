"""From what a mask file holds to the object: H×W bool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from unseg.errors import UserError
from unseg.storage.image_decoding import Label, open_label
from unseg.storage.image_limits import ImageError

MaskKind = Literal["binary", "index"]
T = TypeVar("T")
BINARY_THRESHOLD = 127  # above it is object; the published generation rounds value / 255, which is the same
HIGHEST_CLASS_ID = 200  # no common segmentation set numbers its classes higher (COCO panoptic ends at 200)


@dataclass(frozen=True)
class MaskRule:
    """Which values of a mask file are object.

    kind: "binary" (grey levels, above 127 is object) or "index" (class ids). objects: the ids that are object, or None
    for every id but `background_label`. ignore_label: an id that is never object. Either label may be None.
    """

    kind: MaskKind = "index"
    objects: tuple[int, ...] | None = None
    ignore_label: int | None = 255
    background_label: int | None = 0

    def __post_init__(self) -> None:
        if self.kind == "binary" and self.objects is not None:
            raise UserError(
                "--objects with class ids needs class-index masks, but the masks are binary: give"
                " --objects all or --mask-type index"
            )


def object_mask(values_HW: np.ndarray, rule: MaskRule) -> np.ndarray:
    """The object, H×W bool. values: H×W integers as `unseg.storage.image_decoding.read_label` gives them."""
    if rule.kind == "binary":
        threshold = 0 if values_HW.max(initial=0) <= 1 else BINARY_THRESHOLD  # some tools write 0 and 1
        return values_HW > threshold
    if rule.objects is None:
        chosen = np.ones(values_HW.shape, bool) if rule.background_label is None else values_HW != rule.background_label
    else:
        chosen = np.isin(values_HW, rule.objects)
    return chosen if rule.ignore_label is None else chosen & (values_HW != rule.ignore_label)


def box_mask(boxes_N4: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The pixels inside any of the boxes (XYXY, corners inclusive), H×W bool."""
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes_N4:
        rows = slice(max(0, int(np.ceil(top))), max(0, int(np.floor(bottom)) + 1))
        columns = slice(max(0, int(np.ceil(left))), max(0, int(np.floor(right)) + 1))
        mask[rows, columns] = True
    return mask


def parse_objects(text: str, option: str = "--objects") -> tuple[int, ...] | None:
    """`all` → None; `3,4` or `1-5,9` → the ids, sorted. Anything else is a UserError."""
    if text.strip().lower() == "all":
        return None
    ids: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or (last and int(last) < int(first)):
            raise UserError(f"{option} {text}: give `all` or class ids such as 3,4 or 1-5")
        ids.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(ids))


@dataclass(frozen=True)
class Detected:
    """What the masks of a folder are, and the sentence that tells the user. otherwise: what to do if that is wrong."""

    kind: MaskKind
    statement: str
    otherwise: str = ""


def detect_kind(
    paths: Iterable[T],
    executor: Executor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    opener: Callable[[T], Label] = open_label,
) -> Detected:
    """Decide for all the masks of a folder together, so that one file cannot be read unlike its neighbours.

    A palette anywhere means class ids. Else only 0 and 255 (or JPEG files) mean binary. Else 255 beside values over 200
    without a palette means binary with grey edges. Else class ids. Files that cannot be read do not vote. opener: what
    reads one of `paths`, for masks that lie elsewhere than in files of their own.
    """
    seen: set[int] = set()
    lossy = False
    for look in progress((executor.map if executor else map)(lambda item: _look(item, opener), paths)):
        if look is None:
            continue
        if look.palette:
            return Detected("index", "class ids (palette PNG)")
        lossy |= look.lossy
        seen |= look.values
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


def _look(item: T, opener: Callable[[T], Label]) -> _Look | None:
    try:
        label = opener(item)
    except ImageError:
        return None  # reported by name when its image is protected
    values = () if label.palette or label.lossy else np.unique(label.values).tolist()
    return _Look(label.palette, label.lossy, frozenset(values))
