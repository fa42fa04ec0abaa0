"""All arithmetic on ε, for training and generation alike: from noise in [−1, 1] to an image within its budget.

Shapes: B batch, S side of a square frame, H×W the image's own size.
"""
from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from unseg.config import Budget
from unseg.frame import WHOLE, resize_part

GREY_LEVELS = 255.0


def epsilon_map(region: torch.Tensor, budget: Budget) -> torch.Tensor:
    """Every pixel's bound as a fraction of the range: `budget.object`/255 where `region` is 1, else background/255.

    region: any shape, bool or float of 0 and 1. Returns float32 of the same shape.
    """
    region = region.to(torch.float32)
    return (budget.background + (budget.object - budget.background) * region) / GREY_LEVELS


def add_noise(images_B3HW: torch.Tensor, noise_B3NN: torch.Tensor, region_B1HW: torch.Tensor, budget: Budget,
              antialias: bool = False) -> torch.Tensor:
    """Noised images in [0, 1], differentiable in the noise: what the surrogate sees.

    images: float in [0, 1]; noise: in [−1, 1], resized bilinearly to the images' size; region: 1 on the object, else 0.
    antialias: whether that resizing averages over the area of a pixel, as a reader that shrinks images well does.
    """
    noise = F.interpolate(noise_B3NN, images_B3HW.shape[-2:], mode="bilinear", align_corners=False, antialias=antialias)
    return (images_B3HW + epsilon_map(region_B1HW, budget) * noise).clamp(0, 1)


def published_region(mask_prompt_MM: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The object as the published generation script sees it: the mask prompt resized back and rounded.

    mask_prompt: M×M of 0 or 255, covering the image padded right and below to a square. Returns H×W bool.
    """
    region = torch.empty((height, width), dtype=torch.bool)
    for columns, mask in _resized_strips(mask_prompt_MM[None] / 255.0, height, width):
        region[:, columns] = mask[0].round() > 0
    return region


def resize_noise(noise_3NN: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Noise of the padded square, resized bilinearly to the image's long side and cropped: 3×H×W."""
    return torch.cat([strip for _, strip in _resized_strips(noise_3NN, height, width)], dim=2)


def _resized_strips(square_CNN: torch.Tensor, height: int, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """The crop at the top left of `square` resized bilinearly to the long side: columns, and their C×H×columns values.

    The square itself is never built (a 20,000×20 image would need 4.8 GB for its noise). An image of up to `WHOLE`
    pixels is one strip with exactly the values of F.interpolate; of a larger one the columns are resized before the
    rows, which moves values by at most 2e-7.
    """
    square, scale = square_CNN[None], max(height, width) / square_CNN.shape[-1]
    if height * width <= WHOLE:
        yield slice(0, width), resize_part(square, height, width, scale, scale)[0]
        return
    wide = resize_part(square, square.shape[2], width, 1.0, scale)
    step = max(1, WHOLE // height)
    for start in range(0, width, step):
        strip = wide[..., start:start + step].contiguous()
        yield slice(start, start + strip.shape[3]), resize_part(strip, height, strip.shape[3], scale, 1.0)[0]


def apply(image_HW3: np.ndarray, noise_3NN: torch.Tensor, region_HW: np.ndarray, budget: Budget) -> np.ndarray:
    """The unlearnable image: `image` plus noise, within `budget` at every pixel by construction.

    image: H×W×3 uint8. noise: 3×N×N float32 in [−1, 1], for the image padded right and below to a square.
    region: H×W bool, true on the object. Returns H×W×3 uint8.

    Sum, clamp and rounding follow the published generation. The change is then limited to whole grey levels within the
    budget, which matters only for fractional budgets (rounding 2.5 up would break a bound of 2.5).
    """
    height, width = image_HW3.shape[:2]
    if image_HW3.dtype != np.uint8 or image_HW3.shape != (height, width, 3):
        raise ValueError(f"image: expected H×W×3 uint8, got {image_HW3.shape} {image_HW3.dtype}")
    if region_HW.shape != (height, width):
        raise ValueError(f"region: expected {height}×{width}, got {region_HW.shape}")
    noised = np.empty_like(image_HW3)
    for columns, noise in _resized_strips(noise_3NN, height, width):
        strip = torch.from_numpy(np.stack(cv2.split(np.ascontiguousarray(image_HW3[:, columns]))))
        strip_region = torch.from_numpy(np.ascontiguousarray(region_HW[:, columns], dtype=bool))
        noised[:, columns] = cv2.merge(list(_add(strip, noise, strip_region, budget).numpy()))
    return noised


def _add(image_3HW: torch.Tensor, noise_3HW: torch.Tensor, region_HW: torch.Tensor, budget: Budget) -> torch.Tensor:
    """`apply` for pixels and noise of one size; in place where that saves memory."""
    sum_ = noise_3HW * (epsilon_map(region_HW, budget) * GREY_LEVELS)
    sum_ = sum_.add_(image_3HW).clamp_(0, 255).round_()
    limit = torch.where(region_HW, int(budget.object), int(budget.background)).to(torch.float32)
    change = sum_.sub_(image_3HW).clamp_(-limit, limit)  # whole numbers up to 255: exact as floats
    return change.add_(image_3HW).to(torch.uint8)


def uniform(height: int, width: int, generator: np.random.Generator) -> torch.Tensor:
    """The control: independent uniform noise in [−1, 1] for every value, 3×S×S, S the long side (so never resized)."""
    side = max(height, width)
    return torch.from_numpy(generator.uniform(-1, 1, (3, side, side)).astype(np.float32))
