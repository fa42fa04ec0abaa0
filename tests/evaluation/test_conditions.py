"""Changes of training images: noise, patterns, JPEG, files protected before; what they are measured by and called."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.scenes import HEIGHT, ROAD, WIDTH, opened
from unseg.data.annotations import ClassMap, ClassTable, ObjectRule
from unseg.errors import UserError
from unseg.evaluation import conditions
from unseg.evaluation.condition_names import Condition, in_order, parse_condition, shown_name
from unseg.evaluation.conditions import Change, class_pattern, random_noise, reencoded, unchanged
from unseg.evaluation.defences.jpeg import jpeg
from unseg.evaluation.quality import Meter, Quality
from unseg.evaluation.sets import (
    ChangedImages,
    CleanImages,
    DefendedImages,
    ProtectedImages,
    protected_files,
    truth_by,
)
from unseg.evaluation.tasks.label_arrays import read_arrays, shrink_label
from unseg.evaluation.tasks.labelling import BinaryLabelling
from unseg.method import metrics
from unseg.method.config import Budget
from unseg.storage.image_encoding import write_png

TRUTH = truth_by(ROAD)


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def classes_of(images: CleanImages, index: int) -> np.ndarray:
    """The class map of an image."""
    return images.annotated(index).values


def test_truth_by_hand() -> None:
    """The object is what the rule takes; pixels that a class map ignores keep their label among the classes."""
    annotated = ClassMap(np.array([[0, 3, 4, 10, 255]], np.uint8), "index", ClassTable())
    for rule, mask in (
        (ObjectRule((3, 4)), [False, True, True, False, False]),
        (ObjectRule("all"), [False, True, True, True, False]),
        (ObjectRule("all", background_label=None), [True, True, True, True, False]),
    ):
        found, classes = truth_by(rule)(annotated)
        assert found.tolist() == [mask] and classes.tolist() == [[0, 3, 4, 10, 255]]


def test_labels_shrink_by_nearest_neighbour_at_pixel_centres() -> None:
    label = np.arange(36, dtype=np.uint8).reshape(6, 6)
    assert shrink_label(label, 2, 2).tolist() == [[7, 10], [25, 28]]  # the centres of 3×3 blocks


def test_random_noise_keeps_the_budget_and_depends_on_seed_and_name_alone() -> None:
    pixels = np.full((64, 96, 3), 128, np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[:32] = True

    def noise(change: Change, name: str) -> np.ndarray:
        return change(name, pixels, mask, mask.astype(np.uint8)).astype(int) - 128

    noised = noise(random_noise(Budget(8, 2), 0), "a")
    assert np.abs(noised[mask]).max() == 8 and np.abs(noised[~mask]).max() == 2
    assert abs(noised.mean()) < 0.1
    assert noised[mask].var() == pytest.approx(64 / 3, rel=0.05)  # of a uniform distribution on ±8, rounding adds 1/12
    again = random_noise(Budget(8, 2), 0)
    noise(again, "b")
    assert np.array_equal(noise(again, "a"), noised)
    assert not np.array_equal(noise(random_noise(Budget(8, 2), 1), "a"), noised)
    assert not np.array_equal(noise(random_noise(Budget(8, 2), 0), "b"), noised)


def test_a_class_pattern_is_locked_to_class_and_position() -> None:
    """Of full strength everywhere, the same in every image of any size, another one for every class and seed."""

    def pattern(labels: np.ndarray, seed: int = 0, name: str = "a") -> np.ndarray:
        pixels = np.full((*labels.shape, 3), 100, np.uint8)
        return class_pattern(Budget(8, 2), seed)(name, pixels, labels > 0, labels).astype(int) - 100

    first, second = np.zeros((40, 60), np.uint8), np.ones((50, 30), np.uint8)
    mixed = np.zeros((40, 60), np.uint8)
    mixed[10:20, 5:25] = 1
    assert set(np.unique(pattern(first))) == {-2, 2} and set(np.unique(pattern(second))) == {-8, 8}
    assert np.array_equal(pattern(mixed)[mixed == 0], pattern(first)[mixed == 0])
    assert np.array_equal(pattern(mixed, name="b")[10:20, 5:25], pattern(second)[10:20, 5:25])
    assert abs(np.sign(pattern(first)).mean()) < 0.05
    share = np.mean(np.sign(pattern(first))[:40, :30] == np.sign(pattern(second))[:40, :30])
    assert share == pytest.approx(0.5, abs=0.05)  # unrelated
    assert np.mean(np.sign(pattern(second, 1)) == np.sign(pattern(second))) == pytest.approx(0.5, abs=0.05)


def test_a_class_pattern_repeats_where_images_are_larger_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "TILE", 16)
    labels = np.ones((20, 50), np.uint8)
    noised = class_pattern(Budget(), 0)("a", np.full((20, 50, 3), 99, np.uint8), labels > 0, labels)
    assert np.array_equal(noised[:, :16], noised[:, 16:32]) and np.array_equal(noised[16:], noised[:4])


def brighter(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return pixels + np.where(mask, 4, 1).astype(np.uint8)[..., None]


def changed(clean: CleanImages, change: Change) -> tuple[ChangedImages, Quality]:
    """Training images under a change, and what was measured once all were read."""
    images = ChangedImages(clean, change, TRUTH, Meter(len(clean)))
    for index in range(len(clean)):
        images.pixels(index)
    return images, images.meter.total()


def test_changed_images_are_measured_at_full_size(data: Path) -> None:
    training = opened(data)
    images, quality = changed(training, brighter)
    clean, made = (
        read_arrays(which, (WIDTH // 2, HEIGHT // 2), BinaryLabelling(ROAD, False)).images
        for which in (training, images)
    )
    maps = [classes_of(training, index) for index in range(6)]
    assert (quality.max_change_object, quality.max_change_background) == (4, 1)
    share = np.mean([(classes == 1).mean() for classes in maps])  # every rectangle is whole or cut alike
    errors = [16 * (classes == 1).mean() + (classes != 1).mean() for classes in maps]
    assert 0 < share < 1
    assert quality.psnr == pytest.approx(np.mean([10 * math.log10(255**2 / error) for error in errors]))
    assert 0.9 < quality.ssim < 1 and quality.lpips is None and quality.images == quality.differing == 6
    assert made.shape == clean.shape == (6, HEIGHT // 2, WIDTH // 2, 3)
    assert (made.astype(int) - clean).min() >= 1 and (made.astype(int) - clean).max() <= 4
    assert changed(training, unchanged)[1] == Quality(images=6)


def test_re_encoding_comes_after_the_change_and_is_measured_apart(data: Path) -> None:
    clean = opened(data)
    plain, before = changed(clean, brighter)
    coded = DefendedImages(plain, clean, [jpeg(60).change], truth=TRUTH, meter=Meter(len(clean)))
    pixels = [clean.pixels(index) for index in range(len(clean))]
    expected = []
    for index in range(len(clean)):
        file = io.BytesIO()
        Pillow.fromarray(plain.pixels(index)).save(file, "JPEG", quality=60)  # Pillow's own subsampling
        expected.append(np.asarray(Pillow.open(file)))
    assert all(np.array_equal(coded.pixels(index), image) for index, image in enumerate(expected))
    objects, stored = [classes_of(clean, index) == 1 for index in range(len(clean))], coded.meter.total()
    assert plain.meter.total() == before
    assert stored.max_change_object == max(
        int(np.abs(image.astype(int) - before)[mask].max())
        for image, before, mask in zip(expected, pixels, objects, strict=True)
    )
    ratios = [metrics.psnr(before, image) for image, before in zip(expected, pixels, strict=True)]
    assert stored.psnr == pytest.approx(np.mean(ratios))
    assert stored.psnr < before.psnr and stored.ssim < before.ssim
    errors = [np.abs(reencoded(pixels[0], quality).astype(int) - pixels[0]).mean() for quality in (100, 75, 10)]
    assert errors == sorted(errors) and 0 < errors[0] < errors[2]


def test_names_of_conditions() -> None:
    assert parse_condition("protected") == Condition("protected")
    assert parse_condition("clean+jpeg100") == Condition("clean", ("jpeg100",))
    for name in (
        "dirty",
        "protected+jpeg",
        "protected+jpeg0",
        "protected+jpeg101",
        "protected+jpeg075",
        "protected+png",
        "trivial",
        "",
        "clean+jpeg٧",
    ):
        assert name in refused(parse_condition, name)
    assert [shown_name(name) for name in ("random+jpeg75", "pattern", "trivial", "new", "new+blur2")] == [
        "random noise, JPEG 75",
        "class pattern",
        "trivial answer",
        "new",
        "new, blur2",
    ]
    ordered = [
        "clean",
        "protected",
        "protected+jpeg75",
        "protected+jpeg9",
        "protected+blur",
        "new",
        "random",
        "pattern",
    ]
    assert in_order(reversed(ordered)) == ordered


def test_protected_files_are_read_as_they_are(data: Path, tmp_path: Path) -> None:
    clean, folder = opened(data), tmp_path / "p"
    for number, name in enumerate(clean.names):
        write_png(folder / name, clean.pixels(number) ^ number)
    (folder / "train0.jpg").write_bytes(b"not looked at, since there is a lossless file")
    stems = [clean.stem(index) for index in range(len(clean))]
    files = protected_files(folder, stems)
    images = ProtectedImages(clean, files, TRUTH, Meter(len(clean)))
    assert all(np.array_equal(images.pixels(index), clean.pixels(index) ^ index) for index in range(len(clean)))
    assert images.meter.total().max_change_object == 5 and images.meter.total().differing == 5
    (folder / "train1.png").unlink()
    assert "no protected version of training image train1 (1 of 6" in refused(protected_files, folder, stems)
    assert "no name in common" in refused(protected_files, folder, ["a/train0", "a/train2"])
    write_png(files[0], np.zeros((10, 10, 3), np.uint8))
    again = ProtectedImages(clean, files, TRUTH, Meter(len(clean)))
    assert "10×10 pixels, but the clean image has 64×48" in refused(again.pixels, 0)
