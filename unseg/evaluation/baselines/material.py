"""What baselines are made from, and the step that all share: noise by class to an image within its budget.

Classes are H×W integers: a class, -1 where nothing is taken (a class of its own here, the background), 255 where
nothing is labelled. Unlabelled pixels stay as they are. Noise is in [-1, 1]; `unseg.method.noise.apply` keeps it
within the budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unseg.compute.progress import SILENT, Progress
from unseg.errors import UserError
from unseg.evaluation.conditions import Change
from unseg.method import noise
from unseg.method.config import Budget
from unseg.method.metrics import IGNORE_LABEL


@dataclass(frozen=True)
class Photograph:
    """A clean training image. pixels: H×W×3 uint8. mask: the object, H×W bool. classes: H×W integers."""

    name: str
    pixels: np.ndarray
    mask: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Material:
    """What a condition is made from. photographs: returns the clean training images, for noises that are fitted to
    them.

    shipped: from a seed to this project's own change, for the baseline `tint`; None: a plain tint a class. progress:
    is told of trainings.
    """

    budget: Budget
    photographs: Callable[[], Sequence[Photograph]] = lambda: ()
    shipped: Callable[[int], Change] | None = None
    progress: Progress = SILENT


def seeded(key: str) -> np.random.Generator:
    """Returns random numbers that depend on `key` alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def noised(
    pixels_HW3: np.ndarray, noise_HW3: np.ndarray, mask_HW: np.ndarray, classes_HW: np.ndarray, budget: Budget
) -> np.ndarray:
    """Returns the image (uint8) with noise in [-1, 1] on labelled pixels, within the budget."""
    height, width = classes_HW.shape
    side = max(height, width)
    square = np.zeros((side, side, 3), np.float32)
    square[:height, :width] = np.where((classes_HW != IGNORE_LABEL)[..., None], noise_HW3, 0)
    return noise.apply(pixels_HW3, square.transpose(2, 0, 1), mask_HW, budget)


def by_class(budget: Budget, pattern: Callable[[str, int, int, int], np.ndarray]) -> Change:
    """Returns the change that gives every class a pattern.

    pattern: from the image's name, a class, height and width to the class's noise over the whole image: H×W×3 in [-1,
    1].
    """

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        noise_HW3 = np.zeros(pixels.shape, np.float32)
        for label in np.unique(classes[classes != IGNORE_LABEL]).tolist():
            here = classes == label
            noise_HW3[here] = pattern(name, label, *classes.shape)[here]
        return noised(pixels, noise_HW3, mask, classes, budget)

    return change


@dataclass(frozen=True)
class Numbering:
    """The classes of a set in rising order; a network's outputs follow it."""

    ids: tuple[int, ...]

    @classmethod
    def of(cls, photographs: Sequence[Photograph]) -> Numbering:
        """Returns the classes that the photographs show. UserError where there are fewer than two."""
        seen: set[int] = set()
        for photograph in photographs:
            seen |= set(np.unique(photograph.classes).tolist())
        ids = tuple(sorted(seen - {IGNORE_LABEL}))
        if len(ids) < 2:
            raise UserError(f"the training images show {len(ids)} classes; noise that is fitted to them needs two")
        return cls(ids)

    def labels(self, classes_HW: np.ndarray) -> np.ndarray:
        """Returns the place of each pixel's class, H×W uint8; 255 where nothing is labelled or the class is unknown."""
        ids = np.array(self.ids)
        place = np.minimum(np.searchsorted(ids, classes_HW), len(ids) - 1)
        return np.where((ids[place] == classes_HW) & (classes_HW != IGNORE_LABEL), place, IGNORE_LABEL).astype(np.uint8)
