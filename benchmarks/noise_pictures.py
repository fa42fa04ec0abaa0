"""Draws how visible the default noise is, at each strength: a part of two photographs at 100 % and at 400 %.

    python -m benchmarks.noise_pictures docs/pictures/strengths.webp

The photographs are those of the quick start. The key is always the same, so the picture is, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import unseg
from benchmarks.photographs import SHIPPED
from unseg.method.config import STRENGTHS
from unseg.storage.image_decoding import read_image
from unseg.storage.label_decoding import read_label
from unseg.storage.panels import captioned_grid

KEY = bytes(range(32))
SIDE = 164  # of a part, in pixels of the picture: four of them are shown at their own size on a page
ENLARGED = 4
PARTS = (("astronaut.png", 40, 150), ("chelsea.png", 70, 130))  # photograph, top and left of the part


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the picture as a lossless file; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("picture", type=Path, help="file to write, .webp or .png")
    given = parser.parse_args(arguments)
    rows = [row for part in PARTS for row in photograph_rows(*part)]
    Image.fromarray(captioned_grid(rows)).save(given.picture, lossless=True)
    return 0


def photograph_rows(name: str, top: int, left: int) -> list[list[tuple[str, np.ndarray]]]:
    """Returns the part of a photograph at 100 % and its middle at 400 %: as it is, and at each strength."""
    original = read_image(SHIPPED / name).pixels
    mask = read_label(SHIPPED.parent / "masks" / Path(name).with_suffix(".png")) == 1
    versions = {"original": original}
    for word, epsilon in STRENGTHS.items():
        versions[f"{word}, {epsilon:g}"] = unseg.protect(original, mask=mask, strength=word, key=KEY)
    whole, enlarged = [], []
    for caption, pixels in versions.items():
        part = pixels[top : top + SIDE, left : left + SIDE]
        inner = (SIDE - SIDE // ENLARGED) // 2
        middle = part[inner : inner + SIDE // ENLARGED, inner : inner + SIDE // ENLARGED]
        whole.append((caption, part))
        enlarged.append((f"{100 * ENLARGED} %", middle.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)))
    return [whole, enlarged]


if __name__ == "__main__":
    sys.exit(main())
