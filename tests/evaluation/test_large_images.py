"""Noise on images that are enlarged before and shrunk after it: exactly that, image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tests.support.measuring_folders import mini_carparts
from unseg.compute.progress import SILENT
from unseg.data.measuring_sets import measuring_set
from unseg.evaluation.large_images import on_large
from unseg.evaluation.measuring_images import OpenedSet, open_measuring_set
from unseg.evaluation.sets import truth_by
from unseg.evaluation.study import ConditionSource
from unseg.storage.image_decoding import read_image


def opened_set(root: Path) -> OpenedSet:
    """48×32 pixels, enlarged to 144×96, shrunk to 72×48."""
    return open_measuring_set(mini_carparts(root), replace(measuring_set("carparts4000"), enlarged=144, long_side=72))


def stripes(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """+6 and −6 in columns of 3 pixels, on objects; its shape and classes are left in `seen`."""
    seen.append((name, pixels.shape, classes))
    wave = np.where(np.arange(pixels.shape[1]) // 3 % 2 == 0, 6, -6)[None, :, None]
    return np.where(mask[..., None], np.clip(pixels.astype(int) + wave, 0, 255), pixels).astype(np.uint8)


seen: list[tuple[str, tuple[int, ...], np.ndarray]] = []


def test_the_row_is_car_parts_but_for_its_size() -> None:
    row, plain = measuring_set("carparts4000"), measuring_set("carparts")
    assert (row.enlarged, row.long_side) == (4000, 640)
    assert replace(row, name=plain.name, title=plain.title, enlarged=None, long_side=320) == plain


def test_clean_images_are_enlarged_and_shrunk_too(tmp_path: Path) -> None:
    train = opened_set(tmp_path).train
    stored = read_image(tmp_path / "carparts/trainingset/JPEGImages/car1.png").pixels
    large = cv2.resize(stored, (144, 96), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(train.pixels(0), cv2.resize(large, (72, 48), interpolation=cv2.INTER_AREA))
    labels = train.annotated(0).values
    expected = np.zeros((48, 72), int)  # outlines at 1.5 times their coordinates
    expected[12:36, 12:60], expected[18:30, 24:48], expected[:, 36:72] = 13, 18, 9
    assert labels.shape == (48, 72) and np.array_equal(labels, expected)
    pixels, annotated = train.large(0)
    assert np.array_equal(pixels, large)
    assert np.array_equal(annotated.values, np.kron(expected[::3, ::3], np.ones((6, 6))))


def test_noise_is_made_at_the_large_size_and_shrinks_with_the_image(tmp_path: Path) -> None:
    opened = opened_set(tmp_path)
    truth = truth_by(opened.rule)
    source = on_large(ConditionSource(lambda seed, progress: stripes, {"of": "stripes"}), opened.train, truth)
    assert source.identity == {"of": "stripes", "made_at": 144}
    seen.clear()
    clean = opened.train.pixels(0)
    changed = source.change_of(0, SILENT)("car1", clean, *truth(opened.train.annotated(0)))
    assert [(name, shape) for name, shape, _ in seen] == [("car1", (96, 144, 3))]
    large, annotated = opened.train.large(0)
    noised = stripes("", large, *truth(annotated))
    assert np.array_equal(changed, cv2.resize(noised, (72, 48), interpolation=cv2.INTER_AREA))
    mask = opened.train.annotated(0).values > 0
    assert np.array_equal(changed[~mask], clean[~mask])
    assert 0 < np.abs(changed.astype(int) - clean).max() <= 6


def test_other_images_are_enlarged_from_what_they_are(tmp_path: Path) -> None:
    opened = opened_set(tmp_path)
    truth = truth_by(opened.rule)
    source = on_large(ConditionSource(lambda seed, progress: stripes), opened.train, truth)
    seen.clear()
    pixels = opened.test.pixels(0)
    mask, classes = truth(opened.test.annotated(0))
    classes = np.where(mask, 5, -1)  # as a network is asked: another class's noise
    changed = source.change_of(0, SILENT)("probe/car1", pixels, mask, classes)
    (name, shape, told) = seen[0]
    assert (name, shape, changed.shape) == ("probe/car1", (96, 144, 3), (48, 72, 3))
    assert np.array_equal(told, np.kron(classes, np.ones((2, 2))))
