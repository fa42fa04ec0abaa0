"""Evaluation of folders: any number of protected ones, shares, checkpoints, processes, weights, errors in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.annotation_sets import build, photographs
from tests.support.evaluate_runs import evaluate as run_evaluate
from tests.support.killed_runs import Killed, KillingAt
from tests.support.told_progress import Told
from unseg.commands import evaluate_parsing as parsing
from unseg.compute.distributed import World
from unseg.data.annotations import ClassMap, ClassTable, ObjectRule
from unseg.errors import UserError
from unseg.evaluation import augmentation, presets, quality
from unseg.evaluation.condition_names import Condition, in_order, parse_condition, shown_name, sweep
from unseg.evaluation.learner import Learner, LearnerOptions
from unseg.evaluation.results import read_results, rows
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import choose_share, open_clean
from unseg.evaluation.tasks.label_arrays import Arrays
from unseg.evaluation.tasks.labelling import TableLabelling, labelling_of
from unseg.evaluation.tasks.registry import TASKS, find_maker
from unseg.evaluation.tasks.semantic import SemanticLearner, labelled_cross_entropy
from unseg.evaluation.trainer import Checkpoint, train
from unseg.evaluation.weight_choice import local_weights
from unseg.method import metrics
from unseg.method.visibility import visibility
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.victims.semantic_networks import ARCHITECTURES, NETWORKS, build_network, find_network, load_pretrained

WIDTH, HEIGHT = 64, 48
ROOT = Path(__file__).parents[2]


def scene(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark picture with a bright rectangle of class 1 over class 0; the last row is unlabelled."""
    pixels = draw.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = draw.integers(0, HEIGHT // 2), draw.integers(0, WIDTH // 2)
    pixels[top : top + 20, left : left + 28] += 150
    classes[top : top + 20, left : left + 28] = 1
    classes[-1] = 255
    return pixels, classes


def tiny(classes: int) -> nn.Module:
    """A network for tests with batch norm and dropout, as the real ones have."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(8, classes, 1)
    )


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny_one", "tiny_two"):
        monkeypatch.setitem(NETWORKS, name, tiny)


@pytest.fixture()
def folders(tmp_path: Path) -> Path:
    """train/ and test/ with images/ and labels/, and two protected folders, in a tree."""
    root, draw = tmp_path / "data", np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for i in range(count):
            pixels, classes = scene(draw)
            write_png(root / split / "images" / "sub" / f"{split}{i}.png", pixels)
            write_png(root / split / "labels" / "sub" / f"{split}{i}.png", classes)
            if split == "train":
                write_png(root / "one" / "sub" / f"{split}{i}.png", pixels ^ 1)
                write_png(root / "two" / "images" / "sub" / f"{split}{i}.png", pixels ^ 3)
    return root


def arrays(count: int, seed: int, size: int = 32) -> Arrays:
    """Images whose class is their brightness."""
    draw = np.random.default_rng(seed)
    labels = np.kron(draw.integers(0, 2, (count, 4, 4)), np.ones((size // 4, size // 4), int)).astype(np.uint8)
    return Arrays((labels[..., None] * 150 + draw.integers(0, 60, (*labels.shape, 3))).astype(np.uint8), labels)


def learner(build: Callable[[int], nn.Module] = tiny, **options: object) -> SemanticLearner:
    return SemanticLearner(build, arrays(7, 0), arrays(3, 1), ["dark", "bright"], **options)


def evaluate(root: Path, out: Path, **options: object) -> dict:
    """The command on the folders; two steps of a tiny network unless told otherwise."""
    given = {
        "task": "semantic",
        "clean": root / "train",
        "protected": [str(root / "one")],
        "test": root / "test",
        "networks": "tiny_one",
        "preset": "small-scratch",
        "size": f"{WIDTH}x{HEIGHT}",
        "steps": 2,
        "batch": 2,
        "eval_every": 1,
        "device": "cpu",
    }
    return run_evaluate(out, **{**given, **options})


def refused(call: Callable, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- folders and conditions ------------------------------------------------------------------------------------------


def test_folders_are_compared_side_by_side(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two protected folders, their mixtures, the clean part alone and the control; then nothing is left to do."""
    out, protected = tmp_path / "out", [str(folders / "one"), f"b={folders / 'two'}"]
    results = evaluate(folders, out, protected=protected, shares="0,40,100", networks="tiny_one,tiny_two")
    conditions = ["clean", "one", "b", "random", "one@40", "b@40", "clean@40"]
    assert [run["settings"]["condition"] for run in results["runs"]] == [name for name in conditions for _ in range(2)]
    by_name = {
        run["settings"]["condition"]: run["result"]
        for run in results["runs"]
        if run["settings"]["network"] == "tiny_one"
    }
    assert by_name["clean"]["quality"] is None and by_name["clean@40"]["train_images"] == 6
    for name, most in (("one", 1), ("b", 3), ("one@40", 1), ("b@40", 3)):
        measured = by_name[name]["quality"]
        assert (measured["max_change_object"], measured["max_change_background"]) == (most, most)
        assert (
            measured["images"] == measured["differing"] == 10
            and measured["lpips"] is None
            and 0.9 < measured["ssim"] < 1
        )
    assert by_name["one"]["quality"]["psnr"] == pytest.approx(20 * np.log10(255))
    assert (
        by_name["random"]["quality"]["max_change_object"] == 8
        and by_name["random"]["quality"]["max_change_background"] == 2
    )
    assert len({result["train_loss"] for result in by_name.values()}) == len(conditions)
    for entry in by_name["one"]["examples"] + by_name["one"]["training_examples"]:
        for path in (value for key, value in entry.items() if key != "name"):
            assert read_image(out / path).pixels.shape == (HEIGHT, WIDTH, 3)
    first = by_name["one"]["training_examples"][0]
    assert first["name"] == "sub/train0.png"
    assert np.array_equal(read_image(out / first["clean"]).pixels ^ 1, read_image(out / first["changed"]).pixels)
    assert not list((out / "checkpoints").iterdir())
    assert [row.condition for row in rows(results) if row.network == "tiny_one"] == [
        "trivial",
        "clean",
        "clean@40",
        "b",
        "b@40",
        "one",
        "one@40",
        "random",
    ]
    before = (out / "results.json").read_bytes()
    capsys.readouterr()
    evaluate(folders, out, protected=protected, shares="0,40,100", networks="tiny_one,tiny_two")
    assert (out / "results.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert printed.count("done before, kept") == 14 and f"unseg report {out}" in printed.replace("\n", "")


def test_unchanged_folders_give_what_clean_ones_give(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "train" / "images", tmp_path / "same")
    results = evaluate(
        folders, tmp_path / "out", protected=[f"same={tmp_path / 'same'}"], conditions="clean,same,same@40"
    )
    curves = [run["result"]["curve"] for run in results["runs"]]
    assert curves[0] == curves[1] == curves[2]


def test_shares_are_nested_and_drawn_by_seed() -> None:
    names = [f"{number}.png" for number in range(50)]
    chosen = [choose_share(names, share, 3) for share in (0, 20, 40, 60, 80, 100)]
    assert [len(part) for part in chosen] == [0, 10, 20, 30, 40, 50]
    assert all(
        set(small) < set(large) and small == sorted(small) for small, large in zip(chosen, chosen[1:], strict=False)
    )
    assert choose_share(names, 40, 4) != chosen[2]
    assert "@5: 5 % of 6 training images are none; give another share" in refused(choose_share, names[:6], 5, 3)
    assert "@95: 95 % of 6 training images are all" in refused(choose_share, names[:6], 95, 3)


def test_names_of_shares() -> None:
    assert sweep(["a", "b"], (0, 20, 100)) == ["clean", "a@20", "b@20", "a", "b", "clean@20"]
    assert parse_condition("a.b@20+jpeg75", ["clean", "a.b"]) == Condition("a.b", ("jpeg75",), 20)
    for wrong in ("a@0", "a@100", "a@", "c", "a@20@20", "a+jpeg0"):
        assert wrong in refused(parse_condition, wrong, ["clean", "a"])
    assert [shown_name(name) for name in ("clean@20", "protected@20", "a@20+jpeg75", "clean@x")] == [
        "clean part alone, 80 %",
        "protected, 20 %",
        "a, 20 %, JPEG 75",
        "clean, x %",
    ]
    ordered = ["clean", "clean@20", "clean@40", "protected", "protected+jpeg75", "protected@20", "a", "a@40", "random"]
    assert in_order(reversed(ordered)) == ordered


def test_protected_folders_get_names(folders: Path) -> None:
    one, two = str(folders / "one"), str(folders / "two")
    assert parsing.named_folders([one]) == {"protected": Path(one)}
    assert parsing.named_folders([one, f"b={two}"]) == {"one": Path(one), "b": Path(two)}
    assert "another folder called one" in refused(parsing.named_folders, [one, f"one={two}"])
    assert "cannot be its name" in refused(parsing.named_folders, [f"random={one}"])
    assert "cannot be its name" in refused(parsing.named_folders, [f"a b={one}"])


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["coco compressed", "coco-panoptic", "voc", "index", "binary", "cityscapes", "labelme masks"]
)
def test_labels_of_every_kind_of_annotation(name: str, tmp_path: Path) -> None:
    """Against the regions that the sets were built from."""
    built = build(name, tmp_path)
    images, _ = open_clean(built.images, built.path, "auto", "--clean")
    labelling = labelling_of(images, LearnerOptions((64, 64)))
    index = list(images.names).index(built.name("a.png"))
    pixels, regions = photographs()["a.png"]
    maps = labelling.class_map(images.annotated(index))
    class_names = labelling.names(maps[None])
    expected = np.zeros(pixels.shape[:2], int)
    for class_id, mask in regions:
        expected[mask] = {"binary": 1, "cityscapes": 26}.get(name, class_id)
    coded = np.full(256, -1)
    if name in ("coco compressed", "labelme masks"):
        assert class_names == ["background", "coin", "horse"]
        coded[:3] = 0, 1, 2
    elif name == "coco-panoptic":
        assert class_names == ["coin", "horse"]
        coded[[0, 1, 255]] = 1, 2, 0  # what has no segment is not labelled
    elif name == "cityscapes":
        assert class_names[13] == "car" and len(class_names) == 19
        coded[[13, 255]] = 26, 0  # void is not labelled
    elif name == "voc":
        assert len(class_names) == 21 and class_names[:2] == ["background", "aeroplane"]
        coded[:3] = 0, 1, 2
    else:
        assert class_names == {"binary": ["background", "object"], "index": ["0", "1", "2"]}[name]
        coded[:3] = 0, 1, 2
    assert np.array_equal(coded[maps], expected)


@pytest.mark.parametrize("name", ["coco compressed", "binary", "labelme masks"])
def test_training_images_without_an_object_are_refused(name: str, tmp_path: Path) -> None:
    """Where all is background there is nothing to learn; in class maps it is a class like any other."""
    built = build(name, tmp_path)
    images, _ = open_clean(built.images, built.path, "auto", "--clean")
    labelling = labelling_of(images, LearnerOptions((64, 64)))
    empty = labelling.class_map(images.annotated(list(images.names).index(built.name("c.png"))))
    message = "no training image shows an object, all is background; there is nothing to learn"
    assert message in refused(labelling.names, empty)


def test_labels_out_of_range_are_named() -> None:
    values = np.array([[0, 3], [7, 255]], np.uint8)
    table = TableLabelling(ClassTable({0: "sky", 3: "car"}, ids=frozenset({0, 3})), ObjectRule(), False)
    message = refused(table.class_map, ClassMap(values, "index", ClassTable()))
    assert "class 7 is out of range; the annotations know the classes 0, 3" in message
    plain = TableLabelling(ClassTable(), ObjectRule(), False)
    assert plain.class_map(ClassMap(values, "index", ClassTable())).tolist() == values.tolist()
    assert plain.names(values[None]) == [str(label) for label in range(8)]
    assert "class 300 is out of range" in refused(
        plain.class_map, ClassMap(values.astype(np.int32) + 300, "index", ClassTable())
    )
    ignoring = TableLabelling(ClassTable(), ObjectRule(ignore_label=0), False)
    assert ignoring.class_map(ClassMap(values, "index", ClassTable())).tolist()[0] == [255, 3]
    assert "show no class" in refused(plain.names, np.full((1, 2, 2), 255))


def test_a_class_that_only_test_images_show_is_named(folders: Path, tmp_path: Path) -> None:
    label = folders / "test" / "labels" / "sub" / "test1.png"
    write_png(label, np.full((HEIGHT, WIDTH), 5, np.uint8))
    assert "test labels of sub/test1.png: class 5 is out of range; the training images have 2 classes" in refused(
        evaluate, folders, tmp_path / "out"
    )


def test_a_class_missing_from_the_test_images_is_left_out_and_said(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folders / "test" / "labels" / "sub").iterdir():
        write_png(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    results = evaluate(folders, tmp_path / "out", conditions="clean")
    assert results["tasks"]["semantic"]["absent_classes"] == ["1"]
    found = results["runs"][0]["result"]["metrics"]
    assert found["class_iou"]["1"] is None and found["miou"] == found["class_iou"]["0"]
    assert "no test image shows them: classes 1." in capsys.readouterr().out


# --- errors ----------------------------------------------------------------------------------------------------------


def test_folders_that_do_not_fit_are_named(folders: Path, tmp_path: Path) -> None:
    def call(**options: object) -> str:
        return refused(evaluate, folders, tmp_path / "out", **options)

    (folders / "flat").mkdir()
    shutil.copy(folders / "one" / "sub" / "train0.png", folders / "flat")
    assert "no name in common" in call(protected=[str(folders / "flat")])
    assert "no encoder 'resnet999'" in call(networks="unet_resnet999")
    (folders / "one" / "sub" / "train4.png").unlink()
    assert "no protected version of training image sub/train4 (1 of 10" in call()
    write_png(folders / "two" / "images" / "sub" / "train2.png", np.zeros((9, 9, 3), np.uint8))
    told = call(protected=[str(folders / "two")], conditions="clean,protected")
    assert "9×9 pixels, but the clean image has 64×48" in told and not (tmp_path / "out" / "results.json").exists()
    assert "no such folder" in call(protected=[str(tmp_path / "nothing")])
    assert "unknown network 'x'" in call(networks="x")
    assert "name the annotations with --annotations" in call(clean=folders / "train" / "images")
    assert "--set width: no such option" in call(set=["width=0.5"], conditions="clean", protected=[])
    assert "give NAME=VALUE" in call(set=["width"])
    assert "nothing is downloaded" in call(weights=[str(tmp_path / "no.pth")])
    assert "--steps and --epochs" in call(epochs=1.0)
    assert "--preset huge: give one of tiny, small-scratch, paper" in call(preset="huge")
    assert "no such file" in call(lpips_weights=tmp_path / "alex.pth")
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("inside", ["train", "train/images/sub", "test/labels", "one/new"])
def test_results_do_not_go_into_what_is_read(inside: str, folders: Path) -> None:
    before = sorted(path for path in folders.rglob("*"))
    told = refused(evaluate, folders, folders / inside)
    assert "which is read; give a folder beside it" in told and f"--out {folders / inside}: lies in --" in told
    assert sorted(path for path in folders.rglob("*")) == before


def test_files_beside_the_masks_change_nothing(folders: Path, tmp_path: Path) -> None:
    first = evaluate(folders, tmp_path / "out", conditions="clean")
    (folders / "train" / "labels" / "notes.txt").write_text("mine")
    assert evaluate(folders, tmp_path / "out", conditions="clean") == first
    label = folders / "train" / "labels" / "sub" / "train3.png"
    write_png(label, np.ones((HEIGHT, WIDTH), np.uint8))
    told = "were made with other training images or annotations than these: a file there was changed"
    assert told in refused(evaluate, folders, tmp_path / "out", conditions="clean")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": "100000x64"}, "--size 100000x64: give at most 4096x4096"),
        ({"crop": 100_000, "preset": None, "size": None}, "--crop 100000: give 32 to 4096 pixels"),
        ({"batch": 99_999_999}, "--batch 99999999: give at most 16,384"),
        ({"checkpoint_every": float("nan")}, "--checkpoint-every nan: give a number of seconds above 0"),
        ({"checkpoint_every": -1.0}, "--checkpoint-every -1.0: give a number of seconds above 0"),
        ({"seeds": " "}, "--seeds  : give whole numbers from 0"),
        (
            {"conditions": "clean,protected@3"},
            "--conditions or --shares: @3: 3 % of 10 training images are none; give another share",
        ),
        (
            {"conditions": "clean", "generator": "compact", "protected": []},
            "--generator: makes the condition protected",
        ),
        (
            {"conditions": "clean", "denoise_photographs": Path("x")},
            "--denoise-photographs: is for the defence denoise",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(
    options: dict[str, object], told: str, folders: Path, tmp_path: Path
) -> None:
    assert told in refused(evaluate, folders, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_one_line(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "is no folder, or lies in a file; give another one" in refused(evaluate, folders, tmp_path / "out")


@pytest.mark.parametrize("leak", ["train/images/sub/train3.png", "one/sub/train3.png"])
def test_a_test_image_inside_train_is_named(folders: Path, tmp_path: Path, leak: str) -> None:
    shutil.copy(folders / leak, folders / "test" / "images" / "sub" / "test2.png")
    message = refused(evaluate, folders, tmp_path / "out")
    assert "test2.png" in message and "train3.png" in message and "also a training image" in message


def test_images_without_annotations_are_left_out_and_said(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "train" / "labels" / "sub" / "train7.png").unlink()
    results = evaluate(folders, tmp_path / "out", conditions="clean")
    assert results["tasks"]["semantic"]["train_images"] == 9
    assert "Left out, without annotations: 1 training image (sub/train7.png)" in capsys.readouterr().out
    for path in (folders / "test" / "labels" / "sub").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    assert "no mask there has the name of an image" in refused(evaluate, folders, tmp_path / "out2")


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"momentum": 0.5}, "--momentum 0.5: is of sgd"),
        ({"momentum": 0.5, "optimizer": "sgd", "decay": "onecycle"}, "--momentum 0.5: follows the cycle"),
        ({"warm_up": 0.2, "decay": "constant"}, "--warm-up 0.2: there is none with --decay constant"),
        ({"epochs": float("inf")}, "--epochs inf: give a number above 0 and below"),
        ({"epochs": float("nan")}, "--epochs nan: give a number above 0 and below"),
    ],
)
def test_what_a_schedule_has_no_use_for_is_refused(given: dict[str, object], told: str) -> None:
    assert told in refused(presets.choose, None, "semantic", given)


def test_presets_and_what_goes_before_them() -> None:
    tiny_preset = presets.choose("tiny", "semantic", {})
    assert (tiny_preset.size, tiny_preset.steps_for(367)) == ("128x96", {"steps": 1000, "batch": 4, "eval_every": 250})
    instance = presets.choose("paper", "instance", {"batch": 8})
    assert instance.steps_for(1000)["steps"] == 6250 and instance.size == "1024x1024"
    assert presets.choose("paper", "instance", {"steps": 7}).steps_for(1000)["steps"] == 7
    assert presets.choose(None, "semantic", {"epochs": 2.0, "batch": 5}).steps_for(10)["steps"] == 4
    for name, tasks in presets.PRESETS.items():
        for task in tasks:
            chosen = presets.choose(name, task, {})
            Schedule(**chosen.steps_for(1000))
            parsing.parse_size(chosen.size)
    assert set(presets.PRESETS["tiny"]) == set(presets.PRESETS["paper"]) == set(TASKS)
    assert "there is none for task binary" in refused(presets.choose, "paper", "binary", {})


def test_schedules_by_hand() -> None:
    poly = Schedule(steps=100, decay="poly", warm_up=0)
    assert [poly.rate_factor(step) for step in (0, 50, 100)] == pytest.approx([1, 0.5**0.9, 0])
    for field, value in (("optimizer", "adam"), ("decay", "step"), ("learning_rate", 0), ("clip", -1), ("warm_up", 1)):
        assert f"--{field.replace('_', '-')} {value}" in refused(Schedule, **{field: value})


class Line(Learner):
    """Two numbers that are drawn to 1 and 3; the second has ten times the rate. Without randomness but the batches'."""

    metric, train_count, trivial = "near", 4, {"near": 0.0}

    def build(self) -> nn.Module:
        model = nn.Module()
        model.one, model.two = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        return model

    def loss(self, model: nn.Module, indices: list[int], draw: torch.Generator, device: torch.device) -> torch.Tensor:
        return (model.one - 1) ** 2 / 2 + (model.two - 3) ** 2 / 2

    def evaluate(self, model: nn.Module, device: torch.device) -> dict:
        return {"near": float(model.one), "two": float(model.two)}

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        return [{"params": [model.one]}, {"params": [model.two], "rate": 10}]


def test_sgd_by_hand() -> None:
    """Rate 0.01 and poly decay over two steps, momentum 0.5, weight decay 0.1; the second parameter has ten times the
    rate.
    """
    schedule = Schedule(
        steps=2,
        batch=2,
        eval_every=1,
        learning_rate=0.01,
        optimizer="sgd",
        momentum=0.5,
        weight_decay=0.1,
        decay="poly",
        warm_up=0,
    )
    found = train(Line(), schedule, 0)
    for key, target, rate in (("near", 1.0, 0.01), ("two", 3.0, 0.1)):
        value = velocity = 0.0
        for step in range(2):
            velocity = 0.5 * velocity + (value - target) + 0.1 * value
            value -= rate * (1 - step / 2) ** 0.9 * velocity
        assert found.metrics[key] == pytest.approx(value)
    assert [point.score for point in found.curve] == pytest.approx([0.01, found.metrics["near"]])


def test_gradients_are_clipped() -> None:
    schedule = Schedule(
        steps=1,
        batch=2,
        learning_rate=1,
        optimizer="sgd",
        momentum=0,
        weight_decay=0,
        warm_up=0,
        decay="poly",
        clip=0.1,
    )
    found = train(Line(), schedule, 0).metrics
    norm = (1 + 9) ** 0.5  # of the gradients (−1, −3)
    assert found["near"] == pytest.approx(0.1 / norm, rel=1e-4) and found["two"] == pytest.approx(
        10 * 0.3 / norm, rel=1e-4
    )


def test_colours_change_within_their_range_and_by_the_draw_alone() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    colours = augmentation.draw_colours(1000, torch.Generator().manual_seed(1))
    low, high = colours.min(0).values, colours.max(0).values
    assert torch.all(low[:3] >= 0.7) and torch.all(high[:3] <= 1.3) and low[3] >= -0.05 and high[3] <= 0.05
    still = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(3, 1)
    assert torch.allclose(augmentation.recoloured(images, still), images, atol=1e-5)
    changed = augmentation.recoloured(images, colours[:3])
    assert not torch.allclose(changed, images, atol=0.01) and changed.min() >= 0 and changed.max() <= 1
    darker = augmentation.recoloured(images, torch.tensor([[0.7, 1.0, 1.0, 0.0]]).repeat(3, 1))
    assert torch.allclose(darker, images * 0.7, atol=1e-5)


# --- a run that is killed --------------------------------------------------------------------------------------------

OUTLINE = Schedule(steps=9, batch=2, eval_every=4)


def counted_steps(learner: Learner) -> list[int]:
    """A list that gains an item for each step that the learner takes."""
    steps: list[int] = []
    loss = learner.loss

    def counting(*arguments: object) -> torch.Tensor:
        steps.append(1)
        return loss(*arguments)

    learner.loss = counting
    return steps


@pytest.mark.parametrize(
    "schedule",
    [OUTLINE, Schedule(steps=9, batch=2, eval_every=4, optimizer="sgd", decay="poly", clip=1.0)],
    ids=["adamw", "sgd"],
)
@pytest.mark.parametrize("at", [3, 4, 8])
def test_a_killed_run_ends_with_the_same_numbers(tmp_path: Path, at: int, schedule: Schedule) -> None:
    """Stopped after a step, once with a checkpoint after every step: same curve, metrics and weights to the bit."""
    checkpoint = Checkpoint(tmp_path / "run.pt", {"a": 1}, every=0)
    whole = train(learner(colour_jitter=True), schedule, 5)
    with pytest.raises(Killed):
        train(learner(colour_jitter=True), schedule, 5, checkpoint=checkpoint, progress=KillingAt(at + 1))
    torch.rand(7)  # whatever the process has drawn in between
    told, second = Told(), learner(colour_jitter=True)
    steps = counted_steps(second)
    again = train(second, schedule, 5, checkpoint=checkpoint, progress=told, what="run")
    assert told.sentences == [f"run: goes on from step {at}"] and told.bars == [("run", 9, 9)]
    assert len(steps) == 9 - at
    assert again.curve == whole.curve and again.metrics == whole.metrics
    pairs = zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_a_run_that_is_killed_between_its_last_step_and_its_record_is_not_repeated(tmp_path: Path) -> None:
    checkpoint, own = Checkpoint(tmp_path / "run.pt", {"a": 1}), learner()
    first = train(learner(), OUTLINE, 5, checkpoint=checkpoint)
    steps = counted_steps(own)
    second = train(own, OUTLINE, 5, checkpoint=checkpoint)
    assert steps == []
    assert second.curve == first.curve and second.metrics == first.metrics and second.seconds >= first.seconds


def test_the_checkpoint_of_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    train(learner(), OUTLINE, 5, checkpoint=Checkpoint(tmp_path / "run.pt", {"a": 1}))
    told = Told()
    train(learner(), OUTLINE, 5, checkpoint=Checkpoint(tmp_path / "run.pt", {"a": 2}), progress=told)
    assert told.sentences == []
    (tmp_path / "run.pt").write_bytes(b"broken")
    assert "run.pt" in refused(train, learner(), OUTLINE, 5, checkpoint=Checkpoint(tmp_path / "run.pt", {"a": 1}))


def command_line(root: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "unseg.cli",
        "evaluate",
        "--task",
        "semantic",
        "--clean",
        str(root / "train"),
        "--protected",
        str(root / "one"),
        "--test",
        str(root / "test"),
        "--networks",
        "segformer_b0",
        "--batch",
        "2",
        "--conditions",
        "protected",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--out",
        str(out),
        *more,
    ]


WHOLE = ["--views", "whole", "--size", f"{WIDTH}x{HEIGHT}"]


@pytest.mark.slow(seconds=35)
@pytest.mark.parametrize("views", [WHOLE, ["--crop", "48", "--weights", "none"]], ids=["whole", "practice"])
def test_kill_9_then_the_same_command_ends_with_the_same_metrics(
    folders: Path, tmp_path: Path, views: list[str]
) -> None:
    schedule = ["--steps", "15", "--eval-every", "3", *views]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        command_line(folders, tmp_path / "killed", *schedule), stdout=subprocess.DEVNULL, env=environment
    )
    kept = tmp_path / "killed" / "checkpoints" / "semantic-segformer_b0-protected-0.pt"
    deadline = time.monotonic() + 120
    while not kept.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and kept.exists() and not (tmp_path / "killed" / "results.json").exists()
    again = subprocess.run(
        command_line(folders, tmp_path / "killed", *schedule), env=environment, capture_output=True, text=True
    )
    assert again.returncode == 0 and "goes on from step" in again.stdout
    subprocess.run(
        command_line(folders, tmp_path / "whole", *schedule), env=environment, check=True, capture_output=True
    )
    one, two = (read_results(tmp_path / name / "results.json")["runs"][0]["result"] for name in ("killed", "whole"))
    assert one["curve"] == two["curve"] and one["metrics"] == two["metrics"] and one["quality"] == two["quality"]
    assert not kept.exists()


