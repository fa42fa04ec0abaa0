"""What networks of objects are taught, and what detectors say: the types that training and networks share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_DETECTIONS = 100  # an image, the highest scores first: COCO's limit


@dataclass(frozen=True)
class Targets:
    """The regions of a view.

    labels: N int64, places in the list of classes. masks: N×H×W bool. boxes: N×4 float32, XYXY in pixels of the view,
    each the tight box of its mask.
    """

    labels: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor

    def to(self, device: torch.device) -> Targets:
        """Returns the same regions on `device`."""
        return Targets(self.labels.to(device), self.masks.to(device), self.boxes.to(device))


@dataclass(frozen=True)
class FoundObjects:
    """What a detector says of one image, the best first.

    scores: N, 0 to 1. labels: N. boxes: N×4 XYXY in pixels of the view. masks: N×H×W probabilities over the view's
    frame; None for detectors of boxes.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor | None
