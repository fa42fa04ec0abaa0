"""The prompts that condition a network, as tensors."""
from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Prompts:
    """Prompts of one batch. Every field is None (not given) or holds one entry for each of the B images.

    Coordinates are pixels (x, y) of the network's square input, `image_size` on a side.

    masks: B×1×M×M float32 of 0 or 255, M being the network's `mask_size` (the published weights expect 0 or 255,
        not SAM's logits).
    boxes: B×4 float32, XYXY, corners inclusive.
    points: B×N×2 float32 (x, y); every point lies on the object (label 1).
    """

    masks: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    points: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "Prompts":
        return Prompts(*(None if field is None else field.to(device) for field in (self.masks, self.boxes, self.points)))

    def __getitem__(self, index: slice) -> "Prompts":
        """The prompts of the images that `index` (a slice) selects."""
        return Prompts(*(None if field is None else field[index] for field in (self.masks, self.boxes, self.points)))
