"""Miniatures of the sets of `unseg bench`, in their own layouts. Images are wider than high."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

CAMVID_IDS = [[0, 0, 1, 1, 3, 255], [2, 4, 1, 3, 3, 4], [10, 9, 8, 7, 6, 5]]
# Drawn in this order: the wheel (id 19) lies on the hood (14), and a door (10) over half of the wheel.
OUTLINES = ((14, (8, 8, 40, 24)), (19, (16, 12, 32, 20)), (10, (24, 0, 48, 32)))


def write_image(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return pixels


def write_labels(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(values.astype(np.uint8)).save(path)


def mini_camvid(root: Path, train: int = 2, test: int = 1, cell: int = 8) -> Path:
    """CAMVID_IDS with every id a square of `cell` pixels, in root/camvid."""
    values = np.kron(np.array(CAMVID_IDS), np.ones((cell, cell), int))
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            name = f"{split}_{number:03d}.png"
            write_image(root / "camvid/images" / split / name, *values.shape, seed=number + 10 * (split == "val"))
            write_labels(root / "camvid/labels" / split / name, values)
    return root


def mini_carparts(root: Path, width: int = 48, height: int = 32) -> Path:
    """One image a split, with OUTLINES, in root/carparts."""
    for split in ("trainingset", "testset"):
        folder = root / "carparts" / split
        write_image(folder / "JPEGImages/car1.png", height, width)
        annotations = [
            {
                "id": 5 + place,
                "image_id": 3,
                "category_id": category,
                "iscrowd": False,
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
            for place, (category, (left, top, right, bottom)) in enumerate(OUTLINES)
        ]
        content = {
            "images": [{"id": 3, "file_name": "car1.png", "path": "x/car1.png", "width": width, "height": height}],
            "categories": [{"id": number, "name": f"part {number}"} for number in range(1, 20)],
            "annotations": annotations,
        }
        (folder / "annotations.json").write_text(json.dumps(content))
    return root


def mini_ccp(root: Path, train: int = 302) -> Path:
    """All 59 ids in one row of a map; `train` training images of 59×2 pixels, in root/ccp."""
    values = np.repeat(np.arange(59)[None], 2, axis=0)
    for split, count in (("train", train), ("val", 1)):
        for number in range(1, count + 1):
            write_image(root / "ccp/images" / split / f"{number:04d}.png", *values.shape)
            write_labels(root / "ccp/labels" / split / f"{number:04d}.png", values)
    return root
