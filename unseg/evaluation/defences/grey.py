"""Grey copies of all images (Liu et al., "Image shortcut squeezing: countering perturbative availability poisons with
compression", ICML 2023). Test images turn grey, too: the network has never seen colour."""

from __future__ import annotations

import cv2
import numpy as np

from unseg.evaluation.defences.kinds import ImageDefence


def grey() -> ImageDefence:
    """Returns the defence that gives all three channels the luminance of ITU-R BT.601."""

    return ImageDefence("grey", lambda name, pixels: turned_grey(pixels), at_test=True)


def turned_grey(pixels_HW3: np.ndarray) -> np.ndarray:
    """Returns an RGB image (uint8) with its luminance in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
