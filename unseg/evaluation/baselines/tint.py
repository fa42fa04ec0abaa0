"""One constant tint a class: the flat noise that UnSeg's compact generator came down to for class codes (Sun et al.,
"UnSeg: one universal unlearnable example generator is enough against all image segmentation", NeurIPS 2024, is where
its training comes from). Given from outside, it is exactly what this project shipped until version 0.1."""

from __future__ import annotations

import itertools

import numpy as np

from unseg.evaluation.baselines.material import Material, by_class, seeded
from unseg.evaluation.conditions import Change

# The 26 directions of the colour cube: corners first, then edges, then faces, so that few classes are far apart.
DIRECTIONS = np.array(
    sorted(itertools.product((-1, 0, 1), repeat=3), key=lambda axis: (axis.count(0), axis))[:-1], np.float32
)
CORNERS = 8


def tint(material: Material, seed: int) -> Change:
    """Returns what `material.shipped` makes of the seed; without it, a tint a class.

    Corners of the colour cube go to classes 0 to 7 and edges and faces to the next 18, each in an order drawn by the
    seed; later classes repeat them at half the strength. Class -1 counts as class 255.
    """
    if material.shipped is not None:
        return material.shipped(seed)
    draw = seeded(f"tint {seed}")
    order = [*draw.permutation(CORNERS), *(CORNERS + draw.permutation(len(DIRECTIONS) - CORNERS))]

    def pattern(name: str, label: int, height: int, width: int) -> np.ndarray:
        turn, place = divmod(label % 256, len(DIRECTIONS))
        return np.broadcast_to(DIRECTIONS[order[place]] * 0.5 ** min(turn, 1), (height, width, 3))

    return by_class(material.budget, pattern)
