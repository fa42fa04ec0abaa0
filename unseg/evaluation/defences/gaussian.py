"""Gaussian noise on the training images, which drowns weaker patterns (Liu et al., "Image shortcut squeezing", ICML
2023, use it as a baseline; after Cohen et al., "Certified adversarial robustness via randomized smoothing", ICML
2019)."""

from __future__ import annotations

import hashlib

import numpy as np

from unseg.evaluation.defences.kinds import ImageDefence


def gaussian(levels: int) -> ImageDefence:
    """Returns the defence that adds noise with a standard deviation of `levels` grey levels, drawn by the image's
    name."""

    def change(name: str, pixels_HW3: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(f"noise{levels} {name}".encode()).digest()[:8]
        noise = np.random.default_rng(int.from_bytes(key, "big")).normal(0, levels, pixels_HW3.shape)
        return np.clip(np.round(pixels_HW3 + noise), 0, 255).astype(np.uint8)

    return ImageDefence(f"noise{levels}", change)
