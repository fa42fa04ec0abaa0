"""Files that hold many samples, as tars and tables do, seen as folders: `x.tar/000.jpg` is the member 000.jpg of x.tar.

A container gives each of its images and masks a name, reads them one at a time, and is written anew with other images
in their place. All else in it stays, in its order.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from unseg.storage.files import make_folders
from unseg.storage.kept_contents import ROOM, Kept, leave_absent, mode_of, temporary_beside
from unseg.storage.mounts import ABSENT


class Container(ABC):
    """A file of samples.

    path: the file. place: its name relative to the folder of all of them, with forward slashes.
    """

    path: Path
    place: str

    @abstractmethod
    def images(self) -> Iterator[tuple[str, str | None]]:
        """Yields the name of every image and that of its mask, None where it has none; UserError where what a sample
        holds is not clear."""

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Returns whether there is an image or mask of the name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Returns the bytes of an image or mask, at least about, and never 0."""

    @abstractmethod
    def blocks(self, name: str) -> Iterator[bytes]:
        """Yields the content of an image or mask; OSError where there is none."""

    @abstractmethod
    def left_out(self, written: Collection[str]) -> dict[str, str]:
        """Returns what goes although nothing else says so, and why: a sample stays whole or goes.

        written: the images that have their noise. The names are those of images among them, and, of samples without an
        image, of what stands for them: a member, or a row.
        """

    @abstractmethod
    def rewrite(self, target: Path, replaced: Mapping[str, Path], within: Path) -> None:
        """Writes the container with other images; samples go whose images are not among them.

        replaced: image → the file whose content takes its place. within: the folder that must be there. The target
        appears whole or not at all.
        """

    @abstractmethod
    def rewritten(self, path: Path, written: Collection[str]) -> Container:
        """Returns what `rewrite` wrote, under the same names. written: the images that have their noise."""

    def of(self, names: Collection[str]) -> Container:
        """Returns a container of which these images and masks can be read, and that takes little more to be sent."""
        return self

    @abstractmethod
    def faults(self, path: Path, written: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yields what is wrong with a file that `rewrite` is said to have written, but for its images: name, problem.

        An empty name stands for the whole file.
        """


@dataclass(frozen=True)
class ContainerFolder:
    """A mount: a folder of scratch files that stands for another one, in which containers are folders.

    containers: place → container.
    """

    folder: Path
    stands_for: Path
    containers: dict[str, Container] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)

    def add(self, container: Container, names: Iterator[str]) -> None:
        """Gives images and masks of a container their names in the folder; contents come when they are read."""
        made: set[Path] = set()
        for name in names:
            path = self.folder / container.place / name
            if path.parent not in made:
                make_folders(path.parent)
                made.add(path.parent)
            leave_absent(path, container.size(name), 0)
        self.containers[container.place] = container

    def url(self, path: str | Path) -> str | None:
        """Returns the place that a path of the folder stands for."""
        whole = Path(os.path.normpath(os.path.abspath(path)))
        return (
            os.fspath(self.stands_for / whole.relative_to(self.folder)) if whole.is_relative_to(self.folder) else None
        )

    def bring(self, path: str | Path) -> bool:
        """Brings the content of an image or mask that is about to be read; returns whether it is one of this folder."""
        whole = os.path.normpath(os.fspath(path))
        found = self._found(whole)
        if found is None or not os.path.isfile(whole):
            return False
        if mode_of(Path(whole)) == ABSENT:
            self._bring(Path(whole), *found)
        return True

    @contextmanager
    def held(self, path: str | Path) -> Iterator[None]:
        """Inside, the content of an image or mask is there."""
        self.bring(path)
        yield

    def in_ranges(self, path: str | Path) -> BinaryIO | None:
        """Returns None: images and masks come whole."""
        return None

    def _bring(self, path: Path, place: str, name: str) -> None:
        temporary = temporary_beside(path)
        try:
            with open(temporary, "xb") as copy:
                for block in self.containers[place].blocks(name):
                    copy.write(block)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self.kept.add(path, ROOM, _give_up)

    def _found(self, whole: str) -> tuple[str, str] | None:
        """Returns the container of a path, and the name in it; None for any other path."""
        root = os.fspath(self.folder) + os.sep
        if not whole.startswith(root):
            return None
        name = PurePosixPath(Path(whole[len(root) :]).as_posix())
        place = next((parent for parent in map(str, name.parents) if parent in self.containers), None)
        return None if place is None else (place, str(name.relative_to(place)))

    def lent(self, paths: Iterable[Path]) -> list[tuple[Container, list[str]]]:
        """Returns what another folder needs to read files of this one: containers, and the files' names in them."""
        found: dict[str, set[str]] = {}
        for path in paths:
            place, name = self._found(os.path.normpath(os.fspath(path))) or ("", "")
            if place and self.containers[place].holds(name):
                found.setdefault(place, set()).add(name)
        return [(self.containers[place].of(found[place]), sorted(found[place])) for place in sorted(found)]


def _give_up(path: Path) -> bool:
    leave_absent(path, os.stat(path).st_size, 0)
    return True
