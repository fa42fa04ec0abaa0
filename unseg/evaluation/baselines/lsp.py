"""Linearly separable perturbations (Yu et al., "Availability attacks create shortcuts", KDD 2022).

Each class is a cluster around a corner of a hypercube, with one dimension for each channel of each block of a grid;
each image draws a point of the cluster anew, and every block is filled with its value. The paper stretches the grid
over the image; here it repeats, so that an object shows it wherever it stands.
"""

from __future__ import annotations

import numpy as np

from unseg.evaluation.baselines.material import Material, by_class, seeded
from unseg.evaluation.conditions import Change

BLOCK = 8  # pixels: the paper's block on CIFAR-10
GRID = 8  # blocks a side: a tile has 64 pixels
SPREAD = 0.5  # standard deviation of a cluster, in half edges of the hypercube


def lsp(material: Material, seed: int) -> Change:
    """Returns the change that gives each class's pixels blocks of the class's cluster, drawn by seed and image."""

    def pattern(name: str, label: int, height: int, width: int) -> np.ndarray:
        tile = np.kron(point(seed, label, name), np.ones((BLOCK, BLOCK, 1), np.float32))
        repeats = -(-height // len(tile)), -(-width // len(tile)), 1
        return np.tile(tile, repeats)[:height, :width]

    return by_class(material.budget, pattern)


def corner(seed: int, label: int) -> np.ndarray:
    """Returns the centre of a class's cluster: GRID×GRID×3 of -1 and 1."""
    return seeded(f"lsp {seed} class {label}").integers(0, 2, (GRID, GRID, 3)).astype(np.float32) * 2 - 1


def point(seed: int, label: int, name: str) -> np.ndarray:
    """Returns the values of an image's blocks for a class, limited to [-1, 1]: GRID×GRID×3 float32."""
    offset = seeded(f"lsp {seed} class {label} image {name}").normal(0, SPREAD, (GRID, GRID, 3))
    return np.clip(corner(seed, label) + offset, -1, 1).astype(np.float32)