# --- several processes -----------------------------------------------------------------------------------------------

TWO = """
import sys, json, torch
sys.path.insert(0, {root!r})
from tests.evaluation.test_evaluation_folders import plain_learner
from unseg.compute.distributed import connect
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.trainer import train
torch.set_num_threads(1)
with connect("cpu") as world:
    found = train(plain_learner(), Schedule(steps=6, batch=4, eval_every=3), 5, world)
    if world.leads:
        curve = [(p.step, p.score, p.train_loss) for p in found.curve]
        torch.save({{"curve": curve, "state": found.network.state_dict()}}, {out!r})
"""


def plain_learner() -> SemanticLearner:
    """No statistics of the batch, no dropout, all pixels labelled inside the view: shards' gradients average to the
    batch's.
    """
    return learner(lambda classes: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1)))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Every process computes its half of each batch, seen as one process would see it. The views' padding is not
    labelled, in another number of pixels for each process, so that means differ slightly: the numbers agree to a
    percent, not to the bit.
    """
    script, out = tmp_path / "two.py", tmp_path / "two.pt"
    script.write_text(TWO.format(root=str(ROOT), out=str(out)))
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "unseg.compute.launch",
            "--nproc-per-node",
            "2",
            "--standalone",
            "--local-addr",
            "127.0.0.1",
            str(script),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    two, one = torch.load(out), train(plain_learner(), Schedule(steps=6, batch=4, eval_every=3), 5)
    assert [point[0] for point in two["curve"]] == [3, 6]
    for (_, score, loss), point in zip(two["curve"], one.curve, strict=True):
        assert score == pytest.approx(point.score, abs=0.01) and loss == pytest.approx(point.train_loss, rel=0.01)
    moved = one.network.state_dict()
    for name, tensor in two["state"].items():
        assert torch.allclose(tensor, moved[name], atol=2e-3)


def test_parts_of_a_batch_are_seen_as_the_whole_batch_is() -> None:
    """The mean of two processes' gradients, weighted by their labelled pixels, is the batch's; the draw ends in the
    same state.
    """
    whole, parts = plain_learner(), plain_learner()
    torch.manual_seed(0)
    model, indices, device = whole.build(), [0, 3, 5, 6], torch.device("cpu")
    draws = [torch.Generator().manual_seed(9) for _ in range(3)]
    counted: list[int] = []

    def counting(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        counted.append(int((target != metrics.IGNORE_LABEL).sum()))
        return nn.functional.cross_entropy(logits, target, ignore_index=metrics.IGNORE_LABEL)

    parts.criterion = counting
    total = whole.loss(model, indices, draws[0], device)
    halves = [parts.part_loss(model, indices, draws[1 + rank], device, rank, 2).item() for rank in range(2)]
    assert sum(half * count for half, count in zip(halves, counted, strict=True)) / sum(counted) == pytest.approx(
        total.item(), rel=1e-5
    )
    assert all(torch.equal(draw.get_state(), draws[0].get_state()) for draw in draws)


def test_tasks_that_know_no_parts_draw_apart_and_in_step() -> None:
    """The default of `Learner.part_loss`: each process has views of its own, and all leave the draw in one state."""
    seen: list[tuple[list[int], float]] = []

    class Drawing(Line):
        def loss(
            self, model: nn.Module, indices: list[int], draw: torch.Generator, device: torch.device
        ) -> torch.Tensor:
            seen.append((list(indices), float(torch.rand((), generator=draw))))
            return torch.zeros(())

    draws = [torch.Generator().manual_seed(9) for _ in range(2)]
    for rank, draw in enumerate(draws):
        Drawing().part_loss(nn.Identity(), [4, 5, 6, 7], draw, torch.device("cpu"), rank, 2)
    assert [indices for indices, _ in seen] == [[4, 6], [5, 7]] and seen[0][1] != seen[1][1]
    assert torch.equal(draws[0].get_state(), draws[1].get_state())
    assert "2 processes share it" in refused(train, Line(), Schedule(steps=1, batch=3), 0, World(0, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_what_the_processor_learns(tmp_path: Path) -> None:
    """In bfloat16, so only nearly; and a run that is killed goes on there, too."""
    checkpoint, schedule = Checkpoint(tmp_path / "run.pt", {}, every=0), Schedule(steps=20, batch=4, eval_every=10)
    world = World(device=torch.device("cuda", 0))

    one = train(plain_learner(), schedule, 5)
    with pytest.raises(Killed):
        train(plain_learner(), schedule, 5, world, checkpoint=checkpoint, progress=KillingAt(15))
    told = Told()
    two = train(plain_learner(), schedule, 5, world, checkpoint=checkpoint, progress=told, what="run")
    assert told.sentences == ["run: goes on from step 14"]
    for there, here in zip(two.curve, one.curve, strict=True):
        assert there.train_loss == pytest.approx(here.train_loss, rel=0.05) and there.score == pytest.approx(
            here.score, abs=0.05
        )


# --- networks and weights --------------------------------------------------------------------------------------------


def test_networks_by_rule() -> None:
    for name in ("unetplusplus_resnet18", "pspnet_mobilenet_v2", "upernet_resnet18", "segformer_mit_b0"):
        torch.manual_seed(0)
        network = build_network(name, 3).eval()
        with torch.no_grad():
            assert network(torch.zeros(2, 3, 40, 56)).shape == (2, 3, 40, 56)
    assert len(ARCHITECTURES) == 11
    assert "no encoder 'resnet33' (near it: resnet" in refused(find_network, "unet_resnet33")
    assert "unknown network 'vnet_resnet18'" in refused(find_network, "vnet_resnet18")


@pytest.mark.slow
def test_torchvisions_deeplab_takes_a_step() -> None:
    found = train(learner(NETWORKS["torchvision_deeplabv3_resnet50"]), Schedule(steps=1, batch=2), 0)
    assert 0 <= found.final <= 1


def test_every_task_names_its_networks() -> None:
    for task in TASKS:
        listed = TASKS[task][0].listed.partition(",")[0]
        assert callable(find_maker(task, "unet_resnet18" if task == "medical" else listed))
    assert "unknown network 'Ünet' of task semantic" in refused(find_maker, "semantic", "Ünet")


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build_network("segformer_b0", 2)
    torch.save(source.network.state_dict(), tmp_path / "whole.pth")
    target = build_network("segformer_b0", 2)
    assert load_pretrained(target, tmp_path / "whole.pth") == []
    assert all(
        torch.equal(one, two)
        for one, two in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )
    other = build_network("segformer_b0", 5)
    assert "classes are others" in load_pretrained(other, tmp_path / "whole.pth")[0]
    encoder = {**source.network.encoder.state_dict(), "head.weight": torch.zeros(3)}
    torch.save(encoder, tmp_path / "encoder.pth")
    third = build_network("segformer_b0", 2)
    assert "the encoder's; all else starts from random weights" in load_pretrained(third, tmp_path / "encoder.pth")[0]
    assert torch.equal(next(third.network.encoder.parameters()), next(source.network.encoder.parameters()))
    encoder.pop(next(iter(encoder)))
    torch.save(encoder, tmp_path / "less.pth")
    assert "1 missing" in refused(load_pretrained, build_network("segformer_b0", 2), tmp_path / "less.pth")


def test_weights_are_part_of_a_runs_settings(folders: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        torch.save(build_network("tiny_one", 2).network.state_dict(), tmp_path / f"{name}.pth")
    out = tmp_path / "out"
    results = evaluate(folders, out, conditions="clean", weights=[f"tiny_one={tmp_path / 'a.pth'}"])
    assert results["runs"][0]["settings"]["weights"]["name"] == "a.pth"
    assert "were made with weights" in refused(
        evaluate, folders, out, conditions="clean", weights=[str(tmp_path / "b.pth")]
    )
    assert "not among --networks" in refused(evaluate, folders, out, weights=[f"tiny_two={tmp_path / 'a.pth'}"])
    assert "were made with weights" in refused(evaluate, folders, out, conditions="random")  # from random weights


def test_weights_from_the_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache's layout: models--ORGANISATION--NAME/refs/main names a folder of snapshots/. Nothing is asked of the
    network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--some--model"
    snapshot = model / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    assert local_weights(Path("some/model")) == snapshot
    assert "cache of this machine does not hold it" in refused(local_weights, Path("other/model"))
    assert "nothing is downloaded" in refused(local_weights, Path("a/b/c"))
    assert local_weights(tmp_path) == tmp_path


def test_a_batch_without_a_labelled_pixel_costs_nothing() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    target = torch.full((2, 4, 5), 255)
    loss = labelled_cross_entropy(logits, target)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()
    target[1, 2, 3] = 2
    expected = torch.logsumexp(logits[1, :, 2, 3], 0) - logits[1, 2, 2, 3]
    assert labelled_cross_entropy(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


# --- quality ---------------------------------------------------------------------------------------------------------


def test_quality_by_hand() -> None:
    """Three images: one as it was, one with one grey level, one with four on the object; SSIM against an own
    computation.
    """
    draw = np.random.default_rng(0)
    clean = draw.integers(20, 200, (3, 40, 50, 3), dtype=np.uint8)
    mask = np.zeros((40, 50), bool)
    mask[:20] = True
    changed = clean.copy()
    changed[1] += 1
    changed[2][mask] += 4
    meter = quality.Meter(3)
    for index in (2, 0, 1):
        meter.add(index, clean[index], changed[index], mask)
    found = meter.total()
    assert (found.max_change_object, found.max_change_background, found.images, found.differing) == (4, 1, 3, 2)
    assert found.psnr == pytest.approx((10 * np.log10(255**2) + 10 * np.log10(255**2 / 8)) / 2)
    from skimage.metrics import structural_similarity

    expected = [
        structural_similarity(
            clean[i],
            changed[i],
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            win_size=11,
        )
        for i in (1, 2)
    ]
    assert found.ssim == pytest.approx(np.mean(expected), abs=2e-3)
    seen = [visibility(clean[i], changed[i], mask) for i in (1, 2)]
    assert found.delta_e == pytest.approx(np.mean([one.delta_e for one in seen]))
    assert found.s_cielab == pytest.approx(np.mean([one.s_cielab for one in seen]))
    assert meter.missing() == [] and quality.Meter(3).missing() == [0, 1, 2]
    whole = quality.Meter(1)  # an object of which half has no noise: that half does not count
    whole.add(0, clean[2], changed[2], np.ones_like(mask))
    assert whole.total().delta_e == seen[1].delta_e


def test_ssim_is_measured_on_a_spread_of_large_sets() -> None:
    meter, image = quality.Meter(1000), np.zeros((16, 16, 3), np.uint8)
    for index in range(1000):
        meter.add(index, image, image + 1, np.ones((16, 16), bool))
    assert sum(row.ssim is not None for row in meter.found.values()) == 200


def test_lpips_takes_a_local_file_alone(tmp_path: Path) -> None:
    """AlexNet of random weights in torchvision's layout; the distance is torchmetrics' for the same weights."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips
    from torchvision.models import alexnet

    torch.manual_seed(0)
    network = alexnet(weights=None)
    torch.save(network.state_dict(), tmp_path / "alex.pth")
    distance = quality.load_perceptual(tmp_path / "alex.pth")
    draw = np.random.default_rng(0)
    one, two = (draw.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2))
    assert distance(one, one) == 0 and distance(one, two) > 0 and distance(one[:20], two[:20]) is None
    reference = _NoTrainLpips(net="alex", pnet_rand=True)
    for number, indices in enumerate(((0, 1), (2, 3, 4), (5, 6, 7), (8, 9), (10, 11)), 1):
        for index in indices:
            getattr(reference.net, f"slice{number}")._modules[str(index)] = network.features[index]
    with torch.no_grad():
        images = [torch.from_numpy(image.transpose(2, 0, 1))[None] / 255 for image in (one, two)]
        assert distance(one, two) == pytest.approx(float(reference(*images, normalize=True)), rel=1e-4)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert "not torchvision's AlexNet" in refused(quality.load_perceptual, tmp_path / "other.pth")
    assert "no such file" in refused(quality.load_perceptual, tmp_path / "none.pth")
