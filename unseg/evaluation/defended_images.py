"""Training and test images under defences that look at the whole set or change the size of images, with their
annotations, for tasks that read images one at a time.

`unseg.evaluation.tasks.practice_semantic` does the same with images and label maps that it holds itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations import Annotated, ClassMap, ClassTable, ObjectRule
from unseg.data.annotations.core import Segment
from unseg.evaluation.defences.chain import FittedChain, fit_chain
from unseg.evaluation.defences.kinds import BatchDefence, Defence, ScoreDefence, TrainingSet
from unseg.evaluation.learner import AnnotatedImages


class DefendedImages:
    """Annotated images whose pixels are others; an `AnnotatedImages`."""

    def __init__(self, images: AnnotatedImages, changed: Sequence[np.ndarray]) -> None:
        """changed: of each image, H×W×3 uint8, perhaps of another size."""
        self.images, self.changed = images, changed
        self.names: Sequence[str] = images.names
        self.classes: ClassTable = images.classes

    def pixels(self, index: int) -> np.ndarray:
        """Returns the changed image."""
        return self.changed[index]

    def annotated(self, index: int) -> Annotated:
        """Returns the annotations at the size of the changed image."""
        return at_size(self.images.annotated(index), *self.changed[index].shape[:2])


def defend(
    train: AnnotatedImages,
    test: AnnotatedImages,
    defences: Sequence[Defence],
    labels: Callable[[int], np.ndarray],
    *,
    class_count: int,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[AnnotatedImages, AnnotatedImages, FittedChain]:
    """Returns training and test images under defences, and the chain, which acts on batches and scores later.

    labels: from a training image's place to the class of each pixel, H×W uint8 below `class_count`, 255 where there is
    none; asked for only where a defence looks at the set. Changed images are held in memory. seed: of what defences
    draw.
    """
    if all(isinstance(defence, BatchDefence | ScoreDefence) for defence in defences):
        nothing = TrainingSet((), (), (), class_count)
        return train, test, fit_chain(defences, nothing, seed)[1]
    count = len(train.names)
    both = [(train.pixels(place), labels(place)) for place in track(progress, range(count), count, "reading images")]
    given = TrainingSet(train.names, [pixels for pixels, _ in both], [label for _, label in both], class_count)
    changed, chain = fit_chain(defences, given, seed)
    if not chain.test_changes:
        return DefendedImages(train, changed.images), test, chain
    places = track(progress, range(len(test.names)), len(test.names), "changing test images")
    shown = [chain.change_pixels(test.names[place], test.pixels(place)) for place in places]
    return DefendedImages(train, changed.images), DefendedImages(test, shown), chain


class _Resized(Annotated):
    """Annotations of an image that was resized, by the nearest pixel centre."""

    def __init__(self, inner: Annotated, height: int, width: int) -> None:
        super().__init__(height, width, inner.notes)
        self._inner = inner

    @property
    def segments(self) -> Sequence[Segment]:
        return [replace(segment, decode=partial(self._mask_of, segment)) for segment in self._inner.segments]

    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        return self._nearest(self._inner.object_mask(rule))

    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        return nearest(self._inner.class_codes(rule), self.height, self.width)

    def _mask_of(self, segment: Segment) -> np.ndarray:
        return self._nearest(segment.mask)

    def _nearest(self, mask_HW: np.ndarray) -> np.ndarray:
        return nearest(mask_HW.astype(np.uint8), self.height, self.width).astype(bool)


def at_size(annotated: Annotated, height: int, width: int) -> Annotated:
    """Returns the annotations of the same image at another size; the same object where it has that size."""
    if (annotated.height, annotated.width) == (height, width):
        return annotated
    if isinstance(annotated, ClassMap):
        return ClassMap(nearest(annotated.values, height, width), annotated.kind, annotated.classes)
    return _Resized(annotated, height, width)


def nearest(values_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns integers at another size, by the nearest pixel centre."""
    rows = ((np.arange(height) + 0.5) * values_HW.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * values_HW.shape[1] / width).astype(np.int64)
    return values_HW[rows[:, None], columns[None]]
