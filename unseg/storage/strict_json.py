"""JSON that people write by hand: a name that is there twice is an error, where Python takes the last in silence."""

from __future__ import annotations

import json
from typing import Any


def loads_once(text: str | bytes) -> Any:
    """Returns what JSON holds; ValueError where it is none, or where an object names something twice."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} is there twice")
        found[name] = value
    return found
