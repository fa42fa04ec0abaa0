"""Points that show where the object of an image is, and where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FARTHEST = 2.0**31  # pixels: coordinates reach no farther
FORM = '[[x, y], …], or {"object": [[x, y], …], "background": [[x, y], …]}'
Point = tuple[float, float]


@dataclass(frozen=True)
class Points:
    """Points (x, y) of one image, in pixels from the top left. object: on the object. background: beside it."""

    object: tuple[Point, ...]
    background: tuple[Point, ...] = ()

    @property
    def count(self) -> int:
        """Returns how many there are."""
        return len(self.object) + len(self.background)

    def inside(self, height: int, width: int) -> Points:
        """Returns the points that lie on an image of that size."""
        return Points(
            *(
                tuple((x, y) for x, y in part if -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5)
                for part in (self.object, self.background)
            )
        )


def points_of(value: Any) -> Points:
    """Returns points in any of the forms that JSON and callers may give; ValueError says why it is none.

    value: pairs (x, y) on the object, or an object with "object" and, if there are any, "background".
    """
    if not isinstance(value, Mapping):
        return Points(_pairs(value))
    if not {"object"} <= value.keys() <= {"object", "background"}:
        raise ValueError(f"{str(value)[:80]} names no points; give {FORM}")
    return Points(_pairs(value["object"]), _pairs(value.get("background", ())))


def _pairs(value: Any) -> tuple[Point, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{str(value)[:80]} names no points; give {FORM}")
    for point in value:
        if not isinstance(point, Sequence) or len(point) != 2 or not all(map(is_coordinate, point)):
            raise ValueError(f"{str(point)[:80]} is no point; give {FORM}")
    return tuple((x, y) for x, y in value)


def is_coordinate(value: Any) -> bool:
    """Returns whether a value is a number that can be a place in an image or beside it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= FARTHEST
