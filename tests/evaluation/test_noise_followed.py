"""Shares of pixels that follow the noise: networks that read the noise, or the image, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.measuring_folders import mini_camvid, mini_carparts
from unseg.data.measuring_sets import measuring_set
from unseg.evaluation.measuring_images import OpenedSet, open_measuring_set
from unseg.evaluation.noise_followed import MOST_IMAGES, Probe, followed
from unseg.evaluation.sets import truth_by

CPU = torch.device("cpu")


def marked(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class is written into the red channel; blue holds what the image is."""
    changed = pixels.copy()
    changed[..., 0] = classes
    return changed


class Reader(nn.Module):
    """Names the class that stands in a channel, 0 red or 2 blue, of the normalised image."""

    def __init__(self, channel: int, classes: int) -> None:
        super().__init__()
        self.channel, self.classes = channel, classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406])[self.channel]
        spread = torch.tensor([0.229, 0.224, 0.225])[self.channel]
        levels = ((images[:, self.channel] * spread + mean) * 255).round().long().clamp(0, self.classes - 1)
        return nn.functional.one_hot(levels, self.classes).permute(0, 3, 1, 2).float()


def opened_with_classes_in_blue(opened: OpenedSet) -> Probe:
    test = opened.test
    plain = test.pixels

    def pixels(index: int) -> np.ndarray:
        found = plain(index).copy()
        found[..., 2] = test.annotated(index).values
        return found

    test.pixels = pixels  # type: ignore[method-assign]  # the images tell their classes to a Reader
    return Probe(test, truth_by(opened.rule), len(opened.row.classes), opened.row.background)


def test_the_one_noise_is_that_of_an_object_and_never_of_the_rest(tmp_path: Path) -> None:
    """In the binary task most pixels are beside the object, and have no noise."""
    opened = open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid-binary"))
    seen: list[np.ndarray] = []

    def told(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        if name.endswith(" one"):
            seen.append(classes)
        return pixels

    labels = opened.test.annotated(0).values if opened.test.pixels(0) is not None else None
    assert (labels == 0).sum() > (labels == 1).sum() > 0
    followed(Reader(0, 2), CPU, told, Probe(opened.test, truth_by(opened.rule), 2, None, rest=0))
    assert seen and all(set(np.unique(classes)) <= {1, 255} for classes in seen)


def test_a_network_that_reads_the_noise_follows_it(tmp_path: Path) -> None:
    probe = opened_with_classes_in_blue(open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid11")))
    assert followed(Reader(0, 11), CPU, marked, probe) == {
        "follows_noise": 1.0,
        "follows_image": 0.0,
        "follows_one_noise": 1.0,
        "miou_under_one_noise": pytest.approx(3 / 17 / 11),  # all is named as building, as 3 of 17 cells are
    }


def test_a_network_that_reads_the_image_does_not(tmp_path: Path) -> None:
    probe = opened_with_classes_in_blue(open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid11")))
    assert followed(Reader(2, 11), CPU, marked, probe) == {
        "follows_noise": 0.0,
        "follows_image": 1.0,
        "follows_one_noise": 0.0,
        "miou_under_one_noise": 1.0,
    }


def test_noise_of_another_key_has_a_figure_of_its_own(tmp_path: Path) -> None:
    """The network reads red. One key's noise names one class there, the other's noise leaves the image's classes."""

    def other_key(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        changed = pixels.copy()
        changed[..., 0] = pixels[..., 2]
        return changed

    probe = opened_with_classes_in_blue(open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid11")))
    found = followed(Reader(0, 11), CPU, marked, probe, other_key)
    assert found.pop("miou_under_another_key") == 1.0
    assert found == followed(Reader(0, 11), CPU, marked, probe)
    assert found["miou_under_one_noise"] == pytest.approx(3 / 17 / 11) and found["follows_one_noise"] == 1.0


def test_every_other_label_is_the_next_and_the_background_stays(tmp_path: Path) -> None:
    probe = opened_with_classes_in_blue(open_measuring_set(mini_carparts(tmp_path), measuring_set("carparts")))
    others = probe.others()
    assert others[:3].tolist() == [0, 2, 3] and others[18] == 1 and sorted(others) == list(range(19))


def test_one_noise_is_given_to_the_background_too(tmp_path: Path) -> None:
    """Of 48×32 pixels 768 are of the most frequent part, a door; all others, background among them, get its noise."""
    probe = opened_with_classes_in_blue(open_measuring_set(mini_carparts(tmp_path), measuring_set("carparts")))
    given: list[np.ndarray] = []

    def remembered(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        given.append(classes)
        return marked(name, pixels, mask, classes)

    found = followed(Reader(0, 19), CPU, remembered, probe)
    assert set(np.unique(given[1])) == {9} and found["follows_one_noise"] == 1.0
    assert 0 in given[0] and 10 in given[0] and 9 not in given[0]


def test_few_images_of_a_large_set_are_asked_about(tmp_path: Path) -> None:
    probe = opened_with_classes_in_blue(open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid11")))
    probe.test.names = [f"{number}.png" for number in range(101)]
    assert 0 < len(probe.indices()) <= MOST_IMAGES and probe.indices()[-1] >= 90
