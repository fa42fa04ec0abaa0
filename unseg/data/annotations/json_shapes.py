"""JSON of Label Studio, Supervisely and the VGG Image Annotator (VIA).

Sources: labelstud.io, "export formats" (raw JSON; its numbers are percent of the image); Supervisely's "JSON format";
VIA 1 and 2, whose projects and exports are read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from unseg.data.annotations.names import shown, whole_number
from unseg.data.annotations.shapes import (
    Described,
    Export,
    Shape,
    corners_in,
    decimal_in,
    document_bytes,
    ellipse,
    label_in,
    rectangle,
    turned,
)
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_decoding import decode_image
from unseg.storage.image_limits import ImageError
from unseg.storage.text_encoding import decode_text

UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file
META = "meta.json"
LABEL_KEYS = ("label", "class", "type", "name", "category", "object")  # of VIA, whose users name them
PERCENT = 100.0
MOST_PACKED = 1 << 26  # bytes of a bitmap
FARTHEST = 2**31  # pixels
Item = tuple[Callable[[], Described], Described]


def read_json(path: Path) -> Any:
    """Returns a whole JSON file; UserError where it is broken or too large."""
    data = document_bytes(path)
    try:
        return json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({str(error)[:100]})") from error


def shape_format(values: Any) -> str | None:
    """Returns the format of a JSON file's content; None where it is none of these."""
    if isinstance(values, list):
        task = values[0] if values else None
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            return None
        return "label-studio" if "annotations" in task or "completions" in task else None
    if not isinstance(values, dict):
        return None
    if isinstance(values.get("objects"), list) and isinstance(values.get("size"), dict):
        return "supervisely"
    images = _via_images(values)
    first = next(iter(images.values()), None) if isinstance(images, dict) else None
    return "via" if isinstance(first, dict) and {"filename", "regions"} <= first.keys() else None


def described_alone(path: Path) -> Described:
    """Returns what a JSON file says of its one image, in words that name the file without its folder.

    UserError where it is of no format of shapes, or speaks of another number of images.
    """
    values, name = read_json(path), Path(path.name)
    format = shape_format(values)
    if format == "supervisely":
        return _supervised_in(values, str(name), [])
    if format is None:
        raise UserError(f"{path}: holds no shapes of Label Studio, Supervisely or VIA")
    items = _tasks(values, name) if format == "label-studio" else _annotated(_via_images(values), name)
    found = [described for _, described in items]
    if len(found) != 1:
        raise UserError(f"{path}: speaks of {len(found)} images, not of one")
    return found[0]


def _via_images(values: dict[str, Any]) -> dict[str, Any]:
    return values.get("_via_img_metadata", values)


def _member(values: Any, name: str, kind: type, where: str) -> Any:
    found = values.get(name) if isinstance(values, dict) else None
    if not isinstance(found, kind):
        raise UserError(f"{where}: {name}: expected {'a list' if kind is list else 'an object'}, found {shown(found)}")
    return found


def _same(described: Described) -> Described:
    return described


# --- Label Studio ----------------------------------------------------------------------------------------------------


def open_label_studio(path: Path) -> Export:
    """Returns what a raw export of Label Studio says of its images."""
    values = read_json(path)
    if shape_format(values) != "label-studio":
        raise UserError(f"{path}: no raw JSON of Label Studio: export it as “JSON”")
    return Export(path, "label-studio", "Label Studio", (), _tasks(values, path))


def _tasks(values: list[Any], path: Path) -> Iterator[Item]:
    for number, task in enumerate(values):
        where = f"{path}: task {number}"
        data = _member(task, "data", dict, where)
        texts = [value for value in (data.get("image"), data.get("img"), *data.values()) if isinstance(value, str)]
        if not texts:
            raise UserError(f"{where}: names no image")
        made = _member(task, "annotations" if "annotations" in task else "completions", list, where)
        kept = [item for item in made if isinstance(item, dict) and not item.get("was_cancelled")]
        results = [_member(item, "result", list, where) for item in kept[:1]]  # the first answer of several people
        names = dict.fromkeys(name for text in texts for name in _names_of(text))
        described = _task(where, list(names), results[0] if results else [])
        yield partial(_same, described), described


SHAPES = ("rectangle", "ellipse", "polygon", "brush")
OF_SIDES = (("points", "polygonlabels"), ("radiusX", "ellipselabels"), ("width", "rectanglelabels"))


def _names_of(text: str) -> list[str]:
    """Returns what an image may be called, out of its address in Label Studio."""
    address = urlparse(text)
    inside = parse_qs(address.query).get("d")
    path = PurePosixPath(unquote(inside[0] if inside else address.path).replace("\\", "/").lstrip("/"))
    last = path.name
    names = [path.as_posix(), last, UPLOADED.sub("", last)] if inside else [last, UPLOADED.sub("", last)]
    return [name for name in dict.fromkeys(names) if name]


