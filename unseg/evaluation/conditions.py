"""What the training images of a condition are: clean, protected, or with a control's noise of the same budget.

All are made at the images' own size, are whole 8-bit values as a PNG would hold them (or a JPEG, where the condition says so),
and only then shrink to the training size.
"""
from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from unseg import metrics, noise
from unseg.config import Budget
from unseg.errors import UserError
from unseg.evaluation.data import Pair, Task, read_pair, shrink_image
from unseg.images import read_image

TILE = 1024  # pixels after which a pattern per class repeats

# From an image's name, its pixels H×W×3 uint8, its object H×W bool and its labels H×W uint8 (as the task has them: 0 and 1 if
# binary; 255 = not labelled) to the pixels that a network is trained on.
Change = Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def unchanged(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The clean image."""
    return pixels


def random_noise(budget: Budget, seed: int) -> Change:
    """A control: uniform noise within the budget, drawn by seed and name, so that no order or restart changes it."""
    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return noise.apply(pixels, noise.uniform(*mask.shape, _draws(f"{seed} {name}")), mask, budget)
    return change


def class_pattern(budget: Budget, seed: int) -> Change:
    """A control that tells classes apart: for each class a fixed pattern of ±budget, the same in every image.

    A class's pattern is random signs for every pixel and channel, drawn by seed and class and locked to the pixel's position
    (with a period of TILE). The object's budget holds on the object, the background's elsewhere; pixels without a label have
    a pattern of their own.
    """
    @functools.lru_cache(maxsize=32)  # 3 MB each
    def signs(label: int) -> np.ndarray:
        return _draws(f"{seed} class {label}").integers(0, 2, (TILE, TILE, 3), dtype=np.int8) * 2 - 1

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        side = max(mask.shape)
        pattern_SS3 = np.zeros((side, side, 3), np.float32)
        for label in np.unique(classes):
            y, x = np.nonzero(classes == label)
            pattern_SS3[y, x] = signs(int(label))[y % TILE, x % TILE]
        return noise.apply(pixels, torch.from_numpy(pattern_SS3).permute(2, 0, 1), mask, budget)
    return change


def _draws(key: str) -> np.random.Generator:
    """Random numbers that depend on `key` alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def protected_files(folder: Path) -> Change:
    """Images that were protected before: FOLDER/NAME.png (or another lossless file of that stem) of the same size."""
    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
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
class Distance:
    """How far images are from the clean ones, at full size.

    psnr: mean over the images that differ, dB; None where none does. max_change_object, max_change_background: grey levels.
    """

    psnr: float | None = None
    max_change_object: int = 0
    max_change_background: int = 0


@dataclass(frozen=True)
class TrainingImages:
    """A condition's images, N×H×W×3 uint8 at training size.

    change: how far the change took them, before any re-encoding. stored: how far they are once re-encoded; None where they are
    not.
    """

    images: np.ndarray
    change: Distance = Distance()
    stored: Distance | None = None


def changed_images(pairs: Sequence[Pair], task: Task, width: int, height: int, change: Change, jpeg: int | None = None,
                   tick: Callable[[], None] = lambda: None) -> TrainingImages:
    """Every training image through `change` at full size, re-encoded as JPEG of quality `jpeg` if given, then shrunk."""
    images = np.empty((len(pairs), height, width, 3), np.uint8)
    before, after = _Distances(), _Distances()
    for i, pair in enumerate(pairs):
        pixels, classes = read_pair(pair)
        mask = task.object_mask(classes)
        changed = change(pair.name, pixels, mask, task.labels(classes))
        before.add(pixels, changed, mask)
        if jpeg is not None:
            changed = reencoded(changed, jpeg)
            after.add(pixels, changed, mask)
        images[i] = shrink_image(changed, width, height)
        tick()
    return TrainingImages(images, before.total(), None if jpeg is None else after.total())


def reencoded(pixels_HW3: np.ndarray, quality: int) -> np.ndarray:
    """What a reader gets of the pixels (uint8) after JPEG of that quality with 4:2:0 chroma subsampling, Pillow's default."""
    file = io.BytesIO()
    Pillow.fromarray(pixels_HW3).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Pillow.open(file))


class _Distances:
    """Adds up the Distance of image after image."""

    def __init__(self) -> None:
        self.psnr: list[float] = []
        self.on_object = self.on_background = 0

    def add(self, clean_HW3: np.ndarray, changed_HW3: np.ndarray, mask_HW: np.ndarray) -> None:
        difference = np.abs(changed_HW3.astype(np.int16) - clean_HW3).max(2)
        self.on_object = max(self.on_object, int(difference[mask_HW].max(initial=0)))
        self.on_background = max(self.on_background, int(difference[~mask_HW].max(initial=0)))
        if difference.any():
            self.psnr.append(metrics.psnr(clean_HW3, changed_HW3))

    def total(self) -> Distance:
        return Distance(float(np.mean(self.psnr)) if self.psnr else None, self.on_object, self.on_background)
