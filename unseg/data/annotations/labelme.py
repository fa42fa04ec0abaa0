"""LabelMe: one json an image, with named shapes. Source: labelme's label_file.py and utils/shape.py.

Coordinates are (x, y) in pixels, a pixel reaching from its number to the next; what a shape covers is filled as COCO's
polygons are. LabelMe names its classes. They are numbered by labels.txt where there is one, from 0 as LabelMe's own
exporters do, else in the order of their names from 1. `__ignore__` and `_background_` are void.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassTable,
    Unannotated,
    check_pixel_count,
    check_size,
    first_few,
)
from unseg.data.annotations.json_stream import open_json
from unseg.data.annotations.names import ImagesFolder, ImageStems, number_in, shown, whole_number
from unseg.data.annotations.outlines import OutlineCollector
from unseg.data.annotations.yolo import read_names
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError
from unseg.storage.label_decoding import decode_label

IGNORED, BACKGROUND = "__ignore__", "_background_"
OUTLINES = ("polygon", "rotation")  # the second: X-AnyLabeling's rectangles that are turned, as their four corners
WITHOUT_AREA = ("line", "linestrip", "point", "points")
LABELS_FILE = "labels.txt"
MAX_SHAPES = 100_000  # a file, while names are gathered
MAX_LABELS = 100_000
MAX_LABEL_LENGTH = 1000
CIRCLE_CORNERS = 720  # a circle of 4,000 pixels' radius is then nowhere more than 0.04 pixels off


@dataclass(frozen=True)
class _Said:
    """Holds what a file says besides its shapes, not checked yet, and the labels of its shapes."""

    image_path: object
    height: object
    width: object
    labels: frozenset[str]


@dataclass
class _Gathered:
    """Holds what all files of a folder say. declared: image name → height and width as its file says."""

    files: dict[str, Path] = field(default_factory=dict)
    declared: dict[str, tuple[object, object]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    broken: list[UserError] = field(default_factory=list)


class LabelMe(Annotations):
    """Reads one json for each image.

    files: image name → its json. declared: image name → height and width as its json says. ids: label → class id.
    """

    format = "labelme"

    def __init__(
        self,
        files: Mapping[str, Path],
        declared: Mapping[str, tuple[object, object]],
        ids: Mapping[str, int],
        missing: Sequence[Problem],
        statement: str,
    ) -> None:
        self._files, self._declared, self._ids = dict(files), dict(declared), dict(ids)
        self.missing, self.statement = tuple(missing), statement
        self.classes = class_table(ids)

    @classmethod
    def open(cls, path: Path, images_root: Path, progress: Progress = SILENT) -> LabelMe:
        """Looks at every json of a folder (recursive), or at one file, and finds its image."""
        problems: list[Problem] = []
        root = path.parent if path.is_file() else path
        files = [path] if path.is_file() else walk(path, problems)
        files = [file for file in files if file.suffix.lower() == ".json"]
        if not files:
            raise UserError(f"{path}: no LabelMe file (.json) there")
        folder = ImagesFolder.open(images_root)
        listed = next((place / LABELS_FILE for place in (root, root.parent) if (place / LABELS_FILE).is_file()), None)
        images = ImageStems(folder, [_stem_in(root, file) for file in files])
        found = _gather(track(progress, files, len(files), "annotations"), root, images, listed is None)
        if len(found.broken) == len(files):
            raise found.broken[0]
        ids = numbered(found.labels) if listed is None else _ids_in(listed)
        order = f"numbered by {LABELS_FILE}" if listed else "numbered from 1 in the order of their names"
        statement = f"LabelMe: {len(files)} files in {root}, {len(ids)} labels {order}"
        missing = [*folder.problems, *problems, *found.problems]
        return cls(found.files, found.declared, ids, missing, statement)

    @classmethod
    def of_one(cls, path: Path, image_name: str, ids: Mapping[str, int]) -> LabelMe:
        """Opens the one file of one image. ids: label → class id."""
        said = _said(path, gather_labels=False)
        return cls({image_name: path}, {image_name: (said.height, said.width)}, ids, (), "")

    def names(self) -> Sequence[str]:
        return sorted([*self._files, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        path = self._files.get(image_name)
        if path is None:
            raise Unannotated(Path(image_name), "no LabelMe file for it")
        outlines = OutlineCollector(path, height, width, self.classes)
        left_out: list[str] = []
        try:
            self._check_declared(image_name, path, height, width)
            for key, value in _contents(path, gather=True, whole=True):
                if key == "shape":
                    number, shape = value
                    kind = shape.get("shape_type") or "polygon"  # files of before version 3.9 do not say
                    if kind in WITHOUT_AREA:
                        left_out.append(f"shapes[{number}]: {kind}")
                    else:
                        self._add(outlines, f"shapes[{number}]", kind, shape)
        except ImageError:
            raise
        except UserError as error:  # what is wrong with one file concerns one image
            raise ImageError(path, str(error).removeprefix(f"{path}: ")) from error
        notes = [f"{len(left_out)} shapes without an area are left out ({first_few(left_out)})"] if left_out else []
        return outlines.finish(notes)

    def _check_declared(self, image_name: str, path: Path, height: int, width: int) -> None:
        """Raises UserError or ImageError where the file speaks of an image of another size."""
        said_height, said_width = self._declared[image_name]
        declared_height = height if said_height is None else whole_number(said_height, f"{path}: imageHeight")
        declared_width = width if said_width is None else whole_number(said_width, f"{path}: imageWidth")
        check_size(path, "the image there", (declared_height, declared_width), height, width)

    def _add(self, outlines: OutlineCollector, what: str, kind: object, shape: dict[str, Any]) -> None:
        path, label = outlines.path, _label(shape)
        if label not in self._ids:
            raise ImageError(path, f"{what}: the label {shown(label)} is not in {LABELS_FILE}")
        facts = self._ids[label], _group(shape.get("group_id"), f"{path}: {what}.group_id")
        points = _points(path, what, shape.get("points"))
        closed = len(points) == 5 and np.array_equal(points[0], points[-1])
        if kind in OUTLINES or (kind == "rectangle" and (len(points) == 4 or closed)):
            outlines.add_polygons(what, [points], *facts)
            return
        if kind not in ("rectangle", "circle", "mask"):
            raise ImageError(
                path, f"{what}: unknown shape_type {shown(kind)}; polygon, rectangle, circle and mask are read"
            )
        if len(points) != 2:
            reason = f"a {kind} has two points, this one {len(points)}"
            if len(points) > 2 or kind == "mask":
                raise ImageError(path, f"{what}: {reason}")
            outlines.leave_out(what, reason)
            return
        if kind == "mask":
            mask = _placed(path, what, shape.get("mask"), points, outlines.height, outlines.width)
            outlines.add_mask(what, mask, *facts)
            return
        (left, top), (right, bottom) = points
        rectangle = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        outlines.add_polygons(what, [rectangle if kind == "rectangle" else _circle(points)], *facts)


# --- looking at all the files ----------------------------------------------------------------------------------------


def _stem_in(root: Path, file: Path) -> str:
    return stem_of(file.relative_to(root).as_posix())


def _gather(files: Iterable[Path], root: Path, images: ImageStems, gather_labels: bool) -> _Gathered:
    """Looks at every file; UserError where two are for one image.

    A file that cannot be read concerns its image alone.
    """
    found = _Gathered()
    for file in files:
        relative = file.relative_to(root).as_posix()
        said, reason = _Said(None, None, None, frozenset()), "a LabelMe file without an image"
        try:
            said = _said(file, gather_labels)
        except UserError as error:  # `read` meets it again, if the file has an image
            found.broken.append(error)
            reason = str(error)
        found.labels |= said.labels
        if len(found.labels) > MAX_LABELS:
            raise UserError(f"{file}: over {MAX_LABELS} different labels")
        image = images.image_of(relative, file, said.image_path, "imagePath")
        if image is None:
            found.problems.append(Problem(relative, reason))
        elif image in found.files:
            raise UserError(f"{file}: is for {image}, as is {found.files[image]}; remove one")
        else:
            found.files[image], found.declared[image] = file, (said.height, said.width)
    return found


def labels_of(file: Path) -> frozenset[str]:
    """Returns the labels of a file's shapes; UserError where it is none of LabelMe's."""
    return _said(file, gather_labels=True).labels


def _said(file: Path, gather_labels: bool) -> _Said:
    said: dict[str, Any] = {}
    labels: set[str] = set()
    for key, value in _contents(file, gather=gather_labels):
        if key == "label":
            labels.add(value)
        else:
            said[key] = value
        if len(labels) > MAX_LABELS:
            break
    return _Said(said.get("imagePath"), said.get("imageHeight"), said.get("imageWidth"), frozenset(labels))


# --- one file --------------------------------------------------------------------------------------------------------


def _contents(path: Path, gather: bool, whole: bool = False) -> Iterator[tuple[str, Any]]:
    """Yields the members that count: imagePath, imageHeight, imageWidth, and for each shape ("label", its text).

    gather: whether the shapes are looked at. whole: for each shape ("shape", (number, shape)) in place of its label,
    which is checked to be there. imageData is passed over.
    """
    seen = False
    with open_json(path) as stream:
        for key in stream.members():
            if key == "shapes" and gather:
                seen = True
                for number, (shape, _, _) in enumerate(stream.elements()):
                    label = _label(shape)
                    if label is None or len(label) > MAX_LABEL_LENGTH or number >= MAX_SHAPES:
                        raise UserError(f"{path}: shapes[{number}]: expected an object with a label")
                    yield ("shape", (number, shape)) if whole else ("label", label)
            elif key in ("imagePath", "imageHeight", "imageWidth"):
                yield key, stream.value()
            else:
                seen |= key == "shapes"
                stream.skip()
    if not seen:
        raise UserError(f'{path}: has no list "shapes"; is it a LabelMe file?')


def _label(shape: object) -> str | None:
    """Returns a shape's label: a number as it is written, an empty one where it has null; None where it has none."""
    if not isinstance(shape, dict) or "label" not in shape:
        return None
    label = shape["label"]
    if label is None:
        return ""
    return str(label) if isinstance(label, (str, int, float)) and not isinstance(label, bool) else None


