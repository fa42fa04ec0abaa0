"""Training as people train: views, loss, tests at native size, defences, weights, and the one-cycle schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.told_progress import Told
from unseg.data.annotations import ClassMap, ClassTable
from unseg.errors import UserError
from unseg.evaluation.defences.defence_names import parse_chain
from unseg.evaluation.defences.kinds import Batch, BatchDefence
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.practice import Practice
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.tasks.practice_semantic import (
    NativeSet,
    PracticeSemanticLearner,
    answer_of,
    make_practice_semantic,
)
from unseg.evaluation.trainer import train
from unseg.victims.imagenet import encoder_of, imagenet_weights
from unseg.victims.semantic_networks import build_network

CPU = torch.device("cpu")
RANDOM = Practice(crop=48, weights=None)
SIZES = [(50, 70), (64, 41), (90, 61)]


def coloured_set(seed: int, sizes: list[tuple[int, int]] = SIZES) -> NativeSet:
    """Images whose colour tells the class, of different sizes, with an unlabelled border at the left."""
    draw = np.random.default_rng(seed)
    images, labels = [], []
    for height, width in sizes:
        label = np.kron(draw.integers(0, 3, (5, 4)), np.ones((20, 20)))[:height, :width].astype(np.uint8)
        image = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)[label]
        label[:, :5] = 255
        images.append(image)
        labels.append(label)
    return NativeSet([f"{seed}-{index}" for index in range(len(sizes))], images, labels)


def pointwise(classes: int) -> nn.Module:
    return nn.Conv2d(3, classes, 1)


def learner(practice: Practice = RANDOM, chain: str = "none", build=pointwise) -> PracticeSemanticLearner:
    return PracticeSemanticLearner(
        build, coloured_set(0), coloured_set(1), ["a", "b", "c"], practice=practice, defences=parse_chain(chain)
    )


class Paint(nn.Module):
    """Knows the class from the colour, without training: the largest channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-2] % 32 == 0 and images.shape[-1] % 32 == 0
        return images


def test_tests_are_at_native_size_on_all_labelled_pixels() -> None:
    made = learner()
    metrics = made.evaluate(Paint(), CPU)
    assert metrics["miou"] == 1.0 and metrics["pixel_accuracy"] == 1.0
    answer = answer_of(Paint(), coloured_set(1).images[2], CPU)
    assert answer.shape == (90, 61)
    wrong = made.evaluate(nn.Sequential(Paint(), Swap()), CPU)
    assert wrong["class_iou"]["a"] == 1.0 and wrong["class_iou"]["b"] == 0.0


class Swap(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, [0, 2, 1]]


def test_trivial_answer_is_the_majority_of_training() -> None:
    made = learner()
    training = np.concatenate([label[label != 255] for label in coloured_set(0).labels])
    majority = int(np.bincount(training).argmax())
    test = np.concatenate([label[label != 255] for label in coloured_set(1).labels])
    assert made.majority == "abc"[majority]
    assert made.trivial["class_iou"]["abc"[majority]] == pytest.approx(np.mean(test == majority))
    assert made.trivial["miou"] == pytest.approx(np.mean(test == majority) / 3)


def test_loss_counts_labelled_pixels_alone() -> None:
    """A network of zeros has the loss log 3 whatever the views are, and unlabelled views give 0 and a gradient of 0."""
    network = pointwise(3)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    draw = torch.Generator().manual_seed(0)
    assert learner().loss(network, [0, 1, 2], draw, CPU).item() == pytest.approx(np.log(3), rel=1e-5)
    empty = coloured_set(0)
    empty.labels[0][:] = 255
    made = PracticeSemanticLearner(pointwise, empty, coloured_set(1), ["a", "b", "c"], practice=RANDOM)
    loss = made.loss(network, [0, 0], draw, CPU)
    loss.backward()
    assert loss.item() == 0 and network.weight.grad.abs().max() == 0


