"""The square frame that networks see: an image padded right and below with zeros, resized to the network's input side.

The published generation pads first and resizes without antialiasing; both are kept, since published weights were trained so.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from segment_anything_training.prompts import Prompts

MASK_ON = 255.0


def pad_to_square(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` (… × H × W) with zeros to the right and below, as long as it is wide."""
    height, width = tensor.shape[-2:]
    side = max(height, width)
    return F.pad(tensor, (0, side - width, 0, side - height))


def image_frame(image_HW3: np.ndarray, size: int, antialias: bool = False) -> torch.Tensor:
    """What a generator is fed: 1×3×size×size float32 in [0, 1].

    image: H×W×3 uint8. antialias: off as published; the compact generator, whose input is small, turns it on.
    """
    image = torch.from_numpy(np.ascontiguousarray(image_HW3)).permute(2, 0, 1)
    image = pad_to_square(image)[None].to(torch.float32) / 255.0
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=antialias)


def label_frame(mask_HW: np.ndarray, size: int) -> torch.Tensor:
    """The object in the frame: 1×1×size×size float32 of 0 and 1, by nearest neighbour. mask: H×W bool."""
    mask = torch.from_numpy(np.ascontiguousarray(mask_HW, dtype=bool)).to(torch.float32)
    return F.interpolate(pad_to_square(mask)[None, None], (size, size), mode="nearest")


def mask_prompt(label_B1SS: torch.Tensor, mask_size: int) -> torch.Tensor:
    """The mask prompt of a label in the frame: B×1×M×M float32 of 0 or 255. label: 0 to 1; halves round down, to even."""
    mask = F.interpolate(label_B1SS, (mask_size, mask_size), mode="bilinear", align_corners=False)
    return mask.round() * MASK_ON


def mask_prompts(mask_HW: np.ndarray, image_size: int, mask_size: int) -> Prompts:
    """The prompt that generation uses: the object mask alone."""
    return Prompts(masks=mask_prompt(label_frame(mask_HW, image_size), mask_size))


def box_prompts(boxes_N4: np.ndarray, height: int, width: int, image_size: int) -> Prompts:
    """One box around all of `boxes` (N×4 XYXY pixels of the H×W image), moved into the frame."""
    scale = image_size / max(height, width)
    boxes = torch.as_tensor(boxes_N4, dtype=torch.float32).reshape(-1, 4)
    enclosing = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])
    return Prompts(boxes=enclosing[None] * scale)
