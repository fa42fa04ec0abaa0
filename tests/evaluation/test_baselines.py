"""Baselines: the budget holds in the 8-bit image, the seed decides, and each noise has what makes it what it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from tests.support.told_progress import Told
from unseg.errors import UserError
from unseg.evaluation.baselines import ar, em, lsp, tap, tint
from unseg.evaluation.baselines.baseline_names import BASELINES, baseline
from unseg.evaluation.baselines.material import Material, Numbering, Photograph
from unseg.evaluation.conditions import Change
from unseg.evaluation.schedule import Schedule
from unseg.method.config import Budget

BUDGET = Budget(8, 2)
HEIGHT, WIDTH = 70, 100


def tiny(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))


EM = em.EmOptions(steps=30, batch=2, crop=48, inner=2, final=4, learning_rate=1e-2, network=tiny)
TAP = tap.TapOptions(
    network=tiny,
    weights=None,
    schedule=Schedule(steps=20, batch=2, eval_every=20, learning_rate=1e-2),
    crop=48,
    steps=8,
)


def photograph(index: int) -> Photograph:
    """Three classes and the background (-1) in blocks, an unlabelled stripe, and pixels at both ends of the range."""
    draw = np.random.default_rng(index)
    blocks = draw.permutation(np.array([-1, 3, 5, 11] * 9)[:35]).reshape(5, 7)
    classes = np.kron(blocks, np.ones((14, 15), int))[:HEIGHT, :WIDTH]
    classes[:, 60:64] = 255
    pixels = draw.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels[:10] = 0
    pixels[10:20] = 255
    return Photograph(f"photo{index}", pixels, (classes > 0) & (classes != 255), classes)


PHOTOGRAPHS = [photograph(index) for index in range(4)]
MATERIAL = Material(BUDGET, lambda: PHOTOGRAPHS)


def made(name: str, seed: int) -> Change:
    if name == "em":
        return em.em(MATERIAL, seed, EM)
    if name == "tap":
        return tap.tap(MATERIAL, seed, TAP)
    return baseline(name, MATERIAL)(seed)


def of(change: Change, photo: Photograph) -> np.ndarray:
    return change(photo.name, photo.pixels, photo.mask, photo.classes)


@pytest.mark.parametrize("name", BASELINES)
def test_budget_seed_and_name(name: str) -> None:
    change, again, other = made(name, 0), made(name, 0), made(name, 1)
    photo = PHOTOGRAPHS[1]
    noised = of(change, photo)
    difference = np.abs(noised.astype(int) - photo.pixels)
    assert noised.dtype == np.uint8 and noised.shape == photo.pixels.shape
    assert difference[photo.mask].max() <= 8 and difference[~photo.mask].max() <= 2
    assert difference[photo.mask].mean() > 1.5, "the budget is used"
    if name != "random":  # the control of before covers unlabelled pixels, too
        assert (difference[photo.classes == 255] == 0).all()
    assert np.array_equal(noised, of(again, photo))
    assert not np.array_equal(noised, of(other, photo))
    # The order in which images come changes nothing.
    of(again, PHOTOGRAPHS[0])
    assert np.array_equal(noised, of(again, photo))


@pytest.mark.parametrize("name", ["random", "lsp", "ar"])
def test_images_differ_in_their_draws(name: str) -> None:
    photo = PHOTOGRAPHS[0]
    change = made(name, 0)
    assert not np.array_equal(of(change, photo), of(change, dataclasses.replace(photo, name="another")))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="unknown baseline 'lps'; available: random, tint, lsp, ar, em, tap"):
        baseline("lps", MATERIAL)


def grey_photo(classes: np.ndarray) -> Photograph:
    pixels = np.full((*classes.shape, 3), 128, np.uint8)
    return Photograph("grey", pixels, np.ones(classes.shape, bool), classes)


def test_tint_is_one_colour_a_class() -> None:
    classes = np.repeat(np.arange(8), 5)[None].repeat(6, 0)
    noise = of(tint.tint(MATERIAL, 0), grey_photo(classes)).astype(int) - 128
    colours = [np.unique(noise[classes == label], axis=0) for label in range(8)]
    assert all(len(colour) == 1 for colour in colours)
    assert sorted(tuple(colour[0]) for colour in colours) == sorted(
        (a, b, c) for a in (-8, 8) for b in (-8, 8) for c in (-8, 8)
    )


def test_tint_directions_are_all_different() -> None:
    assert len(tint.DIRECTIONS) == 26 == len({tuple(axis) for axis in tint.DIRECTIONS.tolist()})
    assert (np.abs(tint.DIRECTIONS[:8]) == 1).all() and (np.abs(tint.DIRECTIONS).sum(1) > 0).all()


def test_tint_from_outside_is_what_was_given() -> None:
    def shipped(seed: int) -> Change:
        return lambda name, pixels, mask, classes: pixels + np.uint8(seed)

    photo = grey_photo(np.zeros((3, 5), int))
    assert (of(tint.tint(Material(BUDGET, shipped=shipped), 4), photo) == 132).all()


def test_lsp_is_linearly_separable_and_blocky() -> None:
    classes = list(range(5))
    centres = np.array([lsp.corner(0, label).ravel() for label in classes])
    names = [f"image{index}" for index in range(40)]
    points = np.array([[lsp.point(0, label, name).ravel() for name in names] for label in classes])
    # A linear classifier, the projection on the corners, is never wrong.
    answers = (points @ centres.T).argmax(axis=2)
    assert (answers == np.arange(5)[:, None]).all()
    photo = grey_photo(np.full((70, 150), 3))
    noise = of(lsp.lsp(MATERIAL, 0), photo).astype(int) - 128
    blocks = noise[:64, :64].reshape(8, 8, 8, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert np.array_equal(noise[:, :64], noise[:, 64:128])  # the tile repeats
    assert len(np.unique(noise)) > 5


def test_ar_noise_vanishes_under_its_own_filter_alone() -> None:
    """Inside a tile the class's process predicts each value from the eight before it; another class's does not."""
    photo = grey_photo(np.full((32, 96), 5))
    noise = of(ar.ar(Material(Budget(100, 100)), 3), photo).astype(float) - 128  # a large budget: rounding matters less
    for channel in range(3):
        own, other = (ar.coefficients(3, label, channel) for label in (5, 6))
        residuals = []
        for coefficients in (own, other):
            window = -coefficients
            window[-1, -1] = 1
            inside = [correlate2d(noise[:, left : left + 32, channel], window, "valid") for left in (0, 32, 64)]
            residuals.append(np.abs(inside).mean())
        assert residuals[0] < 0.06 * np.abs(noise[..., channel]).mean()
        assert residuals[1] > 5 * residuals[0]
        assert own.sum() == pytest.approx(1) and own[-1, -1] == 0


def test_ar_recursion_by_hand() -> None:
    """Each value is the combination of its window, from the definition, value by value."""
    coefficients = ar.coefficients(0, 1, 2)
    side = 2 + ar.RUN_IN + ar.TILE
    values = np.random.default_rng(9).normal(size=(2, side, side))
    for row in range(2, side):
        for column in range(2, side):
            window = values[:, row - 2 : row + 1, column - 2 : column + 1].copy()
            window[:, 2, 2] = 0
            values[:, row, column] = (window * coefficients).sum((1, 2))
    expected = values[:, -ar.TILE :, -ar.TILE :]
    expected /= np.abs(expected).max((1, 2), keepdims=True)
    assert np.allclose(ar.tiles(coefficients, 2, np.random.default_rng(9)), expected, atol=1e-5)


def loss_on(network: nn.Module, images: list[np.ndarray], labels: list[np.ndarray]) -> float:
    losses = []
    for pixels, label in zip(images, labels, strict=True):
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        losses.append(em.pixel_loss(network, image, torch.from_numpy(label)[None].long()).item())
    return float(np.mean(losses))


def test_em_noise_lowers_the_surrogates_loss() -> None:
    numbering = Numbering.of(PHOTOGRAPHS)
    network, bank = em.fit_noise(PHOTOGRAPHS, numbering, BUDGET, 0, EM)
    assert set(bank) == {photo.name for photo in PHOTOGRAPHS} and np.abs(bank["photo0"]).max() <= 1
    change = em.em(MATERIAL, 0, EM)
    labels = [numbering.labels(photo.classes) for photo in PHOTOGRAPHS]
    clean = loss_on(network, [photo.pixels for photo in PHOTOGRAPHS], labels)
    noised = loss_on(network, [of(change, photo) for photo in PHOTOGRAPHS], labels)
    random = loss_on(network, [of(made("random", 0), photo) for photo in PHOTOGRAPHS], labels)
    assert noised < clean - 0.02 and noised < random - 0.02


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_tap_moves_image_and_aims_together(share: float, flip: bool) -> None:
    aims = torch.from_numpy(np.kron(np.random.default_rng(1).integers(0, 3, (2, 5)), np.ones((48, 33))))[None].long()
    image = (aims[:, None].float() / 2).expand(1, 3, -1, -1)
    seen, seen_aims = tap.view_of(image, aims, share, flip)
    assert seen.shape[-2:] == seen_aims.shape[-2:] and seen.shape[-1] % 32 == 0
    agree = (seen[:, 0] - seen_aims / 2).abs() < 1e-3
    assert agree.float().mean() > 0.85  # what is left are the seams
    plain = tap.view_of(image, aims, share, False)[1]
    assert torch.equal(seen_aims, plain.flip(-1) if flip else plain)


def test_tap_noise_shows_the_permuted_classes() -> None:
    numbering = Numbering.of(PHOTOGRAPHS)
    network = tap.clean_trained(PHOTOGRAPHS, numbering, 0, TAP).eval()
    change = tap.tap(MATERIAL, 0, TAP, network)
    aims = tap.permuted(len(numbering.ids), 0)
    labels = [numbering.labels(photo.classes) for photo in PHOTOGRAPHS]
    aimed = [np.where(label == 255, 255, aims[np.minimum(label, len(aims) - 1)]) for label in labels]
    clean, noised = ([photo.pixels for photo in PHOTOGRAPHS], [of(change, photo) for photo in PHOTOGRAPHS])
    assert loss_on(network, noised, aimed) < loss_on(network, clean, aimed) - 0.01
    assert loss_on(network, noised, labels) > loss_on(network, clean, labels)


def test_trainings_are_told() -> None:
    told = Told()
    material = dataclasses.replace(MATERIAL, progress=told)
    em.em(material, 0, EM)
    tap.tap(material, 0, TAP)
    assert [counts for _, *counts in told.bars] == [[30, 30], [20, 20]]


@pytest.mark.parametrize("classes", [2, 3, 11, 19])
def test_permutation_moves_every_class(classes: int) -> None:
    aims = tap.permuted(classes, 0)
    assert sorted(aims) == list(range(classes)) and (aims != np.arange(classes)).all()


def test_numbering_follows_the_classes() -> None:
    numbering = Numbering.of(PHOTOGRAPHS)
    assert numbering.ids == (-1, 3, 5, 11)
    assert numbering.labels(np.array([[-1, 11, 255], [4, 3, 5]])).tolist() == [[0, 3, 255], [255, 1, 2]]
    with pytest.raises(UserError, match="1 classes"):
        Numbering.of([grey_photo(np.zeros((4, 4), int))])
