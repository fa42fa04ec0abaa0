"""What the training images of a condition are: clean, protected, or with random noise of the same budget.

All are made at the images' own size, are whole 8-bit values as a PNG would hold them, and only then shrink to the training size.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseg import metrics, noise
from unseg.config import Budget
from unseg.errors import UserError
from unseg.evaluation.data import Pair, Task, read_pair, shrink_image
from unseg.images import read_image

CONDITIONS = ("clean", "protected", "random")

# From an image's name, its pixels H×W×3 uint8 and its object H×W bool to the pixels that a network is trained on.
Change = Callable[[str, np.ndarray, np.ndarray], np.ndarray]


def random_noise(budget: Budget, seed: int) -> Change:
    """The control: uniform noise within the budget, drawn by seed and name, so that no order or restart changes it."""
    def change(name: str, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")
        return noise.apply(pixels, noise.uniform(*mask.shape, np.random.default_rng(key)), mask, budget)
    return change


def protected_files(folder: Path) -> Change:
    """Images that were protected before: FOLDER/NAME.png (or another lossless file of that stem) of the same size."""
    def change(name: str, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        path = protected_file(folder, name)
        protected = read_image(path).pixels
        if protected.shape != pixels.shape:
            raise UserError(f"{path}: {protected.shape[1]}×{protected.shape[0]} pixels, but the clean image has "
                            f"{pixels.shape[1]}×{pixels.shape[0]}; protect the images at full size")
        return protected
    return change


def protected_file(folder: Path, name: str) -> Path:
    """The protected version of image `name`; UserError where it is missing."""
    for suffix in (".png", ".webp", ".jpg", ".jpeg"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise UserError(f"--protected {folder}: no protected version of training image {name} ({name}.png) there")


@dataclass(frozen=True)
class TrainingImages:
    """A condition's images, N×H×W×3 uint8 at training size, and how far the full-size ones are from the clean ones.

    psnr: mean over the images, dB; None where no value changed. max_change_object, max_change_background: grey levels.
    """

    images: np.ndarray
    psnr: float | None = None
    max_change_object: int = 0
    max_change_background: int = 0


def changed_images(pairs: Sequence[Pair], task: Task, width: int, height: int, change: Change,
                   tick: Callable[[], None] = lambda: None) -> TrainingImages:
    """Every training image through `change` at full size, then shrunk."""
    images = np.empty((len(pairs), height, width, 3), np.uint8)
    psnr, on_object, on_background = [], 0, 0
    for i, pair in enumerate(pairs):
        pixels, classes = read_pair(pair)
        mask = task.object_mask(classes)
        changed = change(pair.name, pixels, mask)
        images[i] = shrink_image(changed, width, height)
        difference = np.abs(changed.astype(np.int16) - pixels).max(2)
        on_object = max(on_object, int(difference[mask].max(initial=0)))
        on_background = max(on_background, int(difference[~mask].max(initial=0)))
        if difference.any():
            psnr.append(metrics.psnr(pixels, changed))
        tick()
    return TrainingImages(images, float(np.mean(psnr)) if psnr else None, on_object, on_background)
