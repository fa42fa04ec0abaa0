"""From object masks to the prompts that training draws: boxes, points, noisy masks. All randomness comes from a seed.

Shapes: B batch, S side of the frame, M side of a mask prompt.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segment_anything_training.prompt_batch import Prompts
from unseg.method.config import PROMPT_KINDS, TrainConfig
from unseg.method.letterbox import MASK_ON

POINTS = TrainConfig.prompt_points
OBJECT_THRESHOLD = 128 / 255  # a label above 128 of 255 counts as object


@dataclass(frozen=True)
class PromptRule:
    """Says how prompts are drawn; the defaults are those of `TrainConfig`, which are as published.

    points: how many points of the object. coarsening, unsure, deviation: of a noisy mask, see `noisy_mask_of`.
    """

    points: int = POINTS
    coarsening: int = TrainConfig.noisy_mask_coarsening
    unsure: float = TrainConfig.noisy_mask_unsure
    deviation: float = TrainConfig.noisy_mask_deviation


def prompt_rule(config: TrainConfig) -> PromptRule:
    """Returns the prompt rule of a training configuration."""
    return PromptRule(
        points=config.prompt_points,
        coarsening=config.noisy_mask_coarsening,
        unsure=config.noisy_mask_unsure,
        deviation=config.noisy_mask_deviation,
    )


def seeded(seed: int, *parts: str | int) -> np.random.Generator:
    """Returns a random generator that depends on the seed and the parts (a sample's name, a step) alone."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return np.random.default_rng([seed, *numbers])


def object_pixels(label_SS: Tensor) -> Tensor:
    """Returns (row, column) of the object's pixels in a label (S×S in [0, 1]), K×2 int64 with K ≥ 1.

    An object so thin that resizing left it fainter than the threshold is where it is brightest. An empty label is a
    ValueError: the caller draws views that show the object.
    """
    brightest = label_SS.max()
    if brightest <= 0:
        raise ValueError("the label has no object pixel")
    if brightest > OBJECT_THRESHOLD:
        return torch.nonzero(label_SS > OBJECT_THRESHOLD)
    return torch.nonzero(label_SS == brightest)


def box_of(label_SS: Tensor) -> Tensor:
    """Returns the bounding box of a label (S×S in [0, 1]): 4 float32, XYXY in pixels, corners inclusive."""
    rows, columns = object_pixels(label_SS).unbind(1)
    return torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()


def points_of(label_SS: Tensor, random: np.random.Generator, count: int = POINTS) -> Tensor:
    """Returns `count` random pixels (x, y) of the object, float32: distinct ones, unless it has fewer than `count`."""
    pixels = object_pixels(label_SS)
    chosen = random.choice(len(pixels), count, replace=len(pixels) < count)
    return pixels[torch.from_numpy(chosen)].flip(-1).float()


def mask_of(label_B1SS: Tensor, mask_size: int) -> Tensor:
    """Returns the mask prompts of labels in the frame: B×1×M×M float32 of 0 or 255. label: 0 to 1; a half becomes 0."""
    mask = F.interpolate(label_B1SS, (mask_size, mask_size), mode="bilinear", align_corners=False)
    return mask.round() * MASK_ON


def noisy_mask_of(
    label_B1SS: Tensor, mask_size: int, random: np.random.Generator, rule: PromptRule = PromptRule()
) -> Tensor:
    """Returns the masks at M×M with their outlines disturbed: B×1×M×M float32 of 0 or 255.

    Where a mask differs by `rule.unsure` or more from itself reduced `rule.coarsening` times and restored, noise of
    N(0, 1) times `rule.deviation` is added before the threshold of 0.5.
    """
    mask = F.interpolate(label_B1SS, (mask_size, mask_size), mode="bilinear", align_corners=False)
    small = F.interpolate(mask, (max(1, mask_size // rule.coarsening),) * 2, mode="bilinear", align_corners=False)
    restored = F.interpolate(small, (mask_size, mask_size), mode="bilinear", align_corners=False)
    disturbance = torch.from_numpy(random.standard_normal(tuple(mask.shape), dtype=np.float32)).to(mask.device)
    unsure = (mask - restored).abs() >= rule.unsure
    return ((mask + unsure * rule.deviation * disturbance) > 0.5).float() * MASK_ON


def draw_subset(kinds: Sequence[str], random: np.random.Generator) -> tuple[str, ...]:
    """Returns a random non-empty subset: its size uniform, then uniform among the subsets of that size."""
    size = int(random.integers(1, len(kinds) + 1))
    return tuple(kinds[index] for index in sorted(random.choice(len(kinds), size, replace=False)))


def draw_prompts(
    labels_B1SS: Tensor,
    kinds: Sequence[str],
    mask_size: int,
    random: np.random.Generator,
    rule: PromptRule = PromptRule(),
) -> Prompts:
    """Returns prompts of the given kinds (of `PROMPT_KINDS`) for a batch of labels in [0, 1].

    Every label must have object pixels if boxes or points are asked for.
    """
    unknown = set(kinds) - set(PROMPT_KINDS)
    if unknown:
        raise ValueError(f"unknown prompt kinds {sorted(unknown)}; available: {', '.join(PROMPT_KINDS)}")
    masks = boxes = points = None
    if "noisy_mask" in kinds:
        masks = noisy_mask_of(labels_B1SS, mask_size, random, rule)
    elif "mask" in kinds:
        masks = mask_of(labels_B1SS, mask_size)
    if "box" in kinds:
        boxes = torch.stack([box_of(label[0]) for label in labels_B1SS])
    if "points" in kinds:
        points = torch.stack([points_of(label[0], random, rule.points) for label in labels_B1SS])
    return Prompts(masks=masks, boxes=boxes, points=points)
