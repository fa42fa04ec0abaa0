"""Training views: a photograph and one of its object masks, flipped, scaled and cropped into a square.

Shapes: B batch, V side of the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from unseg.data.training_data import TrainingImage
from unseg.errors import UserError
from unseg.method.config import TrainConfig
from unseg.method.prompts import seeded

MIN_OBJECT_PIXELS = 64  # in a view: fewer say nothing about a texture
CROP_TRIES = 10
SHARE_OF_SEGMENTS = (0.15, 0.6)  # of an image's segments that a random object takes in


def draw_object(label_HW: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns an object mask from an annotation, H×W uint8 of 0 and 255.

    A grey or binary mask (its largest value is 255) is taken as it is, and so is an empty one (all 0). Otherwise the
    values are segment ids, and the object is the union of some random segments.
    """
    if label_HW.max(initial=0) in (0, 255):
        return label_HW.astype(np.uint8)
    ids = np.unique(label_HW)
    if len(ids) == 1:
        return np.full(label_HW.shape, 255, np.uint8)
    count = max(1, round(random.uniform(*SHARE_OF_SEGMENTS) * len(ids)))
    chosen = random.choice(ids, min(count, len(ids) - 1), replace=False)
    return np.isin(label_HW, chosen).astype(np.uint8) * 255


def draw_mask(sample: TrainingImage, random: np.random.Generator) -> np.ndarray:
    """Returns the object of one of the sample's annotations, H×W uint8 of 0 to 255."""
    label = sample.labels[random.integers(len(sample.labels))]
    return label.astype(np.uint8) if sample.grey else draw_object(label, random)


def shrunk(mask_HW: np.ndarray, width: int, height: int, interpolation: int) -> np.ndarray:
    """Returns the mask at height×width; an object that the interpolation misses keeps the pixels it falls into."""
    small = cv2.resize(mask_HW, (width, height), interpolation=interpolation)
    if not small.any():
        rows, columns = np.nonzero(mask_HW)
        small[rows * height // mask_HW.shape[0], columns * width // mask_HW.shape[1]] = mask_HW[rows, columns]
    return small


def draw_view(sample: TrainingImage, config: TrainConfig, random: np.random.Generator) -> np.ndarray:
    """Returns a view with its label as the fourth plane: 4×V×V uint8.

    Image and label are jittered in scale (long side = U(jitter) × frame_size, both bilinear), flipped horizontally
    together, cropped at random and filled up with zeros to the right and below. UserError where the mask is empty.
    """
    mask = draw_mask(sample, random)
    if not mask.any():
        raise UserError(
            f"{sample.name}: its mask has no object pixel; remove it from the training data "
            "(utils/check_data.py finds all such masks)"
        )
    scale = random.uniform(*config.jitter) * config.frame_size / max(mask.shape)
    width, height = (max(1, round(side * scale)) for side in mask.shape[::-1])
    interpolation = cv2.INTER_AREA if config.antialias and scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(sample.pixels, (width, height), interpolation=interpolation)
    mask = shrunk(mask, width, height, interpolation)
    if random.random() < config.flip:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    size = config.view_size
    top, left = draw_crop(mask, size, random)
    view = np.zeros((4, size, size), np.uint8)
    planes = (*cv2.split(image[top : top + size, left : left + size]), mask[top : top + size, left : left + size])
    for place, plane in zip(view, planes, strict=True):
        place[: plane.shape[0], : plane.shape[1]] = plane
    return view


def draw_crop(mask_HW: np.ndarray, size: int, random: np.random.Generator) -> tuple[int, int]:
    """Returns (top, left) of a random crop of size×size pixels that shows the object.

    Crops that hardly show it are drawn again; if none of a few shows it, the crop is laid over the object's first
    pixel, so that no view is without object. A side that is not longer than the crop starts at 0.
    """
    height, width = mask_HW.shape
    spare_rows, spare_columns = max(height - size, 0), max(width - size, 0)
    enough = min(MIN_OBJECT_PIXELS, mask_HW.size // 4)
    for _ in range(CROP_TRIES):
        top, left = int(random.integers(spare_rows + 1)), int(random.integers(spare_columns + 1))
        if (mask_HW[top : top + size, left : left + size] > 128).sum() >= enough:
            return top, left
    rows, columns = np.nonzero(mask_HW >= mask_HW.max())
    return min(int(rows[0]), spare_rows), min(int(columns[0]), spare_columns)


@dataclass(frozen=True)
class ViewBatch:
    """Holds one process's share of a step's views.

    step: which. names: the samples, one a view. pixels: B×4×V×V uint8, colours and label: a quarter of the bytes that
    float32 would carry from process to process and to the device, where `images` and `labels` are made from it.
    """

    step: int
    names: tuple[str, ...]
    pixels: Tensor

    @cached_property
    def images(self) -> Tensor:
        """The colours are B×3×V×V float32 in [0, 1], on the device of `pixels`."""
        return _floats(self.pixels[:, :3])

    @cached_property
    def labels(self) -> Tensor:
        """The labels are B×1×V×V float32 in [0, 1], on the device of `pixels`."""
        return _floats(self.pixels[:, 3:])

    def to(self, device: torch.device | str) -> ViewBatch:
        """Returns the same on `device`; the copy does not wait where `pixels` is pinned."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def pin_memory(self) -> ViewBatch:
        """Returns the same in memory that a GPU copies from directly; DataLoader calls this."""
        return replace(self, pixels=self.pixels.pin_memory())


def _floats(pixels_BCVV: Tensor) -> Tensor:
    return pixels_BCVV.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def steps_per_epoch(count: int, config: TrainConfig, world_size: int = 1) -> int:
    """Returns the steps in which `world_size` processes see `count` samples once; the last partial batch is dropped."""
    return max(1, count // (config.batch_size * world_size))


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int, at_least: int) -> np.ndarray:
    """Returns the samples' indices in the order of an epoch: a permutation, repeated up to `at_least` indices."""
    return seeded(seed, "order", epoch).permutation(max(count, at_least)) % count


def draw_views(
    samples: Sequence[TrainingImage], config: TrainConfig, step: int, rank: int = 0, world_size: int = 1
) -> ViewBatch:
    """Returns the views of process `rank` at a step, which depend on the seed and the step alone.

    Every epoch is a new permutation of the samples; its last partial global batch is dropped. Process r takes the
    global slots from r × batch_size on, so two processes see what one with the doubled batch would. A folder smaller
    than a global batch is gone through several times for one.
    """
    epoch, position = divmod(step, steps_per_epoch(len(samples), config, world_size))
    order = epoch_order(config.seed, epoch, len(samples), config.batch_size * world_size)
    slots = range(rank * config.batch_size, (rank + 1) * config.batch_size)
    names, pixels = [], torch.empty((config.batch_size, 4, config.view_size, config.view_size), dtype=torch.uint8)
    for place, slot in enumerate(slots):
        sample = samples[int(order[position * config.batch_size * world_size + slot])]
        names.append(sample.name)
        pixels[place] = torch.from_numpy(draw_view(sample, config, seeded(config.seed, "view", step, slot)))
    return ViewBatch(step, tuple(names), pixels)
