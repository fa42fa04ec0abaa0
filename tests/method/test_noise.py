"""The budget at every pixel, and frames that equal the plain way of making them: pad to a square, then resize that."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from unseg.errors import UserError
from unseg.method import letterbox, noise, noised_batches, pixels, prompts, resampling
from unseg.method.config import Budget


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """How torch splits a resize among threads decides its last bit; equality is meant on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZES = [(1, 1), (1, 9), (9, 1), (31, 64), (64, 64), (65, 64), (53, 12), (12, 53), (100, 37), (130, 200)]


def padded(tensor: torch.Tensor) -> torch.Tensor:
    height, width = tensor.shape[-2:]
    side = max(height, width)
    return F.pad(tensor, (0, side - width, 0, side - height))


def resized(tensor: torch.Tensor, size: int, antialias: bool = False) -> torch.Tensor:
    return F.interpolate(tensor[None], (size, size), mode="bilinear", align_corners=False, antialias=antialias)


def test_whole_noise_moves_pixels_by_exactly_the_budget_and_stops_at_black_and_white() -> None:
    image = np.array([[[100, 250, 3], [100, 254, 1]]], np.uint8)
    region = np.array([[True, False]])
    plus = noise.apply(image, np.ones((3, 4, 4), np.float32), region, Budget(8, 2))
    minus = noise.apply(image, -np.ones((3, 4, 4), np.float32), region, Budget(8, 2))
    assert plus.tolist() == [[[108, 255, 11], [102, 255, 3]]]
    assert minus.tolist() == [[[92, 242, 0], [98, 252, 0]]]


def test_halves_are_rounded_to_even_as_published_and_a_fractional_budget_is_never_exceeded() -> None:
    image, region = np.array([[[100, 101, 102]]], np.uint8), np.array([[True]])
    assert noise.apply(image, np.full((3, 2, 2), 0.5, np.float32), region, Budget(5, 0)).tolist() == [[[102, 104, 104]]]
    assert noise.apply(image, np.ones((3, 2, 2), np.float32), region, Budget(3.5, 0)).tolist() == [[[103, 104, 105]]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 16),
    st.floats(0, 255),
    st.floats(0, 255),
    st.floats(0.1, 3),
    st.integers(0, 2**32 - 1),
)
def test_no_pixel_leaves_its_budget(
    height: int, width: int, side: int, on_object: float, elsewhere: float, gain: float, seed: int
) -> None:
    """Also where a network breaks its promise to stay in [−1, 1]."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    region = random.random((height, width)) < 0.5
    square = random.uniform(-gain, gain, (3, side, side)).astype(np.float32)
    protected = noise.apply(image, square, region, Budget(on_object, elsewhere))
    assert protected.dtype == np.uint8 and protected.shape == image.shape
    change = np.abs(protected.astype(int) - image).max(axis=2)
    assert (change <= np.where(region, on_object, elsewhere)).all()


def resized_noise(square: np.ndarray, height: int, width: int) -> np.ndarray:
    """Noise of the padded square at the image's size, H×W×3, from the bands in which `apply` uses it."""
    bands = resampling.resized_bands(np.ascontiguousarray(square.transpose(1, 2, 0)), height, width)
    return np.concatenate([band.copy() for _, band in bands])


def drawn(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (3, side, side)).astype(np.float32)


