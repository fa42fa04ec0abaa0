"""Published states in the names and shapes of the networks, on values that are computed here another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segment_anything_training import key_remaps
from segment_anything_training.key_remaps import mae_to_sam


def test_split_keeps_foreign_entries_apart():
    tensor = torch.zeros(1)
    parts = key_remaps.split_sam({"mask_decoder.a.b": tensor, "other.c": tensor, "mask_decoder": tensor})
    assert {part: list(state) for part, state in parts.items()} == {
        "image_encoder": [],
        "prompt_encoder": [],
        "mask_decoder": ["a.b"],
        "": ["other.c", "mask_decoder"],
    }
    assert key_remaps.join_sam({"mask_decoder": {"a.b": tensor}, "": {"other.c": tensor}}).keys() == {
        "mask_decoder.a.b",
        "other.c",
    }


def cubic_row(place: float, size: int) -> np.ndarray:
    """Weights of `size` samples for a point at `place`: Keys' cubic with a = −0.75, edges repeated."""
    a, weights = -0.75, np.zeros(size)
    first = math.floor(place) - 1
    for index in range(first, first + 4):
        x = abs(place - index)
        weight = ((a + 2) * x - (a + 3)) * x * x + 1 if x <= 1 else ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weights[min(max(index, 0), size - 1)] += weight
    return weights


@pytest.mark.parametrize(("side", "grid"), [(14, 32), (3, 4), (5, 2)])
def test_positions_are_resized_bicubically(side, grid):
    position = torch.randn(1, side**2 + 1, 6)
    resize = np.stack([cubic_row((index + 0.5) * side / grid - 0.5, side) for index in range(grid)])
    expected = np.einsum("ir,js,rsd->ijd", resize, resize, position[0, 1:].double().numpy().reshape(side, side, 6))
    result = mae_to_sam({"pos_embed": position}, grid)["pos_embed"]
    assert result.shape == (1, grid, grid, 6)
    np.testing.assert_allclose(result[0], expected, atol=1e-5)
