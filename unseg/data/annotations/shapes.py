"""Labelled shapes of images, as tools for annotating export them: what those formats have in common.

Tools name their classes. They are numbered as the export lists them, else in the order of their names, from 1.
Coordinates are (x, y) in pixels, a pixel reaching from its number to the next; what a shape covers is filled as COCO's
polygons are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unseg.data.annotations.core import Annotated, Annotations, ClassTable, Unannotated, check_size, first_few
from unseg.data.annotations.names import ImagesFolder, safe_name, shown
from unseg.data.annotations.outlines import FEWEST_CORNERS, OutlineCollector
from unseg.data.annotations.runs import OutlineError, runs_of_polygons
from unseg.data.samples import Problem
from unseg.errors import UserError
from unseg.storage.files import open_for_reading
from unseg.storage.image_limits import ImageError

MAX_LABELS, MAX_LABEL_LENGTH = 100_000, 1000
MAX_SHAPES = 1_000_000  # of all images of one document
ELLIPSE_CORNERS = 720
MAX_BYTES = 256 << 20  # of a document, which is read whole


def document_bytes(path: Path) -> bytes:
    """Returns a whole document; UserError where it cannot be read or is over `MAX_BYTES`, of which nothing is read."""
    try:
        with open_for_reading(path) as file:
            is_too_large = os.fstat(file.fileno()).st_size > MAX_BYTES
            data = b"" if is_too_large else file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if is_too_large or len(data) > MAX_BYTES:
        raise UserError(f"{path}: over {MAX_BYTES >> 20} MB: export it in parts")
    return data


@dataclass(frozen=True)
class Shape:
    """One labelled region. what: names it in errors. polygon, holes: N×2 float64 each. mask: H×W bool for an image of
    a height and width, in place of them."""

    what: str
    label: str
    polygon: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    holes: tuple[np.ndarray, ...] = ()
    mask: Callable[[int, int], np.ndarray] | None = None


@dataclass(frozen=True)
class Described:
    """What an export says of one image. where: the file, and the entry in it. names: what the image may be called, the
    likeliest first. size: height and width, where it says them. left_out: shapes without an area."""

    where: str
    names: Sequence[str]
    size: tuple[int, int] | None
    shapes: Sequence[Shape]
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Export:
    """A file, or a folder of files, of one tool. tool: its name. labels: in the export's own order; empty where it has
    no list. images: with a source of each, which is asked again when it is read; broken: what could not be read."""

    path: Path
    format: str
    tool: str
    labels: Sequence[str]
    images: Iterable[tuple[Callable[[], Described], Described]]
    broken: Sequence[Problem] = ()


class ShapeAnnotations(Annotations):
    """Holds where each image's shapes are. sources: image name → what reads them. ids: label → class id."""

    def __init__(
        self,
        export: Export,
        sources: Mapping[str, Callable[[], Described]],
        ids: Mapping[str, int],
        missing: Sequence[Problem],
    ) -> None:
        self.format, self._path, self._sources, self._ids = export.format, export.path, dict(sources), dict(ids)
        self.missing = tuple(missing)
        order = "as it lists them" if export.labels else "in the order of their names"
        self.statement = (
            f"{export.tool}: {len(sources)} images in {export.path}, {len(ids)} labels numbered from 1 {order}"
        )
        self.classes = ClassTable({number: name for name, number in ids.items()}, None, ids=frozenset(ids.values()))

    @classmethod
    def of(cls, export: Export, images_root: Path) -> ShapeAnnotations:
        """Finds the images of an export; UserError where it speaks of none, or of one twice."""
        folder = ImagesFolder.open(images_root)
        sources: dict[str, Callable[[], Described]] = {}
        missing = [*folder.problems, *export.broken]
        labels: set[str] = set()
        count = 0
        for source, described in export.images:
            count += len(described.shapes)
            labels |= {shape.label for shape in described.shapes}
            if len(labels) > MAX_LABELS or count > MAX_SHAPES:
                raise UserError(f"{export.path}: over {MAX_LABELS:,} labels or {MAX_SHAPES:,} shapes")
            image = _image_of(described, folder)
            if image is None:
                missing.append(Problem(_named(described), "no such image"))
            elif image in sources:
                raise UserError(f"{described.where}: is for {image}, as is another entry; remove one")
            else:
                sources[image] = source
        if not sources and not missing:
            raise UserError(f"{export.path}: speaks of no image")
        listed = list(dict.fromkeys(export.labels)) or sorted(labels)
        unlisted = sorted(labels - set(listed))
        ids = {label: number for number, label in enumerate([*listed, *unlisted], 1)}
        return cls(export, sources, ids, missing)

    def names(self) -> Sequence[str]:
        return sorted([*self._sources, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        source = self._sources.get(image_name)
        if source is None:
            raise Unannotated(Path(image_name), "no shapes for it")
        outlines = OutlineCollector(self._path, height, width, self.classes)
        try:
            described = source()
            if described.size is not None:
                check_size(self._path, f"{described.where}: the image there", described.size, height, width)
            for number, shape in enumerate(described.shapes, 1):
                self._add(outlines, shape, number)
        except ImageError:
            raise
        except UserError as error:  # what is wrong with one file concerns one image
            raise ImageError(self._path, str(error)) from error
        left_out = described.left_out
        notes = [f"{len(left_out)} shapes without an area are left out ({first_few(left_out)})"] if left_out else []
        return outlines.finish(notes)

    def _add(self, outlines: OutlineCollector, shape: Shape, number: int) -> None:
        if shape.label not in self._ids:
            raise ImageError(outlines.path, f"{shape.what}: the label {shown(shape.label)} was not there before")
        class_id, height, width = self._ids[shape.label], outlines.height, outlines.width
        if shape.mask is not None:
            outlines.add_mask(shape.what, shape.mask(height, width), class_id, number)
        elif shape.holes and len(shape.polygon) >= FEWEST_CORNERS:
            try:
                mask = runs_of_polygons([shape.polygon], height, width)[0].mask(height, width)
                for hole in shape.holes:
                    if len(hole) >= FEWEST_CORNERS:
                        mask &= ~runs_of_polygons([hole], height, width)[0].mask(height, width)
            except OutlineError as error:
                raise ImageError(outlines.path, f"{shape.what}: {error}") from error
            outlines.add_mask(shape.what, mask, class_id, number)
        else:
            outlines.add_polygons(shape.what, [shape.polygon], class_id, number)


def _image_of(described: Described, folder: ImagesFolder) -> str | None:
    if not described.names:
        raise UserError(f"{described.where}: names no image")
    for name in described.names:
        found = folder.find(safe_name(name, described.where), described.where)
        if found is not None:
            return found
    return None


def _named(described: Described) -> str:
    return safe_name(described.names[0], described.where)


# --- values out of files ---------------------------------------------------------------------------------------------


def label_in(value: object, where: str) -> str:
    """Returns a label; UserError where it is none."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_LABEL_LENGTH:
        raise UserError(f"{where}: expected a label, found {shown(value)}")
    return value.strip()


def decimal_in(value: object, where: str) -> float:
    """Returns a finite number, which may stand in a text; UserError where it is none."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else np.nan
    except (ValueError, OverflowError):
        number = np.nan
    if not np.isfinite(number):
        raise UserError(f"{where}: expected a number, found {shown(value)}")
    return number


def corners_in(points: object, where: str) -> np.ndarray:
    """Returns corners, N×2 float64, of a list of pairs of numbers."""
    pairs: list[Any] = points if isinstance(points, list) else [None]
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise UserError(f"{where}: expected points as [[x, y], …]")
    return np.array([[decimal_in(value, where) for value in pair] for pair in pairs], np.float64).reshape(-1, 2)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Returns the corners of a rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """Returns the corners of a polygon that stands for an ellipse."""
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def turned(corners_N2: np.ndarray, degrees: float, about: tuple[float, float]) -> np.ndarray:
    """Returns corners turned clockwise, as the image is seen, about a point."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (corners_N2 - about) @ turn + about
