"""Images with the objects that a prompted network can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unseg.data.annotations import Annotated, ClassMap, ObjectRule
from unseg.data.views import MIN_OBJECT_PIXELS
from unseg.errors import UserError
from unseg.evaluation.coco_metrics import RunLengths, encode
from unseg.evaluation.learner import AnnotatedImages
from unseg.evaluation.region_views import size_of

KEPT_BYTES = 1 << 30  # of images held in memory, for training and for testing each


@dataclass(frozen=True)
class Scene:
    """An image and the objects that can be asked for.

    pixels: H×W×3 uint8. masks: K. too_small: how many objects were left out.
    """

    pixels: np.ndarray
    masks: tuple[RunLengths, ...]
    too_small: int

    @property
    def size(self) -> tuple[int, int]:
        """Returns width and height."""
        return size_of(self.pixels)


class Scenes:
    """The scenes of a set, read when they are asked for, from any thread.

    The first KEPT_BYTES of them stay in memory.
    """

    def __init__(self, images: AnnotatedImages, side: int, rule: ObjectRule, merged: bool) -> None:
        self.images, self.side, self.rule, self.merged = images, side, rule, merged
        self.without: set[int] = set()  # scenes in whose place another one was shown
        self._kept: dict[int, Scene] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.images.names)

    def __getitem__(self, index: int) -> Scene:
        if index in self._kept:
            return self._kept[index]
        pixels = self.images.pixels(index)
        masks = objects_of(self.images.annotated(index), self.rule, self.merged)
        scale = (self.side / max(pixels.shape[:2])) ** 2  # pixels of the frame for one of the image
        large = [encode(mask) for mask in masks if np.count_nonzero(mask) * scale >= MIN_OBJECT_PIXELS]
        scene = Scene(pixels, tuple(large), len(masks) - len(large))
        if self._bytes + scene.pixels.nbytes <= KEPT_BYTES:
            self._kept[index] = scene
            self._bytes += scene.pixels.nbytes
        return scene

    def with_object(self, index: int) -> Scene:
        """Returns scene `index`, or the next one that has an object. There is one, see `check_objects`."""
        for place in range(len(self)):
            scene = self[(index + place) % len(self)]
            if scene.masks:
                return scene
            self.without.add((index + place) % len(self))
        raise AssertionError("no scene has an object")

    def check_objects(self, reason: str) -> None:
        """Raises UserError for that reason where no scene has an object; reads no more of them than it must."""
        if not any(self[index].masks for index in range(len(self))):
            raise UserError(reason)


def objects_of(annotated: Annotated, rule: ObjectRule, merged: bool = False) -> list[np.ndarray]:
    """Returns the masks that can be asked for one at a time, each H×W bool.

    These are the segments that the rule takes (no crowd, no void); of class-id masks every class but the rule's ignored
    and background label. merged: their union alone.
    """
    left_out: set[int | None] = set()
    if isinstance(annotated, ClassMap) and annotated.kind == "index":
        left_out = {rule.ignore_label} if isinstance(rule.which, tuple) else {rule.ignore_label, rule.background_label}
    taken = (segment.mask for segment in annotated.segments if segment.taken(rule) and segment.class_id not in left_out)
    masks = [mask for mask in taken if mask.any()]
    return [np.logical_or.reduce(masks)] if merged and masks else masks


def object_places(images: AnnotatedImages, place: int, rule: ObjectRule) -> np.ndarray:
    """Returns 1 on every object of an image that can be asked for, 0 elsewhere, H×W uint8."""
    annotated = images.annotated(place)
    masks = objects_of(annotated, rule, merged=True)
    return masks[0].astype(np.uint8) if masks else np.zeros((annotated.height, annotated.width), np.uint8)
