"""Odd but sound files through a whole run: every name in the ledger, and the bound as another program reads it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.fake_generator import loaded
from tests.support.odd_images import OddImage, odd_images
from unseg.protecting.manifest import MANIFEST
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.verification import verify
from unseg.storage.image_encoding import write_png

SETTINGS = ProtectSettings(device="cpu", workers=2, region="mask")
EVERY = 7  # of the corpus every seventh: all formats, about fifty files
NAMES = (
    "ä ö.png",
    "two.dots.JPG",
    "-dash.png",
    "quote'\".png",
    "雪.webp",
    "no suffix",
    "x.PNG",
    "2024.01.05",
    "~a#&;.tif",
)


@pytest.fixture(scope="module")
def chosen() -> dict[str, OddImage]:
    """Name → image; some have names as odd as their content."""
    odd = odd_images()[::EVERY]
    named = {f"{number % 3}/{image.name}": image for number, image in enumerate(odd)}
    return named | {f"names/{number}/{name}": odd[number] for number, name in enumerate(NAMES)}


def object_of(image: OddImage) -> np.ndarray:
    """An object neither in the middle nor symmetric; of a tiny image all of it."""
    height, width = image.samples.shape[:2]
    mask = np.zeros((height, width), bool)
    mask[height // 4 : max(1, height // 4 + height // 2), : max(1, 2 * width // 3)] = True
    return mask


def by_another_program(path: Path) -> np.ndarray:
    """H×W×C, RGB in order, as OpenCV reads a PNG."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values is not None, path
    return values[..., None] if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_the_bound_holds_on_odd_files(tmp_path: Path, chosen: dict[str, OddImage]) -> None:
    for name, image in chosen.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
        stem = name if name.endswith(("suffix", "05")) else str(Path(name).with_suffix(""))
        write_png(tmp_path / "masks" / f"{stem}.png", (object_of(image) * 255).astype(np.uint8))
    out = tmp_path / "out"
    summary = protect([tmp_path / "in"], out, SETTINGS, masks=tmp_path / "masks", generator=loaded())
    unlike = {entry.input: entry.status for entry in summary.entries if entry.status != "protected"}
    assert unlike == {name: "weak" for name in chosen if name.endswith("one-pixel.png")}
    lines = {line["input"]: line for line in map(json.loads, (out / MANIFEST).read_text("utf-8").splitlines()[1:])}
    assert lines.keys() == chosen.keys() and len(chosen) > 50
    for name, image in chosen.items():
        check(image, by_another_program(out / lines[name]["output"]), name)
    found = verify(out)
    assert found.failures == [] and {finding.name for finding in found.unprotected} == unlike.keys()


def check(image: OddImage, read: np.ndarray, name: str) -> None:
    """The output's samples differ by at most the budget from what is right, and transparency by nothing."""
    colours = read[..., : image.samples.shape[2]]
    assert colours.dtype == image.samples.dtype and colours.shape == image.samples.shape, name
    grey_level = 257 if colours.dtype == np.uint16 else 1
    change = np.abs(colours.astype(int) - image.samples).max(axis=2)
    mask = object_of(image)
    assert change[mask].max() <= 8 * grey_level and change[~mask].max(initial=0) <= 2 * grey_level, name
    assert change[mask].max() > 0, name
    if image.alpha is not None:
        assert np.array_equal(read[..., -1], image.alpha), name
