"""Several defences in a row: fitted on the training set once, then applied to images, batches and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from unseg.evaluation.defences.kinds import (
    Batch,
    BatchDefence,
    Defence,
    ImageChange,
    ImageDefence,
    ScoreDefence,
    SetDefence,
    TrainingSet,
)


@dataclass(frozen=True)
class FittedChain:
    """What a chain does once its training set is known. test_changes: the changes that test images go through."""

    test_changes: tuple[ImageChange, ...] = ()
    batch_defences: tuple[BatchDefence, ...] = ()
    score_defence: ScoreDefence | None = None

    def change_test(self, name: str, pixels_HW3: np.ndarray, labels_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns a test image and its labels as the network is tested on them."""
        changed = self.change_pixels(name, pixels_HW3)
        return changed, sized_like(labels_HW, changed)

    def change_pixels(self, name: str, pixels_HW3: np.ndarray) -> np.ndarray:
        """Returns a test image as the network is tested on it."""
        for change in self.test_changes:
            pixels_HW3 = change(name, pixels_HW3)
        return pixels_HW3

    def change_batch(self, batch: Batch, draw: torch.Generator) -> Batch:
        """Returns the batch as the network is trained on it."""
        for defence in self.batch_defences:
            batch = defence.change(batch, draw)
        return batch

    def score(self, scores: Sequence[float]) -> float:
        """Returns the score that counts: the last one, unless a defence chooses another."""
        return scores[-1] if self.score_defence is None else self.score_defence.choose(scores)


def fit_chain(defences: Sequence[Defence], training: TrainingSet, seed: int) -> tuple[TrainingSet, FittedChain]:
    """Returns the changed training set and the fitted chain. Each defence sees what those before it left."""
    test_changes: list[ImageChange] = []
    batch_defences: list[BatchDefence] = []
    score_defence: ScoreDefence | None = None
    for defence in defences:
        if isinstance(defence, BatchDefence):
            batch_defences.append(defence)
        elif isinstance(defence, ScoreDefence):
            score_defence = defence
        else:
            change = _change_of(defence, training, seed)
            training = _changed(training, change)
            if defence.at_test:
                test_changes.append(change)
    return training, FittedChain(tuple(test_changes), tuple(batch_defences), score_defence)


def _change_of(defence: ImageDefence | SetDefence, training: TrainingSet, seed: int) -> ImageChange:
    if isinstance(defence, ImageDefence):
        return defence.change
    return defence.fit(training, seed)


def _changed(training: TrainingSet, change: ImageChange) -> TrainingSet:
    images = [change(name, pixels) for name, pixels in zip(training.names, training.images, strict=True)]
    labels = [sized_like(label, pixels) for label, pixels in zip(training.labels, images, strict=True)]
    return replace(training, images=images, labels=labels)


def sized_like(labels_HW: np.ndarray, pixels_HW3: np.ndarray) -> np.ndarray:
    """Returns the labels at the size of the image, by the nearest pixel centre; the same array where it has that
    size."""
    height, width = pixels_HW3.shape[:2]
    if labels_HW.shape == (height, width):
        return labels_HW
    return cv2.resize(labels_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