def class_table(ids: Mapping[str, int]) -> ClassTable:
    """Returns the classes of labels. ids: label → class id."""
    void = frozenset({ids[name] for name in (IGNORED, BACKGROUND) if name in ids})
    return ClassTable({number: name for name, number in ids.items()}, None, void, frozenset(ids.values()))


def numbered(labels: set[str]) -> dict[str, int]:
    """Numbers the labels: the background 0, the rest from 1, what is to be ignored last."""
    named = sorted(labels - {IGNORED, BACKGROUND})
    ids = {name: number for number, name in enumerate(named, 1)}
    return ids | {name: number for name, number in ((BACKGROUND, 0), (IGNORED, len(named) + 1)) if name in labels}


def _ids_in(path: Path) -> dict[str, int]:
    """Numbers the lines of labels.txt from 0 as LabelMe's own exporters do, `__ignore__` (their −1) last."""
    names = list(read_names(path).values())
    if len(set(names)) != len(names):
        raise UserError(f"{path}: holds a label twice")
    kept = [name for name in names if name != IGNORED]
    ids = {name: number for number, name in enumerate(kept)}
    return ids | ({IGNORED: len(kept)} if IGNORED in names else {})


def _group(value: object, where: str) -> int | None:
    """Returns a shape's group as the number of its instance; None where it has none, or a text that is no number."""
    number = number_in(value)
    return None if number is None or isinstance(number, str) else whole_number(number, where, -(2**53))


def _points(path: Path, what: str, points: object) -> np.ndarray:
    """Returns a shape's points, N×2 float64."""
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
    """Returns the polygon of a circle that is given by its centre and a point on it."""
    angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
    radius = np.hypot(*(points_22[1] - points_22[0]))
    return points_22[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _placed(path: Path, what: str, text: object, points_22: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a "mask" shape, a PNG in base64 that fills the box between two points, both of them inside: H×W bool."""
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
        check_pixel_count(path, box[0], box[1], data)
        values = decode_label(path, data, height * width).values
    except ImageError as error:
        raise ImageError(path, f"{what}: its mask: {error.reason}") from error
    if values.shape != box:
        raise ImageError(path, f"{what}: its mask is {values.shape[1]}×{values.shape[0]}, its box {box[1]}×{box[0]}")
    placed = np.zeros((height, width), bool)
    placed[top : bottom + 1, left : right + 1] = values != 0
    return placed
