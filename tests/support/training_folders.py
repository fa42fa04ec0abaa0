"""Training folders made for tests: the published layout, with a few tiny pairs each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from unseg.data.catalog import HQSEG


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def make_hqseg(root: Path, pairs: int = 2) -> Path:
    """The published folders with `pairs` small pairs each."""
    random = np.random.default_rng(0)
    for row in HQSEG:
        for number in range(pairs):
            pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            save(root / row.images / f"{row.name.lower()}_{number}.jpg", pixels)
            save(root / row.masks / f"{row.name.lower()}_{number}.png", (pixels[..., 0] > 99).astype(np.uint8) * 255)
    return root
