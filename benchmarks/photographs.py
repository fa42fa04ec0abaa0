"""Photographs to measure with: squares of those of the quick start, so that nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

import unseg

SIDE = 512
SHIPPED = Path(unseg.__file__).parent / "quickstart_data" / "photographs"
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")


def photographs(folder: Path, count: int, seed: int = 0, height: int = SIDE, width: int = SIDE) -> None:
    """Writes `count` different JPEG photographs: random squares of the quick start's, resized."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    sources = [cv2.imread(str(SHIPPED / name)) for name in PHOTOGRAPHS]
    for i in range(count):
        source = sources[i % len(sources)]
        side = int(draw.integers(min(source.shape[:2]) // 2, min(source.shape[:2]) + 1))
        top, left = (int(draw.integers(0, length - side + 1)) for length in source.shape[:2])
        square = cv2.resize(
            source[top : top + side, left : left + side], (width, height), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), square, [cv2.IMWRITE_JPEG_QUALITY, 92])


def shape_of(megapixels: float) -> dict[str, int]:
    """Returns height and width of a photograph of that size, 3:2."""
    width = round((megapixels * 1.5e6) ** 0.5)
    return {"height": round(width / 1.5), "width": width}
