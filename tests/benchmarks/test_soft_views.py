"""Views with gradients: what they return is what the ordinary code returns, and their parts agree with other code."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.fft import dctn
from skimage.color import rgb2lab

from benchmarks.soft_views import (
    Sight,
    as_pixels,
    cosine_basis,
    eight_bit,
    grey,
    jpeg,
    quantisation,
    recoloured,
    soft_jpeg,
    soft_recoloured,
    through,
)
from benchmarks.soft_visibility import lab, seen_change
from unseg.evaluation.conditions import reencoded
from unseg.evaluation.practice_views import Distortion, View, distorted, take_view
from unseg.method.visibility import visibility


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with some grain, as photographs are."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(30, 225, (height // 8 + 2, width // 8 + 2, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()


def test_a_value_goes_through_with_another_s_gradient():
    values = torch.tensor([0.4, 2.6, -3.0, 300.0], requires_grad=True)
    assert through(values * 2, values.detach().round()).tolist() == [0, 3, -3, 300]
    whole = eight_bit(values)
    assert whole.tolist() == [0, 3, 0, 255]
    whole.sum().backward()
    assert values.grad.tolist() == [1, 1, 0, 0]


# --- JPEG


def test_the_cosine_transform_is_scipy_s():
    block = np.random.default_rng(1).uniform(-128, 127, (8, 8))
    basis = cosine_basis().double().numpy()
    np.testing.assert_allclose(basis @ block @ basis.T, dctn(block, norm="ortho"), atol=1e-4)


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
def test_quantisation_is_that_of_the_encoder(quality, tmp_path):
    from PIL import Image

    Image.fromarray(photograph(16, 16)).save(tmp_path / "a.jpg", quality=quality)
    tables = Image.open(tmp_path / "a.jpg").quantization
    for number, kind in enumerate(("brightness", "colour")):
        assert quantisation(quality, kind).flatten().int().tolist() == list(tables[number])


@pytest.mark.parametrize("quality", [60, 80, 95])
def test_jpeg_in_floats_is_near_the_encoder_s(quality):
    pixels = photograph(48, 80)
    exact = reencoded(pixels, quality).astype(float)
    soft = soft_jpeg(planes(pixels), quality).permute(1, 2, 0).numpy()
    changed = np.abs(exact - pixels).mean()
    assert np.abs(soft - exact).mean() < 0.5 * changed and np.abs(soft - exact).mean() < 1.2


def test_jpeg_returns_the_encoder_s_pixels_whatever_the_size():
    pixels = photograph(40, 51)
    assert np.array_equal(as_pixels(jpeg(planes(pixels), 70)), reencoded(pixels, 70))


def test_what_jpeg_removes_has_no_gradient_and_what_it_keeps_has_all():
    """A flat grey image with one wave of the block in it, strong or weak; the gradient along that wave."""
    basis = cosine_basis()
    wave = (basis[3][:, None] * basis[2][None]).repeat(2, 2).expand(3, -1, -1)
    gradients = []
    for strength in (400.0, 2.0):
        size = torch.tensor(strength, requires_grad=True)
        seen = soft_jpeg(128 + size * wave / 3, 75) - 128
        (seen * wave).sum().backward()
        gradients.append(float(size.grad))
    strong, weak = gradients
    assert strong == pytest.approx(float(wave.square().sum()) / 3, rel=0.01) and weak < 0.25 * strong


# --- views


@pytest.mark.parametrize(
    ("scale", "flip", "left", "top"), [(0.5, False, 0.3, 0.9), (1.0, True, 0.99, 0.0), (1.73, False, 0.6, 0.4)]
)
def test_a_view_is_that_of_practice(scale, flip, left, top):
    """Without distortion; OpenCV's resize works with 11 bits of a weight, so that a value may differ by one."""
    pixels, labels = photograph(150, 203), np.random.default_rng(2).integers(0, 7, (150, 203)).astype(np.uint8)
    view = View(scale, left, top, flip, Distortion())
    expected, known = take_view(pixels, labels, view, 96)
    sight = Sight(150, 203, view, 96)
    part = planes(pixels[sight.rows, sight.columns])
    seen = as_pixels(sight.image(part)).astype(int)
    assert np.abs(seen - expected).max() <= 1 and (seen != expected).mean() < 0.2
    assert np.array_equal(sight.labels(labels), known)
    assert sight.rows.start % 16 == 0 and (sight.rows.stop % 16 == 0 or sight.rows.stop == 150)


DISTORTIONS = (
    Distortion(brightness=21.3),
    Distortion(contrast=0.61),
    Distortion(saturation=1.4),
    Distortion(saturation=0.55, hue=-15),
    Distortion(brightness=-30.0, contrast=1.45, saturation=1.2, hue=17, contrast_first=False),
)


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_distorted_colours_are_those_of_practice_and_the_floats_are_near(distortion):
    pixels = photograph(24, 40)
    expected = distorted(pixels, distortion)
    assert np.array_equal(as_pixels(recoloured(planes(pixels), distortion)), expected)
    soft = soft_recoloured(planes(pixels), distortion).permute(1, 2, 0).numpy()
    assert np.abs(soft - expected).mean() < 2.5  # OpenCV's hue has steps of 2 degrees


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_gradients_of_distorted_colours_are_numerical_ones(distortion):
    torch.manual_seed(0)
    image = torch.rand(3, 3, 4, dtype=torch.float64) * 120 + 60
    image.requires_grad_(True)

    def soft(values: torch.Tensor) -> torch.Tensor:
        return soft_recoloured(values, distortion)

    if distortion.saturation is None or distortion.saturation <= 1:
        assert torch.autograd.gradcheck(soft, (image,), eps=1e-4, atol=1e-3)
    else:
        assert soft(image).sum().backward() is None and bool(image.grad.isfinite().all())


def test_grey_is_opencv_s():
    pixels = photograph(20, 30)
    expected = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    assert np.abs(as_pixels(grey(planes(pixels))).astype(int) - expected).max() <= 1


# --- visibility


def test_colours_are_skimage_s():
    pixels = photograph(20, 31)
    np.testing.assert_allclose(lab(planes(pixels)).permute(1, 2, 0).numpy(), rgb2lab(pixels), atol=0.05)


def test_visibility_orders_noise_as_the_measure_does():
    """Fine noise is seen less than a flat tint of the same size; both by about as much as there."""
    pixels = photograph(90, 110)
    where = np.zeros((90, 110), bool)
    where[20:70, 25:90] = True
    fine = np.where(np.indices((90, 110)).sum(axis=0)[..., None] % 4 < 2, 8, -8) * np.array([1, -1, 1])
    tint = np.broadcast_to(np.array([8, -8, 8]), pixels.shape)
    soft, measured = [], []
    for change in (fine, tint):
        changed = np.clip(pixels.astype(int) + change * where[..., None], 0, 255).astype(np.uint8)
        soft.append(float(seen_change(planes(pixels), planes(changed), torch.from_numpy(where))))
        measured.append(visibility(pixels, changed, where).s_cielab)
    assert soft[0] < 0.5 * soft[1] and measured[0] < 0.5 * measured[1]
    # CIELAB's plain distance exceeds ΔE2000 for vivid colours.
    assert all(0.7 < own / other < 3 for own, other in zip(soft, measured, strict=True))
