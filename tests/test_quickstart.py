"""The quick start: real photographs, masks that fit them, and a picture of each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from unseg import cli, quickstart
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.storage.label_decoding import read_label

ROOT = Path(__file__).resolve().parents[1]
NAMES = tuple(Path(name).stem for name in quickstart.PHOTOGRAPHS)
# A pixel (row, column) that is surely object and one that surely is not, read off the photographs.
OBJECT = {"astronaut": (110, 215), "chelsea": (210, 270), "coffee": (150, 290), "rocket": (300, 322)}
BACKGROUND = {"astronaut": (100, 410), "chelsea": (150, 420), "coffee": (30, 500), "rocket": (300, 250)}
OBJECT_SHARE = {"astronaut": (0.45, 0.6), "chelsea": (0.65, 0.8), "coffee": (0.4, 0.55), "rocket": (0.01, 0.04)}


@pytest.mark.parametrize("name", NAMES)
def test_mask_fits_its_photograph(name: str) -> None:
    mask = read_label(ROOT / "unseg" / "quickstart_data" / "masks" / f"{name}.png")
    assert mask.shape == getattr(data, name)().shape[:2]
    assert np.unique(mask).tolist() == [0, 1]
    assert mask[OBJECT[name]] == 1 and mask[BACKGROUND[name]] == 0
    assert OBJECT_SHARE[name][0] < mask.mean() < OBJECT_SHARE[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_licence_is_recorded(name: str) -> None:
    row = next(
        line
        for line in (ROOT / "unseg/quickstart_data/README.md").read_text(encoding="utf-8").splitlines()
        if f"`{name}.png`" in line
    )
    assert re.search(r"\| (CC0|public domain.*) \|$", row)


def test_photographs_come_with_the_wheel(tmp_path: Path) -> None:
    """They are the very pixels that scikit-image gives, and nothing is downloaded for them."""
    quickstart.copy_photographs(tmp_path)
    for name in quickstart.PHOTOGRAPHS:
        assert (read_image(tmp_path / "photographs" / name).pixels == getattr(data, Path(name).stem)()).all()


@pytest.mark.parametrize("arguments", [["--help"], ["a", "b"]])
def test_wrong_use_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m unseg.quickstart [FOLDER]\n"


def test_other_protected_images_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_png(tmp_path / "mine" / "holiday.png", np.full((8, 8, 3), 128, np.uint8))
    assert (
        cli.main(["protect", "--whole-image", str(tmp_path / "mine"), "--out", str(tmp_path / "protected"), "--quiet"])
        == 0
    )
    assert quickstart.main([str(tmp_path)]) == 2
    assert "holiday.png" in capsys.readouterr().err
    assert (tmp_path / "protected" / "holiday.png").is_file()


@pytest.mark.slow
def test_quick_start_protects_verifies_and_draws(tmp_path: Path) -> None:
    """Twice in the same folder: the second run starts afresh and gives the same bytes."""
    written = []
    for _ in range(2):
        finished = subprocess.run(
            [sys.executable, "-m", "unseg.quickstart", "results"], cwd=tmp_path, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        written.append(
            {
                path.relative_to(tmp_path).as_posix(): path.read_bytes()
                for path in tmp_path.rglob("*.png")
                if "masks" not in path.parts
            }
        )
    assert written[0] == written[1]
    for name in NAMES:
        original = getattr(data, name)()
        change = np.abs(read_image(tmp_path / "results" / "protected" / f"{name}.png").pixels.astype(int) - original)
        mask = read_label(ROOT / "unseg" / "quickstart_data" / "masks" / f"{name}.png") == 1
        assert 0 < change[mask].max() <= 8 and change[~mask].max() <= 2
        picture = read_image(tmp_path / "results" / "pictures" / f"{name}.png").pixels
        assert picture.size >= 4 * original.size, "original, unlearnable, noise and mask, each at full size"
        assert f"results/pictures/{name}.png" in finished.stdout
