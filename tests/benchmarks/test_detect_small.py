"""The benchmark of small objects: which pixels its shapes have, what is asked of them, and how answers are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.detect_small import SHAPES, Shape, SmallShapes, answered, main
from unseg.compute.progress import SILENT
from unseg.evaluation.augmentation import normalise
from unseg.method.metrics import IGNORE_LABEL

FLAT = np.full((150, 270, 3), 100, np.uint8)


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [(Shape(False, 1), 1), (Shape(False, 2), 4), (Shape(False, 3), 9), (Shape(False, 4), 12), (Shape(False, 6), 32)],
)
def test_pixels_of_discs_by_hand(shape: Shape, pixels: int) -> None:
    assert shape.mask(64, 0.7).sum() == pixels


def test_lines_by_hand() -> None:
    rows, columns = np.nonzero(Shape(True, 1).mask(64, 0.0))
    assert set(rows.tolist()) == {32} and columns.tolist() == list(range(16, 49))
    rows, columns = np.nonzero(Shape(True, 2).mask(64, np.pi / 2))
    assert sorted(set(columns.tolist())) == [31, 32] and len(rows) == 64


def test_shapes_that_are_asked_about_carry_noise_or_none() -> None:
    shapes = SmallShapes([FLAT])
    noised, asked, placed = shapes.shown(0, np.random.default_rng(3))
    assert len(placed) == 2 * 4
    changed = (noised != FLAT).any(axis=2)
    assert np.array_equal(changed, asked == 1) and changed.any() and (asked == 0).any()
    assert np.count_nonzero(asked != IGNORE_LABEL) == sum(int(one.mask.sum()) for one in placed)
    again, _, _ = shapes.shown(0, np.random.default_rng(4))
    assert not np.array_equal(noised, again)


class Answers(nn.Module):
    """Names as noise what differs from a flat photograph, or everything."""

    def __init__(self, everything: bool) -> None:
        super().__init__()
        self.everything = everything

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = normalise(torch.from_numpy(FLAT[None, : images.shape[2], : images.shape[3]]))
        noise = ((images - flat).abs().amax(1) > 1e-3).float()
        noise = torch.ones_like(noise) if self.everything else noise
        return torch.stack([1 - noise, noise], 1)


def test_answers_are_counted_by_shape() -> None:
    shapes = SmallShapes([FLAT] * 12)
    right, blind = (answered(Answers(everything), shapes, SILENT) for everything in (False, True))
    assert right.keys() == blind.keys() and {"disc 1", "disc 48", "line 6"} <= right.keys()
    assert {(of["found"], of["false"], of["accuracy"]) for of in right.values()} == {(1, 0, 1)}
    assert {(of["found"], of["false"], of["accuracy"]) for of in blind.values()} == {(1, 1, 0.5)}
    assert right["disc 6"]["pixels"] == 32 and sum(of["shapes"] for of in right.values()) <= 12 * 8
    assert list(right) == [shape.name for shape in SHAPES if shape.name in right]


def test_faults_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.json").write_text("{}")
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "new.json")]) == 2
    assert "no photographs" in capsys.readouterr().err
