"""The object of each image by annotations of any format."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from unseg.data.annotations import NO_CLASS, Annotated, Unannotated
from unseg.data.annotations.core import form_of
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import UNREADABLE, SampleFile
from unseg.method.codes import Areas, areas_of
from unseg.protecting.manifest import Entry
from unseg.protecting.objects import ClassedObjects, FoundObject, Refused, ids_there
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.storage import image_decoding
from unseg.storage.image_decoding import Frame
from unseg.storage.image_limits import ImageError


class AnnotationObjects(ClassedObjects):
    """The object is what a rule takes of annotations of any format.

    place: their name in the manifest. upright: whether images are turned as EXIF says before anything is read of them.
    """

    def __init__(
        self, opened: OpenAnnotations, rule: ObjectRule, place: str, max_pixels: int, upright: bool = True
    ) -> None:
        super().__init__(rule, max_pixels)
        self.opened, self.place, self.upright = opened, place, upright
        folders = [problem for problem in opened.reader.missing if problem.reason.startswith(UNREADABLE)]
        self.unreadable = f"{folders[0].name}: {folders[0].reason}" if folders else None

    def settings(self) -> dict[str, Any]:
        return {
            "mask_rule": None,
            "annotations": {
                "format": self.opened.reader.format,
                "rule": asdict(self.rule),
                "holds_images": self.opened.images_root is None,
            },
        }

    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        try:
            annotated = self.opened.reader.read(self.opened.name_of(sample), frame.height, frame.width)
            found = found_in(annotated, self.rule)
        except Unannotated as error:
            if self.unreadable is not None:
                raise Refused("failed", f"no annotation found for it, but {self.unreadable}") from error
            raise Refused("unmasked", f"not annotated: {error.path.name} {error.reason}") from error
        except ImageError as error:
            raise Refused("failed", f"annotations: {error.path.name}: {error.reason}") from error
        facts = {"mask": self.opened.name_of(sample), "mask_root": self.place, **found.facts}
        if not found.mask_HW.any():
            there = ids_there(self.rule, (segment.class_id for segment in annotated.segments))
            raise Refused("unmasked", f"no object in its annotations{there}", facts)
        notes = found.notes
        if self.upright and frame.orientation != 1:
            notes = (*notes, f"EXIF turns it (orientation {frame.orientation}): its annotations are taken as upright")
        return FoundObject(found.mask_HW, facts, None, found.classes_HW, found.no_class, notes)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        try:
            annotated = self.opened.reader.read(self.opened.name_of(sample), entry.height or 0, entry.width or 0)
            return found_in(annotated, self.rule).facts["mask_sha256"] == entry.mask_sha256
        except ImageError:
            return False  # as its new line will tell

    def lacks(self, sample: SampleFile) -> bool:
        return self.unreadable is None and self.opened.name_of(sample) not in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.opened.reader.names())

    def image_bytes(self, sample: SampleFile) -> bytes | None:
        return self.opened.reader.image_bytes(sample.name) if self.opened.images_root is None else None

    @property
    def has_classes(self) -> bool:
        return getattr(self.opened.reader, "kind", "index") == "index"

    @property
    def is_map(self) -> bool:
        return self._first == "map"

    @property
    def lists_objects(self) -> bool:
        """Returns whether the annotations list objects, in place of a value for every pixel."""
        return self._first in ("regions", "objects")

    @cached_property
    def _first(self) -> str | None:
        """Returns the form of the first readable image's annotations; see `form_of`."""
        for name in self._items():
            with suppress(ImageError):
                return form_of(self._annotated(name))
        return None

    def ruled(self, rule: ObjectRule) -> AnnotationObjects:
        return AnnotationObjects(self.opened, rule, self.place, self.max_pixels, self.upright)

    def tiles(self) -> bool:
        """Returns whether the first readable image has a class at every pixel, or regions that never overlap."""
        return self.has_classes and self._first in ("map", "regions")

    def _items(self) -> Sequence[str]:
        missing = {problem.name for problem in self.opened.reader.missing}
        return [name for name in self.opened.reader.names() if name not in missing]

    def _areas_of(self, item: str) -> Areas:
        try:
            return areas_of(self._annotated(item).class_codes(self.rule), NO_CLASS)
        except ImageError:
            return Areas()

    def _annotated(self, name: str) -> Annotated:
        """Returns an image's annotations, in the size that its header says."""
        root, reader = self.opened.images_root, self.opened.reader
        data = None if root is not None else reader.image_bytes(name)
        path = (self.opened.path if root is None else root) / name
        frame = image_decoding.frame_of(path, self.max_pixels, data, upright=self.upright)
        return self.opened.reader.read(name, frame.height, frame.width)


def found_in(annotated: Annotated, rule: ObjectRule) -> FoundObject:
    """Returns what a rule takes of one image's annotations.

    The sha256 among its facts changes where the object does. It is that of the mask's bits, row by row, eight a byte;
    where classes are told apart, of the classes as 32-bit numbers, the low byte first.
    """
    if rule.by_class:
        classes = annotated.class_codes(rule)
        facts = _sha256_of(np.ascontiguousarray(classes, "<i4"))
        return FoundObject(classes != NO_CLASS, facts, None, classes, NO_CLASS, annotated.notes)
    mask = annotated.object_mask(rule)
    return FoundObject(mask, _sha256_of(np.packbits(mask)), notes=annotated.notes)


def _sha256_of(determining: np.ndarray) -> dict[str, str]:
    return {"mask_sha256": hashlib.sha256(determining.data).hexdigest()}
