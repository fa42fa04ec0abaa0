"""Measuring an effect: one trainer, equal views, errors in one line, and a resumable comparison with known answers."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from rich.console import Console
from rich.table import Table
from typer.main import get_command

from segment_anything_training.build import build_generator
from tests.support.fake_generator import loaded
from unseg.cli import app
from unseg.commands import evaluate as command
from unseg.errors import UserError
from unseg.evaluation import augmentation, conditions, train_and_test
from unseg.evaluation.condition_names import BASES, Condition, in_order, parse_condition, shown_name
from unseg.evaluation.conditions import Change, class_pattern, random_noise, reencoded, unchanged
from unseg.evaluation.pairs import Task, list_pairs, shrink_label
from unseg.evaluation.quality import Meter, Quality
from unseg.evaluation.results import Spread, grouped, read_results, rows, spread
from unseg.evaluation.sets import (
    ChangedImages,
    PairImages,
    ProtectedImages,
    ReencodedImages,
    check_apart,
    protected_files,
)
from unseg.evaluation.study import Plan, RunName, Source, Watcher, compare, study_of
from unseg.evaluation.tasks import semantic
from unseg.evaluation.tasks.semantic import TaskLabelling, read_arrays
from unseg.evaluation.trainer import BatchOrder, Schedule
from unseg.method import metrics
from unseg.method.codes import code_map
from unseg.method.config import Budget
from unseg.protecting.protector import Protector
from unseg.storage import weights
from unseg.storage.files import sha256_of
from unseg.storage.image_encoding import write_png
from unseg.storage.weights import load_generator, save_generator
from unseg.victims.semantic_networks import NETWORKS, build_network

WIDTH, HEIGHT = 64, 48


def scene(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark picture with a bright rectangle of class 1 over class 0; class 2 is a blue strip; the last row is unlabelled."""
    pixels = draw.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = draw.integers(0, HEIGHT // 2), draw.integers(0, WIDTH // 2)
    pixels[top : top + 20, left : left + 28] += 150
    classes[top : top + 20, left : left + 28] = 1
    pixels[-8:-1, :, 2] += 190
    classes[-8:-1] = 2
    classes[-1] = 255
    return pixels, classes


def tiny(classes: int) -> torch.nn.Module:
    """A network for tests: sees colours in a small neighbourhood, and has batch norm and dropout as the real ones do."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(8, classes, 1)
    )


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny", tiny)


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    root, draw = tmp_path / "data", np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for i in range(count):
            pixels, classes = scene(draw)
            write_png(root / "images" / split / f"{split}{i}.png", pixels)
            write_png(root / "labels" / split / f"{split}{i}.png", classes)
    return root


def arrays(count: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Images whose class is their brightness."""
    draw = np.random.default_rng(seed)
    labels = np.kron(draw.integers(0, 2, (count, 4, 4)), np.ones((size // 4, size // 4), int)).astype(np.uint8)
    return (labels[..., None] * 150 + draw.integers(0, 60, (*labels.shape, 3))).astype(np.uint8), labels


def plan(data: Path, out: Path, **changes: object) -> Plan:
    fields: dict = {
        "task": Task("binary", True, (1,)),
        "networks": ("tiny",),
        "conditions": ("clean", "protected"),
        "width": WIDTH,
        "height": HEIGHT,
        "schedule": Schedule(steps=2, batch=2, eval_every=1),
        "budget": Budget(),
        "device": "cpu",
    }
    return Plan(data, out, **{**fields, **changes})


def run(task: str, condition: str, miou: float, seed: int = 0) -> dict:
    """A run as results.json holds it, of the network "net"."""
    return {
        "settings": {"task": task, "network": "net", "condition": condition, "seed": seed},
        "result": {"metric": "miou", "final": miou, "best": miou + 0.01, "quality": {"psnr": 35.0}, "train_loss": 0.1},
    }


def printed(table: Table) -> list[str]:
    """The lines of a table on a terminal of 200 columns."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def same(files: str) -> dict[str, Source]:
    """The protected images are the clean ones."""
    return {"protected": Source(lambda seed: unchanged, {"files": files})}


# --- the trainer -----------------------------------------------------------------------------------------------------


def test_two_runs_of_one_seed_give_the_same_weights_and_another_seed_others() -> None:
    data = (*arrays(6, 0), *arrays(2, 1))
    first, second, third = (train_and_test(*data, 2, "tiny", 3, seed, batch=2, device="cpu") for seed in (0, 0, 1))
    pairs = list(zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True))
    assert pairs and all(torch.equal(one, two) for one, two in pairs)
    assert first.curve == second.curve
    assert first.train_loss != third.train_loss


def test_a_callers_random_numbers_do_not_move() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_and_test(*arrays(2, 0), *arrays(2, 1), 2, "tiny", 1, batch=2, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_views_and_batches_do_not_depend_on_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What clean and protected runs see differs in the pixels alone: labels after augmentation are equal, step by step."""
    (images, labels), seen = arrays(5, 0), []

    def recording(
        view: torch.Tensor, target: torch.Tensor, views: augmentation.Views
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = original(view, target, views)
        seen.append(result[1])
        return result

    original = semantic.augment
    monkeypatch.setattr(semantic, "augment", recording)
    for pixels in (images, 255 - images):
        train_and_test(pixels, labels, *arrays(2, 1), 2, "tiny", 4, batch=2, device="cpu")
    assert len(seen) == 8
    assert all(torch.equal(clean, other) for clean, other in zip(seen[:4], seen[4:], strict=True))
    assert not all(torch.equal(seen[0], later) for later in seen[1:4])


def test_final_miou_is_that_of_the_returned_network() -> None:
    test_images, test_labels = arrays(5, 1)
    result = train_and_test(*arrays(6, 0), test_images, test_labels, 2, "tiny", 3, batch=2, device="cpu")
    pixels = (
        torch.from_numpy(test_images).permute(0, 3, 1, 2) / 255 - torch.tensor(augmentation.MEAN)[:, None, None]
    ) / torch.tensor(augmentation.STD)[:, None, None]
    with torch.no_grad():
        answer = result.network(pixels).argmax(1).numpy()
    iou = [np.sum((answer == c) & (test_labels == c)) / np.sum((answer == c) | (test_labels == c)) for c in (0, 1)]
    assert list(result.metrics["class_iou"].values()) == pytest.approx(iou)
    assert result.final == pytest.approx(sum(iou) / 2)


def test_evaluations_come_at_the_asked_steps_and_at_the_end() -> None:
    ticks, reports = [], []
    result = train_and_test(
        *arrays(2, 0),
        *arrays(1, 1),
        2,
        "tiny",
        5,
        batch=2,
        eval_every=2,
        device="cpu",
        tick=ticks.append,
        report=reports.append,
    )
    assert ticks and set(ticks) == {1, 2, 3, 4, 5}
    assert [point.step for point in result.curve] == [2, 4, 5]
    assert reports == result.curve
    assert result.best == max(point.score for point in result.curve)


def test_a_network_learns_what_brightness_shows() -> None:
    result = train_and_test(*arrays(12, 0, 64), *arrays(6, 1, 64), 2, "tiny", 60, batch=4, device="cpu")
    assert result.final > 0.8
    assert result.train_loss < 0.55  # ln 2 = 0.69 where nothing is learnt


def test_learning_rate_climbs_then_falls_to_zero() -> None:
    rates = [Schedule(steps=100).rate_factor(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == 1
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)


def test_batches_show_every_image_once_an_epoch() -> None:
    batches = BatchOrder(5, 2, torch.Generator().manual_seed(0))
    indices = torch.cat([batches.next() for _ in range(10)]).tolist()
    assert all(sorted(indices[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 20, 5))
    assert len({tuple(indices[i : i + 5]) for i in range(0, 20, 5)}) > 1
    assert len(BatchOrder(1, 4, torch.Generator()).next()) == 4


def test_views_move_labels_with_pixels_and_ignore_what_lies_outside() -> None:
    labels = torch.zeros(40, 32, 48, dtype=torch.uint8)
    labels[:, 8:20, 10:30] = 1
    images = labels[..., None].repeat(1, 1, 1, 3) * 255
    view, target = augmentation.augment(
        images, labels, augmentation.draw_views(len(images), torch.Generator().manual_seed(0))
    )
    brightness = view[:, 0] * augmentation.STD[0] + augmentation.MEAN[0]
    inside = (target != 255) & ((brightness < 0.02) | (brightness > 0.98))  # away from interpolated edges
    assert torch.equal((brightness > 0.5)[inside], (target == 1)[inside])
    assert inside.float().mean() > 0.7
    outside = target == 255
    assert 0 < outside.float().mean() < 0.3 and not outside.flatten(1).any(1).all()
    assert set(target.unique().tolist()) == {0, 1, 255}
    areas = (target == 1).flatten(1).sum(1) / 240
    assert augmentation.ZOOM[0] ** 2 - 0.1 < areas.min() < 0.9 and areas.max() > 1.1
    assert torch.equal(view.isfinite().all(), torch.tensor(True))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_answer_at_the_size_of_their_input(name: str) -> None:
    network = build_network(name, 5).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 45, 60)).shape == (1, 5, 45, 60)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_take_a_step_at_the_smallest_batch_and_size(name: str) -> None:
    result = train_and_test(*arrays(2, 0), *arrays(1, 1), 2, name, 1, batch=2, device="cpu")
    assert math.isfinite(result.train_loss) and 0 <= result.final <= 1


def test_padding_leaves_images_of_a_fitting_size_as_they_are() -> None:
    network = build_network("fpn_mobilenet_v2", 2).eval()
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(network(images), network.network(images))


# --- data and conditions ---------------------------------------------------------------------------------------------


def test_tasks_by_hand() -> None:
    classes = np.array([[0, 3, 4, 10, 255]], np.uint8)
    binary, apart, chosen = Task("binary", True, (3, 4)), Task("classes", False), Task("classes", False, (10,))
    assert binary.labels(classes).tolist() == [[0, 1, 1, 0, 255]]
    assert binary.object_mask(classes).tolist() == [[False, True, True, False, False]]
    assert binary.num_classes(classes) == 2
    assert apart.labels(classes).tolist() == classes.tolist()
    assert apart.object_mask(classes).tolist() == [[True, True, True, True, False]]
    assert apart.num_classes(classes) == chosen.num_classes(classes) == 11
    assert chosen.labels(classes).tolist() == classes.tolist()
    assert chosen.object_mask(classes).tolist() == [[False, False, False, True, False]]
    for task in (Task("binary", True, (3, 4), by_class=True), Task("classes", False, (10,), by_class=True)):
        assert task.object_mask(classes).tolist() == [[True, True, True, True, False]]
    assert Task("binary", True, (3, 4), by_class=True).labels(classes).tolist() == [[0, 1, 1, 0, 255]]


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


def changed(pairs: list, task: Task, change: Change) -> tuple[ChangedImages, Quality]:
    """Training images under a change, and what was measured once all were read."""
    clean = PairImages(pairs)
    images = ChangedImages(clean, change, study_truth(task), Meter(len(clean)))
    for index in range(len(clean)):
        images.pixels(index)
    return images, images.meter.total()


def study_truth(task: Task) -> Callable:
    return lambda annotated: (task.object_mask(annotated.values), task.labels(annotated.values))


def test_changed_images_are_measured_at_full_size(data: Path) -> None:
    pairs, task = list_pairs(data, "train"), Task("binary", True, (1,))
    images, quality = changed(pairs, task, brighter)
    clean, made = (
        read_arrays(which, (WIDTH // 2, HEIGHT // 2), TaskLabelling(task)).images
        for which in (PairImages(pairs), images)
    )
    assert (quality.max_change_object, quality.max_change_background) == (4, 1)
    share = np.mean([(pair.classes() == 1).mean() for pair in pairs])  # every rectangle is whole or cut alike
    errors = [16 * (pair.classes() == 1).mean() + (pair.classes() != 1).mean() for pair in pairs]
    assert 0 < share < 1
    assert quality.psnr == pytest.approx(np.mean([10 * math.log10(255**2 / error) for error in errors]))
    assert 0.9 < quality.ssim < 1 and quality.lpips is None and quality.images == quality.differing == 6
    assert made.shape == clean.shape == (6, HEIGHT // 2, WIDTH // 2, 3)
    assert (made.astype(int) - clean).min() >= 1 and (made.astype(int) - clean).max() <= 4
    assert changed(pairs, task, unchanged)[1] == Quality(images=6)


def test_re_encoding_comes_after_the_change_and_is_measured_apart(data: Path) -> None:
    pairs, task = list_pairs(data, "train"), Task("binary", True, (1,))
    plain, before = changed(pairs, task, brighter)
    coded = ReencodedImages(plain, plain.base, 60, study_truth(task), Meter(len(pairs)))
    pixels = [pair.pixels() for pair in pairs]
    expected = []
    for index in range(len(pairs)):
        file = io.BytesIO()
        Pillow.fromarray(plain.pixels(index)).save(file, "JPEG", quality=60)  # Pillow's own subsampling
        expected.append(np.asarray(Pillow.open(file)))
    assert all(np.array_equal(coded.pixels(index), image) for index, image in enumerate(expected))
    objects, stored = [pair.classes() == 1 for pair in pairs], coded.meter.total()
    assert plain.meter.total() == before
    assert stored.max_change_object == max(
        int(np.abs(image.astype(int) - clean)[mask].max())
        for image, clean, mask in zip(expected, pixels, objects, strict=True)
    )
    ratios = [metrics.psnr(clean, image) for image, clean in zip(expected, pixels, strict=True)]
    assert stored.psnr == pytest.approx(np.mean(ratios))
    assert stored.psnr < before.psnr and stored.ssim < before.ssim
    errors = [np.abs(reencoded(pixels[0], quality).astype(int) - pixels[0]).mean() for quality in (100, 75, 10)]
    assert errors == sorted(errors) and 0 < errors[0] < errors[2]


def test_names_of_conditions() -> None:
    assert parse_condition("protected") == Condition("protected", None)
    assert parse_condition("clean+jpeg100") == Condition("clean", 100)
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
    pairs, folder = list_pairs(data, "train"), tmp_path / "p"
    for number, pair in enumerate(pairs):
        write_png(folder / f"{pair.name}.png", pair.pixels() ^ number)
    (folder / "train0.jpg").write_bytes(b"not looked at, since there is a lossless file")
    clean = PairImages(pairs)
    files = protected_files(folder, clean.names)
    images = ProtectedImages(clean, files, study_truth(Task("binary", True, (1,))), Meter(len(pairs)))
    assert all(np.array_equal(images.pixels(index), pair.pixels() ^ index) for index, pair in enumerate(pairs))
    assert images.meter.total().max_change_object == 5 and images.meter.total().differing == 5
    (folder / "train1.png").unlink()
    assert "no protected version of training image train1 (1 of 6" in refused(protected_files, folder, clean.names)
    assert "no name in common" in refused(protected_files, folder, ["a/train0", "a/train2"])
    write_png(files[0], np.zeros((10, 10, 3), np.uint8))
    again = ProtectedImages(clean, files, study_truth(Task("binary", True, (1,))), Meter(len(pairs)))
    assert "10×10 pixels, but the clean image has 64×48" in refused(again.pixels, 0)


# --- the comparison --------------------------------------------------------------------------------------------------


class Recorder(Watcher):
    """Counts what was trained and what was kept."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.kept: list[str] = []

    def begin(self, what: str, total: int) -> None:
        if what.startswith("tiny on "):
            self.trained.append(what.removeprefix("tiny on "))

    def reused(self, run: RunName) -> None:
        self.kept.append(str(run).removeprefix("tiny on "))


def test_unchanged_images_retain_everything(data: Path, tmp_path: Path) -> None:
    """The whole comparison with images that are not changed: both runs are one and the same."""
    results = compare(plan(data, tmp_path / "out"), same("x"))
    clean, protected = (run["result"] for run in results["runs"])
    assert clean["curve"] == protected["curve"] and protected["quality"]["psnr"] is None
    table = {row.condition: row for row in rows(results)}
    assert list(table) == ["trivial", "clean", "protected"]
    assert table["clean"].final == Spread(clean["final"], None, 1)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    curve = [json.loads(line) for line in (tmp_path / "out" / "curves.jsonl").read_text().splitlines()]
    assert [(line["condition"], line["seed"], line["step"]) for line in curve] == [
        ("clean", 0, 1),
        ("clean", 0, 2),
        ("protected", 0, 1),
        ("protected", 0, 2),
    ]


def test_trivial_is_the_majority_answer_on_the_test_images(data: Path, tmp_path: Path) -> None:
    results = compare(plan(data, tmp_path / "out", conditions=("clean",)), {})
    facts = results["tasks"]["binary"]
    labels = [pair.classes() for pair in list_pairs(data, "test")]
    share = sum((label[:-1] != 1).sum() for label in labels) / sum(label[:-1].size for label in labels)
    assert facts["majority_class"] == "0"
    assert facts["trivial"]["miou"] == pytest.approx(share / 2)


def test_rows_compute_retained_learning_for_each_task_and_network() -> None:
    results = {
        "tasks": {
            "binary": {"metric": "miou", "trivial": {"miou": 0.3}},
            "classes": {"metric": "miou", "trivial": {"miou": 0.05}},
        },
        "runs": [
            run("binary", "protected", 0.4),
            run("classes", "clean", 0.45),
            run("binary", "clean", 0.9),
            run("binary", "random", 0.84),
            run("classes", "protected", 0.15),
        ],
    }
    got = {(row.task, row.condition): row.retained for row in rows(results)}
    assert got[("binary", "protected")].mean == pytest.approx(1 / 6)
    assert got[("binary", "random")].mean == pytest.approx(0.9)
    assert got[("classes", "protected")].mean == pytest.approx(0.25)
    assert got[("binary", "clean")] == Spread(1, None, 1) and got[("binary", "trivial")] is None


def test_rows_are_means_over_seeds_each_against_its_own_clean_run() -> None:
    """By hand: clean 0.9, 0.7, 0.5 against trivial 0.1; protected 0.5, 0.1; seed 3 has no clean run."""
    results = {
        "tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.1}}},
        "runs": [
            *(run("binary", "clean", miou, seed) for seed, miou in enumerate((0.9, 0.7, 0.5))),
            run("binary", "protected", 0.1, 1),
            run("binary", "protected", 0.5, 0),
            run("binary", "protected", 0.3, 3),
            run("binary", "random", 0.4, 3),
        ],
    }
    clean, protected, noise = rows(results)[1:]
    assert (clean.seeds, protected.seeds, noise.seeds) == ((0, 1, 2), (0, 1, 3), (3,))
    assert clean.final == Spread(pytest.approx(0.7), pytest.approx(0.2), 3)
    assert clean.retained == Spread(1, 0, 3)
    assert protected.final == Spread(pytest.approx(0.3), pytest.approx(0.2), 3)
    assert protected.retained == Spread(pytest.approx(0.25), pytest.approx(0.25 * math.sqrt(2)), 2)  # of 0.5 and 0
    assert noise.retained is None
    table = command.result_table("binary", [clean, protected, noise])
    assert list(table.columns[5].cells) == ["1.00±0.00", "0.25±0.35 (n 2)", ""]
    assert list(table.columns[1].cells) == ["0.700±0.200", "0.300±0.200", "0.400"]
    assert list(table.columns[6].cells) == ["3", "3", "1"]


def test_runs_of_an_earlier_generator_are_not_averaged_with_those_of_the_latest() -> None:
    old, new = run("binary", "protected", 0.9, 0), run("binary", "protected", 0.2, 1)
    old["settings"]["images"], new["settings"]["images"] = {"generator": "a"}, {"generator": "b"}
    results = {"tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.1}}}, "runs": [old, new]}
    assert grouped(results) == {("binary", "net"): {"protected": {1: new["result"]}}}
    assert rows(results)[1].seeds == (1,)


def test_spread_by_hand() -> None:
    assert spread([2.0, None, 4.0, 9.0]) == Spread(5, pytest.approx(math.sqrt(13)), 3)
    assert spread([None, 2.0]) == Spread(2, None, 1)
    assert spread([0.0, None, 1.0]) == Spread(0.5, pytest.approx(math.sqrt(0.5)), 2)  # nothing learnt is a number, too
    assert spread([None]) is None and spread([]) is None


def test_the_closing_table_fits_in_80_columns() -> None:
    runs = [
        run("binary", base + suffix, 0.9, seed) for base in BASES for suffix in ("", "+jpeg100") for seed in range(3)
    ]
    table = rows({"tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.1}}}, "runs": runs})
    for line in printed(command.result_table("binary, deeplabv3plus_mobilenet_v2", table)):
        assert len(line) <= 80 and "…" not in line


def test_finished_runs_are_kept_and_others_repeated(data: Path, tmp_path: Path) -> None:
    out, first, second, third = tmp_path / "out", Recorder(), Recorder(), Recorder()
    compare(plan(data, out, conditions=("clean",)), {}, first)
    before = compare(plan(data, out), same("x"), second)
    after = compare(plan(data, out), same("y"), third)
    assert (first.trained, first.kept) == (["clean, seed 0"], [])
    assert (second.trained, second.kept) == (["protected, seed 0"], ["clean, seed 0"])
    assert (third.trained, third.kept) == (["protected, seed 0"], ["clean, seed 0"])
    assert len(before["runs"]) == len(after["runs"]) == 2


def test_seeds_add_up_in_one_file(data: Path, tmp_path: Path) -> None:
    """Seed by seed; what is there is kept; a run is the same whether it was made alone or with others."""
    out, recorder, seen = tmp_path / "out", Recorder(), []

    def change_of(seed: int) -> Change:
        seen.append(seed)
        return unchanged

    compare(plan(data, out, seeds=(1,)), same("x"))
    results = compare(plan(data, out, seeds=(0, 1, 2)), {"protected": Source(change_of, {"files": "x"})}, recorder)
    assert recorder.trained == ["clean, seed 0", "protected, seed 0", "clean, seed 2", "protected, seed 2"]
    assert recorder.kept == ["clean, seed 1", "protected, seed 1"]
    assert seen == [0, 2]
    losses = {
        (run["settings"]["condition"], run["settings"]["seed"]): run["result"]["train_loss"] for run in results["runs"]
    }
    assert len(losses) == 6 and all(losses["clean", seed] == losses["protected", seed] for seed in (0, 1, 2))
    assert len(set(losses.values())) == 3
    assert [(row.condition, row.seeds) for row in rows(results)] == [
        ("trivial", ()),
        ("clean", (0, 1, 2)),
        ("protected", (0, 1, 2)),
    ]


def test_runs_that_cannot_be_compared_are_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(plan(data, out, conditions=("clean",)), {})
    with pytest.raises(UserError, match="steps 2, now it is 3"):
        compare(plan(data, out, conditions=("clean",), schedule=Schedule(steps=3, batch=2, eval_every=1)), {})
    pixels, _ = scene(np.random.default_rng(9))
    write_png(data / "images" / "test" / "test0.png", pixels)
    with pytest.raises(UserError, match="made with test "):
        compare(plan(data, out, conditions=("clean",)), {})
    with pytest.raises(UserError, match="images/val"):
        compare(plan(data, out, conditions=("clean",), test_split="val"), {})
    both = compare(plan(data, out, conditions=("clean",), task=Task("classes", False)), {})
    assert both["tasks"].keys() == {"binary", "classes"}


def test_choices_of_design_are_tested_on_val_alone(data: Path, tmp_path: Path) -> None:
    """The test images may be missing; runs on the two splits do not mix, even where the splits hold the same files."""
    for kind in ("images", "labels"):
        (data / kind / "test").rename(data / kind / "val")
    chosen = plan(data, tmp_path / "out", conditions=("clean",), test_split="val")
    results = compare(chosen, {})
    assert results["runs"][0]["settings"]["test_split"] == "val"
    assert "6 training and 3 val images" in command.remarks(results, study_of(chosen, {}))[0]
    for kind in ("images", "labels"):
        (data / kind / "val").rename(data / kind / "test")
    with pytest.raises(UserError, match="test_split val, now it is test"):
        compare(plan(data, tmp_path / "out", conditions=("clean",)), {})


def test_results_of_earlier_versions_are_read_and_gone_on_with(data: Path, tmp_path: Path) -> None:
    """They were all tested on the test split, and do not say so."""
    out, recorder = tmp_path / "out", Recorder()
    results = compare(plan(data, out, conditions=("clean",)), {})
    del results["runs"][0]["settings"]["test_split"], results["tasks"]["binary"]["test_split"]
    (out / "results.json").write_text(json.dumps(results))
    compare(plan(data, out), same("x"), recorder)
    assert (recorder.trained, recorder.kept) == (["protected, seed 0"], ["clean, seed 0"])


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("docs/results/*.json")), ids=lambda path: path.stem
)
def test_the_published_results_can_be_read(path: Path) -> None:
    results = read_results(path)
    table = rows(results)
    assert len(table) > 2 and all(row.retained.mean == pytest.approx(1) for row in table if row.condition == "clean")


def test_classes_that_the_test_images_lack_are_named(data: Path, tmp_path: Path) -> None:
    for pair in list_pairs(data, "test"):
        classes = pair.classes()
        write_png(pair.label, np.where(classes == 2, 0, classes).astype(np.uint8))
    chosen = plan(data, tmp_path / "out", conditions=("clean",), task=Task("classes", False))
    results = compare(chosen, {})
    assert results["tasks"]["classes"]["absent_classes"] == ["2"]
    assert results["runs"][0]["result"]["metrics"]["class_iou"]["2"] is None
    assert any("classes 2" in line for line in command.remarks(results, study_of(chosen, {})))


# --- errors ----------------------------------------------------------------------------------------------------------


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_or_empty_folder_is_named(data: Path, tmp_path: Path) -> None:
    assert "images/train" in refused(list_pairs, tmp_path, "train")
    for path in (data / "images" / "test").iterdir():
        path.unlink()
    assert "no image" in refused(list_pairs, data, "test")


def test_images_without_label_maps_are_named(data: Path) -> None:
    labels = data / "labels" / "train"
    (labels / "train1.png").unlink()
    assert "train1.png is missing" in refused(list_pairs, data, "train")
    for path in labels.iterdir():
        path.rename(labels / f"other_{path.name}")
    assert "no name in common" in refused(list_pairs, data, "train")


def test_two_images_of_one_name_are_refused(data: Path) -> None:
    (data / "images" / "train" / "train0.jpg").write_bytes((data / "images" / "train" / "train0.png").read_bytes())
    assert "train0.jpg has the same name" in refused(list_pairs, data, "train")


def test_a_test_image_among_the_training_images_is_named(data: Path) -> None:
    train, test = list_pairs(data, "train"), list_pairs(data, "test")
    check_apart([pair.image for pair in train], [pair.image for pair in test])
    test[1].image.write_bytes(train[4].image.read_bytes())
    message = refused(check_apart, [pair.image for pair in train], [pair.image for pair in test])
    assert "test1.png" in message and "train4.png" in message


def test_labels_of_another_size_or_range_are_named(data: Path) -> None:
    pairs = list_pairs(data, "train")
    write_png(pairs[2].label, np.zeros((HEIGHT, WIDTH // 2), np.uint8))
    message = refused(read_arrays, PairImages(pairs), (WIDTH, HEIGHT), TaskLabelling(Task("classes", False)))
    assert "train2.png" in message and "64×48" in message and "32×48" in message
    assert "class 7 is out of range" in refused(semantic.check_labels, np.array([0, 7, 255]), 3, "labels")
    assert "no pixel" in refused(semantic.check_labels, np.array([255]), 3, "labels")
    semantic.check_labels(np.array([0, 2, 255]), 3, "labels")


def test_objects_that_no_label_shows_are_named() -> None:
    message = refused(Task("binary", True, (3, 9)).num_classes, np.array([0, 3, 255]))
    assert "class 9" in message and "0, 3" in message
    assert "hold no class" in refused(Task("classes", False).num_classes, np.array([255, 255]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": ("resnet999",)}, "resnet999"),
        ({"width": 8}, "--size 8x48"),
        ({"device": "abacus"}, "abacus"),
        ({"test_split": "train"}, "--test-split train: give val or test"),
    ],
)
def test_a_plan_is_checked_before_anything_is_read(tmp_path: Path, changes: dict, words: str) -> None:
    assert words in refused(lambda: plan(tmp_path / "nothing", tmp_path / "out", **changes))


def test_conditions_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    assert "dirty" in refused(study_of, plan(tmp_path / "nothing", tmp_path / "out", conditions=("dirty",)), {})


def test_options_are_checked() -> None:
    assert command.parse_size("240x180") == (240, 180)
    assert "--size 240" in refused(command.parse_size, "240")
    assert command.parse_task("binary", None).objects == (3, 4)
    assert command.parse_task("classes", None).objects is None
    assert command.parse_task("classes", "1, 2").objects == (1, 2)
    assert "--task both" in refused(command.parse_task, "both", None)
    assert "--object-classes" in refused(command.parse_task, "binary", "road")
    assert "--steps 0" in refused(lambda: Schedule(steps=0))
    assert "--batch 1: give at least 2" in refused(lambda: Schedule(batch=1))
    assert command.split_list("--networks", "a, b,a") == ("a", "b")
    assert command.parse_seeds("0, 2,00") == (0, 2)
    for seeds in ("-1", "1.5", "x", "", "9" * 19):
        assert "--seeds" in refused(command.parse_seeds, seeds)


def test_two_processes_may_share_a_folder(data: Path, tmp_path: Path) -> None:
    """One adds a run while the other trains: both are there in the end, and neither repeats the other's."""
    out, outer = tmp_path / "out", Recorder()

    class Interrupting(Recorder):
        def evaluated(self, run: RunName, evaluation: object, metric: str) -> None:
            if len(self.trained) == 1 and evaluation.step == 1:
                compare(plan(data, out, conditions=("clean",), seeds=(1,)), {})

    meanwhile = Interrupting()
    results = compare(plan(data, out, conditions=("clean",), seeds=(0, 1)), {}, meanwhile)
    assert sorted(run["settings"]["seed"] for run in results["runs"]) == [0, 1]
    assert (meanwhile.trained, meanwhile.kept) == (["clean, seed 0"], ["clean, seed 1"])
    compare(plan(data, out, conditions=("clean",), seeds=(0, 1)), {}, outer)
    assert outer.trained == []


def test_foreign_results_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1, 2]")
    assert "not the results of unseg evaluate" in refused(compare, plan(data, tmp_path), same("x"))
    assert (tmp_path / "results.json").read_text() == "[1, 2]"
    (tmp_path / "results.json").write_text('{"tasks": {}, "runs": [{"settings": {"task": "binary"}, "result": {}}]}')
    assert "not the results of unseg evaluate" in refused(read_results, tmp_path / "results.json")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_trains_prints_and_draws(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "out", tmp_path / "protected"
    for pair in list_pairs(data, "train"):
        write_png(folder / f"{pair.name}.png", pair.pixels() ^ 1)
    names = ["clean", "protected", "protected+jpeg50", "random", "pattern+jpeg50"]
    command.evaluate(
        data,
        out,
        object_classes="1",
        protected=[str(folder)],
        networks="tiny",
        size=f"{WIDTH}x{HEIGHT}",
        conditions=",".join(names),
        steps=2,
        batch=2,
        eval_every=1,
        device="cpu",
    )
    results = json.loads((out / "results.json").read_text())
    assert [run["settings"]["condition"] for run in results["runs"]] == names
    protected, coded = (results["runs"][i]["result"] for i in (1, 2))
    assert protected["stored"] is None and coded["quality"] == protected["quality"]
    assert coded["quality"]["psnr"] > coded["stored"]["psnr"]
    assert coded["train_loss"] != protected["train_loss"]
    assert (
        protected["quality"]["psnr"] == pytest.approx(20 * math.log10(255))
        and protected["quality"]["max_change_object"] == 1
    )
    printed = capsys.readouterr().out
    for words in (
        "clean",
        "protected",
        "random noise",
        "class pattern, JPEG 50",
        "protected, JPEG 50",
        "PSNR is that of the change",
        "(trivial)",
        "48.1",
        "6 training and 3 test images, 64x48",
    ):
        assert words in printed
    assert f"unseg report {out}" in printed.replace("\n", "")


def test_shares_of_a_split_are_swept(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "protected"
    for pair in list_pairs(data, "train"):
        write_png(folder / f"{pair.name}.png", pair.pixels() ^ 1)
    command.evaluate(
        data,
        tmp_path / "out",
        object_classes="1",
        protected=[str(folder)],
        networks="tiny",
        size=f"{WIDTH}x{HEIGHT}",
        conditions="clean",
        shares="0,50,100",
        steps=1,
        batch=2,
        device="cpu",
    )
    runs = read_results(tmp_path / "out" / "results.json")["runs"]
    assert [(run["settings"]["condition"], run["result"]["train_images"]) for run in runs] == [
        ("clean", 6),
        ("protected@50", 6),
        ("protected", 6),
        ("clean@50", 3),
    ]


def test_a_generator_protects_on_the_way_as_protect_does(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_generator(build_generator("compact"), "compact", tmp_path / "generator.safetensors", {})
    chosen = plan(data, tmp_path / "out", budget=Budget(6, 1))
    source = command.loaded_generator(chosen, str(tmp_path / "generator.safetensors"))
    pair = list_pairs(data, "train")[0]
    mask = chosen.task.object_mask(pair.classes())
    protected = source.change_of(0)(pair.name, pair.pixels(), mask, chosen.task.labels(pair.classes()))
    network = load_generator(tmp_path / "generator.safetensors").network
    assert np.array_equal(protected, Protector(network, Budget(6, 1))(pair.pixels(), mask))
    difference = np.abs(protected.astype(int) - pair.pixels())
    assert difference.any() and difference[mask].max() <= 6 and difference[~mask].max() <= 1
    assert source.identity["generator"] == sha256_of(tmp_path / "generator.safetensors")


@pytest.fixture()
def coded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A generator of three codes takes the compact one's place; what it is given is kept."""
    seen: list[np.ndarray] = []
    generator = loaded()
    generator.network.codes = 3

    def by_class(protector: Protector, pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
        seen.append(codes)
        return pixels ^ 1

    monkeypatch.setattr(weights, "load_generator", lambda which, device: generator)
    monkeypatch.setattr(Protector, "by_class", by_class)
    return seen


def test_by_class_the_generator_is_told_codes_by_area(data: Path, tmp_path: Path, coded: list[np.ndarray]) -> None:
    """The training scenes show most of class 0; turned into 9, it still has the first code: codes follow area, not number."""
    for pair in list_pairs(data, "train"):
        classes = pair.classes()
        write_png(pair.label, np.where(classes == 0, 9, classes).astype(np.uint8))
    areas = [sum((pair.classes() == label).sum() for pair in list_pairs(data, "train")) for label in (9, 1, 2)]
    assert areas[0] > max(areas[1:]) and areas[1] != areas[2]
    chosen = plan(data, tmp_path / "out", task=Task("classes", False, None, by_class=True))
    source = command.loaded_generator(chosen, "compact")
    pair = list_pairs(data, "train")[0]
    classes = pair.classes()
    protected = source.change_of(0)("x", pair.pixels(), chosen.task.object_mask(classes), chosen.task.labels(classes))
    assert np.array_equal(protected, pair.pixels() ^ 1)
    one, two = (1, 2) if areas[1] > areas[2] else (2, 1)
    expected = np.select([classes == 9, classes == 1, classes == 2], [0, one, two], 255)
    assert np.array_equal(coded[0], expected)
    assert source.identity["by_class"] is True


def test_by_class_the_binary_task_has_codes_0_and_1(data: Path, tmp_path: Path, coded: list[np.ndarray]) -> None:
    command.evaluate(
        data,
        tmp_path / "out",
        object_classes="1",
        by_class=True,
        conditions="protected,random",
        networks="tiny",
        size=f"{WIDTH}x{HEIGHT}",
        steps=1,
        batch=2,
        device="cpu",
    )
    for pair, codes in zip(list_pairs(data, "train"), coded[:6], strict=True):
        classes = pair.classes()
        assert np.array_equal(codes, np.select([classes == 255, classes == 1], [255, 1], 0))
    protected, random = read_results(tmp_path / "out" / "results.json")["runs"]
    assert random["result"]["quality"]["max_change_object"] == 8  # on every labelled pixel, so on class 0 too
    assert random["result"]["quality"]["max_change_background"] == 2
    assert protected["settings"]["images"]["object_budget_on"] == random["settings"]["images"]["object_budget_on"]


def test_a_generator_that_tells_no_classes_apart_is_refused(data: Path, tmp_path: Path) -> None:
    chosen = plan(data, tmp_path / "out", task=Task("classes", False, None, by_class=True))
    assert "does not tell classes apart" in refused(command.training_codes, chosen, 0, "compact")
    assert sorted(command.training_codes(chosen, 3, "compact").values()) == [0, 1, 2]
    assert sorted(command.training_codes(chosen, 2, "compact").values()) == [0, 0, 1]


def test_by_class_the_shipped_generator_protects_as_protect_does(data: Path, tmp_path: Path) -> None:
    chosen = plan(data, tmp_path / "out", task=Task("classes", False, None, by_class=True))
    pair = list_pairs(data, "train")[0]
    pixels, classes = pair.pixels(), pair.classes()
    protected = command.loaded_generator(chosen, "compact").change_of(0)("x", pixels, classes != 255, classes)
    codes = code_map(classes, command.training_codes(chosen, 3, "compact"))
    assert np.array_equal(protected, Protector(load_generator("compact").network).by_class(pixels, codes))
    change = np.abs(protected.astype(int) - pixels)
    assert 0 < change[classes != 255].max() <= 8 and change[classes == 255].max(initial=0) <= 2


def recorded_calls(tmp_path: Path, **settings: str) -> dict[str, list[str]]:
    """Task → arguments with which scripts/measure_effect.sh calls unseg, in a tree where a shell script takes its place."""
    tree, root = tmp_path / "tree", Path(__file__).parents[2]
    for folder in ("scripts", ".venv/bin", "data"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "scripts" / "measure_effect.sh", tree / "scripts")
    (tree / "install.sh").write_text("true\n")
    (tree / ".venv" / "bin" / "unseg").write_text(
        '#!/bin/sh\nfor word; do echo "$word"; done >>"$CALLS"; echo >>"$CALLS"\n'
    )
    (tree / ".venv" / "bin" / "unseg").chmod(0o755)
    calls = tree / "calls"
    calls.unlink(missing_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "CALLS": str(calls),
        "DATA_ROOT": str(tree / "data"),
        "OUT": str(tree / "out"),
        **settings,
    }
    subprocess.run(
        ["bash", tree / "scripts" / "measure_effect.sh", "--eval-every", "9"],
        env=environment,
        check=True,
        capture_output=True,
    )
    blocks = (block.split("\n") for block in calls.read_text().strip().split("\n\n"))
    return {words[words.index("--task") + 1]: words for words in blocks}


def test_the_script_asks_for_what_the_command_knows(tmp_path: Path) -> None:
    calls = recorded_calls(tmp_path)
    assert list(calls) == ["binary", "classes"]
    for task, words in calls.items():

        def value(option: str) -> str:
            return words[words.index(option) + 1]

        assert words[0] == "evaluate" and value("--eval-every") == "9" and value("--out").endswith(f"out/{task}")
        assert command.parse_seeds(value("--seeds")) == (0, 1, 2)
        chosen = plan(
            tmp_path,
            tmp_path,
            networks=command.split_list("", value("--networks")),
            conditions=command.split_list("", value("--conditions")),
            test_split=value("--test-split"),
        )
        assert len(chosen.networks) == 4 and len(chosen.conditions) == 5
        assert ("--by-class" in words) == (task == "classes")
        known = {option for parameter in get_command(app).commands["evaluate"].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_scripts_settings_reach_the_command(tmp_path: Path) -> None:
    calls = recorded_calls(
        tmp_path, TASKS="classes", BY_CLASS="0", SEEDS="4", CONDITIONS="clean", TEST_SPLIT="val", PARALLEL="1"
    )
    assert list(calls) == ["classes"] and "--by-class" not in calls["classes"]
    words = calls["classes"]
    assert [words[words.index(option) + 1] for option in ("--seeds", "--conditions", "--test-split")] == [
        "4",
        "clean",
        "val",
    ]


def test_the_command_wants_one_source_of_protected_images(data: Path, tmp_path: Path) -> None:
    assert "one of the two" in refused(
        lambda: command.evaluate(data, tmp_path, generator="compact", protected=[str(tmp_path)])
    )
    assert "no such folder" in refused(lambda: command.evaluate(data, tmp_path, protected=[str(tmp_path / "nothing")]))


def test_metrics_of_a_perfect_and_a_trivial_network(data: Path) -> None:
    """A network that answers the majority everywhere has exactly the trivial mIoU; one that knows the labels has 1."""
    arrays = read_arrays(PairImages(list_pairs(data, "test")), (WIDTH, HEIGHT), TaskLabelling(Task("classes", False)))
    classes, device = arrays.maps, torch.device("cpu")

    class Constant(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(len(pixels), 3, *pixels.shape[-2:])

    class Knowing(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            truth = torch.from_numpy(np.where(classes == 255, 0, classes).astype(np.int64))
            return torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2).float()

    learner = semantic.SemanticLearner(tiny, arrays, arrays, "abc")
    assert learner.evaluate(Constant(), device)["class_iou"] == dict(
        zip("abc", metrics.trivial_iou(classes, classes, 3))
    )
    assert learner.evaluate(Constant(), device) == learner.trivial
    assert learner.evaluate(Knowing(), device) == {
        "miou": 1,
        "pixel_accuracy": 1,
        "class_iou": {"a": 1, "b": 1, "c": 1},
    }
