"""Autoregressive perturbations (Sandoval-Segura et al., "Autoregressive perturbations for data poisoning", NeurIPS
2022).

A class has one autoregressive process for each channel: every value is a fixed combination of the eight values above
it and to its left in a 3×3 window. Images differ in the random values that the process starts from, so a single
convolution with the class's coefficients gives 0 on the class's noise in every image. The noise consists of tiles of
the paper's image size, each with a start of its own, since a process over a whole photograph would fade or explode.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.signal import lfilter

from unseg.evaluation.baselines.material import Material, by_class, seeded
from unseg.evaluation.conditions import Change

WINDOW = 3
TILE = 32  # pixels
RUN_IN = 8  # pixels that the process runs before a tile's first row and column
STEADY = (0.2, 5.0)  # a tile's last rows are at most so much weaker or stronger than its first ones
TRIALS = 10_000


def ar(material: Material, seed: int) -> Change:
    """Returns the change that gives each class's pixels its processes, started by seed and image."""

    def pattern(name: str, label: int, height: int, width: int) -> np.ndarray:
        rows, columns = -(-height // TILE), -(-width // TILE)
        draw = seeded(f"ar {seed} class {label} image {name}")
        channels = [
            tiles(coefficients(seed, label, channel), rows * columns, draw).reshape(rows, columns, TILE, TILE)
            for channel in range(3)
        ]
        whole = np.stack([part.swapaxes(1, 2).reshape(rows * TILE, columns * TILE) for part in channels], axis=2)
        return whole[:height, :width]

    return by_class(material.budget, pattern)


@functools.lru_cache(maxsize=1024)
def coefficients(seed: int, label: int, channel: int) -> np.ndarray:
    """Returns a process: 3×3, the last one 0, their sum 1 (the paper's rule). Drawn until a tile neither fades nor
    explodes."""
    draw = seeded(f"ar {seed} class {label} channel {channel} coefficients")
    for _ in range(TRIALS):
        drawn = draw.normal(size=(WINDOW, WINDOW))
        drawn[-1, -1] = 0
        drawn /= drawn.sum()
        if np.abs(drawn).sum() < WINDOW * WINDOW and _steady(drawn):
            return drawn
    raise AssertionError("no steady process was drawn")


def _steady(coefficients_33: np.ndarray) -> bool:
    """Whether the noise of a few starts has about the same strength everywhere in a tile, and changes sign."""
    drawn = _processes(coefficients_33, 4, np.random.default_rng(0))
    if not np.isfinite(drawn).all():
        return False
    first, last = (np.abs(part).mean() for part in (drawn[:, : TILE // 4], drawn[:, -TILE // 4 :]))
    left, right = (np.abs(part).mean() for part in (drawn[..., : TILE // 4], drawn[..., -TILE // 4 :]))
    if min(first, left) == 0:
        return False
    even = all(STEADY[0] <= ratio <= STEADY[1] for ratio in (last / first, right / left))
    return bool(even and np.abs(drawn.mean(axis=(1, 2))).mean() < 0.5 * np.abs(drawn).mean())


def tiles(coefficients_33: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Returns tiles of a process, each scaled so that its largest value is 1 or -1: count×TILE×TILE float32."""
    values = _processes(coefficients_33, count, draw)
    return (values / np.abs(values).max(axis=(1, 2), keepdims=True)).astype(np.float32)


def _processes(coefficients_33: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Returns count×TILE×TILE values, each the combination of its window; the start is drawn from a normal
    distribution."""
    before = WINDOW - 1
    side = before + RUN_IN + TILE
    values = draw.normal(size=(count, side, side))
    feedback = np.array([1.0, -coefficients_33[2, 1], -coefficients_33[2, 0]])
    with np.errstate(over="ignore", invalid="ignore"):
        for row in range(before, side):
            above = values[:, row - before : row]
            drive = np.zeros((count, side - before))
            for y in range(before):
                for x in range(WINDOW):
                    drive += coefficients_33[y, x] * above[:, y, x : x + side - before]
            # The state of the filter is what the two drawn values at the row's left add to the next two.
            last, one_before = values[:, row, 1], values[:, row, 0]
            state = np.stack([-feedback[1] * last - feedback[2] * one_before, -feedback[2] * last], axis=1)
            values[:, row, before:] = lfilter([1.0], feedback, drive, axis=1, zi=state)[0]
    return values[:, -TILE:, -TILE:]
