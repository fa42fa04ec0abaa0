"""CutMix (Yun et al., ICCV 2019), for segmentation as in French et al. (BMVC 2020): a rectangle of another view of
the batch is pasted in, image and labels alike."""

from __future__ import annotations

import math

import torch

from unseg.evaluation.defences.kinds import Batch, BatchDefence

PROBABILITY = 0.5  # of a batch to be mixed: the paper's for CIFAR


def cutmix(probability: float = PROBABILITY) -> BatchDefence:
    """Returns the defence that mixes a batch with probability `probability`, along a permutation of its views.

    The rectangle keeps the view's proportions, covers a share 1 − λ of it with λ uniform in [0, 1] (the paper's α =
    1), has a uniform centre and is cut off at the borders. All views of a batch have the same rectangle.
    """

    def change(batch: Batch, draw: torch.Generator) -> Batch:
        coin, kept, centre_y, centre_x = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
        partner = torch.randperm(len(batch.images), generator=draw).to(batch.images.device)
        if coin >= probability:
            return batch
        height, width = batch.targets.shape[-2:]
        rows = _span(height, centre_y, math.sqrt(1 - kept))
        columns = _span(width, centre_x, math.sqrt(1 - kept))
        images, targets = batch.images.clone(), batch.targets.clone()
        images[:, :, rows, columns] = batch.images[partner][:, :, rows, columns]
        targets[:, rows, columns] = batch.targets[partner][:, rows, columns]
        return Batch(images, targets, batch.loss)

    return BatchDefence("cutmix", change)


def _span(length: int, centre: float, share: float) -> slice:
    """Returns the pixels around `centre` (0 to 1 of the length) that a stretch of `share` of the length covers."""
    middle, half = int(centre * length), int(length * share) // 2
    return slice(max(0, middle - half), min(length, middle + half))
