"""Views as people draw them, against values computed by hand from the published definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unseg.errors import UserError
from unseg.evaluation.practice_views import (
    FILL,
    NUMBERS_A_VIEW,
    Distortion,
    View,
    check_crop,
    distorted,
    draw_practice_views,
    take_view,
)

PLAIN = View(scale=1.0, left=0.0, top=0.0, flip=False, distortion=Distortion())


def pixel(red: int, green: int, blue: int) -> np.ndarray:
    return np.array([[[red, green, blue]]], np.uint8)


@pytest.mark.parametrize(
    ("distortion", "before", "after"),
    [
        # Fractions are cut off: 100 + 20.7 = 120.7 is 120; 250 + 20.7 stops at 255.
        (Distortion(brightness=20.7), (100, 0, 250), (120, 20, 255)),
        (Distortion(brightness=-20.7), (100, 10, 250), (79, 0, 229)),
        # A factor on the values themselves, not around their mean.
        (Distortion(contrast=1.25), (100, 201, 250), (125, 251, 255)),
        (Distortion(contrast=0.5), (101, 0, 255), (50, 0, 127)),
        # OpenCV's HSV of (200, 80, 80): H 0, S 255 · 120/200 = 153, V 200. Half the saturation is 76 (76.5, cut):
        # 200 · (1 − 76/255) = 140.4.
        (Distortion(saturation=0.5), (200, 80, 80), (200, 140, 140)),
        # Pure red has hue 0; a shift by 60 of 180 would be green. 15 of 180 are 30°: (255, 127.5, 0).
        (Distortion(hue=15), (255, 0, 0), (255, 128, 0)),
        # Below 0 the hue wraps around: −10 is 170, which are 340°: (255, 0, 255 · 20/60).
        (Distortion(hue=-10), (255, 0, 0), (255, 0, 85)),
        # Grey has no hue and no saturation.
        (Distortion(saturation=1.5, hue=18), (90, 90, 90), (90, 90, 90)),
        # Brightness comes before contrast: (100 + 32) · 1.5 = 198, not 182.
        (Distortion(brightness=32.0, contrast=1.5), (100, 100, 100), (198, 198, 198)),
        (Distortion(), (1, 2, 3), (1, 2, 3)),
    ],
)
def test_distortion_by_hand(distortion, before, after) -> None:
    assert distorted(pixel(*before), distortion)[0, 0].tolist() == list(after)


def test_contrast_comes_first_or_last() -> None:
    """First: 1.5 · (200, 100, 50) = (255, 150, 75), so V is 255. Last: V is still 200 when saturation changes."""
    both = Distortion(contrast=1.5, saturation=0.5)
    # S = 255 · (255 − 75)/255 = 180 → 90; the smallest value is 255 · (1 − 90/255) = 165; green lies (150 − 75)/180
    # of the way up.
    first = distorted(pixel(200, 100, 50), both)[0, 0]
    assert np.abs(first.astype(int) - [255, 165 + 0.417 * 90, 165]).max() <= 3  # hue counts in steps of 2°
    # S = 255 · 150/200 = 191 → 95; 200 · (1 − 95/255) = 125.5; green lies 1/3 of the way; then all of it times 1.5.
    last = distorted(pixel(200, 100, 50), dataclasses.replace(both, contrast_first=False))[0, 0]
    assert np.abs(last.astype(int) - [255, 1.5 * (125.5 + 74.5 / 3), 1.5 * 125.5]).max() <= 3


def test_crop_at_native_scale_is_a_part_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    labels = np.random.default_rng(1).integers(0, 9, (50, 70)).astype(np.uint8)
    # Room: 50 − 32 = 18 rows down (19 places), 70 − 32 = 38 columns (39 places).
    seen, known = take_view(image, labels, dataclasses.replace(PLAIN, top=0.5, left=0.999), 32)
    assert np.array_equal(seen, image[9:41, 38:70])
    assert np.array_equal(known, labels[9:41, 38:70])


def test_small_image_lies_at_the_top_left_of_the_fill() -> None:
    image = np.full((20, 40, 3), 7, np.uint8)
    labels = np.full((20, 40), 3, np.uint8)
    distortion = Distortion(brightness=10.0)
    seen, known = take_view(image, labels, dataclasses.replace(PLAIN, top=0.9, distortion=distortion), 32)
    assert (seen[:20] == 17).all() and (known[:20] == 3).all()
    assert (seen[20:] == FILL).all() and (known[20:] == 255).all()


def test_half_scale_by_hand() -> None:
    """Bilinear at pixel centres: each value of the half image is the mean of 2×2; labels come from one of the four."""
    image = np.arange(64 * 96, dtype=np.float64).reshape(64, 96) % 97 * 2
    image = np.repeat(image[..., None], 3, 2).astype(np.uint8)
    labels = np.arange(64, dtype=np.uint8)[:, None].repeat(96, 1)
    seen, known = take_view(image, labels, dataclasses.replace(PLAIN, scale=0.5), 64)
    expected = image.reshape(32, 2, 48, 2, 3).astype(float).mean((1, 3))
    assert np.abs(seen[:32, :48] - expected).max() <= 1
    assert np.isin(known[:32, :48] // 2, np.arange(32)).all()
    assert (known[:32, 0] // 2 == np.arange(32)).all()
    assert (known[32:] == 255).all() and (known[:, 48:] == 255).all()


@pytest.mark.parametrize("seed", range(6))
def test_image_and_labels_move_together(seed: int) -> None:
    """The image shows its own label as colour: inside regions, where nothing is interpolated, both agree."""
    labels = np.kron(np.random.default_rng(seed).integers(0, 5, (3, 5)), np.ones((37, 31))).astype(np.uint8)
    image = np.repeat((labels * 50)[..., None], 3, 2)
    view = draw_practice_views(1, torch.Generator().manual_seed(seed), distort=False)[0]
    seen, known = take_view(image, labels, view, 96)
    counted = known != 255
    agree = seen[..., 0][counted] == known[counted] * 50
    assert agree.mean() > 0.9  # what is left are the seams
    assert (seen[~counted] == FILL).all()


def test_flip_mirrors_both() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    labels = np.random.default_rng(1).integers(0, 9, (40, 60)).astype(np.uint8)
    seen, known = take_view(image, labels, PLAIN, 36)
    mirrored, mirrored_labels = take_view(image, labels, dataclasses.replace(PLAIN, flip=True), 36)
    assert np.array_equal(mirrored, seen[:, ::-1]) and np.array_equal(mirrored_labels, known[:, ::-1])


def test_views_take_a_fixed_amount_of_random_numbers() -> None:
    one, other, numbers = (torch.Generator().manual_seed(5) for _ in range(3))
    draw_practice_views(7, one)
    draw_practice_views(7, other, distort=False)
    torch.rand(7, NUMBERS_A_VIEW, generator=numbers, dtype=torch.float64)
    assert torch.equal(one.get_state(), other.get_state())
    assert torch.equal(one.get_state(), numbers.get_state())


def test_ranges_of_many_views() -> None:
    views = draw_practice_views(4000, torch.Generator().manual_seed(0))
    scales = np.array([view.scale for view in views])
    assert 0.5 <= scales.min() < 0.51 and 1.99 < scales.max() < 2.0 and abs(scales.mean() - 1.25) < 0.02
    colours = [view.distortion for view in views]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 18),
    ):
        values = [value for value in (getattr(colour, name) for colour in colours) if value is not None]
        assert 0.45 < len(values) / len(views) < 0.55, name
        assert low <= min(values) <= low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) <= max(values) <= high, name
    assert {colour.hue for colour in colours} - {None} == set(range(-18, 19))
    assert 0.45 < np.mean([colour.contrast_first for colour in colours]) < 0.55
    assert 0.45 < np.mean([view.flip for view in views]) < 0.55


def test_tiny_crops_are_refused() -> None:
    with pytest.raises(UserError, match="--crop 31: give 32 to 4096"):
        check_crop(31)
    check_crop(32)
