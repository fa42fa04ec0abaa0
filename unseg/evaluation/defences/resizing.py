"""Smaller copies of the images: down and up again (Xie et al., "Mitigating adversarial effects through
randomization", ICLR 2018, resize at random; here by a fixed factor), or down for good, as trainers do to large
photographs."""

from __future__ import annotations

import cv2
import numpy as np

from unseg.errors import UserError
from unseg.evaluation.defences.kinds import ImageDefence

SMALLEST_SIDE = 64


def down_and_up(name: str, factor: int) -> ImageDefence:
    """Returns the defence that shrinks training images by `factor`, by pixel area, and enlarges them bilinearly."""

    def change(image_name: str, pixels_HW3: np.ndarray) -> np.ndarray:
        height, width = pixels_HW3.shape[:2]
        small = (max(1, round(width / factor)), max(1, round(height / factor)))
        shrunk = cv2.resize(pixels_HW3, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)

    return ImageDefence(name, change)


def resize(long_side: int) -> ImageDefence:
    """Returns the defence that shrinks images to a long side of `long_side` pixels, by pixel area; smaller images stay.

    It acts on test images, too: who trains at 640 pixels tests at 640 pixels. Labels follow by the nearest pixel.
    """
    if long_side < SMALLEST_SIDE:
        raise UserError(f"resize{long_side}: give at least {SMALLEST_SIDE} pixels")

    def change(name: str, pixels_HW3: np.ndarray) -> np.ndarray:
        height, width = pixels_HW3.shape[:2]
        share = long_side / max(height, width)
        if share >= 1:
            return pixels_HW3
        size = (max(1, round(width * share)), max(1, round(height * share)))
        return cv2.resize(pixels_HW3, size, interpolation=cv2.INTER_AREA)

    return ImageDefence(f"resize{long_side}", change, at_test=True, resizes=True)
