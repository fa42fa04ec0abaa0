"""Regions and boxes drawn over images, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np


def colour_of(label: int) -> np.ndarray:
    """Returns a class's colour, 3 float32 of 0 to 255; hues are a golden section apart."""
    hue = int(180 * (label * 0.618034 % 1))
    return cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def drawn_regions(image: np.ndarray, regions: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """Returns the image in grey, each region half covered in its class's colour and outlined: H×W×3 uint8.

    regions: labels and masks, H×W bool.
    """
    drawn = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    for label, mask in sorted(regions, key=lambda region: -int(region[1].sum())):
        colour = colour_of(label)
        drawn[mask] = (0.5 * drawn[mask] + 0.5 * colour).astype(np.uint8)
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, edges, -1, colour.tolist(), 1)
    return drawn


def drawn_boxes(image: np.ndarray, labels: Iterable[int], boxes_N4: np.ndarray) -> np.ndarray:
    """Returns the image in grey with boxes (XYXY, pixels) in their classes' colours: H×W×3 uint8."""
    drawn = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    thickness = max(1, round(max(image.shape) / 300))
    for label, box in zip(labels, boxes_N4, strict=True):
        left, top, right, bottom = (int(edge) for edge in np.round(box))
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour_of(int(label)).tolist(), thickness)
    return drawn
