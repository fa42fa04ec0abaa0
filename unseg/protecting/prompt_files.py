"""The files of --boxes and --points: a JSON object from image names to what shows their objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unseg.data.name_matching import file_form, paired_names
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.protecting.points import Points, is_coordinate, points_of
from unseg.storage import image_limits
from unseg.storage.image_limits import ImageError
from unseg.storage.strict_json import loads_once

BoxesOf = dict[str, tuple[tuple[float, ...], ...]]
PointsOf = dict[str, Points]
Hint = TypeVar("Hint")  # an image's boxes or its points


def of_images(hints: Mapping[str, Hint], samples: Sequence[SampleFile]) -> dict[str, Hint]:
    """Returns boxes or points under the images' own names.

    The file may write them with backslashes, or in another Unicode form. Names without an image stay as they are.
    """
    written = {name.replace("\\", "/"): name for name in hints} | {name: name for name in hints}
    pairs = paired_names((sample.name for sample in samples), written, file_form)
    own_names = {written[there]: name for name, there in pairs.items()}
    return {own_names.get(name, name): found for name, found in hints.items()}


def name_alone(samples: Sequence[SampleFile]) -> str | None:
    """Returns the name of an image that is the only one; None where there are more."""
    return samples[0].name if len(samples) == 1 else None


def read_boxes(path: Path, alone: str | None = None) -> BoxesOf:
    """Returns image name → boxes (x1, y1, x2, y2) in pixels, corners inclusive; UserError for anything else.

    alone: the name of the only image, whose boxes the file may hold by themselves.
    """
    content = _read(path, "--boxes", '{"name.jpg": [[x1, y1, x2, y2], …]}', alone)
    for name, boxes in content.items():
        for box in boxes if isinstance(boxes, list) else [None]:
            if not _is_box(box):
                raise UserError(
                    f"--boxes {path}: {name[:200]}: {str(box)[:80]} is no box; give [x1, y1, x2, y2] with x1 ≤ x2,"
                    " y1 ≤ y2"
                )
    return {name: tuple(tuple(box) for box in boxes) for name, boxes in content.items()}


def read_points(path: Path, alone: str | None = None) -> PointsOf:
    """Returns image name → its points; UserError for anything else. An image may have none: an empty list.

    alone: the name of the only image, whose points the file may hold by themselves.
    """
    content = _read(path, "--points", '{"name.jpg": [[x, y], …]}', alone)
    found: PointsOf = {}
    for name, points in content.items():
        try:
            found[name] = points_of(points)
        except ValueError as error:
            raise UserError(f"--points {path}: {name[:200]}: {error}") from error
    return found


def _read(path: Path, option: str, form: str, alone: str | None) -> dict[str, Any]:
    try:
        content = loads_once(image_limits.read_bytes(path))
    except ImageError as error:
        raise UserError(f"{option} {path}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option} {path}: cannot be read as JSON: {error}") from error
    if alone is not None and _has_no_name(content, option, alone):
        return {alone: content}
    if not isinstance(content, dict):
        raise UserError(f"{option} {path}: give an object {form}")
    return content


def _has_no_name(content: Any, option: str, alone: str) -> bool:
    """Returns whether a file holds what belongs to the only image by itself."""
    if isinstance(content, dict):
        return option == "--points" and "object" in content and alone not in content
    return isinstance(content, list)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_coordinate, box)):
        return False
    left, top, right, bottom = box
    return left <= right and top <= bottom
