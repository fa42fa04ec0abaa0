"""Each channel's mean and spread taken out, image by image: constant tints and changes of contrast disappear (Ulyanov
et al., "Instance normalization", 2016, as preprocessing). Test images are treated alike: else they would look unlike
all training."""

from __future__ import annotations

import numpy as np

from unseg.evaluation.augmentation import MEAN, STD
from unseg.evaluation.defences.kinds import ImageDefence


def whiten() -> ImageDefence:
    """Returns the defence that gives each channel of an image ImageNet's mean and standard deviation, limited to 0 …
    255.

    A network that standardises with those then sees mean 0 and spread 1. A channel of one value becomes the mean
    everywhere.
    """
    mean, spread = 255 * np.array(MEAN), 255 * np.array(STD)

    def change(name: str, pixels_HW3: np.ndarray) -> np.ndarray:
        own = pixels_HW3.std(axis=(0, 1))
        centred = pixels_HW3 - pixels_HW3.mean(axis=(0, 1))
        scaled = centred / np.where(own > 0, own, 1.0)
        return np.clip(np.round(scaled * spread + mean), 0, 255).astype(np.uint8)

    return ImageDefence("whiten", change, at_test=True)
