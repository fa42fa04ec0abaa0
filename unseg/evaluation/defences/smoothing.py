"""Local smoothing of the training images: Gaussian blur and median (Xu et al., "Feature squeezing: detecting
adversarial examples in deep neural networks", NDSS 2018, section II-C)."""

from __future__ import annotations

import cv2

from unseg.errors import UserError
from unseg.evaluation.defences.kinds import ImageDefence

WIDEST_MEDIAN = 15  # pixels


def blur(sigma: int) -> ImageDefence:
    """Returns the defence that blurs with a Gaussian of `sigma` pixels, cut off where OpenCV cuts it for 8 bits (3
    sigma)."""
    return ImageDefence(f"blur{sigma}", lambda name, pixels: cv2.GaussianBlur(pixels, (0, 0), sigma))


def median(side: int) -> ImageDefence:
    """Returns the defence that takes the median of side×side pixels, each channel alone. UserError for an even side."""
    if side % 2 == 0 or not 3 <= side <= WIDEST_MEDIAN:
        raise UserError(f"median{side}: give an odd side from 3 to {WIDEST_MEDIAN} pixels")
    return ImageDefence(f"median{side}", lambda name, pixels: cv2.medianBlur(pixels, side))
