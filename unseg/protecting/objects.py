"""The object of each image: all of it, what lies in boxes, what a mask shows, or what annotations of any format say."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from unseg.compute.in_flight import PIXELS
from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations import NO_CLASS, Annotated, Annotations, Unannotated, open_annotations
from unseg.data.annotations.core import first_few
from unseg.data.masks import MaskKind, box_mask, object_mask
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile, SampleList
from unseg.method.codes import class_areas
from unseg.protecting.manifest import Entry
from unseg.protecting.protector import Boxes
from unseg.storage import image_decoding
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import OtherSize
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError


class Refused(Exception):
    """Says that an image stays without protection: it is "copied" or "failed", and why."""

    def __init__(self, status: Literal["copied", "failed"], reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class FoundObject:
    """The object of one image.

    mask: H×W bool. facts: what the image's manifest line says of it. boxes: prompt the network in place of the mask.
    classes: H×W integers where classes are told apart, with `no_class` where there is none. notes: in words.
    """

    mask_HW: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)
    boxes: Boxes | None = None
    classes_HW: np.ndarray | None = None
    no_class: int | None = None
    notes: tuple[str, ...] = ()


class Objects(ABC):
    """Where a run learns what the object is. prompt: the manifest's word for it."""

    prompt: str

    def settings(self) -> dict[str, Any]:
        """Returns what must not differ between runs into one folder, and what `verify` rebuilds regions from."""
        return {"mask_rule": None}

    @abstractmethod
    def find(self, sample: SampleFile, height: int, width: int) -> FoundObject:
        """Returns the object of an image whose upright size is height × width; raises Refused where it has none."""

    @abstractmethod
    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        """Returns whether the object is still the one of an earlier run's line; the image itself is unchanged."""

    def image_bytes(self, sample: SampleFile) -> bytes | None:
        """Returns the encoded image where it is no file of its own, else None."""
        return None


class ClassedObjects(Objects):
    """Objects whose classes can be told apart, by masks or annotations. rule: which part of them is the object."""

    def __init__(self, rule: ObjectRule, max_pixels: int) -> None:
        self.rule, self.max_pixels = rule, max_pixels
        self.prompt = "classes" if rule.by_class else "mask"

    @abstractmethod
    def class_areas(self, pool: Executor, progress: Progress) -> Counter[int]:
        """Returns the pixels of every class over the whole set, counted in the threads of `pool`.

        Images that are not in this run count too: codes must not depend on which images are protected together. What
        cannot be read does not count; its image's line tells.
        """


class WholeImage(Objects):
    """The object is the whole image."""

    prompt = "whole"

    def find(self, sample: SampleFile, height: int, width: int) -> FoundObject:
        return FoundObject(np.ones((height, width), bool))

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.mask_sha256 is None


class BoxFile(Objects):
    """The object is what lies in an image's boxes. boxes: image name → its boxes, XYXY."""

    prompt = "boxes"

    def __init__(self, boxes: Mapping[str, Boxes]) -> None:
        self.boxes = boxes

    def find(self, sample: SampleFile, height: int, width: int) -> FoundObject:
        boxes = self.boxes.get(sample.name)
        if not boxes:
            raise Refused("copied", "no box for it in the boxes file")
        mask = box_mask(boxes, height, width)
        if not mask.any():
            raise Refused("failed", f"every box lies outside the image ({width}×{height})")
        return FoundObject(mask, {"boxes": boxes}, boxes)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.boxes == self.boxes.get(sample.name)


@dataclass(frozen=True)
class MaskFolder:
    """A folder with a mask file an image.

    root: the folder's name in the manifest. kind: what the masks' values mean. paths: all masks of the set, also those
    without an image in this run.
    """

    root: str
    kind: MaskKind
    paths: Sequence[Path]


