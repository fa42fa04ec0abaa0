"""What is done to the training images of a condition: nothing, a control's noise of the same budget, JPEG.

All are made at the images' own size, are whole 8-bit values as a PNG would hold them (or a JPEG, where the condition
says so), and only then shrink to the training size.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image as Pillow

from unseg.method import noise
from unseg.method.config import Budget

TILE = 1024  # pixels after which a pattern per class repeats

# From an image's name, its pixels H×W×3 uint8, its object H×W bool and its classes H×W integers (in the binary task 0
# and 1; 255 in class maps, -1 elsewhere: not labelled) to the pixels that a network is trained on.
Change = Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def unchanged(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the clean image."""
    return pixels


def random_noise(budget: Budget, seed: int) -> Change:
    """Returns a control: uniform noise within the budget, drawn by seed and name, so that no order or restart changes
    it.
    """

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        height, width = mask.shape
        return noise.apply(pixels, noise.uniform(height, width, _draws(f"{seed} {name}")), mask, budget)

    return change


def class_pattern(budget: Budget, seed: int) -> Change:
    """Returns a control that tells classes apart: for each class a fixed pattern of ±budget, the same in every image.

    A class's pattern is random signs for every pixel and channel, drawn by seed and class and locked to the pixel's
    position (with a period of TILE). The object's budget holds on the object, the background's elsewhere; pixels
    without a label have a pattern of their own.
    """

    @functools.lru_cache(maxsize=32)  # 3 MB each
    def signs(label: int) -> np.ndarray:
        return _draws(f"{seed} class {label}").integers(0, 2, (TILE, TILE, 3), dtype=np.int8) * 2 - 1

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        side = max(mask.shape)
        pattern_SS3 = np.zeros((side, side, 3), np.float32)
        for label in np.unique(classes):
            y, x = np.nonzero(classes == label)
            pattern_SS3[y, x] = signs(int(label))[y % TILE, x % TILE]
        return noise.apply(pixels, pattern_SS3.transpose(2, 0, 1), mask, budget)

    return change


def _draws(key: str) -> np.random.Generator:
    """Returns random numbers that depend on `key` alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def reencoded(pixels_HW3: np.ndarray, quality: int) -> np.ndarray:
    """Returns what a reader gets of the pixels (uint8) after JPEG of that quality.

    Chroma is subsampled 4:2:0, which is Pillow's default.
    """
    file = io.BytesIO()
    Pillow.fromarray(pixels_HW3).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Pillow.open(file))
