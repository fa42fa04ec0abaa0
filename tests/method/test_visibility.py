"""ΔE2000 on objects, by pixel and after the blur of the eye, against published pairs and plain computations."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.method import visibility as module
from unseg.method.visibility import LARGEST, MARGIN, visibility

GREY = np.full((60, 90, 3), 119, np.uint8)


def grating(period: int) -> np.ndarray:
    """Green–magenta, diagonal, of 8 grey levels; half a pixel off, so that both signs are equally frequent."""
    y, x = np.mgrid[:60, :90]
    signs = np.where(np.sin(2 * np.pi * (x + y + 0.5) / period) > 0, 1, -1)
    return (8 * signs[..., None] * np.array([1, -1, 1])).astype(int)


def test_a_flat_change_of_lightness_is_seen_alike_before_and_after_the_blur() -> None:
    """L* of sRGB grey 119 is 50.03 and of grey 127 is 53.19 (CIE formulas by hand); near L* 50 S_L is 1."""
    found = visibility(GREY, GREY + 8, np.ones((60, 90), bool))
    assert found is not None
    mean_lightness = (50.03 + 53.19) / 2
    weight = 1 + 0.015 * (mean_lightness - 50) ** 2 / (20 + (mean_lightness - 50) ** 2) ** 0.5
    assert found.delta_e == pytest.approx((53.19 - 50.03) / weight, abs=0.01)
    assert found.s_cielab == pytest.approx(found.delta_e, abs=1e-6)


def test_fine_gratings_vanish_for_the_eye() -> None:
    whole = np.ones((60, 90), bool)
    coarse, fine = (visibility(GREY, (GREY + grating(period)).astype(np.uint8), whole) for period in (16, 4))
    assert coarse is not None and fine is not None
    assert coarse.delta_e == pytest.approx(fine.delta_e, rel=0.02)
    assert fine.s_cielab < 0.5 * coarse.s_cielab < 0.15 * coarse.delta_e


def test_only_the_object_counts() -> None:
    mask = np.zeros((60, 90), bool)
    mask[10:20, 30:50] = True
    beside = GREY.copy()
    beside[40:, 80:] = 0
    found = visibility(GREY, beside, mask)
    assert found is not None and found.delta_e == 0
    assert visibility(GREY, beside, np.zeros((60, 90), bool)) is None


def test_a_part_around_the_object_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    clean = draw.integers(0, 256, (100, 150, 3), dtype=np.uint8)
    changed = np.clip(clean + draw.integers(-8, 9, clean.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((100, 150), bool)
    mask[50:55, 60:80] = True
    part = visibility(clean, changed, mask)
    monkeypatch.setattr(module, "MARGIN", 1000)
    assert part == visibility(clean, changed, mask)
    assert MARGIN < 40


def test_of_a_large_object_the_middle_is_measured() -> None:
    clean = np.full((20, LARGEST + 200, 3), 119, np.uint8)
    changed = clean.copy()
    changed[:, :90] = 0  # left of the middle part, and further than the blur reaches from there
    changed[:, :40] = 255
    mask = np.ones(clean.shape[:2], bool)
    mask[:, 0] = False
    found = visibility(clean, changed, mask)
    assert found is not None and found.delta_e == 0
