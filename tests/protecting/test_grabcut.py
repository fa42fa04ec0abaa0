"""Outlines from boxes and points: they fit what is drawn, whoever asked before, and never run for ever."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from unseg.data.masks import box_mask
from unseg.protecting import grabcut
from unseg.protecting.grabcut import outline_around, outline_of_boxes
from unseg.protecting.points import Points
from unseg.storage.image_decoding import read_image
from unseg.storage.label_decoding import read_label

SHOWN = Path(grabcut.__file__).parents[1] / "quickstart_data"
HEIGHT, WIDTH = 150, 230
DEEP = 257  # 16-bit values of a grey level


def scene(channels: int = 3, dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture of a bright shape with a lobe, off the middle, on a dark ground, both textured; its mask."""
    shape = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(shape, (140, 70), (60, 35), 20, 0, 360, 1, -1)
    cv2.rectangle(shape, (85, 95), (105, 130), 1, -1)
    cv2.line(shape, (95, 100), (110, 70), 1, 15)
    mask = shape > 0
    colours = np.where(mask[..., None], np.array([200, 150, 60]), np.array([40, 70, 80]))[..., :channels]
    pixels = np.clip(colours + np.random.default_rng(3).normal(0, 10, colours.shape), 0, 255).astype(np.uint8)
    return pixels.astype(dtype) * (DEEP if dtype == np.uint16 else 1), mask


def overlap(found: np.ndarray, mask: np.ndarray) -> float:
    return (found & mask).sum() / (found | mask).sum()


BOX = [74.5, 25, 205, 138]


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (1, np.uint8), (3, np.uint16), (1, np.uint16)])
def test_the_outline_in_a_box_is_that_of_the_object(channels: int, dtype: type) -> None:
    pixels, mask = scene(channels, dtype)
    found, filled = outline_of_boxes(pixels, [BOX])
    assert found.dtype == bool and found.shape == mask.shape and filled == 0
    assert overlap(box_mask([BOX], HEIGHT, WIDTH), mask) < 0.6 and overlap(found, mask) > 0.95


def test_16_bits_have_the_outline_of_their_8() -> None:
    assert np.array_equal(
        outline_of_boxes(scene(3, np.uint16)[0], [BOX])[0], outline_of_boxes(scene(3, np.uint8)[0], [BOX])[0]
    )


def test_an_outline_stays_in_its_box_and_boxes_are_joined() -> None:
    pixels, mask = scene()
    left, right = [74, 25, 120, 138], [121, 25, 205, 120]
    found, _ = outline_of_boxes(pixels, [left, right])
    assert not (found & ~box_mask([left, right], HEIGHT, WIDTH)).any()
    alone = [outline_of_boxes(pixels, [box])[0] for box in (left, right)]
    assert np.array_equal(found, alone[0] | alone[1])


def test_a_box_without_an_outline_is_filled_and_counted() -> None:
    pixels, _ = scene()
    speck = [5, 100, 64, 145]
    pixels[100:146, 5:65] = (40, 70, 80)
    pixels[102:106, 7:11] = (250, 250, 250)  # fills 16 of 2,760 pixels
    outside = [WIDTH + 3, 4, WIDTH + 40, 30]
    found, filled = outline_of_boxes(pixels, [speck, outside])
    assert filled == 1 and np.array_equal(found, box_mask([speck], HEIGHT, WIDTH))
    found, filled = outline_of_boxes(pixels, [outside])
    assert filled == 0 and not found.any()


@pytest.mark.parametrize(
    "box", [[0, 0, 229, 149], [100, 70, 100, 70], [100, 70, 101, 140], [-50, -50, 400, 400], [140.2, 70.2, 140.8, 70.9]]
)
def test_boxes_of_any_size_end_with_an_object_or_without_a_pixel(box: list[float]) -> None:
    pixels, _ = scene()
    inside = box_mask([box], HEIGHT, WIDTH)
    found, _ = outline_of_boxes(pixels, [box])
    assert found.any() == inside.any() and not (found & ~inside).any()


