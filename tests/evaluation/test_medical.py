"""Medical segmentation: Dice and IoU by hand, its loss, five encoders, and Kvasir's and lungs' layouts through the
command.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from skimage import data, transform
from torch import nn
from typer.testing import CliRunner

from tests.support.whole_app import app
from unseg.data.annotations import ClassMap, ClassTable, ObjectRule
from unseg.errors import UserError
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.tasks.label_arrays import Arrays
from unseg.evaluation.tasks.medical import MedicalLearner, ObjectLabelling, make_medical, pixel_counts, summary
from unseg.evaluation.tasks.registry import find_maker
from unseg.victims.semantic_networks import build_network

CPU = torch.device("cpu")
ENCODERS = ("resnet34", "resnet50", "mobilenet_v2", "efficientnet-b0", "mit_b0")
LABELS = np.array([[[1, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], np.uint8)


def pictures(labels: np.ndarray) -> np.ndarray:
    """The object is white, the rest is black: the picture is the label, 64 times as large."""
    return np.repeat(labels[..., None] * np.uint8(255), 3, 3)


def learner(
    train: np.ndarray = LABELS, test: np.ndarray = LABELS, build=lambda classes: Reading(False)
) -> MedicalLearner:
    return MedicalLearner(build, Arrays(pictures(train), train), Arrays(pictures(test), test), ["background", "object"])


class Reading(nn.Module):
    """Reads the label off the picture, or its opposite."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(1) * (-1 if self.wrong else 1)
        return torch.stack([-bright, bright], 1)


# --- measures --------------------------------------------------------------------------------------------------------


