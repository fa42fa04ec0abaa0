"""Histogram equalisation of each channel (Gonzalez and Woods, "Digital image processing", section 3.3). Test images
are treated alike: else their histograms would be unlike those of all training images."""

from __future__ import annotations

import cv2
import numpy as np

from unseg.evaluation.defences.kinds import ImageDefence


def equalize() -> ImageDefence:
    """Returns the defence that maps each channel so that its values spread evenly over 0 … 255, as OpenCV does it."""

    def change(name: str, pixels_HW3: np.ndarray) -> np.ndarray:
        return np.dstack([cv2.equalizeHist(channel) for channel in cv2.split(pixels_HW3)])

    return ImageDefence("equalize", change, at_test=True)
