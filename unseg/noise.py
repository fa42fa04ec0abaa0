"""All arithmetic on ε: from a generator's noise in [−1, 1] to an image within its budget. Training and generation share it.

Shapes: B batch, S side of a square frame, H×W the image's own size.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from unseg.config import Budget

GREY_LEVELS = 255.0


def epsilon_map(region: torch.Tensor, budget: Budget) -> torch.Tensor:
    """The bound of every pixel, as a fraction of the range: `budget.object`/255 where `region` is 1, else background/255.

    region: any shape, bool or float of 0 and 1. Returns float32 of the same shape.
    """
    region = region.to(torch.float32)
    return (budget.background + (budget.object - budget.background) * region) / GREY_LEVELS


def add_noise(images_B3HW: torch.Tensor, noise_B3NN: torch.Tensor, region_B1HW: torch.Tensor, budget: Budget) -> torch.Tensor:
    """Noised images in [0, 1], differentiable in the noise: what the surrogate sees.

    images: float in [0, 1]; noise: in [−1, 1], resized bilinearly to the images' size; region: 1 on the object, else 0.
    """
    noise = F.interpolate(noise_B3NN, images_B3HW.shape[-2:], mode="bilinear", align_corners=False)
    return (images_B3HW + epsilon_map(region_B1HW, budget) * noise).clamp(0, 1)


def published_region(mask_prompt_MM: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The object as the published generation script sees it: the mask prompt resized back and rounded.

    mask_prompt: M×M of 0 or 255, covering the image padded right and below to a square. Returns H×W bool.
    """
    side = max(height, width)
    mask = F.interpolate(mask_prompt_MM[None, None] / 255.0, (side, side), mode="bilinear", align_corners=False)
    return mask[0, 0, :height, :width].round() > 0


def resize_noise(noise_3NN: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Noise of the padded square, resized bilinearly to the image's long side and cropped: 3×H×W."""
    side = max(height, width)
    return F.interpolate(noise_3NN[None], (side, side), mode="bilinear", align_corners=False)[0, :, :height, :width]


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
    image = torch.from_numpy(np.ascontiguousarray(image_HW3))
    region = torch.from_numpy(np.ascontiguousarray(region_HW, dtype=bool))
    noise = resize_noise(noise_3NN, height, width).permute(1, 2, 0)
    scaled = noise * (epsilon_map(region, budget)[..., None] * GREY_LEVELS)
    limit = torch.where(region, int(budget.object), int(budget.background)).to(torch.int16)[..., None]
    change = ((image + scaled).clamp(0, 255).round().to(torch.int16) - image).clamp(-limit, limit)
    return (image + change).to(torch.uint8).numpy()


def uniform(height: int, width: int, generator: np.random.Generator) -> torch.Tensor:
    """The control: independent uniform noise in [−1, 1] for every value, 3×S×S with S the long side (so never resized)."""
    side = max(height, width)
    return torch.from_numpy(generator.uniform(-1, 1, (3, side, side)).astype(np.float32))