def test_measures_by_hand() -> None:
    """Image 1: 4 object pixels, 3 found and 1 beside them: Dice 6/8, IoU 3/5. Image 2: its one pixel is missed: 0.
    Image 3 has no object and none is found: 1. Together: TP 3, FP 1, FN 2.
    """
    answers = np.array(
        [[[1, 1, 0, 1], [1, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], np.uint8
    )
    counts = pixel_counts(LABELS, answers)
    assert counts.tolist() == [[3, 1, 1], [0, 0, 1], [0, 0, 0]]
    scores = summary(counts)
    assert scores == {
        "dice": pytest.approx((6 / 8 + 0 + 1) / 3),
        "iou": pytest.approx((3 / 5 + 0 + 1) / 3),
        "dice_set": pytest.approx(6 / 9),
        "iou_set": pytest.approx(3 / 6),
    }
    assert summary(pixel_counts(LABELS[2:], 1 - LABELS[2:]))["dice"] == 0  # an object where there is none


def test_dice_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.segmentation import dice_score, mean_iou

    random = np.random.default_rng(0)
    truth, answer = (random.integers(0, 2, (5, 12, 9)) for _ in range(2))
    scores = summary(pixel_counts(truth, answer))
    both = torch.from_numpy(answer)[:, None], torch.from_numpy(truth)[:, None]
    assert scores["dice"] == pytest.approx(dice_score(*both, num_classes=1, average="macro").mean().item())
    assert scores["iou"] == pytest.approx(mean_iou(*both, num_classes=1).mean().item())


def test_a_perfect_network_scores_1_and_a_useless_one_0() -> None:
    own = learner(test=LABELS[:2])
    assert set(own.evaluate(Reading(False), CPU).values()) == {1.0}
    assert set(own.evaluate(Reading(True), CPU).values()) == {0.0}


def test_trivial_is_the_better_of_everywhere_and_nowhere() -> None:
    own = learner(LABELS[:2], LABELS[:2])
    assert own.majority == "object"  # of 8 pixels 4 and 1 are object: Dice 8/12 and 2/9, beside 0 for nowhere
    assert own.trivial == {
        "dice": pytest.approx((8 / 12 + 2 / 9) / 2),
        "iou": pytest.approx((4 / 8 + 1 / 8) / 2),
        "dice_set": pytest.approx(10 / 21),
        "iou_set": pytest.approx(5 / 16),
    }
    mostly_without = np.concatenate([LABELS[1:], LABELS[2:], LABELS[2:]])
    assert (
        learner(train=mostly_without, test=LABELS[1:]).trivial["dice"] == 0.5
    )  # nowhere: right on the image without object


def test_test_images_without_an_object_are_refused() -> None:
    with pytest.raises(UserError, match="--test-annotations: no test image shows an object; --objects says"):
        learner(test=LABELS[2:])


# --- loss and labels -------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    """Undecided on 4 pixels, one not labelled, one object: cross entropy ln 2; Dice (2 · 0.5 + 1) / (1.5 + 1 + 1)."""
    logits = torch.zeros(1, 2, 2, 2)
    target = torch.tensor([[[1, 0], [0, 255]]])
    expected = np.log(2) + 1 - 2 / 3.5
    assert learner().criterion(logits, target).item() == pytest.approx(expected)
    logits[:, 1, 1, 1] = 7.0  # where nothing is labelled, nothing counts
    logits.requires_grad_()
    loss = learner().criterion(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(expected) and logits.grad[0, :, 1, 1].abs().sum() == 0


def test_labels_are_what_the_rule_takes() -> None:
    annotated = ClassMap(np.array([[0, 1], [2, 255]]), "index", ClassTable())
    assert ObjectLabelling(ObjectRule()).class_map(annotated).tolist() == [[0, 1], [1, 0]]
    assert ObjectLabelling(ObjectRule((2,))).class_map(annotated).tolist() == [[0, 0], [1, 0]]
    with pytest.raises(UserError, match="no training image shows an object"):
        ObjectLabelling(ObjectRule()).names(np.zeros((2, 3, 3), np.uint8))


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
def test_five_encoders(encoder: str) -> None:
    """Names and shapes, without memory where the encoder can be built so. smp has no UNet++ on mit_b0."""
    for architecture in ("unet", "unetplusplus")[: 1 if encoder == "mit_b0" else 2]:
        name = f"{architecture}_{encoder}"
        assert find_maker("medical", name) is make_medical
        with torch.no_grad(), torch.device("cpu" if encoder == "mit_b0" else "meta"):
            network = build_network(name, 2).eval()
            assert network(torch.empty(1, 3, 70, 64)).shape == (1, 2, 70, 64)


def test_a_combination_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(UserError, match="unetplusplus_mit_b0"):
        build_network("unetplusplus_mit_b0", 2)


# --- sets in their layouts, through the command ----------------------------------------------------------------------


def write_set(root: Path, kind: str, count: int, shift: int) -> Path:
    """kvasir: images and masks as JPEG in colours. lung: grey TIFF images with PNG masks of 0 and 255."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    coins = data.coins()
    for place in range(count):
        pixels = coins[40 * place + shift : 40 * place + shift + 80, 20:120]
        mask = np.where(transform.resize(pixels, (80, 100), preserve_range=True) > 120, 255, 0).astype(np.uint8)
        assert 0.1 < (mask > 0).mean() < 0.9
        if kind == "kvasir":
            Pillow.fromarray(np.dstack([pixels] * 3)).save(root / "images" / f"cju{place}{shift}.jpg")
            Pillow.fromarray(np.dstack([mask] * 3)).save(root / "masks" / f"cju{place}{shift}.jpg")
        else:
            Pillow.fromarray(pixels).save(root / "images" / f"ID_{place}{shift}.tif")
            Pillow.fromarray(mask).save(root / "masks" / f"ID_{place}{shift}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kvasir", "lung"])
def test_a_set_runs_end_to_end(kind: str, tmp_path: Path) -> None:
    train, test = write_set(tmp_path / "train", kind, 4, 0), write_set(tmp_path / "test", kind, 2, 20)
    out = tmp_path / "out"
    ran = CliRunner().invoke(
        app,
        [
            "evaluate",
            "--task",
            "medical",
            "--clean",
            str(train),
            "--test",
            str(test),
            "--conditions",
            "clean,random",
            "--networks",
            "unet_mobilenet_v2",
            "--size",
            "64x64",
            "--steps",
            "3",
            "--batch",
            "2",
            "--eval-every",
            "3",
            "--device",
            "cpu",
            "--out",
            str(out),
        ],
    )
    assert ran.exit_code == 0, ran.output
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"]["medical"]["metric"] == "dice" and results["tasks"]["medical"]["train_images"] == 4
    assert [run["settings"]["condition"] for run in results["runs"]] == ["clean", "random"]
    for run in results["runs"]:
        metrics = run["result"]["metrics"]
        assert run["result"]["final"] == metrics["dice"] and set(metrics) == {"dice", "iou", "dice_set", "iou_set"}
        assert all(0 <= value <= 1 for value in metrics.values())


def test_options_of_other_networks_are_refused() -> None:
    none = SimpleNamespace(names=[], classes=ClassTable())
    with pytest.raises(UserError, match="--set target"):
        make_medical("unet_resnet18", none, none, LearnerOptions((64, 64), extra={"target": "merged"}))


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    own = MedicalLearner(
        lambda classes: build_network("unet_mobilenet_v2", classes),
        Arrays(pictures(LABELS), LABELS),
        Arrays(pictures(LABELS), LABELS),
        ["background", "object"],
        weights=tmp_path / "none.pth",
    )
    with pytest.raises(UserError, match="^--weights .*none.pth: no such file"):
        own.build()
