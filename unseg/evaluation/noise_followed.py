"""Whether a trained network follows the noise rather than the image: clean test images get the noise of other classes.

Two questions are asked of a network that learned from noised images. Each pixel gets the noise of another class than
its own: does the network name the noise's class or the pixel's own? And all pixels get the noise of one class, the most
frequent one that is an object: where it does not belong, does the network name it? The noise is the very one that the
training images had, within the same budget. What the network still tells apart under one noise everywhere is what
someone who tests gets back by adding it: noise that is the same on all objects only hides what was learned. Noise that
a key draws is also given with another key, as someone has it who knows the program but not the key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unseg.evaluation.conditions import Change
from unseg.evaluation.results import Json
from unseg.evaluation.sets import Images, Truth
from unseg.evaluation.tasks.practice_semantic import answer_of
from unseg.method.metrics import IGNORE_LABEL, class_iou, confusion_matrix, mean_iou

MOST_IMAGES = 20  # test images, evenly spread


@dataclass(frozen=True)
class Probe:
    """What networks are asked about. test: clean images, whose class maps hold labels below `class_count`. truth: their
    object and classes. background: the label that is no object, or None. rest: in the binary task the label of what is
    beside the object, which has no noise; else None."""

    test: Images
    truth: Truth
    class_count: int
    background: int | None
    rest: int | None = None

    def indices(self) -> range:
        """Returns which test images are asked about."""
        return range(0, len(self.test), max(1, -(-len(self.test) // MOST_IMAGES)))

    def others(self) -> np.ndarray:
        """Returns for every label another one, C int64: the next one, the first for the last; the background stays."""
        objects = [label for label in range(self.class_count) if label != self.background]
        others = np.arange(self.class_count)
        others[objects] = np.roll(objects, -1)
        return others


def followed(
    network: nn.Module, device: torch.device, change: Change, probe: Probe, other_key: Change | None = None
) -> Json:
    """Returns shares of pixels of clean test images with noise, each from 0 to 1.

    change: gives the noise of the training images. other_key: gives it as another key draws it; None: no key draws it.
    follows_noise, follows_image: that are named as the class whose noise they got, or as their own. follows_one_noise:
    of all pixels of other classes, those named as the one class whose noise is everywhere. None where there is no such
    pixel. miou_under_one_noise: the mIoU of the answers to that noise. miou_under_another_key: the same with
    `other_key`; absent without it.
    """
    others, most = probe.others(), _most_frequent(probe)
    by_noise, by_image, by_one = _Share(), _Share(), _Share()
    under_one = {"miou_under_one_noise": change}
    if other_key is not None:
        under_one["miou_under_another_key"] = other_key
    confusions = {name: torch.zeros(probe.class_count, probe.class_count, dtype=torch.int64) for name in under_one}
    for index in probe.indices():
        pixels, name = probe.test.pixels(index), f"probe/{probe.test.stem(index)}"
        mask, classes = probe.truth(probe.test.annotated(index))
        known = mask & (classes != IGNORE_LABEL)
        aims = np.where(known, others[np.where(known, classes, 0)], classes)
        answer = answer_of(network, change(name, pixels, mask, aims), device)
        by_noise.add(answer == aims, known)
        by_image.add(answer == classes, known)
        one = np.where(classes != IGNORE_LABEL, most, classes)
        for metric, drawn in under_one.items():
            answer = answer_of(network, drawn(f"{name} one", pixels, classes != IGNORE_LABEL, one), device)
            confusion = confusion_matrix(torch.from_numpy(classes), torch.from_numpy(answer), probe.class_count)
            confusions[metric] += confusion
            if drawn is change:
                by_one.add(answer == most, (classes != IGNORE_LABEL) & (classes != most))
    return {
        "follows_noise": by_noise.value(),
        "follows_image": by_image.value(),
        "follows_one_noise": by_one.value(),
        **{metric: mean_iou(class_iou(confusion)) for metric, confusion in confusions.items()},
    }


class _Share:
    """Counts pixels of which something holds."""

    def __init__(self) -> None:
        self.held, self.count = 0, 0

    def add(self, holds_HW: np.ndarray, among_HW: np.ndarray) -> None:
        self.held += int((holds_HW & among_HW).sum())
        self.count += int(among_HW.sum())

    def value(self) -> float | None:
        return self.held / self.count if self.count else None


def _most_frequent(probe: Probe) -> int:
    """Returns the label with the most object pixels on the images that are asked about; the first of equal ones."""
    counts = np.zeros(probe.class_count, np.int64)
    for index in probe.indices():
        probe.test.pixels(index)
        mask, classes = probe.truth(probe.test.annotated(index))
        is_object = mask & (classes != IGNORE_LABEL)
        if probe.rest is not None:
            is_object &= classes != probe.rest
        counts += np.bincount(classes[is_object], minlength=probe.class_count)
    return int(counts.argmax())
