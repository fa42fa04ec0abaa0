"""JSON files of one image each that lie beside their images, as members of tar files do: their format, their classes.

The readers are those of whole sets, each with one file at a time. Which image a file belongs to is known: what it calls
its image does not count. Classes have the same numbers in all files. Tools that name their classes have them numbered
in the order of their names over all files, from 1; COCO's have the numbers that the files say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations.coco import CocoInstances
from unseg.data.annotations.core import Annotated, Annotations, ClassTable, Unannotated, first_few
from unseg.data.annotations.detect import FILES_LOOKED_AT, format_in
from unseg.data.annotations.json_shapes import described_alone
from unseg.data.annotations.labelme import LabelMe, class_table, labels_of, numbered
from unseg.data.annotations.names import shown
from unseg.data.annotations.segment_anything import CLASSES, SegmentAnything
from unseg.data.annotations.shapes import MAX_LABELS, Export, ShapeAnnotations
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError

# Formats a file of which can speak of one image; `coco-panoptic` needs pictures beside it.
MEMBER_FORMATS = ("labelme", "coco", "sa-1b", "label-studio", "supervisely", "via")
LISTED = ", ".join(MEMBER_FORMATS)


class JsonMembers(Annotations):
    """Reads one JSON file for each image.

    files: image name → its file. unlike: what is said of classes that have two names under one number; None: there are
    none.
    """

    def __init__(self, files: Mapping[str, Path], format: str, classes: ClassTable, unlike: str | None = None) -> None:
        self._files, self.format, self.classes, self._unlike = dict(files), format, classes, unlike
        self.missing = ()
        self.statement = f"{format}: {len(files)} JSON members, classes: {len(classes.names)}"

    @classmethod
    def open(cls, files: Mapping[str, Path], progress: Progress = SILENT) -> JsonMembers:
        """Looks at every file; UserError where the first ones are of no format that is read, or of two."""
        format = _format_of(islice(files.values(), FILES_LOOKED_AT))
        names: dict[int, str] = {}
        labels: set[str] = set()
        unlike = None
        for path in track(progress, list(files.values()), len(files), "annotations"):
            try:
                if format == "coco":
                    for number, name in CocoInstances.of_one(path, path.name).classes.names.items():
                        if names.setdefault(number, name) != name:
                            unlike = f"the class {number} is called {shown(names[number])}, and {shown(name)} in {path}"
                elif format != "sa-1b":
                    labels |= labels_of(path) if format == "labelme" else _labels_of_shapes(path)
            except UserError:
                continue  # the line of its image tells
            if len(labels) > MAX_LABELS:
                raise UserError(f"{path}: with it there are over {MAX_LABELS:,} labels")
        return cls(files, format, _table(format, labels, names), unlike)

    def names(self) -> Sequence[str]:
        return sorted(self._files)

    def files_of(self, image_name: str) -> list[Path]:
        return [self._files[image_name]] if image_name in self._files else []

    def of_images(self, names: Iterable[str]) -> JsonMembers:
        files = {name: self._files[name] for name in names if name in self._files}
        return JsonMembers(files, self.format, self.classes, self._unlike)

    def check_rule(self, rule: ObjectRule, option: str = "--objects") -> None:
        super().check_rule(rule, option)
        if self._unlike is not None and (rule.by_class or isinstance(rule.which, tuple)):
            raise UserError(f"{option}: goes by class numbers, but {self._unlike}")

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        path = self._files.get(image_name)
        if path is None:
            raise Unannotated(Path(image_name), "has no JSON member")
        try:
            return self._reader_of(path, image_name).read(image_name, height, width)
        except UserError as error:  # what is wrong with one file concerns one image
            reason = error.reason if isinstance(error, ImageError) else str(error)
            raise ImageError(path, reason.removeprefix(f"{path}: ").removeprefix(f"{path.name}: ")) from error

    def _reader_of(self, path: Path, image_name: str) -> Annotations:
        ids = {name: number for number, name in self.classes.names.items()}
        if self.format == "labelme":
            return LabelMe.of_one(path, image_name, ids)
        if self.format == "coco":
            return CocoInstances.of_one(path, image_name)
        if self.format == "sa-1b":
            return SegmentAnything({image_name: path}, (), "")
        export = Export(path, self.format, self.format, (), ())
        return ShapeAnnotations(export, {image_name: partial(described_alone, path)}, ids, ())


def _format_of(paths: Iterable[Path]) -> str:
    """Returns the format of files by their content; UserError where none is known, or there are two."""
    found: dict[str, Path] = {}
    refused: UserError | None = None
    for path in paths:
        try:
            format = format_in(path)
            if format not in MEMBER_FORMATS:
                raise UserError(f"{path}: no outlines of one image in a format that is read ({LISTED})")
        except UserError as error:
            refused = refused or error
        else:
            found.setdefault(format, path)
    if len(found) > 1:
        told = first_few(f"{path} ({format})" for format, path in found.items())
        raise UserError(f"members with outlines are of two formats: {told}; keep one of them")
    if not found:
        raise refused or UserError(f"no outlines of one image ({LISTED})")
    return next(iter(found))


def _labels_of_shapes(path: Path) -> set[str]:
    return {shape.label for shape in described_alone(path).shapes}


def _table(format: str, labels: set[str], names: dict[int, str]) -> ClassTable:
    if format == "sa-1b":
        return CLASSES
    if format == "coco":
        return ClassTable(names, "all", frozenset(), frozenset(names))
    if format == "labelme":
        return class_table(numbered(labels))
    ids = {label: number for number, label in enumerate(sorted(labels), 1)}
    return ClassTable({number: name for name, number in ids.items()}, None, ids=frozenset(ids.values()))