def _task(where: str, names: list[str], results: list[Any]) -> Described:
    size: tuple[int, int] | None = None
    shapes: list[Shape] = []
    left_out: list[str] = []
    # As text, since a stranger's ids may be lists.
    labelled = {str(one.get("id")) for one in results if isinstance(one, dict) and one.get("type") == "labels"}
    for number, result in enumerate(results):
        what = f"{where}: result {number}"
        kind = str(result.get("type")) if isinstance(result, dict) else ""
        if kind in SHAPES and (result.get("id") is None or str(result["id"]) not in labelled):
            raise UserError(f"{what}: a {kind} without a label: give it one in Label Studio, or delete it")
        if not kind.endswith("labels"):
            continue  # choices, texts, relations, and shapes whose labels are a result of their own
        height, width = (whole_number(result.get(f"original_{side}"), what) for side in ("height", "width"))
        size = height, width
        shape = _studio_shape(_member(result, "value", dict, what), kind, (height, width), what)
        if shape is None:
            left_out.append(f"{what}: {kind}")
        else:
            shapes.append(shape)
    return Described(where, names, size, shapes, left_out)


def _studio_shape(value: dict[str, Any], kind: str, size: tuple[int, int], what: str) -> Shape | None:
    """Returns a shape, whose numbers are percent of the image's sides; None where it has no area."""
    height, width = size
    if kind == "keypointlabels":
        return None
    labels = value.get(kind)
    label = label_in(labels[0] if isinstance(labels, list) and labels else None, what)
    if kind == "labels":  # of a shape that was drawn by itself; what is told of it is told here again
        kind = next((named for side, named in OF_SIDES if side in value), kind)
    scale = np.array([width, height]) / PERCENT
    if kind == "polygonlabels":
        return Shape(what, label, corners_in(value.get("points"), what) * scale)
    if kind not in ("rectanglelabels", "ellipselabels"):
        raise UserError(f"{what}: {kind} are not read; polygons, rectangles and ellipses are: export brushes as PNG")
    numbers = {name: decimal_in(value.get(name), f"{what}: {name}") for name in ("x", "y")}
    place = np.array([numbers["x"], numbers["y"]]) * scale
    degrees = decimal_in(value.get("rotation") or 0, f"{what}: rotation")
    if kind == "ellipselabels":
        radii = [decimal_in(value.get(name), f"{what}: {name}") for name in ("radiusX", "radiusY")] * scale
        return Shape(what, label, turned(ellipse(*place, *radii), degrees, (place[0], place[1])))
    far = place + [decimal_in(value.get(name), f"{what}: {name}") for name in ("width", "height")] * scale
    return Shape(what, label, turned(rectangle(*place, *far), degrees, (place[0], place[1])))


# --- Supervisely -----------------------------------------------------------------------------------------------------


def open_supervisely(path: Path) -> Export:
    """Returns what a project, a data set or a folder of annotations of Supervisely says: one JSON an image."""
    problems: list[Problem] = []
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [file for file in walk(path, problems) if file.suffix.lower() == ".json"]
    images: list[Item] = []
    for file in files:
        if file.name in (META, "key_id_map.json"):
            continue
        source = partial(_supervised, file, root)
        try:
            images.append((source, source()))
        except UserError as error:
            problems.append(Problem(file.relative_to(root).as_posix(), str(error)))
    if not images:
        raise UserError(f"{path}: no annotation of Supervisely there")
    meta = next((place / META for place in (root, *list(root.parents)[:2]) if (place / META).is_file()), None)
    labels: list[str] = []
    if meta is not None:
        classes = _member(read_json(meta), "classes", list, str(meta))
        labels = [label_in(item.get("title") if isinstance(item, dict) else None, str(meta)) for item in classes]
    return Export(path, "supervisely", "Supervisely", labels, images, problems)


def _supervised(file: Path, root: Path) -> Described:
    relative = file.relative_to(root)
    image = relative.name.removesuffix(".json")
    beside = PurePosixPath(*("img" if part == "ann" else part for part in relative.parent.parts), image)
    return _supervised_in(read_json(file), str(file), [beside.as_posix(), image])


def _supervised_in(values: Any, where: str, names: list[str]) -> Described:
    size = _member(values, "size", dict, where)
    height, width = (whole_number(size.get(side), f"{where}: size") for side in ("height", "width"))
    shapes: list[Shape] = []
    left_out: list[str] = []
    for number, item in enumerate(_member(values, "objects", list, where)):
        what = f"{where}: object {number}"
        kind = item.get("geometryType") if isinstance(item, dict) else None
        if kind in ("line", "point", "graph", "cuboid"):
            left_out.append(what)
        else:
            shapes.append(_supervised_shape(item, str(kind), what))
    return Described(where, names, (height, width), shapes, left_out)


