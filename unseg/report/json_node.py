"""A value of a JSON file that knows where it stands, so that an error can name the place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from unseg.errors import UserError
from unseg.storage.files import printable

LARGEST = 1e12  # of a number that can be shown
SHOWN = 40  # characters of a wrong value in a message


class Node:
    """A value of the JSON with its place in the file."""

    def __init__(self, value: Any, file: Path, where: str = "") -> None:
        self.value, self.file, self.where = value, file, where

    def __getitem__(self, key: str) -> Node:
        """Returns what stands under `key`. Raises a UserError if this is no object, or has no such key."""
        found = self.get(key)
        if found is None:
            raise self.error(f"has no '{key}'")
        return found

    def get(self, key: str) -> Node | None:
        """Returns what stands under `key`; None if it is missing or null."""
        value = self.value.get(key) if key in self.fields() else None
        return None if value is None else Node(value, self.file, f"{self.where}.{key}".lstrip("."))

    def items(self) -> list[Node]:
        """Returns the items of a list."""
        if not isinstance(self.value, list):
            raise self.error("is no list")
        return [Node(value, self.file, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def fields(self) -> list[str]:
        """Returns the names of an object."""
        if not isinstance(self.value, dict):
            raise self.error("is no object")
        return list(self.value)

    def text(self) -> str:
        """Returns a text."""
        if not isinstance(self.value, str):
            raise self.error("is no text")
        return self.value

    def number(self) -> float:
        """Returns a number that can be shown: finite, and at most LARGEST."""
        if type(self.value) not in (int, float) or abs(self.value) > LARGEST or math.isnan(self.value):
            raise self.error("is no number that can be shown")
        return float(self.value)

    def whole(self) -> int:
        """Returns a whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error("is no whole number")
        return self.value

    def error(self, problem: str) -> UserError:
        """Returns the error that names this place, what is wrong there, and the start of the value."""
        place, shown = printable(self.where) or "the file", self._shown()
        return UserError(f"{self.file}: {place} {problem}: {shown}; it is not as unseg evaluate wrote it")

    def _shown(self) -> str:
        if isinstance(self.value, dict):
            return "an object"
        if isinstance(self.value, list):
            return "a list"
        shown = printable(json.dumps(self.value, ensure_ascii=False))
        return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"


def number(node: Node | None) -> float | None:
    """Returns the number of a node; None for none."""
    return None if node is None else node.number()


def items(node: Node | None) -> list[Node]:
    """Returns the items of a list; nothing for none."""
    return [] if node is None else node.items()