class MaskFiles(ClassedObjects):
    """The object is what a rule takes of an image's mask file."""

    def __init__(self, folder: MaskFolder, rule: ObjectRule, max_pixels: int) -> None:
        super().__init__(rule, max_pixels)
        self.folder = folder

    def settings(self) -> dict[str, Any]:
        which = self.rule.which if isinstance(self.rule.which, tuple) else None
        labels = {"ignore_label": self.rule.ignore_label, "background_label": self.rule.background_label}
        return {"mask_rule": {"kind": self.folder.kind, "objects": which, **labels}}

    def find(self, sample: SampleFile, height: int, width: int) -> FoundObject:
        if sample.mask is None:
            raise Refused("copied", "no mask for it")
        try:
            label = image_decoding.open_label(sample.mask, self.max_pixels, (height, width))
        except OtherSize as error:
            raise Refused("failed", f"mask {sample.mask_name} {error.reason}") from error
        except ImageError as error:
            raise Refused("failed", f"mask: {error.reason}") from error
        mask = object_mask(label.values, self.folder.kind, self.rule)
        if not mask.any():
            there = _ids_there(self.rule, np.unique(label.values).tolist())
            raise Refused("copied", f"no object in its mask ({sample.mask_name}){there}")
        facts = {"mask": sample.mask_name, "mask_root": self.folder.root, "mask_sha256": label.sha256}
        classes = label.values if self.rule.by_class else None
        return FoundObject(mask, facts, classes_HW=classes, no_class=self.rule.ignore_label)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return (None if sample.mask is None else sha256_of(sample.mask)) == entry.mask_sha256

    def class_areas(self, pool: Executor, progress: Progress) -> Counter[int]:
        paths = self.folder.paths
        return _sum_of(track(progress, pool.map(self._areas_of, paths), len(paths), "classes"))

    def _areas_of(self, path: Path) -> Mapping[int, int]:
        try:
            with PIXELS.room_for(pixel_count(path)):
                return class_areas([image_decoding.open_label(path, self.max_pixels).values], self.rule.ignore_label)
        except ImageError:
            return {}


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

    def name_of(self, sample: SampleFile) -> str:
        """Returns the annotations' name of an image: relative to their images' folder."""
        if self.images_root is None:
            return sample.name
        return PurePosixPath(sample.image.relative_to(self.images_root)).as_posix()

    def samples(self) -> SampleList:
        """Returns the images that the annotations hold themselves."""
        missing = {problem.name for problem in self.reader.missing}
        return SampleList(
            [SampleFile(name, self.path, self.path) for name in self.reader.names() if name not in missing]
        )


class AnnotationObjects(ClassedObjects):
    """The object is what a rule takes of annotations of any format. place: their name in the manifest."""

    def __init__(self, opened: OpenAnnotations, rule: ObjectRule, place: str, max_pixels: int) -> None:
        super().__init__(rule, max_pixels)
        self.opened, self.place = opened, place

    def settings(self) -> dict[str, Any]:
        return {
            "mask_rule": None,
            "annotations": {
                "format": self.opened.reader.format,
                "rule": asdict(self.rule),
                "holds_images": self.opened.images_root is None,
            },
        }

    def find(self, sample: SampleFile, height: int, width: int) -> FoundObject:
        try:
            annotated = self._read(self.opened.name_of(sample), height, width)
            found = found_in(annotated, self.rule)
        except Unannotated as error:
            raise Refused("copied", f"not annotated: {error.path.name} {error.reason}") from error
        except ImageError as error:
            raise Refused("failed", f"annotations: {error.path.name}: {error.reason}") from error
        if not found.mask_HW.any():
            there = _ids_there(self.rule, (segment.class_id for segment in annotated.segments))
            raise Refused("copied", f"no object in its annotations{there}")
        facts = {"mask": self.opened.name_of(sample), "mask_root": self.place, **found.facts}
        return FoundObject(found.mask_HW, facts, None, found.classes_HW, found.no_class, found.notes)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        try:
            annotated = self._read(self.opened.name_of(sample), entry.height or 0, entry.width or 0)
            return found_in(annotated, self.rule).facts["mask_sha256"] == entry.mask_sha256
        except ImageError:
            return False  # as its new line will tell

    def image_bytes(self, sample: SampleFile) -> bytes | None:
        return self.opened.reader.image_bytes(sample.name) if self.opened.images_root is None else None

    def class_areas(self, pool: Executor, progress: Progress) -> Counter[int]:
        missing = {problem.name for problem in self.opened.reader.missing}
        names = [name for name in self.opened.reader.names() if name not in missing]
        return _sum_of(track(progress, pool.map(self._areas_of, names), len(names), "classes"))

    def _areas_of(self, name: str) -> Mapping[int, int]:
        root, reader = self.opened.images_root, self.opened.reader
        try:
            data = None if root is not None else reader.image_bytes(name)
            path = (self.opened.path if root is None else root) / name
            height, width = image_decoding.upright_size(path, self.max_pixels, data)
            with PIXELS.room_for(height * width):
                return class_areas([self._read(name, height, width).class_codes(self.rule)], NO_CLASS)
        except ImageError:
            return {}

    def _read(self, name: str, height: int, width: int) -> Annotated:
        return self.opened.reader.read(name, height, width)


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


def _ids_there(rule: ObjectRule, ids: Iterable[int]) -> str:
    """Returns which class ids were found where the user asked for others, to follow the reason; else nothing."""
    if not isinstance(rule.which, tuple):
        return ""
    found = sorted(set(ids))
    return f", which has the class ids {first_few(map(str, found), 20)}" if found else ", which has no class at all"


def _sha256_of(determining: np.ndarray) -> dict[str, str]:
    return {"mask_sha256": hashlib.sha256(determining.data).hexdigest()}


def _sum_of(counted: Iterable[Mapping[int, int]]) -> Counter[int]:
    areas: Counter[int] = Counter()
    for part in counted:
        areas.update(part)
    return areas
