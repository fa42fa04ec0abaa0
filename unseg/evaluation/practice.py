"""What people choose who train a network: the scale of views, the network's first weights, what learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unseg.evaluation.practice_views import check_crop

IMAGENET, NO_WEIGHTS = "imagenet", "none"  # words that --weights takes besides paths


@dataclass(frozen=True)
class Practice:
    """How people train. crop: side of a view, pixels. distort: whether views change in colour. weights: `imagenet`, a
    file, or None for random weights. frozen_encoder: whether the encoder keeps its weights. seed: of what defences
    draw."""

    crop: int = 512
    distort: bool = True
    weights: str | Path | None = IMAGENET
    frozen_encoder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_crop(self.crop)

    @property
    def file(self) -> Path | None:
        """Returns the file or folder of weights that was named; None where there is none."""
        return None if self.weights is None or self.weights == IMAGENET else Path(self.weights)
