"""What an image is called after its noise: protected only where enough changed, in every plane, and by the noise."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.method.config import Budget
from unseg.protecting.effect import PlaneChanges, effect_of, status_of

HEIGHT, WIDTH = 7, 11
OBJECT = np.arange(HEIGHT)[:, None] >= 3 + np.zeros(WIDTH)


def level(value: float, channels: int = 1) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, channels), value, np.float64)


def test_planes_count_by_themselves() -> None:
    changes = PlaneChanges()
    for plane, value in enumerate((6.0, 1.9, 0.5, 2.0)):
        changes.add(plane, level(value, 2), OBJECT)
    changes.add(4, level(0.0), np.zeros((HEIGHT, WIDTH), bool))  # a plane without the object
    assert changes.pixels == 4 * 4 * WIDTH
    status, reason = changes.status(8)  # 2.6 on average
    assert status == "weak" and reason == (
        "in 2 of 4 planes with an object it changed by under a quarter of 8 grey levels on average, by 0.5 in plane 3"
    )
    assert changes.status(2) == ("protected", None)
    assert changes.status(20) == ("weak", "its object changed by 2.6 grey levels on average, under a quarter of 20")


@pytest.mark.parametrize(
    ("change", "budget", "reason"),
    [
        (0.999, 4.0, "its object changed by 0.99 grey levels on average, under a quarter of 4"),
        (9.999, 40.0, "its object changed by 9.99 grey levels on average, under a quarter of 40"),
        (0.001, 4.0, "its object changed by 0.01 grey levels on average, under a quarter of 4"),
        (0.0, 8.0, "its object did not change; the budget is 8 grey levels"),
    ],
)
def test_a_reason_never_shows_a_quarter_of_the_budget(change: float, budget: float, reason: str) -> None:
    assert status_of(change, budget) == ("weak", reason)


def test_parts_of_a_plane_count_together() -> None:
    changes = PlaneChanges()
    changes.add(0, level(0.0), OBJECT)
    changes.add(0, level(5.0), OBJECT)
    assert changes.status(8) == ("protected", None)


def test_a_file_without_an_object_is_uncoded() -> None:
    changes = PlaneChanges()
    changes.add(0, level(5.0), np.zeros((HEIGHT, WIDTH), bool))
    assert changes.status(8)[0] == "uncoded"


@pytest.mark.parametrize(("noise", "status"), [(0, "weak"), (1, "weak"), (2, "protected")])
def test_what_a_lossy_format_changes_is_not_taken_for_noise(noise: int, status: str) -> None:
    original = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    noised = original + np.uint8(noise) * OBJECT[..., None].astype(np.uint8)
    stored = original + np.uint8(3)  # the coding error of the format, more than a quarter of the budget
    found = effect_of(original, stored, OBJECT, Budget(8, 0), noised_HWC=noised)
    assert found.status == status
    assert (found.over_budget, found.max_over) == (pytest.approx(3 / 7), 3)


def test_noise_that_a_lossy_format_takes_away_is_weak() -> None:
    original = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    noised = original + np.uint8(8) * OBJECT[..., None].astype(np.uint8)
    assert effect_of(original, original, OBJECT, Budget(8, 0), noised_HWC=noised).status == "weak"
