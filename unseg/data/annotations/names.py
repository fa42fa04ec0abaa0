"""Checks file names out of annotations, and matches them with the images that are there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from unseg.data.name_matching import file_form, paired_names, unicode_form
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.picture_kinds import is_picture

MAX_NAME = 255  # bytes a part of a path, on every common file system
MAX_PATH = 4096
DRIVE = re.compile(r"[A-Za-z]:")
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as a program writes a whole number in a text


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
    """Returns an integer from low to high; 3.0 and "3", as some exporters write, are ones too."""
    number = number_in(value)
    if type(number) is not int or not low <= number <= high:
        raise UserError(f"{where}: expected a whole number from {low} on, found {shown(value)}")
    return number


def number_in(value: object) -> object:
    """Returns the whole number that a float or a text stands for; anything else as it is."""
    if type(value) is float and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


class ImagesFolder:
    """The images under a folder.

    names: relative to it, sorted. problems: sub-folders that cannot be read.
    """

    def __init__(self, root: Path, names: Sequence[str], problems: Sequence[Problem] = ()) -> None:
        self.root, self.names, self.problems = root, tuple(names), tuple(problems)
        self._known = set(names)

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
    def _exact(self) -> _Endings:
        return _Endings(self.names, str)

    @cached_property
    def _forms(self) -> _Endings:
        return _Endings(self.names, file_form)

    @cached_property
    def _root_parts(self) -> tuple[str, ...]:
        return tuple(map(unicode_form, self.root.resolve().parts))

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def find(self, name: str, where: str) -> str | None:
        """Returns the image that annotations call `name`, relative to the root; None where it is not there.

        Found under the very name; or where the name starts with the root's own last folders (train2017/1.jpg in
        …/train2017); or in one sub-folder (1.jpg as city/1.jpg). Where none of these is there, the same counts for
        names in another Unicode form, or with the suffix in another case. UserError where two images may be meant.
        """
        if name in self._known:
            return name
        return self._find(self._exact, name, where) or self._find(self._forms, name, where)

    def find_here(self, name: str, where: str) -> str | None:
        """Returns the image of that name, or of another form of it, as `find` does, in the very place that it names."""
        return name if name in self._known else self._only(self._forms.whole(name), name, where)

    def _find(self, endings: _Endings, name: str, where: str) -> str | None:
        """Returns the image that a name stands for by its place, its place from the root's own folders, or its end."""
        found = self._only(endings.whole(name), name, where)
        parts = name.split("/")
        for count in range(1, min(len(parts), len(self._root_parts) + 1)):
            if found is None and tuple(map(unicode_form, parts[:count])) == self._root_parts[-count:]:
                found = self._only(endings.whole("/".join(parts[count:])), name, where)
        return found or self._only(endings.ending_in(name), name, where)

    def _only(self, choices: Sequence[str], name: str, where: str) -> str | None:
        if len(choices) > 1:
            raise UserError(
                f"{where}: {name} may be {choices[0]} or {choices[1]} in {self.root}; rename one of them, or give its"
                " own folder as the images' folder"
            )
        return choices[0] if choices else None


class _Endings:
    """Names by their last parts, as a form of them has these: each look-up takes the same time, however many there are.

    Tables are made when a name of so many parts is first looked up.
    """

    def __init__(self, names: Sequence[str], form: Callable[[str], str]) -> None:
        self._names, self._form = names, form
        self._deepest = max((name.count("/") + 1 for name in names), default=0)
        self._by_count: dict[int, dict[str, list[str]]] = {}

    @cached_property
    def _whole(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._names:
            found.setdefault(self._form(name), []).append(name)
        return found

    def whole(self, name: str) -> Sequence[str]:
        """Returns the names that are this one."""
        return self._whole.get(self._form(name), ())

    def ending_in(self, name: str) -> Sequence[str]:
        """Returns the names whose last parts are this one."""
        count = name.count("/") + 1
        if count > self._deepest:
            return ()
        if count not in self._by_count:
            found: dict[str, list[str]] = {}
            for there in self._names:
                parts = there.rsplit("/", count)
                if len(parts) >= count:
                    found.setdefault(self._form("/".join(parts[-count:])), []).append(there)
            self._by_count[count] = found
        return self._by_count[count].get(self._form(name), ())


class ImageStems:
    """Finds a folder's images for files of annotations of which each has its own. stems: of all these files' names."""

    def __init__(self, folder: ImagesFolder, stems: Iterable[str]) -> None:
        self.folder = folder
        self._images: dict[str, list[str]] = {}
        for name in folder.names:
            self._images.setdefault(stem_of(name), []).append(name)
        self._pairs = paired_names(stems, self._images)

    def image_of(self, relative: str, file: Path, said: object, field: str) -> str | None:
        """Returns a file's image: by its own name without suffix, else by the last part of what it says, beside it.

        relative: the file's name in the folder of all of them. said: what it calls its image in `field`; None: nothing.
        """
        last = _last_part(said, f"{file}: {field}")
        candidates = self._images[self._pairs[stem_of(relative)]] if stem_of(relative) in self._pairs else []
        if len(candidates) > 1:
            candidates = [name for name in candidates if name.rpartition("/")[2] == last] or candidates
        if len(candidates) > 1:
            raise UserError(f"{file}: may be for {candidates[0]} or {candidates[1]}; rename one of the images")
        if candidates:
            return candidates[0]
        if last is None:
            return None
        parent = relative.rpartition("/")[0]
        return self.folder.find(f"{parent}/{last}" if parent else last, str(file))


def _last_part(said: object, where: str) -> str | None:
    """Returns the last part of an image's name, which may lead anywhere; UserError where it is no file name."""
    if said is None:
        return None
    last = said.replace("\\", "/").rpartition("/")[2] if isinstance(said, str) else said
    return safe_name(last, where)


def absent(names: Mapping[str, str]) -> list[Problem]:
    """Returns a line for each image that is annotated and not there.

    names: as annotated → where it is named.
    """
    return [Problem(name, f"named in {where}, but there is no such image") for name, where in sorted(names.items())]
