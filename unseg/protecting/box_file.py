"""The boxes file: a JSON object from image names to their boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unseg.data.name_matching import file_form, paired_names
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.storage import image_limits
from unseg.storage.image_limits import ImageError

FARTHEST = 2.0**31  # pixels: boxes reach no farther
BoxesOf = dict[str, tuple[tuple[float, ...], ...]]


def boxes_of_images(path: Path, samples: Sequence[SampleFile]) -> BoxesOf:
    """Returns image name → boxes as `read_boxes` does, under the images' own names.

    The file may write them with backslashes, or in another Unicode form. Names without an image stay as they are.
    """
    boxes = read_boxes(path)
    written = {name.replace("\\", "/"): name for name in boxes} | {name: name for name in boxes}
    pairs = paired_names((sample.name for sample in samples), written, file_form)
    own_names = {written[there]: name for name, there in pairs.items()}
    return {own_names.get(name, name): found for name, found in boxes.items()}


def read_boxes(path: Path) -> BoxesOf:
    """Returns image name → boxes (x1, y1, x2, y2) in pixels, corners inclusive; UserError for anything else."""
    try:
        content = json.loads(image_limits.read_bytes(path))
    except ImageError as error:
        raise UserError(f"--boxes {path}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--boxes {path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f'--boxes {path}: give an object {{"name.jpg": [[x1, y1, x2, y2], …]}}')
    for name, boxes in content.items():
        for box in boxes if isinstance(boxes, list) else [None]:
            if not _is_box(box):
                raise UserError(
                    f"--boxes {path}: {name[:200]}: {str(box)[:80]} is no box; give [x1, y1, x2, y2] with x1 ≤ x2,"
                    " y1 ≤ y2"
                )
    return {name: tuple(tuple(box) for box in boxes) for name, boxes in content.items()}


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_coordinate, box)):
        return False
    left, top, right, bottom = box
    return left <= right and top <= bottom


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= FARTHEST
