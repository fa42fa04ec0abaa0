"""Noise of codes: whole steps within the budget on coded pixels, nothing elsewhere, grey images stay grey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.code_signs import sign_map
from unseg.method import coded_noise, pixels
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK, NO_CODE, image_digest

KEY = bytes(range(32))
DRAW = np.random.default_rng(7)


def image_of(height: int, width: int, channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    return DRAW.integers(0, np.iinfo(kind).max + 1, (height, width, channels)).astype(kind)


def test_every_coded_pixel_moves_by_the_whole_budget_as_its_pattern_says() -> None:
    image = DRAW.integers(8, 248, (37, 53, 3)).astype(np.uint8)
    codes = DRAW.choice([ABSENCE, NO_CODE, 1, 5, 12], (37, 53)).astype(np.uint8)
    change = apply_codes(image, codes, BOOK, KEY, Budget(8, 2)).astype(int) - image
    for code in (1, 5, 12):
        signs = sign_map(BOOK, code, 37, 53, key=KEY, digest=image_digest(image))
        expected = 8 * signs[..., None] * np.array(BOOK.patterns[code - 1].axis)
        assert np.array_equal(change[codes == code], expected[codes == code])
    assert not change[(codes == ABSENCE) | (codes == NO_CODE)].any()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("budget", [0.0, 0.9, 4.0, 7.99, 255.0])
def test_the_bound_holds_and_fractions_are_rounded_down(kind: type, channels: int, budget: float) -> None:
    image, codes = image_of(19, 31, channels, kind), DRAW.integers(0, 13, (19, 31)).astype(np.uint8)
    values = 257 if kind is np.uint16 else 1
    changed = apply_codes(image, codes, BOOK, KEY, Budget(budget, 2))
    assert changed.dtype == kind and changed.shape == image.shape
    change = np.abs(changed.astype(int) - image)
    assert change.max() <= int(budget * values)
    free = (image >= int(budget * values)) & (image <= np.iinfo(kind).max - int(budget * values))
    assert (change[free & (codes > 0)[..., None]] == int(budget * values)).all()


def test_white_and_black_keep_the_half_that_the_type_leaves() -> None:
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, 20:] = 255
    image[0, 0, 1] = 8  # a colour
    codes = np.ones((24, 40), np.uint8)
    change = apply_codes(image, codes, BOOK, KEY, Budget(8, 2)).astype(int) - image
    signs = sign_map(BOOK, 1, 24, 40, key=KEY, digest=image_digest(image))[..., None] * np.array([1, -1, 1])
    assert np.array_equal(change[1:, :20], np.where(signs > 0, 8, 0)[1:, :20])
    assert np.array_equal(change[:, 20:], np.where(signs < 0, -8, 0)[:, 20:])


def test_grey_images_get_the_grey_twin_with_the_whole_budget_and_stay_grey() -> None:
    grey = DRAW.integers(8, 248, (30, 45, 1)).astype(np.uint8)
    codes = np.full((30, 45), 6, np.uint8)
    for image in (grey, np.repeat(grey, 3, axis=2)):
        change = apply_codes(image, codes, BOOK, KEY, Budget(8, 2)).astype(int) - image
        signs = sign_map(BOOK, 6, 30, 45, key=KEY, digest=image_digest(image), grey=True)
        assert np.array_equal(change, np.broadcast_to(8 * signs[..., None], change.shape))


def test_one_coloured_pixel_makes_a_colour_image() -> None:
    image = np.full((33, 40, 3), 100, np.uint8)
    image[7, 5, 2] = 101  # not among the pixels that are looked at first
    change = apply_codes(image, np.ones((33, 40), np.uint8), BOOK, KEY, Budget(8, 2)).astype(int) - image
    assert (change[..., 0] == -change[..., 1]).all()


def test_patterns_that_survive_grey_copies_move_brightness_by_most_of_the_budget() -> None:
    image, codes = DRAW.integers(8, 248, (40, 60, 3)).astype(np.uint8), np.full((40, 60), 2, np.uint8)
    weights = np.array(pixels.LUMINANCE)
    usual, safe = (
        np.abs((apply_codes(image, codes, BOOK, KEY, Budget(8, 2), survive_grey=on).astype(int) - image) @ weights)
        for on in (False, True)
    )
    change = apply_codes(image, codes, BOOK, KEY, Budget(8, 2), survive_grey=True).astype(int) - image
    twin = sign_map(BOOK, 2, 40, 60, key=KEY, digest=image_digest(image), grey=True)
    assert np.array_equal(change, 8 * twin[..., None] * np.array(BOOK.grey_safe_axis))
    assert usual.mean() == pytest.approx(8 * abs(0.299 - 0.587 + 0.114))
    assert safe.mean() == pytest.approx(8 * (0.299 + 0.587 - 0.114))


def test_masking_by_contrast_spares_flat_areas_within_the_bound() -> None:
    image = np.full((60, 120, 3), 128, np.uint8)
    image[:, 60:] += DRAW.integers(0, 100, (60, 60, 3)).astype(np.uint8)
    codes = np.ones((60, 120), np.uint8)
    change = np.abs(apply_codes(image, codes, BOOK, KEY, Budget(8, 2), mask_by_contrast=True).astype(int) - image)
    assert (change[:, :50] == 4).all() and (change[:, 70:] == 8).all() and change.max() == 8


@pytest.mark.parametrize("given", [{}, {"mask_by_contrast": True}, {"survive_grey": True}])
def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch, given: dict[str, bool]) -> None:
    image, codes = image_of(61, 47), DRAW.integers(0, 13, (61, 47)).astype(np.uint8)
    whole = apply_codes(image, codes, BOOK, KEY, Budget(), **given)
    monkeypatch.setattr(pixels, "BAND", 200)
    assert np.array_equal(apply_codes(image, codes, BOOK, KEY, Budget(), **given), whole)


def test_bytes_depend_on_the_samples_alone() -> None:
    image, codes = image_of(50, 70), DRAW.integers(0, 4, (50, 70)).astype(np.uint8)
    first = apply_codes(image, codes, BOOK, KEY, Budget())
    view = np.flip(np.asfortranarray(np.flip(image, 1)), 1)
    assert np.array_equal(apply_codes(view, np.asfortranarray(codes), BOOK, KEY, Budget()), first)
    assert not np.array_equal(apply_codes(image, codes, BOOK, bytes(32), Budget()), first)


def test_an_image_without_codes_is_the_same_and_a_copy() -> None:
    image = image_of(9, 14)
    changed = apply_codes(image, np.full((9, 14), NO_CODE, np.uint8), BOOK, KEY, Budget())
    assert np.array_equal(changed, image) and changed is not image


def test_what_is_no_image_or_no_code_is_an_error() -> None:
    image = image_of(4, 6)
    with pytest.raises(ValueError, match="13 has no pattern"):
        apply_codes(image, np.full((4, 6), 13, np.uint8), BOOK, KEY, Budget())
    with pytest.raises(ValueError, match="codes: expected"):
        apply_codes(image, np.ones((6, 4), np.uint8), BOOK, KEY, Budget())
    with pytest.raises(ValueError, match="image: expected"):
        apply_codes(image.astype(np.float32), np.ones((4, 6), np.uint8), BOOK, KEY, Budget())


def test_a_book_of_other_patterns_is_followed() -> None:
    image, codes = np.full((20, 30, 3), 90, np.uint8) + np.arange(3, dtype=np.uint8), np.ones((20, 30), np.uint8)
    red = replace(BOOK, patterns=(replace(BOOK.patterns[0], axis=(1, 0, 0)),))
    change = np.abs(coded_noise.apply_codes(image, codes, red, KEY, Budget(5, 2)).astype(int) - image)
    assert (change[..., 0] == 5).all() and not change[..., 1:].any()
