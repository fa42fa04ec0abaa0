"""The training losses of the paper: binary cross entropy and dice, both at the same sampled points.

Point sampling follows PointRend (Kirillov et al., CVPR 2020) as Mask2Former uses it. Shapes: B batch, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.method.config import TrainConfig

POINTS = TrainConfig.loss_points

Random = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class LossRule:
    """Says how a loss is taken; the defaults are those of `TrainConfig`, which are as published.

    points: how many points of each map are compared, 0 for every pixel of the logits. oversample: how many times as
    many candidates are looked at. uncertain_share: the share of the points that are the least certain candidates.
    weights: of cross entropy and of dice. smoothing: is added to dice's numerator and denominator.
    """

    points: int = POINTS
    oversample: int = TrainConfig.loss_oversample
    uncertain_share: float = TrainConfig.loss_uncertain_share
    weights: tuple[float, float] = TrainConfig.loss_weights
    smoothing: float = TrainConfig.dice_smoothing


def loss_rule(config: TrainConfig) -> LossRule:
    """Returns how a training configuration takes both players' losses."""
    return LossRule(
        points=config.loss_points,
        oversample=config.loss_oversample,
        uncertain_share=config.loss_uncertain_share,
        weights=config.loss_weights,
        smoothing=config.dice_smoothing,
    )


def sample_at(maps_B1HW: Tensor, points_BP2: Tensor) -> Tensor:
    """Returns the bilinear values of `maps` at `points`, B×P.

    points: (x, y) in [0, 1], 0 and 1 being the outer edges of the map.
    """
    grid = points_BP2[:, :, None] * 2 - 1
    return F.grid_sample(maps_B1HW, grid, mode="bilinear", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(logits_B1HW: Tensor, rule: LossRule, random: Random = None) -> Tensor:
    """Returns `rule.points` points of each map, B×P×2 in [0, 1].

    The rule's share of them are the least certain of `rule.oversample` times as many uniform candidates, uncertainty
    being −|logit|; the others are uniform. random: the source of randomness on the CPU, one for all maps or one for
    each.
    """
    batch, device = logits_B1HW.shape[0], logits_B1HW.device
    candidates = _uniform(batch, rule.points * rule.oversample, random).to(device)
    kept = int(rule.points * rule.uncertain_share)
    order = sample_at(logits_B1HW, candidates).abs().topk(kept, dim=1, largest=False).indices
    chosen = candidates.gather(1, order[..., None].expand(-1, -1, 2))
    uniform = _uniform(batch, rule.points - kept, random).to(device)
    return torch.cat([chosen, uniform], 1)


def _uniform(batch: int, count: int, random: Random) -> Tensor:
    if random is None or isinstance(random, torch.Generator):
        return torch.rand(batch, count, 2, generator=random)
    return torch.stack([torch.rand(count, 2, generator=own) for own in random])


def dice_loss(logits_BP: Tensor, targets_BP: Tensor, smoothing: float = TrainConfig.dice_smoothing) -> Tensor:
    """Returns the mean over the batch of 1 − (2·Σpt + s) / (Σp + Σt + s), p = sigmoid(logit), s the smoothing."""
    probabilities = logits_BP.sigmoid()
    overlap = 2 * (probabilities * targets_BP).sum(1)
    total = probabilities.sum(1) + targets_BP.sum(1)
    return (1 - (overlap + smoothing) / (total + smoothing)).mean()


def mask_loss(logits_B1HW: Tensor, targets_B1SS: Tensor, rule: LossRule = LossRule(), random: Random = None) -> Tensor:
    """Returns the weighted sum of cross entropy and dice, a scalar. targets: in [0, 1], of any size."""
    if rule.points:
        where = uncertain_points(logits_B1HW, rule, random)
        logits, targets = sample_at(logits_B1HW, where), sample_at(targets_B1SS, where)
    else:
        logits, targets = logits_B1HW.flatten(1), _at_size(targets_B1SS, logits_B1HW.shape[-2:]).flatten(1)
    entropy_weight, dice_weight = rule.weights
    entropy = F.binary_cross_entropy_with_logits(logits, targets)
    return entropy_weight * entropy + dice_weight * dice_loss(logits, targets, rule.smoothing)


def _at_size(targets_B1SS: Tensor, size: torch.Size) -> Tensor:
    if targets_B1SS.shape[-2:] == size:
        return targets_B1SS
    return F.interpolate(targets_B1SS, size, mode="bilinear", align_corners=False, antialias=True)
