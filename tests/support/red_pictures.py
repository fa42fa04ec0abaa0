"""Photographs in which a small network finds foreground: it is sure of red."""

from __future__ import annotations

import numpy as np

HEIGHT, WIDTH = 210, 300
TALL, SMALL = (30, 40, 120, 160), (180, 30, 240, 120)  # XYXY, the ends exclusive


def picture(*red: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Returns grey noise with red rectangles and one white pixel; the network is sure of red."""
    grey = np.random.default_rng(seed).integers(60, 110, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    pixels = np.repeat(grey, 3, axis=2)
    pixels[0, 0] = 255
    for left, top, right, bottom in red:
        pixels[top:bottom, left:right] = (225, 30, 20)
    return pixels