def test_training_adds_the_same_noise_as_generation() -> None:
    """add_noise (floats, batches) and apply (bytes) agree to half a grey level, the rounding."""
    random = np.random.default_rng(0)
    image, region = random.integers(0, 256, (48, 48, 3), dtype=np.uint8), random.random((48, 48)) < 0.5
    square = drawn(16)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    trained = noised_batches.add_noise(
        batch, torch.from_numpy(square)[None], torch.from_numpy(region)[None, None], Budget()
    )
    written = torch.from_numpy(noise.apply(image, square, region, Budget())).permute(2, 0, 1)[None]
    assert (trained * 255 - written).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_frames_equal_those_of_a_padded_square(height: int, width: int) -> None:
    random = np.random.default_rng(height * 1000 + width)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = random.random((height, width)) < 0.5
    square = padded(torch.from_numpy(image).permute(2, 0, 1)).float() / 255
    for size in (16, 64, 65):
        for antialias in (False, True):
            frame = letterbox.image_frame(image, size, antialias)
            assert frame.dtype == np.float32 and frame.flags.c_contiguous
            assert np.abs(frame - resized(square, size, antialias)[0].numpy()).max() <= 2e-6
        nearest = F.interpolate(padded(torch.from_numpy(mask).float())[None, None], (size, size), mode="nearest")
        assert np.array_equal(letterbox.label_frame(mask, size), nearest[0, 0].numpy())
        for mask_size in (16, size):
            assert np.array_equal(
                letterbox.mask_prompt(mask, size, mask_size)[None], prompts.mask_of(nearest, mask_size).numpy()
            )


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resized_noise_and_region_equal_the_crop_of_a_square(height: int, width: int) -> None:
    square = drawn(64)
    prompt = (square[0] > 0).astype(np.float32) * 255
    plain = resized(torch.from_numpy(square), max(height, width))[0, :, :height, :width]
    assert np.abs(resized_noise(square, height, width) - plain.permute(1, 2, 0).numpy()).max() <= 1e-6
    region = resized(torch.from_numpy(prompt)[None] / 255, max(height, width))[0, 0, :height, :width].round() > 0
    assert np.array_equal(noise.published_region(prompt, height, width), region.numpy())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 16, 64, 256]))
def test_resized_noise_is_interpolates_at_any_size(height: int, width: int, side: int) -> None:
    square = drawn(side, height * 1000 + width)
    plain = resized(torch.from_numpy(square), max(height, width))[0, :, :height, :width].permute(1, 2, 0)
    assert np.abs(resized_noise(square, height, width) - plain.numpy()).max() <= 1e-6


