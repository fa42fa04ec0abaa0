"""Noise for values of any type: that of pictures where they are pictures, and within its bound to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK
from unseg.method.ranged_noise import apply_codes_in_range

KEY = bytes(range(32))
HEIGHT, WIDTH = 43, 61


def _codes() -> np.ndarray:
    codes = np.full((HEIGHT, WIDTH), ABSENCE, np.uint8)
    codes[5:30, 8:50], codes[20:40, 40:] = 1, 7
    return codes


def _values(channels: int, kind: str) -> np.ndarray:
    values = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, channels))
    return values.astype(kind)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"survive_grey": True}, {"mask_by_contrast": True}])
def test_pictures_get_the_noise_of_pictures(channels: int, options: dict[str, bool]) -> None:
    values = _values(channels, "u1")
    plain = apply_codes(values, _codes(), BOOK, KEY, Budget(8, 0), **options)
    ranged = apply_codes_in_range(
        values, _codes(), BOOK, KEY, [8.0] * channels, ranges_C=[(0, 255)] * channels, **options
    )
    apart = np.abs(plain.astype(int) - ranged)
    if "mask_by_contrast" in options:  # in which brightness is a sum of floats, and a limit may fall to either side
        assert apart.max() <= 1 and np.mean(apart > 0) < 0.01
    else:
        assert not apart.any()


@pytest.mark.parametrize("kind", ["i1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_whole_numbers_move_by_whole_numbers_and_stop_at_the_ends(kind: str) -> None:
    info = np.iinfo(kind)
    values = _values(1, "i8")
    values[:10] = max(info.min, -(2**40)) + 3
    values[10:20] = min(info.max, 2**40) - 3
    values = np.clip(values, info.min, info.max).astype(kind)
    changed = apply_codes_in_range(values, _codes(), BOOK, KEY, [5.9])
    change = changed.astype(object) - values.astype(object)
    assert changed.dtype == values.dtype and not change[_codes() == ABSENCE].any()
    assert max(map(abs, change.ravel().tolist())) == 5
    inside = (_codes() != ABSENCE) & (values[..., 0] > values.min() + 5) & (values[..., 0] < values.max() - 5)
    assert {abs(value) for value in change[inside].ravel().tolist()} == {5}


def test_values_beyond_what_floats_tell_apart_stay() -> None:
    values = np.full((HEIGHT, WIDTH, 1), 2**60 + 1, np.int64)
    assert np.array_equal(apply_codes_in_range(values, _codes(), BOOK, KEY, [1e6]), values)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("most", [0.1, 3.3, 1e-4, 7e3])
def test_floats_keep_the_bound_to_the_last_bit(kind: str, most: float) -> None:
    rng = np.random.default_rng(9)
    values = (rng.normal(size=(HEIGHT, WIDTH, 1)) * 10.0 ** rng.integers(-4, 4, (HEIGHT, WIDTH, 1))).astype(kind)
    values[12, 13], values[13, 14], values[14, 15] = np.nan, np.inf, -np.inf
    changed = apply_codes_in_range(values, _codes(), BOOK, KEY, [most])
    finite = np.isfinite(values)
    assert np.array_equal(changed[~finite], values[~finite], equal_nan=True) and np.isfinite(changed[finite]).all()
    exact = changed[finite].astype(np.longdouble) - values[finite].astype(np.longdouble)
    assert np.abs(exact.astype(np.float64)).max() <= most
    coded = (_codes() != ABSENCE)[..., None] & finite & (np.abs(values) < most * 10)
    moved = np.abs(changed[coded].astype(np.float64) - values[coded].astype(np.float64))
    assert np.median(moved) > 0.95 * most


def test_limits_hold_and_never_move_what_lies_beyond_them() -> None:
    values = _values(1, "i2") + np.int16(1000)
    values[0:12] = 5000  # beyond the highest
    changed = apply_codes_in_range(values, _codes(), BOOK, KEY, [40.0], lowest=1020, highest=1230)
    assert changed[12:].min() >= min(1000, 1020) and changed[12:].max() <= max(1255, 1230)
    assert (changed[values < 1020] <= 1060).all() and (np.abs(changed.astype(int) - values) <= 40).all()
    assert (changed[:12] <= 5000).all()


def test_other_numbers_of_channels_move_together() -> None:
    values = _values(5, "u2") + np.uint16(500)
    change = apply_codes_in_range(values, _codes(), BOOK, KEY, [2.0, 4.0, 6.0, 8.0, 10.0]).astype(int) - values
    signs = np.sign(change)
    assert (signs == signs[..., :1]).all() and [int(np.abs(change[..., band]).max()) for band in range(5)] == [
        2,
        4,
        6,
        8,
        10,
    ]


def test_floats_without_colour_get_the_noise_of_grey_images_also_where_they_are_no_numbers() -> None:
    values = np.repeat(_values(1, "f4"), 3, axis=2)
    values[3:9, 11:40] = np.nan
    change = apply_codes_in_range(values, _codes(), BOOK, KEY, [8.0] * 3) - values
    change = np.nan_to_num(change)
    assert change.any() and np.array_equal(change[..., 0], change[..., 1]) and (change[..., 0] == change[..., 2]).all()
