"""The benchmark of networks that know clean images: both tests of a set, and how far their answers agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import trained_networks
from benchmarks.trained_networks import main, seen_by
from tests.support.measuring_folders import mini_camvid, mini_carparts
from unseg.compute.progress import SILENT
from unseg.data.measuring_sets import measuring_set
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.measuring_images import OpenedSet, open_measuring_set
from unseg.evaluation.practice import Practice


class ByNoise(nn.Module):
    """Names the class of every pixel by the labels it was made with, and class 0 wherever noise changed the image."""

    def __init__(self, opened: OpenedSet) -> None:
        super().__init__()
        self.image = opened.test.pixels(0).astype(np.float32) / 255
        self.labels = opened.test.annotated(0).values
        self.classes = len(opened.row.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = self.labels.shape
        mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        shown = images[0, :, :height, :width].permute(1, 2, 0).numpy() * spread + mean
        changed = (np.abs(shown - self.image) > 1 / 255).any(axis=2)
        answer = np.zeros(images.shape[2:], np.int64)
        answer[:height, :width] = np.where(changed | (self.labels == 255), 0, self.labels)
        return nn.functional.one_hot(torch.from_numpy(answer)[None], self.classes).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("name", ["carparts", "camvid11"])
def test_both_scores_by_a_network_that_noise_blinds(name: str, tmp_path: Path) -> None:
    (mini_carparts if name == "carparts" else mini_camvid)(tmp_path)
    opened = open_measuring_set(tmp_path, measuring_set(name))
    options = LearnerOptions((32, 32), rule=opened.rule, practice=Practice(crop=32))
    found = seen_by(ByNoise(opened), opened, options, SILENT)
    assert found["miou"]["clean"] == 1
    assert found["miou"]["protected"] < 0.5 and found["agreement"] < 1


def test_a_whole_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_networks, "NETWORK", "unet_resnet18")
    monkeypatch.setattr(trained_networks, "WEIGHTS", None)
    mini_carparts(tmp_path)
    command = ["--data-root", str(tmp_path), "--steps", "2", "--batch", "2", "--crop", "32"]
    assert main([*command, "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["set"], found["steps"]) == ("carparts", 2) and 0 <= found["agreement"] <= 1
    assert set(found["miou"]) == {"clean", "protected"}


def test_faults_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, told in (("carparts", "is not there"), ("cars", "unknown set 'cars'"), ("carparts4000", "is not there")):
        assert main(["--data-root", str(tmp_path), "--set", name]) == 2
        assert told in capsys.readouterr().err
    mini_carparts(tmp_path)
    assert main(["--data-root", str(tmp_path), "--set", "carparts4000"]) == 2
    assert "made on large images" in capsys.readouterr().err
