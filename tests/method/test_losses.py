"""Losses against values computed by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from unseg.method.losses import LossRule, dice_loss, mask_loss, sample_at, uncertain_points


def test_dice_by_hand():
    # sigmoid(0) = 1/2 everywhere; targets 1, 0: overlap 2·(1/2) = 1, total 1 + 1 = 2, so 1 − (1 + 1)/(2 + 1) = 1/3.
    assert dice_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1 / 3)


def test_dice_is_the_mean_over_the_batch():
    logits, targets = torch.tensor([[40.0, 40.0], [-40.0, -40.0]]), torch.ones(2, 2)
    # First: (4 + 1)/(4 + 1) → 0. Second: (0 + 1)/(2 + 1) → 2/3.
    assert dice_loss(logits, targets).item() == pytest.approx(1 / 3)


def test_dense_loss_by_hand():
    loss = mask_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), LossRule(points=0))
    # BCE log 2; dice: overlap 2·1 = 2, total 2 + 2, so 1 − 3/5.
    assert loss.item() == pytest.approx(math.log(2) + 0.4)


def test_sampling_at_pixel_centres_reads_the_pixels():
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    centres = torch.stack([(columns + 0.5) / 4, (rows + 0.5) / 3], -1).reshape(1, 12, 2)
    torch.testing.assert_close(sample_at(maps, centres), maps.flatten(1))


def test_three_quarters_of_the_points_are_uncertain():
    # Certain everywhere but in the left tenth, which holds a tenth of the candidates: all of those are chosen first.
    logits = torch.full((1, 1, 50, 50), 9.0)
    logits[..., :5] = 0.0
    points = uncertain_points(logits, LossRule(400), torch.Generator().manual_seed(0))
    assert points.shape == (1, 400, 2) and points.min() >= 0 and points.max() <= 1
    in_the_left = (points[0, :, 0] < 0.1).float()
    candidates = torch.rand(1, 1200, 2, generator=torch.Generator().manual_seed(0))
    assert in_the_left[:300].sum() == (candidates[0, :, 0] < 0.1).sum() > 80
    assert 0.02 < in_the_left[300:].mean() < 0.25  # the rest is uniform


def test_both_losses_look_at_the_same_points():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 1, 16, 16), torch.rand(2, 1, 32, 32).round()
    points = uncertain_points(logits, LossRule(64), torch.Generator().manual_seed(5))
    expected = F.binary_cross_entropy_with_logits(sample_at(logits, points), sample_at(targets, points)) + dice_loss(
        sample_at(logits, points), sample_at(targets, points)
    )
    assert mask_loss(logits, targets, LossRule(64), torch.Generator().manual_seed(5)).item() == pytest.approx(
        expected.item()
    )


@pytest.mark.parametrize(
    "rule, expected",
    [
        # Logits 0, targets 1 0 1 0: cross entropy log 2; dice with smoothing s: 1 − (2 + s)/(4 + s).
        (LossRule(0, weights=(1, 0)), math.log(2)),
        (LossRule(0, weights=(0, 1)), 0.4),
        (LossRule(0, weights=(2, 3)), 2 * math.log(2) + 1.2),
        (LossRule(0, weights=(0, 1), smoothing=0), 0.5),
        (LossRule(0, weights=(0, 1), smoothing=4), 0.25),
    ],
)
def test_weights_and_smoothing_by_hand(rule, expected):
    assert mask_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), rule).item() == pytest.approx(
        expected
    )


def test_how_many_points_are_uncertain_is_the_rules():
    logits = torch.full((1, 1, 50, 50), 9.0)
    logits[..., :5] = 0.0
    for oversample, share, in_the_left in ((1, 1.0, (10, 80)), (10, 1.0, (300, 400)), (10, 0.25, (115, 220))):
        rule = LossRule(400, oversample=oversample, uncertain_share=share)
        points = uncertain_points(logits, rule, torch.Generator().manual_seed(0))
        assert points.shape == (1, 400, 2) and in_the_left[0] <= (points[0, :, 0] < 0.1).sum() <= in_the_left[1]
