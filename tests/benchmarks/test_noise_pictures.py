"""The picture of the strengths shows what it says: parts of the photographs, changed by at most the budget."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks import noise_pictures
from benchmarks.photographs import SHIPPED


def test_each_strength_changes_the_part_by_its_budget_and_the_enlarged_one_shows_its_middle() -> None:
    whole, enlarged = noise_pictures.photograph_rows("astronaut.png", 40, 150)
    photograph = cv2.imread(str(SHIPPED / "astronaut.png"))[..., ::-1]
    original = photograph[40:204, 150:314]
    assert [caption for caption, _ in whole] == ["original", "subtle, 4", "standard, 8", "strong, 12"]
    changes = [np.abs(part.astype(int) - original).max() for _, part in whole]
    assert changes == [0, 4, 8, 12]
    for (_, part), (caption, large) in zip(whole, enlarged, strict=True):
        assert caption == "400 %" and large.shape == (164, 164, 3)
        assert (large[0, 5] == part[61, 62]).all() and (large[163, 160] == part[101, 101]).all()


def test_the_picture_keeps_every_pixel(tmp_path: Path) -> None:
    assert noise_pictures.main([str(tmp_path / "picture.webp")]) == 0
    picture = cv2.imread(str(tmp_path / "picture.webp"))[..., ::-1]
    part = noise_pictures.photograph_rows("astronaut.png", 40, 150)[0][2][1]
    spots = [picture[top : top + 164, 340:504] for top in range(30)]
    assert any((spot == part).all() for spot in spots)
