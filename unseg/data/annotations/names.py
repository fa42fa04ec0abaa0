"""Checks file names out of annotations, and matches them with the images that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.picture_kinds import is_picture

MAX_NAME = 255  # bytes a part of a path, on every common file system
MAX_PATH = 4096
DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(name: object, where: str) -> str:
    """Returns a relative file name with forward slashes; UserError where it is none, or leads out of its folder.

    where: names file, entry and field in the error. Backslashes count as slashes, as Windows tools write them.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: expected a file name, found {shown(name)}")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in name):
        raise UserError(f"{where}: {shown(name)} holds a character that no file name has")
    parts = name.replace("\\", "/")
    if parts.startswith("/") or DRIVE.match(parts):
        raise UserError(f"{where}: {shown(name)} is absolute; names must be relative to the images' folder")
    if ".." in parts.split("/"):
        raise UserError(f"{where}: {shown(name)} leads out of its folder")
    normal = str(PurePosixPath(parts))
    if len(normal) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in normal.split("/")) or normal == ".":
        raise UserError(f"{where}: {shown(name)} is no usable file name")
    return normal


def shown(value: object, at_most: int = 80) -> str:
    """Returns a value out of a file as an error may show it: one line, printable, not long."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if type(value) is int and not -(10**18) < value < 10**18:
        return "a number of over 18 digits"
    text = ascii(value[:at_most] if isinstance(value, str) else value)
    return text[: at_most + 2]


def whole_number(value: object, where: str, low: int = 0, high: int = 2**53) -> int:
    """Returns an integer from low to high; JSON's 3.0, as some exporters write, is one too."""
    number = int(value) if type(value) is float and value.is_integer() else value
    if type(number) is not int or not low <= number <= high:
        raise UserError(f"{where}: expected a whole number from {low} on, found {shown(value)}")
    return number


class ImagesFolder:
    """The images under a folder.

    names: relative to it, sorted. problems: sub-folders that cannot be read.
    """

    def __init__(self, root: Path, names: Sequence[str], problems: Sequence[Problem] = ()) -> None:
        self.root, self.names, self.problems = root, tuple(names), tuple(problems)
        self._known = set(names)
        self._by_last_part: dict[str, list[str]] = {}
        for name in names:
            self._by_last_part.setdefault(name.rpartition("/")[2], []).append(name)

    @classmethod
    def open(cls, root: Path) -> ImagesFolder:
        """Lists a folder, with all that is below it; UserError where there is none."""
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of images")
        problems: list[Problem] = []
        files = walk(root, problems)
        names = sorted(path.relative_to(root).as_posix() for path in files if is_picture(path))
        return cls(root, names, problems)

    @cached_property
    def _root_parts(self) -> tuple[str, ...]:
        return self.root.resolve().parts

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def find(self, name: str, where: str) -> str | None:
        """Returns the image that annotations call `name`, relative to the root; None where it is not there.

        Found under the very name; or where the name starts with the root's own last folders (train2017/1.jpg in
        …/train2017); or in one sub-folder (1.jpg as city/1.jpg). UserError where two sub-folders have it.
        """
        if name in self._known:
            return name
        parts = name.split("/")
        for count in range(1, len(parts)):
            rest = "/".join(parts[count:])
            if tuple(parts[:count]) == self._root_parts[-count:] and rest in self._known:
                return rest
        deeper = [there for there in self._by_last_part.get(parts[-1], ()) if there.endswith(f"/{name}")]
        if len(deeper) > 1:
            raise UserError(
                f"{where}: {name} may be {deeper[0]} or {deeper[1]} in {self.root}; give the sub-folder as"
                " the images' folder"
            )
        return deeper[0] if deeper else None


def absent(names: Mapping[str, str]) -> list[Problem]:
    """Returns a line for each image that is annotated and not there.

    names: as annotated → where it is named.
    """
    return [Problem(name, f"named in {where}, but there is no such image") for name, where in sorted(names.items())]
