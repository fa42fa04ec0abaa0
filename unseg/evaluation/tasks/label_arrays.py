"""Image sets in memory at the training size, with their class maps, read once for all networks that train on them.

Images and labels are resized whatever their proportions: images by pixel area, labels to the nearest pixel. Arrays
beyond IN_MEMORY lie in an unnamed temporary file (in $TMPDIR).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from unseg.compute.progress import SILENT, Progress, track
from unseg.counts import count_of
from unseg.errors import UserError
from unseg.evaluation.learner import AnnotatedImages
from unseg.evaluation.tasks.labelling import Labelling
from unseg.method.metrics import IGNORE_LABEL

IN_MEMORY = 4 << 30  # bytes of a set's images


@dataclass(frozen=True, eq=False)
class Arrays:
    """A set at the training size.

    images: N×H×W×3 uint8. maps: N×H×W uint8 class maps, or labels; 255 is not counted.
    """

    images: np.ndarray
    maps: np.ndarray

    def __post_init__(self) -> None:
        fits = self.images.dtype == np.uint8 and self.images.ndim == 4 and self.images.shape[-1] == 3
        if not fits or self.images.shape[:3] != self.maps.shape:
            raise ValueError(
                f"expected images N×H×W×3 uint8 and labels N×H×W, got {self.images.shape} {self.images.dtype}, "
                f"{self.maps.shape}"
            )


# What was read of a set, as long as the set itself lives: by size and kind of labelling.
_READ: WeakKeyDictionary[AnnotatedImages, dict[Any, Any]] = WeakKeyDictionary()
R = TypeVar("R")


def kept_with(images: AnnotatedImages, key: Any, read: Callable[[], R]) -> R:
    """Returns what `read` makes of a set; a second call with this key does not read again while the set lives."""
    known = _READ.setdefault(images, {})
    if key not in known:
        known[key] = read()
    return known[key]


def read_arrays(
    images: AnnotatedImages,
    size: tuple[int, int],
    labelling: Labelling,
    progress: Progress = SILENT,
    what: str = "reading images",
) -> Arrays:
    """Returns all images and class maps at `size` (width, height); a second call does not read them again.

    Raises UserError, naming the image, where a class map cannot be used.
    """
    return kept_with(images, (size, type(labelling)), lambda: _read(images, size, labelling, progress, what))


def _read(
    images: AnnotatedImages, size: tuple[int, int], labelling: Labelling, progress: Progress, what: str
) -> Arrays:
    width, height = size
    count = len(images.names)
    pixels, maps = _room((count, height, width, 3)), _room((count, height, width))
    for index, name in enumerate(track(progress, images.names, count, what)):
        pixels[index] = shrink_image(images.pixels(index), width, height)
        try:
            maps[index] = shrink_label(labelling.class_map(images.annotated(index)), width, height)
        except UserError as error:
            raise error if name in str(error) else UserError(f"{name}: {error}") from None
    return Arrays(pixels, maps)


def forget(images: AnnotatedImages) -> None:
    """Frees what was read of a set."""
    _READ.pop(images, None)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    if np.prod(shape) <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    return np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape)  # gone with the last reference


def shrink_image(pixels_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns the image resized by pixel area, which is antialiased: uint8."""
    return cv2.resize(pixels_HW3, (width, height), interpolation=cv2.INTER_AREA)


def shrink_label(label_HW: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns the label map resized by nearest neighbour at pixel centres: uint8."""
    return cv2.resize(label_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def check_labels(labels: np.ndarray, num_classes: int, what: str, names: Sequence[str] = ()) -> None:
    """Raises UserError unless every label is a class below `num_classes` or 255, and some pixel is labelled.

    names: of the images along the labels' first axis, to name the one that is wrong.
    """
    labelled = labels[labels != IGNORE_LABEL]
    if labelled.size == 0:
        raise UserError(f"{what}: no pixel has a class (all are {IGNORE_LABEL}, which is ignored)")
    if labelled.min() < 0 or labelled.max() >= num_classes:
        worst = int(labelled.max() if labelled.max() >= num_classes else labelled.min())
        if len(names) == len(labels):
            what += f" of {names[int(np.argmax((labels == worst).reshape(len(labels), -1).any(1)))]}"
        there = count_of(num_classes, "class", "classes")
        raise UserError(
            f"{what}: class {worst} is out of range; the training images have {there}, "
            f"labels 0 to {num_classes - 1} or {IGNORE_LABEL}; give both sets annotations of the same classes"
        )
