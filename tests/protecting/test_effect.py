"""What an image is called after its noise: protected only where enough changed, in every plane, and by the noise."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.method.config import Budget
from unseg.protecting.effect import PlaneChanges, effect, effect_of, foreseen_status, status_of

HEIGHT, WIDTH = 7, 11
OBJECT = np.arange(HEIGHT)[:, None] >= 3 + np.zeros(WIDTH)


def level(value: float, channels: int = 1) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, channels), value, np.float64)


def test_planes_count_by_themselves() -> None:
    changes = PlaneChanges(HEIGHT, WIDTH)
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
    changes = PlaneChanges(HEIGHT, WIDTH)
    changes.add(0, level(0.0), OBJECT)
    changes.add(0, level(5.0), OBJECT)
    assert changes.status(8) == ("protected", None)


def test_a_file_without_an_object_is_uncoded() -> None:
    changes = PlaneChanges(HEIGHT, WIDTH)
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


@pytest.mark.parametrize(("pixels", "shape", "status"), [(31, (60, 724), "weak"), (32, (60, 724), "protected")])
def test_an_object_on_which_networks_hardly_see_noise_is_weak(pixels: int, shape: tuple[int, int], status: str) -> None:
    original = np.full((*shape, 3), 90, np.uint8)
    object_HW = np.zeros(shape, bool)
    object_HW[10:14, 700:708].flat[:] = np.arange(32) < pixels
    noised = original + np.uint8(8) * object_HW[..., None].astype(np.uint8)
    found, reason = effect(original, noised, object_HW, 8)
    assert found == status == foreseen_status(object_HW)[0] and (reason is None) == (status == "protected")


def block(height: int, width: int, rows: int, columns: int, pixels: int | None = None) -> np.ndarray:
    """Returns a block that is no square, or its first pixels, in an image."""
    found = np.zeros((height, width), bool)
    found[3 : 3 + rows, 2 : 2 + columns] = (np.arange(rows * columns) < (pixels or rows * columns)).reshape(rows, -1)
    return found


def test_how_small_an_object_may_be_grows_with_the_image() -> None:
    assert foreseen_status(block(1448, 100, 8, 16, 127)) == (  # twice 724
        "weak",
        "its object has 127 pixels: in an image of this size, networks hardly see noise on fewer than 128",
    )
    assert foreseen_status(block(1448, 100, 8, 16)) == foreseen_status(block(100, 1448, 16, 8)) == ("protected", None)
    # Above 2,048 pixels there is a wave a quarter as wide.
    assert foreseen_status(block(2896, 60, 4, 8)) == ("protected", None)
    assert foreseen_status(block(5792, 60, 8, 16, 127))[0] == "weak"
    assert foreseen_status(block(5792, 60, 8, 16)) == ("protected", None)
    assert foreseen_status(block(9, 7, 1, 1))[1].startswith("its object has 1 pixel: ")
    assert foreseen_status(np.zeros((9, 7), bool))[0] == "uncoded"


@pytest.mark.parametrize(
    ("shape", "width", "status"),
    [((40, 300), 1, "weak"), ((40, 300), 2, "protected"), ((100, 1448), 3, "weak"), ((100, 1448), 4, "protected")],
)
def test_a_thin_line_is_weak_however_long(shape: tuple[int, int], width: int, status: str) -> None:
    for line in (block(*shape, width, 200), block(shape[1], shape[0], 200, width)):
        found, reason = foreseen_status(line)
        assert found == status and (reason is None or reason.startswith("its object is hardly anywhere"))
    below = block(*shape, width, 200)[::-1, ::-1]
    assert foreseen_status(np.roll(below, (3, 2), (0, 1)))[0] == status  # in the last corner
    slanted = np.eye(200, 260, 20, dtype=bool)
    assert foreseen_status(slanted)[0] == "weak" and foreseen_status(np.ones((6, 9), bool)) == ("protected", None)


def test_planes_may_have_small_objects_beside_a_large_one() -> None:
    small, changes = np.zeros((HEIGHT, WIDTH), bool), PlaneChanges(HEIGHT, WIDTH)
    small[2, :5] = True
    changes.add(0, level(8.0), small)
    assert changes.status(8)[0] == "weak"
    for part in (OBJECT[:4], OBJECT[4:]):  # 11 and 33 pixels
        changes.add(1, level(8.0)[: len(part)], part)
    assert changes.status(8) == ("protected", None)
