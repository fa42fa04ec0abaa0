"""Annotations read in the plainest way, each format by itself: right answers for `unseg.data.annotations`.

Nothing here is shared with the package. Every value is looked at by a loop of its own; outlines have whole numbers for
corners and sides along the axes, so that a pixel's centre is inside or outside without doubt. A reader returns the
regions of one image: (class id, H×W bool), without crowds. Shapes: H×W the image's.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image as Pillow

Region = tuple[int, np.ndarray]


def plain_name(name: str) -> str:
    """The last part of a path, in one Unicode form and in small letters."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1]).lower()


def plain_stem(name: str) -> str:
    return plain_name(name).rsplit(".", 1)[0]


def plain_text(path: Path) -> str:
    data = path.read_bytes()
    for encoding in ("utf-16", "utf-8-sig"):
        marks = (b"\xff\xfe", b"\xfe\xff") if encoding == "utf-16" else (b"",)
        if data.startswith(marks):
            return data.decode(encoding)
    raise AssertionError(path)


def filled(corners: list[tuple[float, float]], height: int, width: int) -> np.ndarray:
    """Even-odd filling, pixel by pixel: a ray from the centre to the right crosses the sides how often?"""
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            crossings = 0
            for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
                if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
                    crossings += 1
            mask[row, column] = crossings % 2 == 1
    return mask


def pairs(flat: list[float]) -> list[tuple[float, float]]:
    return [(float(flat[place]), float(flat[place + 1])) for place in range(0, len(flat), 2)]


