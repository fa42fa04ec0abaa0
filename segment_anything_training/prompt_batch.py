"""The prompts that condition a network, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FIELDS = ("masks", "boxes", "points")
MASK, BOX, POINTS = range(len(FIELDS))  # the columns of `Prompts.given`


@dataclass(frozen=True)
class Prompts:
    """Holds the prompts of one batch. Every field is None (not given) or holds one entry for each of the B images.

    Coordinates are pixels (x, y) of the network's square input, `image_size` on a side.

    masks: B×1×M×M float32 of 0 or 255, M being the network's `mask_size` (the published weights expect 0 or 255,
        not SAM's logits).
    boxes: B×4 float32, XYXY, corners inclusive.
    points: B×N×2 float32 (x, y); every point lies on the object (label 1).
    codes: B×3×M×M float32 in [−1, 1], for generators that take codes: how the code of each pixel changes R, G and B, as
        shares of the budget; 0 where a pixel has no noise. All images of a batch have it, or none.
    given: B×3 bool, for batches whose images have different prompts: whether image i has its mask, its box, its points
        (columns MASK, BOX, POINTS). An entry that is not given can hold any finite numbers; networks do not see it.
        None: every image has every field that is not None.
    """

    masks: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    points: torch.Tensor | None = None
    given: torch.Tensor | None = None
    codes: torch.Tensor | None = None

    @classmethod
    def join(cls, each: Sequence[Prompts]) -> Prompts:
        """Returns one batch of the prompts of single images (batches of 1 without `given`), whatever each of them has.

        All that have points must have the same number of them, and mask prompts one size: ValueError otherwise.
        """
        columns = [[getattr(one, name) for one in each] for name in FIELDS]
        for name, column in zip(FIELDS, columns, strict=True):
            shapes = {tuple(field.shape) for field in column if field is not None}
            if len(shapes) > 1 or any(shape[0] != 1 for shape in shapes) or any(one.given is not None for one in each):
                raise ValueError(
                    f"prompts.{name}: expected entries of single images, alike in shape, got {sorted(shapes)}"
                )
        masks, boxes, points = (_joined(column) for column in columns)
        planes = [one.codes for one in each if one.codes is not None]
        if len(planes) not in (0, len(each)):
            raise ValueError("prompts.codes: expected of all images of a batch, or of none")
        codes = torch.cat(planes) if planes else None
        has = [tuple(getattr(one, name) is not None for name in FIELDS) for one in each]
        first = next((field for field in (masks, boxes, points) if field is not None), None)
        if first is None or len(set(has)) == 1:
            return cls(masks, boxes, points, codes=codes)
        return cls(masks, boxes, points, torch.tensor(has, device=first.device), codes)

    def to(self, device: torch.device | str) -> Prompts:
        """Returns the prompts on a device."""
        return Prompts(*(None if field is None else field.to(device) for field in self._fields()))

    def __getitem__(self, index: slice) -> Prompts:
        """Returns the prompts of the images that `index` (a slice) selects."""
        return Prompts(*(None if field is None else field[index] for field in self._fields()))

    def of_image(self, index: int) -> Prompts:
        """Returns the prompts of one image alone, as a batch of 1 without `given`: what it does not have is None."""
        alone = self[index : index + 1]
        if alone.given is None:
            return alone
        has = alone.given[0].tolist()
        shown = {name: getattr(alone, name) for name, given in zip(FIELDS, has, strict=True) if given}
        return Prompts(**shown, codes=alone.codes)

    def check(self, batch: int) -> None:
        """Raises ValueError unless every field is of `batch` images."""
        for name, field in zip((*FIELDS, "given", "codes"), self._fields(), strict=True):
            if field is not None and field.shape[0] != batch:
                raise ValueError(f"prompts.{name}: {field.shape[0]} entries for {batch} images")

    def _fields(self) -> tuple[torch.Tensor | None, ...]:
        return self.masks, self.boxes, self.points, self.given, self.codes


def _joined(column: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Returns one tensor of all entries, with zeros in the places of those that are None; None where all are."""
    some = next((field for field in column if field is not None), None)
    if some is None:
        return None
    blank = torch.zeros_like(some)
    return torch.cat([blank if field is None else field for field in column])
