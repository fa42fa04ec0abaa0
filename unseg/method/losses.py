"""The training losses of the paper: binary cross entropy and dice, both at the same sampled points.

Point sampling follows PointRend (Kirillov et al., CVPR 2020) as Mask2Former uses it. Shapes: B batch, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = 112 * 112
OVERSAMPLE = 3
UNCERTAIN_SHARE = 0.75
DICE_SMOOTHING = 1.0

Random = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class LossRule:
    """How a loss is taken; what is published where nothing is named.

    points: that are compared in each map, 0 for every pixel of the logits. oversample, uncertain_share: see `uncertain_points`.
    weights: of cross entropy and of dice. smoothing: of dice.
    """

    points: int = POINTS
    oversample: int = OVERSAMPLE
    uncertain_share: float = UNCERTAIN_SHARE
    weights: tuple[float, float] = (1.0, 1.0)
    smoothing: float = DICE_SMOOTHING


def sample_at(maps_B1HW: Tensor, points_BP2: Tensor) -> Tensor:
    """Bilinear values of `maps` at `points` ((x, y) in [0, 1], 0 and 1 being the outer edges of the map): B×P."""
    grid = points_BP2[:, :, None] * 2 - 1
    return F.grid_sample(maps_B1HW, grid, mode="bilinear", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(
    logits_B1HW: Tensor,
    count: int,
    random: Random = None,
    oversample: int = OVERSAMPLE,
    uncertain_share: float = UNCERTAIN_SHARE,
) -> Tensor:
    """`count` points of each map, B×count×2 in [0, 1]: a share the least certain of `oversample` × count, the rest uniform.

    Uncertainty is −|logit|. random: the source of randomness on the CPU, one for all maps or one for each.
    """
    batch, device = logits_B1HW.shape[0], logits_B1HW.device
    candidates = _uniform(batch, count * oversample, random).to(device)
    kept = int(count * uncertain_share)
    order = sample_at(logits_B1HW, candidates).abs().topk(kept, dim=1, largest=False).indices
    chosen = candidates.gather(1, order[..., None].expand(-1, -1, 2))
    uniform = _uniform(batch, count - kept, random).to(device)
    return torch.cat([chosen, uniform], 1)


def _uniform(batch: int, count: int, random: Random) -> Tensor:
    if random is None or isinstance(random, torch.Generator):
        return torch.rand(batch, count, 2, generator=random)
    return torch.stack([torch.rand(count, 2, generator=own) for own in random])


def dice_loss(logits_BP: Tensor, targets_BP: Tensor, smoothing: float = DICE_SMOOTHING) -> Tensor:
    """1 − (2·Σpt + s) / (Σp + Σt + s), p = sigmoid(logit), s the smoothing; mean over the batch."""
    probabilities = logits_BP.sigmoid()
    overlap = 2 * (probabilities * targets_BP).sum(1)
    total = probabilities.sum(1) + targets_BP.sum(1)
    return (1 - (overlap + smoothing) / (total + smoothing)).mean()


def mask_loss(logits_B1HW: Tensor, targets_B1SS: Tensor, rule: LossRule = LossRule(), random: Random = None) -> Tensor:
    """BCE + dice, weighted 1 : 1 unless the rule says otherwise. targets: in [0, 1], of any size."""
    if rule.points:
        where = uncertain_points(logits_B1HW, rule.points, random, rule.oversample, rule.uncertain_share)
        logits, targets = sample_at(logits_B1HW, where), sample_at(targets_B1SS, where)
    else:
        if targets_B1SS.shape != logits_B1HW.shape:
            targets_B1SS = F.interpolate(
                targets_B1SS, logits_B1HW.shape[-2:], mode="bilinear", align_corners=False, antialias=True
            )
        logits, targets = logits_B1HW.flatten(1), targets_B1SS.flatten(1)
    of_entropy, of_dice = rule.weights
    return of_entropy * F.binary_cross_entropy_with_logits(logits, targets) + of_dice * dice_loss(
        logits, targets, rule.smoothing
    )
