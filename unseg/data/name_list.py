"""Text files that name the images of a split, a name a line, as Pascal VOC's lists do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unseg.data.annotations.names import safe_name
from unseg.data.name_matching import file_form, unicode_form
from unseg.data.samples import stem_of
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES, read_bytes
from unseg.storage.text_encoding import decode_text

USUAL_SUFFIX = ".jpg"  # of the images that such lists name without one


def listed_images(path: Path, there: Sequence[str]) -> list[str]:
    """Returns the images that a list names, in its order, each once; names that are not there as they would be called.

    there: the file names in the folder of images. A line is a name, with or without suffix, that may hold spaces; or
    columns, of which the first counts (`/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png`). Only the
    last part of a path counts. Suffixes may be written in another case, and names in another Unicode form. UserError
    where the list cannot be read or names nothing.
    """
    folder = ListedFolder(there)
    names = []
    for number, line in enumerate(_lines(path), 1):
        named = folder.named_in(line, f"{path}: line {number}")
        if named is not None:
            names.append(named.image or _usual(line[named.start : named.end]))
    if not names:
        raise UserError(f"{path}: names no image")
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Named:
    """What a line of a list names, from `start` to before `end`. image: the file in the folder; None: there is none."""

    start: int
    end: int
    image: str | None


class ListedFolder:
    """Finds the images of a folder by name, and by name without suffix."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._by_form: dict[str, list[str]] = {}
        for name in names:
            for form in (file_form(name), unicode_form(stem_of(name))):
                self._by_form.setdefault(form, []).append(name)

    def named_in(self, line: str, where: str) -> Named | None:
        """Returns what a line names, see `listed_images`; None for an empty one. where: what a UserError names."""
        text = line.strip().lstrip("/\\").lstrip()
        if not text:
            return None
        begin = line.index(text)
        end, whole = begin + len(text), text.replace("\\", "/").rpartition("/")[2]
        found = self.find(whole, where)
        if found is not None:
            return Named(end - len(whole), end, found)
        column = text.split()[0].rstrip("/\\")
        first = PurePosixPath(safe_name(column, where)).name
        end = begin + len(column)
        return Named(end - len(first), end, self.find(first, where))

    def find(self, name: str, where: str) -> str | None:
        """Returns the image of that name; None where there is none; UserError where two may be meant."""
        for exact in (name, f"{name}{USUAL_SUFFIX}"):
            if exact in self._names:
                return exact
        form = file_form(name) if has_suffix(name) else unicode_form(name)
        found = self._by_form.get(form, [])
        if len(found) > 1:
            raise UserError(f"{where}: {name} may be {found[0]} or {found[1]}; name it with its suffix")
        return found[0] if found else None


def has_suffix(name: str) -> bool:
    """Returns whether a name ends as images' files do."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _usual(name: str) -> str:
    return name if has_suffix(name) else f"{name}{USUAL_SUFFIX}"


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from decode_text(read_bytes(path)).splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as a list of names ({error}); save it as UTF-8") from error