def test_views_do_not_depend_on_pixels_or_defences() -> None:
    states = []
    for chain in ("none", "grey+cutmix+at4", "early"):
        draw = torch.Generator().manual_seed(3)
        learner(chain=chain).loss(pointwise(3), [0, 1], draw, CPU)
        states.append(draw.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_parts_of_a_batch_are_the_views_of_one_process() -> None:
    """The mean over two processes is the loss of one, weighted by how many labelled pixels each has."""
    seen: list[Batch] = []
    spy = BatchDefence("spy", lambda batch, draw: seen.append(batch) or batch)
    made = PracticeSemanticLearner(
        pointwise, coloured_set(0), coloured_set(1), ["a", "b", "c"], practice=RANDOM, defences=[spy]
    )
    network = pointwise(3)
    made.loss(network, [0, 1, 2, 0], torch.Generator().manual_seed(4), CPU)
    for rank in range(2):
        made.part_loss(network, [0, 1, 2, 0], torch.Generator().manual_seed(4), CPU, rank, 2)
    whole, first, second = seen
    assert torch.equal(whole.images[0::2], first.images) and torch.equal(whole.targets[1::2], second.targets)
    assert whole.images.min() >= 0 and whole.images.max() <= 1


def test_learns_what_colour_tells() -> None:
    schedule = Schedule(steps=60, batch=3, eval_every=30, learning_rate=0.1, decay="onecycle")
    trained = train(learner(Practice(crop=48, weights=None, distort=False)), schedule, 0)
    assert trained.final > 0.95
    again = train(learner(Practice(crop=48, weights=None, distort=False)), schedule, 0)
    assert trained.curve == again.curve


def test_defences_change_training_and_test_as_they_say() -> None:
    train_set, test_set = coloured_set(0), coloured_set(1)
    jpeg, grey = learner(chain="jpeg10"), learner(chain="grey")
    assert not np.array_equal(jpeg._images[0], train_set.images[0])
    assert np.array_equal(jpeg._test.images[0], test_set.images[0])
    assert all((image == image[..., :1]).all() for image in grey._images)
    assert all((image == image[..., :1]).all() for image in grey._test.images)


def test_frozen_encoder_does_not_learn() -> None:
    practice = Practice(crop=64, weights=None, frozen_encoder=True)
    made = learner(practice, build=lambda classes: build_network("fpn_mobilenet_v2", classes))
    network = made.build()
    total = sum(parameter.numel() for parameter in network.parameters())
    learning = sum(parameter.numel() for group in made.parameter_groups(network) for parameter in group["params"])
    encoder = sum(parameter.numel() for parameter in encoder_of(network).parameters())
    assert learning == total - encoder and encoder > 0


def test_imagenet_weights_start_the_encoder() -> None:
    name = "deeplabv3plus_timm-tf_efficientnet_lite0"
    made = learner(Practice(crop=64), build=lambda classes: build_network(name, classes))
    first, second = (encoder_of(made.build()).conv_stem.weight for _ in range(2))
    file = imagenet_weights("timm-tf_efficientnet_lite0")
    by_file = learner(Practice(crop=64, weights=file), build=lambda classes: build_network(name, classes))
    assert torch.equal(first, second) and torch.equal(first, encoder_of(by_file.build()).conv_stem.weight)
    assert "ImageNet" in made.notes[0]


def test_wrong_labels_and_sizes_are_refused() -> None:
    bad = coloured_set(0)
    bad.labels[1][3, 30] = 7
    with pytest.raises(UserError, match="training labels of 0-1: class 7 is out of range"):
        PracticeSemanticLearner(pointwise, bad, coloured_set(1), ["a", "b", "c"], practice=RANDOM)
    empty = coloured_set(1)
    for label in empty.labels:
        label[:] = 255
    with pytest.raises(UserError, match="test labels: no pixel has a class"):
        PracticeSemanticLearner(pointwise, coloured_set(0), empty, ["a", "b", "c"], practice=RANDOM)
    with pytest.raises(UserError, match="--crop 16"):
        Practice(crop=16)


class ClassMaps:
    """Annotated images in memory."""

    def __init__(self, given: NativeSet) -> None:
        self.given, self.names, self.classes = given, given.names, ClassTable({0: "red", 1: "green", 2: "blue"})

    def pixels(self, index: int) -> np.ndarray:
        return self.given.images[index]

    def annotated(self, index: int) -> ClassMap:
        return ClassMap(self.given.labels[index].astype(np.int64), "index", self.classes)


def test_annotated_sets_become_a_learner() -> None:
    train_set, test_set = ClassMaps(coloured_set(0)), ClassMaps(coloured_set(1))
    told = Told()
    options = LearnerOptions((48, 48), practice=RANDOM, notes=("a note",), progress=told)
    made = make_practice_semantic("fpn_mobilenet_v2", train_set, test_set, options)
    make_practice_semantic("fpn_mobilenet_v2", train_set, test_set, options)  # reads nothing again
    assert told.bars == [("reading training images", 3, 3), ("reading test images", 3, 3)]
    assert made.notes == ["a note"]
    assert made.class_names == ["red", "green", "blue"] and made.train_count == 3
    assert made.evaluate(Paint(), CPU)["miou"] == 1.0
    shown = made.examples(Paint(), CPU, 2)
    assert [example.name for example in shown] == ["1-0", "1-1"]
    assert np.array_equal(shown[0].truth[:, 10:], shown[0].prediction[:, 10:])


@pytest.mark.parametrize("steps", [20, 600])
def test_onecycle_is_torchs(steps: int) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1)
    ours = Schedule(steps=steps, learning_rate=1e-3, decay="onecycle")
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert ours.learning_rate * ours.rate_factor(step) == pytest.approx(group["lr"], rel=1e-6)
        assert ours.momentum_at(step) == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert Schedule(steps=steps).momentum_at(3) is None