def united(parts: list[list[tuple[float, float]]], height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for corners in parts:
        if len(corners) >= 3:
            mask |= filled(corners, height, width)
    return mask


def run_lengths(lengths: list[float], height: int, width: int) -> np.ndarray:
    """Down the columns: outside, inside, outside, …"""
    pixels: list[bool] = []
    for place, length in enumerate(lengths):
        pixels += [place % 2 == 1] * int(length)
    mask = np.zeros((height, width), bool)
    for place, inside in enumerate(pixels):
        mask[place % height, place // height] = inside
    return mask


def unpacked(text: str) -> list[int]:
    """COCO's compressed counts, character by character."""
    counts: list[int] = []
    number = shift = 0
    for character in text:
        value = ord(character) - 48
        number |= (value & 31) << shift
        shift += 5
        if value & 32:
            continue
        if value & 16:
            number -= 1 << shift
        if len(counts) > 2:
            number += counts[-2]
        counts.append(number)
        number = shift = 0
    return counts


def is_set(value: Any) -> bool:
    return value not in (None, "0") and bool(value)


def same_id(one: object, other: object) -> bool:
    """7, 7.0 and "7" are one id; other texts are themselves."""
    texts = [str(int(value)) if isinstance(value, float) else str(value) for value in (one, other)]
    return texts[0] == texts[1]


def coco(path: Path, name: str, height: int, width: int) -> list[Region]:
    content = json.loads(plain_text(path))
    (image,) = (image for image in content["images"] if plain_name(image["file_name"]) == plain_name(name))
    regions = []
    for entry in content["annotations"]:
        shape = entry.get("segmentation")
        if not same_id(entry["image_id"], image["id"]) or is_set(entry.get("iscrowd")) or not shape:
            continue
        if isinstance(shape, dict):
            counts = shape["counts"]
            mask = run_lengths(unpacked(counts) if isinstance(counts, str) else counts, height, width)
        else:
            parts = shape if isinstance(shape[0], list) else [shape]
            mask = united([pairs(part) for part in parts], height, width)
        regions.append((int(entry["category_id"]), mask))
    return regions


def panoptic(path: Path, name: str, height: int, width: int) -> list[Region]:
    content = json.loads(plain_text(path))
    by_name = {plain_name(image["file_name"]): image for image in content["images"]}
    image = by_name[plain_name(name)]
    (entry,) = (entry for entry in content["annotations"] if same_id(entry["image_id"], image["id"]))
    (png,) = (
        file for file in path.with_suffix("").rglob("*") if plain_name(file.name) == plain_name(entry["file_name"])
    )
    coded = np.array(Pillow.open(png).convert("RGB")).astype(int)
    ids = coded[..., 0] + 256 * coded[..., 1] + 65536 * coded[..., 2]
    return [
        (int(segment["category_id"]), ids == int(segment["id"]))
        for segment in entry["segments_info"]
        if not is_set(segment.get("iscrowd"))
    ]


def yolo(path: Path, name: str, height: int, width: int) -> list[Region]:
    """path: the labels' folder, the one above it, or a file in that."""
    folder = path.parent if path.is_file() else path
    (text,) = (
        file
        for file in folder.rglob("*")
        if "labels" in file.parts and file.suffix.lower() == ".txt" and plain_stem(file.name) == plain_stem(name)
    )
    regions = []
    for line in plain_text(text).splitlines():
        values = [float(value) for value in line.split()]
        corners = pairs(values[1:])
        if len(corners) >= 3:
            whole = [(round(x * width), round(y * height)) for x, y in corners]
            regions.append((int(values[0]), united([whole], height, width)))
    return regions


def labelme(folder: Path, name: str, height: int, width: int) -> list[Region]:
    files = {plain_stem(file.name): json.loads(plain_text(file)) for file in folder.rglob("*.json")}
    labels = sorted({shape["label"] for content in files.values() for shape in content["shapes"]} - {"__ignore__"})
    regions = []
    for shape in files[plain_stem(name)]["shapes"]:
        kind, points = shape.get("shape_type") or "polygon", [tuple(point) for point in shape["points"]]
        if shape["label"] == "__ignore__" or kind in ("point", "line", "linestrip", "points") or len(points) < 2:
            continue
        if kind == "mask":
            mask = np.zeros((height, width), bool)
            (left, top), (right, bottom) = points
            inside = np.array(Pillow.open(io.BytesIO(base64.b64decode(shape["mask"]))).convert("L")) > 0
            mask[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = inside
        elif kind == "rectangle" and len(points) == 2:
            (x1, y1), (x2, y2) = points
            mask = filled([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], height, width)
        else:
            mask = united([points], height, width)
        regions.append((labels.index(shape["label"]) + 1, mask))
    return regions


def values_of(image: Pillow.Image) -> np.ndarray:
    """Grey levels or indices of a mask; black and white as 0 and 255."""
    return np.array(image.convert("L") if image.mode == "1" else image).astype(int)


def regions_of(values: np.ndarray) -> list[Region]:
    """A map of class ids, or a mask of 0 and 255 (or 1): 0 is background, 255 beside other ids is ignored."""
    there = set(np.unique(values).tolist()) - {0}
    if there <= {255}:
        return [(1, values == 255)]
    return [(int(value), values == value) for value in sorted(there - {255})]


def masks(folder: Path, name: str, height: int, width: int) -> list[Region]:
    (file,) = (
        file for file in folder.rglob("*") if file.suffix == ".png" and plain_stem(file.name) == plain_stem(name)
    )
    return regions_of(values_of(Pillow.open(file)))


def cityscapes(folder: Path, name: str, height: int, width: int) -> list[Region]:
    """instanceIds, else labelIds; persons and cars alone are drawn, 24 and 26, others are void."""
    key = plain_name(name).replace("_leftimg8bit.png", "")
    files = {plain_name(file.name): file for file in folder.rglob("*.png")}
    instances = files.get(f"{key}_gtfine_instanceids.png")
    values = values_of(Pillow.open(instances or files[f"{key}_gtfine_labelids.png"]))
    regions = []
    for value in np.unique(values).tolist():
        if (value >= 1000 or instances is None) and (value if value < 1000 else value // 1000) in (24, 26):
            regions.append((value if value < 1000 else value // 1000, values == value))
    return regions


def table(path: Path, name: str, height: int, width: int) -> list[Region]:
    """The row whose image has that name, or whose number is the name's: TABLE/000001.png."""
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        with pyarrow.OSFile(str(path)) as file:
            is_file = path.read_bytes()[:6] == b"ARROW1"
            rows = (pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)).read_all().to_pylist()
    own = path.name.rsplit(".", 1)[0]
    for number, row in enumerate(rows):
        image = row["image"]
        if image and (name.startswith(f"{own}/{number:06d}.") or plain_name(image["path"] or "") == plain_name(name)):
            return regions_of(values_of(Pillow.open(io.BytesIO(row["mask"]["bytes"]))))
    raise AssertionError(name)


def metadata(folder: Path, name: str, height: int, width: int) -> list[Region]:
    (file,) = folder.glob("metadata.*")
    text = plain_text(file)
    if file.suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    (row,) = (row for row in rows if row["file_name"] and plain_name(row["file_name"]) == plain_name(name))
    (mask,) = (
        path for path in (folder / "masks").iterdir() if plain_name(path.name) == plain_name(row["mask_file_name"])
    )
    return regions_of(values_of(Pillow.open(mask)))
