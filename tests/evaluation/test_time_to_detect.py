"""Time to detect: what is asked of a network, how its answers are scored, and what the scores mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from unseg.evaluation.schedule import Schedule
from unseg.evaluation.time_to_detect import (
    CodedPhotograph,
    Detecting,
    DetectionLearner,
    Question,
    Window,
    coded_photograph,
    time_to_detect,
    verdict,
)

CPU = torch.device("cpu")
NO_CLASS = -1


def scene(height: int = 40, width: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two regions of class 4 (one of them without any change), one of class 7, one that is too small."""
    clean = np.random.default_rng(0).integers(20, 230, (height, width, 3), dtype=np.uint8)
    classes = np.full((height, width), NO_CLASS, np.int32)
    classes[2:14, 3:20] = 4
    classes[20:36, 3:20] = 4
    classes[2:14, 20:40] = 7  # touches the first region
    classes[30:34, 50:55] = 4
    coded = clean.copy()
    noised = classes != NO_CLASS
    noised[20:36, 3:20] = False
    coded[noised] += 8
    return clean, coded, classes


def test_parts_are_connected_regions_of_one_class_with_noise() -> None:
    clean, coded, classes = scene()
    parts = coded_photograph(clean, coded, classes, 640).parts
    expected = np.zeros(classes.shape, int)
    expected[2:14, 3:20], expected[2:14, 20:40] = 1, 2
    assert np.array_equal(parts, expected)


def test_large_photographs_are_shrunk_as_a_trainer_shrinks_them() -> None:
    clean, coded, classes = (np.repeat(np.repeat(values, 4, 0), 4, 1) for values in scene())
    photograph = coded_photograph(clean, coded, classes, 60)
    assert np.array_equal(photograph.clean, scene()[0]) and np.array_equal(photograph.coded, scene()[1])
    assert photograph.parts.max() == 2 and (photograph.parts == 2).sum() == 12 * 20


def test_each_part_has_its_noise_or_not_and_the_rest_is_not_asked_about() -> None:
    clean, coded, classes = scene()
    photograph = coded_photograph(clean, coded, classes, 640)
    seen = set()
    for seed in range(20):
        pixels, asked = photograph.visited(np.random.default_rng(seed))
        answers = []
        for part in (1, 2):
            here = photograph.parts == part
            (answer,) = set(asked[here].tolist())
            assert np.array_equal(pixels[here], (coded if answer else clean)[here])
            answers.append(answer)
        rest = photograph.parts == 0
        assert (asked[rest] == 255).all() and np.array_equal(pixels[rest], coded[rest])
        seen.add(tuple(answers))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


class Brightness(nn.Module):
    """Says code 1 where red is above the middle, or the contrary. It has a weight, so that it can be trained."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right, self.weight = right, nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = (images[:, :1] > 0).float() * self.weight
        return torch.cat([1 - bright, bright] if self.right else [bright, 1 - bright], dim=1)


def halves(index: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Code 1 on the left, none on the right, nothing asked below; noise is red beyond any distortion."""
    asked = np.zeros((80, 90), np.uint8)
    asked[:, :45] = 1
    asked[60:] = 255
    pixels = np.full((80, 90, 3), 10, np.uint8)
    pixels[asked == 1] = 245
    return pixels, asked


@pytest.mark.parametrize("right", [True, False])
def test_scores_count_the_pixels_that_are_asked_about(right: bool) -> None:
    learner = DetectionLearner(Question(halves, 3), Detecting(crop=64, imagenet=False))
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        loss = learner.loss(Brightness(right), [0, 2], draw, CPU)
        loss.backward()
    found = learner.evaluate(Brightness(right), CPU)
    assert found["accuracy"] == found["told"] == pytest.approx(float(right), abs=0.02)  # edges are interpolated
    assert [window.step for window in learner.windows] == [3]
    assert learner.evaluate(Brightness(right), CPU) == {"accuracy": None}  # nothing since


def test_a_code_that_is_taken_for_another_is_still_told_from_none() -> None:
    def second(index: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pixels, asked = halves(index, random)
        return pixels, np.where(asked == 1, 2, asked).astype(np.uint8)

    class ThreeAnswers(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(images), torch.zeros_like(images[:, :1])], dim=1)

    learner = DetectionLearner(Question(second, 3, codes=2), Detecting(crop=64))
    learner.loss(ThreeAnswers(True), [0, 1], torch.Generator().manual_seed(1), CPU)
    found = learner.evaluate(ThreeAnswers(True), CPU)
    assert found["told"] > 0.97 and 0 < found["accuracy"] < 0.9


def test_a_network_is_trained_and_the_same_seed_gives_the_same_scores() -> None:
    options = Detecting(steps=2, batch=2, crop=64, network="unet_resnet18", imagenet=False)
    first, again = (time_to_detect(Question(halves, 3), options) for _ in range(2))
    assert first == again and [window.step for window in first] == [2]


@pytest.mark.parametrize(
    ("accuracies", "answer"),
    [((0.86, 0.91), "yes"), ((0.9, 0.84), "in part"), ((0.77, 0.82), "in part"), ((0.66, 0.68), "no")],
)
def test_scores_in_words(accuracies: tuple[float, float], answer: str) -> None:
    windows = [Window(50, 0.6, 0.6), *(Window(100 + 50 * n, value, value) for n, value in enumerate(accuracies))]
    found = verdict(windows)
    assert found.answer == answer and found.accuracies == accuracies
    assert f"{accuracies[1]:.0%}" in found.sentence()
    assert ("hardly" in found.sentence(), "in part" in found.sentence()) == (answer == "no", answer == "in part")


def test_a_constant_rate_is_constant() -> None:
    schedule = Schedule(steps=9, decay="constant", warm_up=0.5)
    assert [schedule.rate_factor(step) for step in range(9)] == [1.0] * 9


def test_a_photograph_without_parts_asks_nothing() -> None:
    flat = np.zeros((9, 13, 3), np.uint8)
    pixels, asked = CodedPhotograph(flat, flat + 1, np.zeros((9, 13), np.int32)).visited(np.random.default_rng(0))
    assert (asked == 255).all() and (pixels == 1).all()
