"""The lines of Python in the README, run as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_lines_of_python_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(block) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    mask = np.zeros((40, 64), np.uint8)
    mask[5:20, 30:60] = 255
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for name, content in (("photo.jpg", pixels), ("mask.png", mask), ("photos/a.png", pixels), ("masks/a.png", mask)):
        Image.fromarray(content).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(block[0], str(README), "exec"), {})
    for protected, original in (("protected.png", "photo.jpg"), ("protected/a.png", "photos/a.png")):
        change = np.abs(np.asarray(Image.open(protected)).astype(int) - np.asarray(Image.open(original)))
        assert 0 < change[mask > 0].max() <= 8 and change[mask == 0].max() <= 2
