"""Folders of photographs and masks for runs with codes: small, of unlike sides, one of them in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from unseg.protecting.run import ProtectSettings, Summary, protect

SETTINGS = ProtectSettings(workers=2)
DRAW = np.random.default_rng(11)
NAMES = ("a.png", "b.png", "sub/c.png")


def write(folder: Path, name: str, values: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)


def draw_photos(folder: Path) -> Path:
    for place, name in enumerate(NAMES):
        write(folder, name, DRAW.integers(20, 230, (41, 60 + place, 3)).astype(np.uint8))
    return folder


def masks_of(photos: Path, labels: list[int]) -> Path:
    """Masks of class ids in blocks of unlike size, in a folder beside the photographs."""
    folder = photos.parent / f"masks{'-'.join(map(str, labels))}"
    for place, name in enumerate(NAMES):
        values = np.array(labels, np.uint8)[
            (np.arange(60 + place)[None] // 7 + np.arange(41)[:, None] // 30) % len(labels)
        ]
        write(folder, name, values)
    return folder


def object_masks(photos: Path) -> Path:
    for place, name in enumerate(NAMES):
        mask = np.zeros((41, 60 + place), np.uint8)
        mask[5:30, 11:40] = 255
        write(photos.parent / "objects", name, mask)
    return photos.parent / "objects"


def run(photos: Path, out: Path, settings: ProtectSettings = SETTINGS, **given: object) -> Summary:
    return protect(photos, out, settings, **given)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)