@pytest.mark.parametrize("where", ["flat", "two colours", "noise"])
def test_pictures_without_an_object_are_none_or_within(where: str) -> None:
    pixels = np.full((60, 90, 3), 77, np.uint8)
    if where == "two colours":
        pixels[:, ::2] = (0, 255, 0)
    if where == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    box = [20, 10, 70, 40]
    found, _ = outline_of_boxes(pixels, [box])
    assert found.any() and not (found & ~box_mask([box], 60, 90)).any()
    outline = outline_around(pixels, Points(((30, 20),)))
    assert outline is None or outline.any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 3), (1, 50), (50, 1), (5, 400)])
def test_pictures_of_any_size_are_looked_at(height: int, width: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    box = [0, 0, width // 2, height // 2]
    assert outline_of_boxes(pixels, [box])[0].any()
    outline = outline_around(pixels, Points(((0, 0),), ((width - 1, height - 1),)))
    assert outline is None or outline.shape == (height, width)


def test_an_outline_along_the_border_is_tried_again_nearer_the_point() -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), (90, 90, 90), np.uint8)
    pixels[50:90, 100:150] = (99, 92, 90)  # hardly other than its ground
    found = outline_around(pixels, Points(((125, 70),)))
    assert found is not None and grabcut._border_of(found).mean() <= grabcut.LEAKED


def test_one_point_finds_the_object() -> None:
    pixels, mask = scene()
    found = outline_around(pixels, Points(((150, 70),)))
    assert found is not None and overlap(found, mask) > 0.9


def test_a_point_of_the_background_cuts_a_neighbour_off() -> None:
    pixels, mask = scene()
    neighbour = np.zeros_like(mask)
    neighbour[60:140, 186:222] = True  # as bright, a little other in hue, touching
    neighbour &= ~mask
    pixels[neighbour] = (200, 120, 100)
    both = outline_around(pixels, Points(((150, 70),)))
    cut = outline_around(pixels, Points(((150, 70),), ((205, 100),)))
    assert both is not None and cut is not None
    assert not cut[100, 205] and (cut & neighbour).mean() <= (both & neighbour).mean()
    assert overlap(cut, mask) > 0.9


def test_points_that_show_nothing_but_themselves_are_told() -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), (40, 70, 80), np.uint8)
    pixels[70:73, 40:43] = (250, 20, 20)
    assert outline_around(pixels, Points(((41, 71),), ((41, 80), (41, 62), (32, 71), (50, 71)))) is None


def test_an_outline_depends_on_nothing_but_its_picture() -> None:
    pixels, _ = scene()
    other = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    points = Points(((150, 70),))

    def both(seed: int) -> bytes:
        cv2.setRNGSeed(seed)
        outline_of_boxes(other, [[3 + seed, 3, 40, 44]])
        outline = outline_around(pixels, points)
        assert outline is not None
        return outline_of_boxes(pixels, [BOX])[0].tobytes() + outline.tobytes()

    with ThreadPoolExecutor(3) as pool:
        assert len({both(0), *pool.map(both, range(1, 7))}) == 1


