"""Noise on large photographs that a trainer shrinks: it is made at full size, and only what the trainer has is kept."""

from __future__ import annotations

import numpy as np

from unseg.compute.progress import Progress
from unseg.evaluation.conditions import Change
from unseg.evaluation.measuring_images import MeasuringImages
from unseg.evaluation.sets import Truth
from unseg.evaluation.study import ConditionSource


def on_large(source: ConditionSource, images: MeasuringImages, truth: Truth) -> ConditionSource:
    """Returns a source that makes its noise on the enlarged training images, one at a time, and shrinks the result.

    Images of other names, such as test images that a network is asked about, are enlarged from the size that they come
    in.
    """
    places = {images.stem(index): index for index in range(len(images))}

    def change_of(seed: int, progress: Progress) -> Change:
        inner = source.change_of(seed, progress)

        def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
            if name in places:
                pixels, annotated = images.large(places[name])
                mask, classes = truth(annotated)
            else:
                pixels = images.enlarged(pixels)
                mask = images.enlarged_labels(mask.astype(np.uint8)) > 0
                classes = images.enlarged_labels(classes.astype(np.int16)).astype(np.int32)
            return images.shrunk(inner(name, pixels, mask, classes))

        return change

    return ConditionSource(change_of, {**source.identity, "made_at": images.row.enlarged})
