"""Editions of data sets whose photographs EXIF turns, and whose binary masks are palette PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from unseg.data.edition_catalog import edition_row
from unseg.editions.audit import verify_edition
from unseg.editions.edition import make_edition
from unseg.editions.options import settings_from

HEIGHT, WIDTH = 48, 64
ORIENTATION = 274


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("images", "masks"):
        (tmp_path / "root" / "Kvasir-SEG" / kind).mkdir(parents=True)
    return tmp_path / "root"


def object_of(number: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5 : 22 + number, 9 + number : 40] = True
    return mask


def add(root: Path, name: str, mask: Pillow.Image, orientation: int = 1) -> None:
    pixels = np.random.default_rng(len(name)).integers(40, 210, (HEIGHT, WIDTH, 3), np.uint8)
    exif = Pillow.Exif()
    exif[ORIENTATION] = orientation
    Pillow.fromarray(pixels).save(root / "Kvasir-SEG" / "images" / f"{name}.jpg", exif=exif, quality=95)
    mask.save(root / "Kvasir-SEG" / "masks" / f"{name}.png")


def made(root: Path, **environment: str) -> Path:
    out = root.parent / "edition"
    wanted = {"DATA_ROOT": str(root), "OUT": str(out), "SET": "Kvasir", "NGPU": "0", **environment}
    edition = make_edition(settings_from(edition_row("medical"), wanted))
    assert {entry.status for entry in edition.summary.entries} == {"protected"}
    assert verify_edition(out).exit_code == 0
    return out


def check_labels(root: Path, out: Path, name: str, mask: np.ndarray, budget: int = 1) -> None:
    """The image as it lies in the file, beside its label as that lies in its own: what readers without EXIF pair."""
    before, after = (
        np.asarray(Pillow.open(place / "Kvasir-SEG" / "images" / f"{name}.jpg"), int) for place in (root, out)
    )
    change = np.abs(after - before).max(axis=2)
    assert change[~mask].max() <= budget and (change[mask] > budget).mean() > 0.5, name


def test_photographs_stay_as_they_are_stored_with_their_tag(root: Path) -> None:
    for orientation in range(1, 9):
        mask = object_of(orientation)
        add(root, f"o{orientation}", Pillow.fromarray(np.where(mask, 255, 0).astype(np.uint8)), orientation)
    out = made(root)
    for orientation in range(1, 9):
        with Pillow.open(out / "Kvasir-SEG" / "images" / f"o{orientation}.jpg") as image:
            assert image.size == (WIDTH, HEIGHT) and image.getexif().get(ORIENTATION, 1) == orientation
            assert set(image.getexif()) <= {ORIENTATION}  # nothing that tells where or when
        check_labels(root, out, f"o{orientation}", object_of(orientation))


def test_a_lost_or_changed_tag_is_found(root: Path) -> None:
    add(root, "a", Pillow.fromarray(np.where(object_of(1), 255, 0).astype(np.uint8)), 6)
    out = made(root)
    path = out / "Kvasir-SEG" / "images" / "a.jpg"
    with Pillow.open(path) as image:
        pixels = image.copy()
    pixels.info.clear()
    pixels.getexif().clear()
    pixels.save(path, "PNG")
    (failure,) = verify_edition(out).failures
    assert "its EXIF orientation is 1, not 6: it is shown turned" in (failure.problem or "")


def test_jpeg_editions_keep_the_tag_too(root: Path) -> None:
    add(root, "a", Pillow.fromarray(np.where(object_of(1), 255, 0).astype(np.uint8)), 8)
    out = root.parent / "edition"
    wanted = {"DATA_ROOT": str(root), "OUT": str(out), "SET": "Kvasir", "NGPU": "0", "FORMAT": "jpeg"}
    make_edition(settings_from(edition_row("medical"), wanted))
    with Pillow.open(out / "Kvasir-SEG" / "images" / "a.jpg") as image:
        assert image.format == "JPEG" and image.size == (WIDTH, HEIGHT) and image.getexif()[ORIENTATION] == 8


def test_palettes_of_binary_sets_go_by_colour(root: Path) -> None:
    """As their training reader takes them: white first, indices 1 and 3, and a quantised soft mask."""
    mask = object_of(1)
    white_first = Pillow.fromarray((~mask).astype(np.uint8), "P")
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    sparse = Pillow.fromarray(np.where(mask, 3, 1).astype(np.uint8), "P")
    sparse.putpalette([9, 9, 9, 0, 0, 0, 7, 7, 7, 255, 255, 255])
    levels = np.where(mask, 230, 20).astype(np.uint8) + np.arange(WIDTH, dtype=np.uint8) % 25
    shuffled = np.random.default_rng(0).permutation(256)
    soft = Pillow.fromarray(np.argsort(shuffled)[levels].astype(np.uint8), "P")
    soft.putpalette(np.repeat(shuffled, 3).astype(np.uint8).tobytes())
    for name, image in (("white", white_first), ("sparse", sparse), ("soft", soft)):
        add(root, name, image)
    out = made(root)
    for name in ("white", "sparse", "soft"):
        check_labels(root, out, name, mask)
