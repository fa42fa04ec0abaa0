"""Pictures: what stands where."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.storage.panels import before_after_noise_mask


def panels(picture: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The four photographs of a picture, found by its layout: equal gaps at the sides, between them and below."""
    gap = (picture.shape[1] - 4 * width) // 5
    top = picture.shape[0] - gap - height
    return [picture[top : top + height, gap + i * (width + gap) :][:, :width] for i in range(4)]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (200, 90)])
def test_photograph_noise_and_mask_stand_side_by_side(height: int, width: int) -> None:
    draw = np.random.default_rng(0)
    original = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = draw.random((height, width)) < 0.5
    change = draw.integers(-8, 9, original.shape)
    unlearnable = (original + change).clip(0, 255).astype(np.uint8)
    first, second, noise, white = panels(before_after_noise_mask(original, unlearnable, mask), height, width)
    assert np.array_equal(first, original)
    assert np.array_equal(second, unlearnable)
    real = unlearnable.astype(int) - original
    expected = np.where(real == 0, 128, np.clip(128 + 16 * real, 0, 255))
    assert np.array_equal(noise, expected)
    assert np.array_equal(white, np.where(mask[..., None], 255, 0) * np.ones(3, int))


def test_captions_are_drawn_above_the_photographs() -> None:
    white = np.full((64, 128, 3), 255, np.uint8)
    picture = before_after_noise_mask(white, white, np.ones((64, 128), bool))
    gap = (picture.shape[1] - 4 * 128) // 5
    above = picture[: picture.shape[0] - 64 - gap]
    for i in range(4):
        assert above[:, gap + i * (128 + gap) :][:, :128].min() < 100
