"""Noise on batches of a training: the arithmetic of `unseg.method.noise` in floats, differentiable.

Shapes: B batch, H×W the images' own size, N the noise's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from unseg.method.config import Budget
from unseg.method.pixels import GREY_LEVELS


def epsilon_map(region: torch.Tensor, budget: Budget) -> torch.Tensor:
    """Returns every pixel's bound as a fraction of the range: object/255 where `region` is 1, else background/255.

    region: any shape, bool or float of 0 and 1. Returns float32 of the same shape.
    """
    region = region.to(torch.float32)
    return (budget.background + (budget.object - budget.background) * region) / GREY_LEVELS


def add_noise(
    images_B3HW: torch.Tensor,
    noise_B3NN: torch.Tensor,
    region_B1HW: torch.Tensor,
    budget: Budget,
    antialias: bool = False,
) -> torch.Tensor:
    """Returns the noised images in [0, 1], differentiable in the noise: what the surrogate sees.

    images: float in [0, 1]; noise: in [−1, 1], resized bilinearly to the images' size; region: 1 on the object, else 0.
    antialias: whether that resizing averages over the area of a pixel, as a reader that shrinks images well does.
    """
    noise = F.interpolate(noise_B3NN, images_B3HW.shape[-2:], mode="bilinear", align_corners=False, antialias=antialias)
    return (images_B3HW + epsilon_map(region_B1HW, budget) * noise).clamp(0, 1)