def test_two_resizes_in_one_thread_do_not_share_memory() -> None:
    squares = [np.ascontiguousarray(drawn(16, seed).transpose(1, 2, 0)) for seed in range(2)]
    alone = [resized_noise(square.transpose(2, 0, 1), 40, 60) for square in squares]
    first, second = (resampling.resized_bands(square, 40, 60) for square in squares)
    (_, one), (_, other) = next(first), next(second)
    assert np.array_equal(one, alone[0]) and np.array_equal(other, alone[1])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bands_give_the_values_of_the_whole(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    square, region = drawn(64), image[..., 0] > 127

    def results() -> tuple:
        return (
            letterbox.image_frame(image, 64, True),
            resized_noise(square, height, width),
            noise.apply(image, square, region, Budget()),
        )

    whole = results()
    monkeypatch.setattr(pixels, "BAND", 150)
    assert all(np.array_equal(one, other) for one, other in zip(whole, results(), strict=True))


def plainly(image: np.ndarray, resized: np.ndarray, region: np.ndarray, budget: Budget) -> np.ndarray:
    """`apply` in single steps on whole arrays: sum, clamp, rounding, and the limit to whole values in the budget."""
    values = 257 if image.dtype == np.uint16 else 1
    change = noise.luminance(resized) if image.shape[2] == 1 else resized
    bound = np.where(
        region,
        *(
            np.float32(np.float32(level) / np.float32(255) * np.float32(255 * values))
            for level in (budget.object, budget.background)
        ),
    )
    noised = np.rint(np.clip(change * bound[..., None] + image.astype(np.float32), 0, 255 * values))
    most = np.where(region, int(budget.object * values), int(budget.background * values))[..., None]
    return np.clip(noised, image.astype(np.float32) - most, image.astype(np.float32) + most).astype(image.dtype)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(("height", "width", "channels"), [(130, 200, 3), (200, 130, 1), (1, 9, 3), (64, 64, 3)])
@pytest.mark.parametrize("budget", [Budget(), Budget(2.5, 0.5), Budget(0, 255)])
def test_bands_give_the_very_values_of_single_steps(
    height: int, width: int, channels: int, kind: type, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at black and white, and with noise beyond [−1, 1]; regions mixed and of one kind."""
    random = np.random.default_rng(0)
    image = random.integers(0, np.iinfo(kind).max + 1, (height, width, channels)).astype(kind)
    image[random.random((height, width)) < 0.2] = 0
    image[random.random((height, width)) < 0.2] = np.iinfo(kind).max
    square = random.uniform(-1.2, 1.2, (3, 32, 32)).astype(np.float32)
    kept = square.copy()
    monkeypatch.setattr(pixels, "BAND", 700)
    halves = np.arange(height)[:, None] < [height // 2] * width
    for region in (random.random((height, width)) < 0.5, np.ones((height, width), bool), halves):
        plain = plainly(image, resized_noise(square, height, width), region, budget)
        assert np.array_equal(noise.apply(image, square, region, budget), plain)
    assert np.array_equal(square, kept)


def test_the_region_follows_the_mask_prompt_at_its_border() -> None:
    """A 4×4 prompt with its left half on, resized to 8: values 1, 1, 1, .75 | .25 …; rounding puts the border back."""
    prompt = np.zeros((4, 4), np.float32)
    prompt[:, :2] = 255
    region = noise.published_region(prompt, 8, 8)
    assert region.tolist() == [[True] * 4 + [False] * 4] * 8


def test_wrong_shapes_are_refused() -> None:
    image, square = np.zeros((4, 5, 3), np.uint8), np.zeros((3, 8, 8), np.float32)
    with pytest.raises(ValueError, match="region: expected 4×5"):
        noise.apply(image, square, np.zeros((5, 4), bool), Budget())
    with pytest.raises(ValueError, match="image: expected"):
        noise.apply(image.astype(np.float32), square, np.zeros((4, 5), bool), Budget())


@pytest.mark.parametrize("value", [-1.0, 256.0, float("nan"), float("inf")])
def test_a_budget_outside_the_grey_levels_is_a_user_error(value: float) -> None:
    with pytest.raises(UserError, match="--epsilon"):
        Budget(object=value)
    with pytest.raises(UserError, match="--background-epsilon"):
        Budget(background=value)


def test_tints_by_hand() -> None:
    image = np.array([[[100, 100, 100], [3, 250, 128], [0, 255, 7], [9, 9, 9]]], np.uint8)
    tints = np.array([[1.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-1.0, 1.0, -0.3]], np.float32)
    noised = noise.apply_tints(image, np.array([[0, 2, 2, noise.NO_CODE]], np.uint8), tints, Budget(8, 2))
    assert noised.tolist() == [[[108, 92, 104], [0, 255, 126], [0, 255, 5], [9, 9, 9]]]  # 7 − 2.4 = 4.6, rounded


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 20), st.integers(1, 255))
def test_tints_keep_any_budget_and_leave_pixels_without_code(seed: int, budget: float, codes: int) -> None:
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (13, 17, 3), dtype=np.uint8)
    code = draw.choice([*range(codes), noise.NO_CODE], (13, 17)).astype(np.uint8)
    tints = draw.uniform(-1, 1, (codes, 3)).astype(np.float32)
    change = np.abs(noise.apply_tints(image, code, tints, Budget(budget, 2)).astype(int) - image)
    assert change.max() <= budget and not change[code == noise.NO_CODE].any()


def test_tints_in_bands_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (50, 30, 3), dtype=np.uint8)
    code, tints = draw.integers(0, 3, (50, 30), dtype=np.uint8), draw.uniform(-1, 1, (3, 3)).astype(np.float32)
    whole = noise.apply_tints(image, code, tints, Budget())
    monkeypatch.setattr(pixels, "BAND", 200)
    assert np.array_equal(noise.apply_tints(image, code, tints, Budget()), whole)


def test_tints_on_grey_and_in_sixteen_bits() -> None:
    tints = np.array([[1.0, -1.0, 0.5]], np.float32)
    grey = noise.apply_tints(np.full((1, 1, 1), 100, np.uint8), np.zeros((1, 1), np.uint8), tints, Budget(8, 2))
    assert grey.tolist() == [[[98]]]  # (0.299 − 0.587 + 0.057) × 8 = −1.85
    deep = noise.apply_tints(np.full((1, 1, 3), 10_000, np.uint16), np.zeros((1, 1), np.uint8), tints, Budget(8, 2))
    assert deep.tolist() == [[[10_000 + 8 * 257, 10_000 - 8 * 257, 10_000 + 4 * 257]]]


def test_codes_that_no_tint_has_or_of_another_size_are_refused() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="3 is out of range; there are 3 tints"):
        noise.apply_tints(image, np.full((2, 2), 3, np.uint8), np.zeros((3, 3), np.float32), Budget())
    with pytest.raises(ValueError, match=r"expected 2×2 uint8"):
        noise.apply_tints(image, np.zeros((2, 3), np.uint8), np.zeros((3, 3), np.float32), Budget())
