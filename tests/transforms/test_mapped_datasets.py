"""Hugging Face `datasets`: `map` with a protector writes the command's pixels, in one process and in several."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import unseg


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(3)
    for place, size in enumerate([(41, 60), (33, 52), (48, 70)]):
        mask = np.zeros(size, np.uint8)
        mask[4:30, 7:40] = 255
        exif = Image.Exif()
        exif[274] = 1 if place else 3  # the first one lies upside down
        for folder, values, suffix in (
            ("photos", draw.integers(20, 230, (*size, 3), np.uint8), "jpg"),
            ("masks", mask, "png"),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(
                tmp_path / folder / f"{place}.{suffix}", exif=exif if suffix == "jpg" else None
            )
    return tmp_path / "photos"


@pytest.mark.parametrize("processes", [None, 2])
def test_mapped_rows_hold_the_pixels_that_the_command_writes(
    photos: Path, tmp_path: Path, processes: int | None
) -> None:
    unseg.protect_folder(photos, tmp_path / "out", masks=photos.parent / "masks")
    names = sorted(path.stem for path in photos.iterdir())
    rows = datasets.Dataset.from_dict(
        {
            "image": [str(photos / f"{name}.jpg") for name in names],
            "mask": [str(photos.parent / "masks" / f"{name}.png") for name in names],
        }
    )
    rows = rows.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
    protector = unseg.Protector(key=tmp_path / "out.key")
    made = rows.map(lambda row: {"image": protector(row["image"], mask=row["mask"])}, num_proc=processes)
    for name, row in zip(names, made, strict=True):
        written = Image.open(tmp_path / "out" / f"{name}.png")
        assert row["image"].tobytes() == written.tobytes()
    stored = made.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    assert Image.open(io.BytesIO(stored)).format == "PNG"  # JPEG would change the values again
