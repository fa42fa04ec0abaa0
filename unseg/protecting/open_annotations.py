"""Annotations of any format, open, with the places that names in them are relative to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations import Annotations, open_annotations
from unseg.data.samples import SampleFile, SampleList
from unseg.storage.files import files_under


@dataclass(frozen=True)
class OpenAnnotations:
    """Annotations and where they lie.

    path: the file or folder. images_root: the folder that their names are relative to; None where they hold the images
    themselves. format: as it was asked for, to open them again in the same way.
    """

    reader: Annotations
    path: Path
    images_root: Path | None
    format: str = "auto"

    @staticmethod
    def open(
        path: str | Path,
        images_root: str | Path | None,
        format: str = "auto",
        pool: Executor | None = None,
        progress: Progress = SILENT,
    ) -> OpenAnnotations:
        """Opens annotations (see `unseg.data.annotations.open_annotations`) and keeps where they lie."""
        root = None if images_root is None else Path(images_root)
        return OpenAnnotations(open_annotations(path, root, format, pool, progress), Path(path), root, format)

    @property
    def files(self) -> Iterator[Path]:
        """Yields the files that reading may open, and others that lie among them."""
        for place in (looked_through(self.path) or self.path, *self.reader.own_images()):
            yield from files_under(place) if os.path.isdir(place) else [place]

    def name_of(self, sample: SampleFile) -> str:
        """Returns the annotations' name of an image: relative to their images' folder."""
        if self.images_root is None:
            return sample.name
        return PurePosixPath(sample.image.relative_to(self.images_root)).as_posix()

    def of_images(self, names: Iterable[str]) -> OpenAnnotations:
        """Returns the annotations of these images, or all, where those do not grow with a set."""
        reader = self.reader.of_images(names)
        return self if reader is self.reader else replace(self, reader=reader)

    def samples(self) -> SampleList:
        """Returns the images that the annotations hold themselves."""
        missing = {problem.name for problem in self.reader.missing}
        return SampleList(
            [SampleFile(name, self.path, self.path) for name in self.reader.names() if name not in missing]
        )


def looked_through(place: Path) -> Path | None:
    """Returns the folder that opening annotations looks through: they are one, or YOLO's file lies beside its own."""
    if os.path.isdir(place):
        return place
    return place.parent if place.suffix.lower() in (".yaml", ".yml") else None