def _supervised_shape(item: Any, kind: str, what: str) -> Shape:
    label = label_in(item.get("classTitle") if isinstance(item, dict) else None, what)
    if kind == "bitmap":
        bitmap = _member(item, "bitmap", dict, what)
        origin = corners_in([bitmap.get("origin")], what)[0]
        if np.abs(origin).max() > FARTHEST:
            raise UserError(f"{what}: its bitmap lies far outside the image")
        x, y = origin.astype(int).tolist()
        return Shape(what, label, mask=partial(_bitmap, bitmap.get("data"), (x, y), what))
    points = _member(item, "points", dict, what)
    outer = corners_in(points.get("exterior"), what)
    if kind == "rectangle" and len(outer) == 2:
        (left, top), (right, bottom) = np.minimum(*outer), np.maximum(*outer) + 1  # both ends belong to it
        return Shape(what, label, rectangle(left, top, right, bottom))
    if kind != "polygon":
        raise UserError(f"{what}: {shown(kind)} is not read; polygon, rectangle and bitmap are")
    holes = _member(points, "interior", list, what) if points.get("interior") else []
    return Shape(what, label, outer, tuple(corners_in(hole, what) for hole in holes))


def _bitmap(text: object, origin: tuple[int, int], what: str, height: int, width: int) -> np.ndarray:
    """Returns a mask out of a PNG, packed by zlib and written in base64, whose top left corner lies at `origin`."""
    try:
        packed = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        values = _opaque(zlib.decompressobj().decompress(packed, MOST_PACKED), what, height * width)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UserError(f"{what}: its bitmap is no packed PNG") from error
    (left, top), (high, wide) = origin, values.shape
    if left < 0 or top < 0 or left + wide > width or top + high > height:
        raise UserError(f"{what}: its bitmap lies outside the image of {width}×{height}")
    mask = np.zeros((height, width), bool)
    mask[top : top + high, left : left + wide] = values
    return mask


def _opaque(data: bytes, what: str, max_pixels: int) -> np.ndarray:
    """Returns where a bitmap shows its object: where it is opaque, or white where it has no transparency."""
    try:
        image = decode_image(Path(what), data, max_pixels)
    except ImageError as error:
        raise UserError(f"{what}: its bitmap: {error.reason}") from error
    return image.alpha > 0 if image.alpha is not None else image.samples[..., 0] > 0


# --- VIA -------------------------------------------------------------------------------------------------------------


def open_via(path: Path) -> Export:
    """Returns what a project or an export of VIA says of its images."""
    values = read_json(path)
    if shape_format(values) != "via":
        raise UserError(f"{path}: no annotations of VIA: export them as JSON")
    return Export(path, "via", "VIA", (), _annotated(_via_images(values), path))


def _annotated(images: dict[str, Any], path: Path) -> Iterator[Item]:
    for key, image in images.items():
        where = f"{path}: {shown(key)}"
        regions = image.get("regions") if isinstance(image, dict) else None
        if isinstance(regions, dict):  # version 1
            regions = list(regions.values())
        if not isinstance(regions, list):
            raise UserError(f"{where}: regions: expected a list")
        shapes: list[Shape] = []
        left_out: list[str] = []
        for number, region in enumerate(regions):
            what = f"{where}: region {number}"
            shape = _region(_member(region, "shape_attributes", dict, what), region.get("region_attributes"), what)
            if shape is None:
                left_out.append(what)
            else:
                shapes.append(shape)
        described = Described(where, [image.get("filename")], None, shapes, left_out)
        yield partial(_same, described), described


def _region(shape: dict[str, Any], attributes: object, what: str) -> Shape | None:
    kind, label = shape.get("name"), _via_label(attributes, what)
    if kind in ("point", "polyline"):
        return None
    if kind == "polygon":
        across, down = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(across, list) or not isinstance(down, list) or len(across) != len(down):
            raise UserError(f"{what}: expected as many x as y")
        return Shape(what, label, corners_in([list(pair) for pair in zip(across, down, strict=True)], what))
    if kind not in ("rect", "circle", "ellipse"):
        raise UserError(f"{what}: {shown(kind)} is not read; polygon, rect, circle and ellipse are")
    number = {name: decimal_in(value, f"{what}: {name}") for name, value in shape.items() if name != "name"}
    try:
        if kind == "rect":
            left, top = number["x"], number["y"]
            return Shape(what, label, rectangle(left, top, left + number["width"], top + number["height"]))
        middle = number["cx"], number["cy"]
        radii = (number["r"], number["r"]) if kind == "circle" else (number["rx"], number["ry"])
    except KeyError as error:
        raise UserError(f"{what}: {kind} without {error}") from error
    return Shape(what, label, turned(ellipse(*middle, *radii), np.rad2deg(number.get("theta", 0.0)), middle))


def _via_label(attributes: object, what: str) -> str:
    """Returns a region's label: of its attributes the one that is called so, or the only one; else "object"."""
    if not isinstance(attributes, dict) or not attributes:
        return "object"
    name = next((key for key in LABEL_KEYS if key in attributes), next(iter(attributes)))
    value = attributes[name]
    if isinstance(value, dict):  # boxes that are ticked
        value = next((key for key, ticked in value.items() if ticked), "")
    return label_in(value, f"{what}: {shown(name)}") if value else "object"