def test_large_pictures_are_segmented_small(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, mask = scene()
    large = cv2.resize(pixels, (WIDTH * 9, HEIGHT * 9), interpolation=cv2.INTER_CUBIC)
    seen: list[int] = []
    cut = cv2.grabCut
    monkeypatch.setattr(grabcut.cv2, "grabCut", lambda image, *rest: (seen.append(image.size // 3), cut(image, *rest)))
    found, _ = outline_of_boxes(large, [[9 * side for side in BOX]])
    outline = outline_around(large, Points(((150 * 9, 70 * 9),)))
    assert max(seen) <= (2 * grabcut.WORK_SIDE) ** 2
    expected = cv2.resize(mask.astype(np.uint8), (WIDTH * 9, HEIGHT * 9), interpolation=cv2.INTER_NEAREST) > 0
    assert overlap(found, expected) > 0.95 and outline is not None and overlap(outline, expected) > 0.9


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"])
def test_a_box_in_a_photograph_of_12_megapixels_is_outlined(name: str) -> None:
    """As well as in the photograph's own size: intersection over union with the mask that ships."""
    pixels = read_image(SHOWN / "photographs" / name).pixels
    mask = read_label((SHOWN / "masks" / name).with_suffix(".png")) == 1
    scale = (12e6 / mask.size) ** 0.5
    large, expected = (
        cv2.resize(part, None, fx=scale, fy=scale, interpolation=how)
        for part, how in ((pixels, cv2.INTER_CUBIC), (mask.astype(np.uint8), cv2.INTER_NEAREST))
    )
    left, top, width, height = cv2.boundingRect(expected)
    wider, taller = 0.03 * width, 0.03 * height
    box = [left - wider, top - taller, left + width - 1 + wider, top + height - 1 + taller]
    found, filled = outline_of_boxes(large, [box])
    assert filled == 0 and overlap(found, expected > 0) >= 0.82


def test_a_round_that_moves_hardly_anything_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round finds the shape, the second one moves a pixel here and there."""
    rounds: list[float] = []
    cut = cv2.grabCut

    def counted(image: np.ndarray, marks: np.ndarray, *rest: object) -> None:
        before = marks.copy()
        cut(image, marks, *rest)
        rounds.append(float((marks & 1 != before & 1).mean()))

    monkeypatch.setattr(grabcut.cv2, "grabCut", counted)
    outline_of_boxes(scene()[0], [BOX])
    assert len(rounds) == 2 < grabcut.BOX_ROUNDS and rounds[0] > 0.05 and rounds[1] < grabcut.SETTLED


@pytest.mark.parametrize("box", [[30, 0, 31, 59_999], [10, 5, 50, 59_990]])
def test_slender_boxes_are_segmented_small_too(box: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    cut = cv2.grabCut
    monkeypatch.setattr(grabcut.cv2, "grabCut", lambda image, *rest: (seen.append(image.size // 3), cut(image, *rest)))
    outline_of_boxes(np.random.default_rng(0).integers(0, 256, (60_000, 60, 3)).astype(np.uint8), [box])
    assert max(seen, default=0) <= (2 * grabcut.WORK_SIDE) ** 2


def test_no_colour_is_impossible() -> None:
    """Where a probability is 0, OpenCV's cut runs for ever. Here every colour's is counted from the model."""
    model = grabcut._colour_model(np.full((500, 3), (255, 0, 0), np.uint8))[0]
    weights, means, covariances = model[:5], model[5:20].reshape(5, 3), model[20:].reshape(5, 3, 3)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    for colour in itertools.product((0, 255), repeat=3):
        away = np.array(colour) - means
        exponents = -0.5 * np.einsum("ki,kij,kj->k", away, np.linalg.inv(covariances), away)
        assert (weights * np.exp(exponents) / np.sqrt(np.linalg.det(covariances))).sum() > 1e-12


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_a_model_of_few_colours_is_one(count: int) -> None:
    model = grabcut._colour_model(np.random.default_rng(count).integers(0, 256, (count, 3), np.uint8))
    assert model.shape == (1, 65) and np.isfinite(model).all() and model[0, :5].sum() == pytest.approx(1)


def test_geodesic_costs_are_those_of_the_cheapest_way() -> None:
    lab = np.random.default_rng(5).uniform(0, 40, (7, 11, 3)).astype(np.float32)
    start = np.zeros((7, 11), bool)
    start[2, 8] = start[6, 0] = True
    expected = np.where(start, 0.0, np.inf)
    for _ in range(7 * 11):  # Bellman and Ford's, pixel by pixel
        for row, column in itertools.product(range(7), range(11)):
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= r < 7 and 0 <= c < 11:
                    step = np.linalg.norm(lab[row, column].astype(float) - lab[r, c]) + grabcut.FLAT_COST
                    expected[row, column] = min(expected[row, column], expected[r, c] + step)
    assert np.allclose(grabcut._distances(lab, start), expected)
