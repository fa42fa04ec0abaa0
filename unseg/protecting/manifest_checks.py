"""The values in a manifest's line, checked: it may come from anyone, and its names decide what is read and removed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import Any

from unseg.protecting.points import points_of
from unseg.storage.files import TEMPORARY, stays_inside

_NAMES = ("input", "mask")
_NUMBERS = {
    "width": int,
    "height": int,
    "planes": int,
    "orientation": int,
    "max_over": int,
    "object_budget": float,
    "background_budget": float,
    "object_share": float,
    "psnr": float,
    "delta_e": float,
    "s_cielab": float,
    "ssim": float,  # of images that are each other's negative, below 0
    "over_budget": float,
}


def checked_values(values: Any, names: Iterable[str], own_names: Collection[str]) -> dict[str, Any]:
    """Returns a line's values by their names, each of its type; ValueError names the one that is not as it should be.

    names: of all fields that there are. own_names: those that no output has.
    """
    if not isinstance(values, dict):
        raise ValueError("no object")
    given = {name: values[name] for name in names if values.get(name) is not None}
    return {name: _checked(name, value, own_names) for name, value in given.items()}


def _checked(name: str, value: Any, own_names: Collection[str]) -> Any:
    """Returns the value of one field as an `unseg.protecting.manifest.Entry` holds it; ValueError where it is none."""
    if name == "boxes":
        value = tuple(tuple(map(number, box)) for box in value)
        good = all(len(box) == 4 for box in value)
    elif name == "value_ranges":
        value = tuple(tuple(map(number, ends)) for ends in value)
        good = bool(value) and all(len(ends) == 2 and ends[0] < ends[1] for ends in value)
    elif name == "bands":
        value = tuple(map(number, value))
        good = all(isinstance(band, int) and band > 0 for band in value)
    elif name == "points":
        value, good = points_of(value), True
    elif name == "claims":
        value = tuple(value)
        good = all(_is_output(one, own_names) for one in value)
    elif name == "output":
        good = _is_output(value, own_names)
    elif name in _NUMBERS:
        value = number(value)
        good = (value >= 0 or name == "ssim") and (_NUMBERS[name] is float or isinstance(value, int))
    else:
        good = isinstance(value, str) and (name not in _NAMES or stays_inside(value) or value == ".")
    if not good:
        raise ValueError(f"{name}: {str(value)[:60]!r}")
    return value


def _is_output(name: Any, own_names: Collection[str]) -> bool:
    """Returns whether an output may have the name: below the folder, and not that of what lies there besides images."""
    if not isinstance(name, str) or not stays_inside(name):
        return False
    path = PurePosixPath(name)
    own = {path.as_posix().casefold(), path.parts[0].casefold()} & set(own_names)
    return not own and not TEMPORARY.fullmatch(path.name)


def number(value: Any) -> int | float:
    """Returns a value that is a finite number; ValueError for any other."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"no number: {str(value)[:60]!r}")
    return value
