"""LabelMe: one json an image, with named shapes. Source: labelme's label_file.py and utils/shape.py.

Coordinates are (x, y) in pixels, a pixel reaching from its number to the next; what a shape covers is filled as COCO's
polygons are. LabelMe names its classes. They are numbered by labels.txt where there is one, from 0 as LabelMe's own
exporters do, else in the order of their names from 1. `__ignore__` and `_background_` are void.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassTable,
    Looking,
    Unannotated,
    check_pixel_count,
    check_size,
    first_few,
)
from unseg.data.annotations.json_stream import open_json
from unseg.data.annotations.names import ImagesFolder, safe_name, shown, whole_number
from unseg.data.annotations.outlines import OutlineCollector
from unseg.data.annotations.yolo import read_names
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.image_decoding import decode_label
from unseg.storage.image_limits import ImageError

IGNORED, BACKGROUND = "__ignore__", "_background_"
WITHOUT_AREA = ("line", "linestrip", "point", "points")
LABELS_FILE = "labels.txt"
MAX_SHAPES = 100_000  # a file, while names are gathered
MAX_LABELS = 100_000
MAX_LABEL_LENGTH = 1000
CIRCLE_CORNERS = 720  # a circle of 4,000 pixels' radius is then nowhere more than 0.04 pixels off


class LabelMe(Annotations):
    """path: a folder of json files (recursive), or one of them."""

    format = "labelme"

    def __init__(self, path: Path, images_root: Path, looking: Looking = Looking()) -> None:
        problems: list[Problem] = []
        root = path.parent if path.is_file() else path
        files = [path] if path.is_file() else walk(path, problems)
        files = [file for file in files if file.suffix.lower() == ".json"]
        if not files:
            raise UserError(f"{path}: no LabelMe file (.json) there")
        folder = ImagesFolder(images_root)
        by_stem: dict[str, list[str]] = {}
        for name in folder.names:
            by_stem.setdefault(stem_of(name), []).append(name)
        listed = next((place / LABELS_FILE for place in (root, root.parent) if (place / LABELS_FILE).is_file()), None)
        self._files: dict[str, Path] = {}
        self._declared: dict[str, tuple[object, object]] = {}  # height and width as the files say, not checked yet
        labels: set[str] = set()
        broken: list[UserError] = []
        for file in looking.track(files, len(files), "annotations"):
            relative = file.relative_to(root).as_posix()
            said, reason = {}, "a LabelMe file without an image"
            try:
                for key, value in _contents(file, gather=listed is None):
                    if key == "label":
                        labels.add(value)
                    else:
                        said[key] = value
            except UserError as error:  # concerns its image alone, if it has one: `read` meets it again
                broken.append(error)
                reason = str(error)
            if len(labels) > MAX_LABELS:
                raise UserError(f"{file}: over {MAX_LABELS} different labels")
            name = self._image_of(relative, said.get("imagePath"), file, by_stem, folder)
            if name is None:
                problems.append(Problem(relative, reason))
            elif name in self._files:
                raise UserError(f"{file}: is for {name}, as is {self._files[name]}; remove one")
            else:
                self._files[name] = file
                self._declared[name] = said.get("imageHeight"), said.get("imageWidth")
        if len(broken) == len(files):
            raise broken[0]
        self._ids = _ids_of(labels) if listed is None else _ids_in(listed)
        void = frozenset({self._ids[name] for name in (IGNORED, BACKGROUND) if name in self._ids})
        self.classes = ClassTable(
            {number: name for name, number in self._ids.items()}, None, void, frozenset(self._ids.values())
        )
        self.missing = tuple([*folder.problems, *problems])
        order = f"numbered by {LABELS_FILE}" if listed else "numbered from 1 in the order of their names"
        self.statement = f"LabelMe: {len(files)} files in {root}, {len(self._ids)} labels {order}"

    @staticmethod
    def _image_of(
        relative: str, image_path: object, file: Path, by_stem: dict[str, list[str]], folder: ImagesFolder
    ) -> str | None:
        """By its own name without suffix; else by the last part of imagePath, which may lead anywhere, beside it."""
        last = None
        if image_path is not None:
            last = str(image_path).replace("\\", "/").rpartition("/")[2] if isinstance(image_path, str) else image_path
            last = safe_name(last, f"{file}: imagePath")
        candidates = by_stem.get(stem_of(relative), [])
        if len(candidates) > 1:
            candidates = [name for name in candidates if name.rpartition("/")[2] == last] or candidates
        if len(candidates) > 1:
            raise UserError(f"{file}: may be for {candidates[0]} or {candidates[1]}; rename one of the images")
        if candidates or last is None:
            return candidates[0] if candidates else None
        parent = relative.rpartition("/")[0]
        return folder.find(f"{parent}/{last}" if parent else last, str(file))

    def names(self) -> Sequence[str]:
        return sorted([*self._files, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        path = self._files.get(image_name)
        if path is None:
            raise Unannotated(Path(image_name), "no LabelMe file for it")
        outlines, left_out = OutlineCollector(path, height, width, self.classes), []
        try:
            declared = [
                size if said is None else whole_number(said, f"{path}: {key}")
                for key, size, said in zip(
                    ("imageHeight", "imageWidth"), (height, width), self._declared[image_name], strict=True
                )
            ]
            check_size(path, "the image there", tuple(declared), height, width)
            for key, value in _contents(path, gather=True, whole=True):
                if key == "shape":
                    number, shape = value
                    kind = shape.get("shape_type") or "polygon"  # files of before version 3.9 do not say
                    if kind in WITHOUT_AREA:
                        left_out.append(f"shapes[{number}]: {kind}")
                    else:
                        self._add(outlines, path, f"shapes[{number}]", kind, shape)
        except ImageError:
            raise
        except UserError as error:  # what is wrong with one file concerns one image
            raise ImageError(path, str(error).removeprefix(f"{path}: ")) from error
        return outlines.finish(
            [f"{len(left_out)} shapes without an area are left out ({first_few(left_out)})"] if left_out else []
        )

    def _add(self, outlines: OutlineCollector, path: Path, what: str, kind: object, shape: dict[str, Any]) -> None:
        label, group = shape["label"], shape.get("group_id")
        if label not in self._ids:
            raise ImageError(path, f"{what}: the label {shown(label)} is not in {LABELS_FILE}")
        if group is not None:
            group = whole_number(group, f"{path}: {what}.group_id", -(2**53))
        facts = self._ids[label], group
        points = _points(path, what, shape.get("points"))
        if kind == "polygon":
            outlines.add_polygons(what, [points], *facts)
        elif kind not in ("rectangle", "circle", "mask"):
            raise ImageError(
                path, f"{what}: unknown shape_type {shown(kind)}; polygon, rectangle, circle and mask are read"
            )
        elif len(points) != 2:
            raise ImageError(path, f"{what}: a {kind} has two points, this one {len(points)}")
        elif kind == "mask":
            outlines.add_mask(
                what, _placed(path, what, shape.get("mask"), points, outlines.height, outlines.width), *facts
            )
        else:
            (left, top), (right, bottom) = points
            corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            outlines.add_polygons(what, [corners if kind == "rectangle" else _circle(points)], *facts)


def _contents(path: Path, gather: bool, whole: bool = False) -> Iterator[tuple[str, Any]]:
    """The members that count: imagePath, imageHeight, imageWidth, and for each shape ("label", its text).

    gather: whether the shapes are looked at. whole: for each shape ("shape", (number, shape)) in place of its label,
    which is checked to be there. imageData is passed over.
    """
    seen = False
    with open_json(path) as stream:
        for key in stream.members():
            if key == "shapes" and gather:
                seen = True
                for number, (shape, _, _) in enumerate(stream.elements()):
                    label = shape.get("label") if isinstance(shape, dict) else None
                    if not isinstance(label, str) or len(label) > MAX_LABEL_LENGTH or number >= MAX_SHAPES:
                        raise UserError(f"{path}: shapes[{number}]: expected an object with a label")
                    yield ("shape", (number, shape)) if whole else ("label", label)
            elif key in ("imagePath", "imageHeight", "imageWidth"):
                yield key, stream.value()
            else:
                seen |= key == "shapes"
                stream.skip()
    if not seen:
        raise UserError(f'{path}: has no list "shapes"; is it a LabelMe file?')


def _ids_of(labels: set[str]) -> dict[str, int]:
    """Names → numbers: the background 0, the rest from 1, what is to be ignored last."""
    named = sorted(labels - {IGNORED, BACKGROUND})
    ids = {name: number for number, name in enumerate(named, 1)}
    return ids | {name: number for name, number in ((BACKGROUND, 0), (IGNORED, len(named) + 1)) if name in labels}


def _ids_in(path: Path) -> dict[str, int]:
    """labels.txt as LabelMe's own exporters number it: without `__ignore__`, which they number −1, from 0."""
    names = [name for name in read_names(path).values()]
    if len(set(names)) != len(names):
        raise UserError(f"{path}: holds a label twice")
    kept = [name for name in names if name != IGNORED]
    ids = {name: number for number, name in enumerate(kept)}
    return ids | ({IGNORED: len(kept)} if IGNORED in names else {})


def _points(path: Path, what: str, points: object) -> np.ndarray:
    """N×2 float64."""
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)
        for point in points
    ):
        raise ImageError(path, f"{what}: expected points as [[x, y], …]")
    try:
        return np.array(points, np.float64).reshape(-1, 2)
    except OverflowError as error:
        raise ImageError(path, f"{what}: holds a number that is too large") from error


def _circle(points_22: np.ndarray) -> np.ndarray:
    """A circle from its centre and a point on it, as a polygon."""
    angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
    radius = np.hypot(*(points_22[1] - points_22[0]))
    return points_22[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _placed(path: Path, what: str, text: object, points_22: np.ndarray, height: int, width: int) -> np.ndarray:
    """A "mask" shape: a PNG in base64 that fills the box between two points, both of them inside. H×W bool."""
    if not np.isfinite(points_22).all() or (points_22 < 0).any() or (points_22 >= (width, height)).any():
        raise ImageError(path, f"{what}: its mask's box lies outside the image of {width}×{height}")
    (left, top), (right, bottom) = points_22.astype(int)
    box = bottom - top + 1, right - left + 1
    if min(box) < 1:
        raise ImageError(path, f"{what}: its mask's box ends before it begins")
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as error:
        raise ImageError(path, f"{what}: its mask is not base64") from error
    if not data:
        raise ImageError(path, f"{what}: expected a mask as PNG in base64")
    try:
        check_pixel_count(path, *box, data)
        values = decode_label(path, data, height * width).values
    except ImageError as error:
        raise ImageError(path, f"{what}: its mask: {error.reason}") from error
    if values.shape != box:
        raise ImageError(path, f"{what}: its mask is {values.shape[1]}×{values.shape[0]}, its box {box[1]}×{box[0]}")
    placed = np.zeros((height, width), bool)
    placed[top : bottom + 1, left : right + 1] = values != 0
    return placed
