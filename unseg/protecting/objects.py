"""What the object of each image is: all of it, what lies in boxes, a mask's file, or what annotations of any format say."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from unseg.data.annotations import NO_CLASS, Annotated, Annotations, Looking, ObjectRule, Unannotated, open_annotations
from unseg.data.masks import MaskRule, box_mask, object_mask
from unseg.data.samples import SampleFile, SampleList
from unseg.errors import UserError
from unseg.method.codes import class_areas
from unseg.protecting.manifest import Entry
from unseg.protecting.protector import Boxes
from unseg.storage import image_decoding
from unseg.storage.files import sha256_of
from unseg.storage.image_limits import ImageError


class Refused(Exception):
    """An image that stays without protection: "copied" or "failed", and why."""

    def __init__(self, status: Literal["copied", "failed"], reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Found:
    """One image's object. mask: H×W bool. facts: what its manifest line says of it. classes: H×W integers where classes are
    told apart, `no_class` where there is none. boxes: those that prompt the network in place of the mask. notes: in words.
    """

    mask_HW: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)
    boxes: Boxes | None = None
    classes_HW: np.ndarray | None = None
    no_class: int | None = None
    notes: tuple[str, ...] = ()


class Objects(ABC):
    """Where a run learns what the object is. prompt: what the manifest calls it."""

    prompt: str

    def settings(self) -> dict[str, Any]:
        """What of it must not differ between runs into one folder, and `verify` needs to rebuild regions."""
        return {"mask_rule": None}

    @abstractmethod
    def find(self, sample: SampleFile, height: int, width: int) -> Found:
        """The object of an image whose upright size is height × width. Refused, or an ImageError, where it has none."""

    @abstractmethod
    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        """Whether the object is still the one of an earlier run's line; the image itself is unchanged."""

    def image_bytes(self, sample: SampleFile) -> bytes | None:
        """The encoded image, where it is no file of its own."""
        return None

    def class_areas(self, pool: Executor, track: Callable[[Iterable, int, str], Iterable]) -> Counter[int]:
        """Pixels of every class over the whole set, also of images that are not in this run: codes must not depend on which
        images are protected together. What cannot be read does not count: its image's line tells.
        """
        raise UserError(
            "--objects by-class: needs class ids; name the masks' folder with --masks, or give --annotations"
        )


class WholeImage(Objects):
    prompt = "whole"

    def find(self, sample: SampleFile, height: int, width: int) -> Found:
        return Found(np.ones((height, width), bool))

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.mask_sha256 is None


class BoxFile(Objects):
    """boxes: image name → its boxes."""

    prompt = "boxes"

    def __init__(self, boxes: Mapping[str, Boxes]) -> None:
        self.boxes = boxes

    def find(self, sample: SampleFile, height: int, width: int) -> Found:
        boxes = self.boxes.get(sample.name)
        if not boxes:
            raise Refused("copied", "no box for it in the boxes file")
        mask = box_mask(boxes, height, width)
        if not mask.any():
            raise Refused("failed", f"every box lies outside the image ({width}×{height})")
        return Found(mask, {"boxes": boxes}, boxes)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.boxes == self.boxes.get(sample.name)


class MaskFiles(Objects):
    """A mask's file an image. root: their folder, as the manifest names it. all_masks: of the set. by_class: see `Found`."""

    def __init__(self, rule: MaskRule, root: str, all_masks: Sequence[Path], by_class: bool, max_pixels: int) -> None:
        self.rule, self.root, self.all_masks, self.by_class, self.max_pixels = (
            rule,
            root,
            all_masks,
            by_class,
            max_pixels,
        )
        self.prompt = "classes" if by_class else "mask"

    def settings(self) -> dict[str, Any]:
        return {"mask_rule": asdict(self.rule)}

    def find(self, sample: SampleFile, height: int, width: int) -> Found:
        if sample.mask is None:
            raise Refused("copied", "no mask for it")
        try:
            label = image_decoding.open_label(sample.mask, self.max_pixels)
        except ImageError as error:
            raise Refused("failed", f"mask: {error.reason}") from error
        if label.values.shape != (height, width):
            there = "×".join(map(str, reversed(label.values.shape)))
            raise Refused(
                "failed",
                f"mask {sample.mask_name} is {there}, the image (upright) is {width}×{height}: make them one size",
            )
        mask = object_mask(label.values, self.rule)
        if not mask.any():
            raise Refused("copied", f"no object in its mask ({sample.mask_name})")
        facts = {"mask": sample.mask_name, "mask_root": self.root, "mask_sha256": label.sha256}
        return Found(mask, facts, None, label.values if self.by_class else None, self.rule.ignore_label)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return (None if sample.mask is None else sha256_of(sample.mask)) == entry.mask_sha256

    def class_areas(self, pool: Executor, track: Callable[[Iterable, int, str], Iterable]) -> Counter[int]:
        return _sum_of(track(pool.map(self._areas_of, self.all_masks), len(self.all_masks), "classes"))

    def _areas_of(self, path: Path) -> dict[int, int]:
        try:
            return class_areas([image_decoding.open_label(path, self.max_pixels).values], self.rule.ignore_label)
        except ImageError:
            return {}


@dataclass(frozen=True)
class OpenAnnotations:
    """Annotations and where they lie. path: the file or folder. images_root: the folder that their names are relative to;
    None where they hold the images themselves. format: as it was asked for, to open them again in the same way.
    """

    reader: Annotations
    path: Path
    images_root: Path | None
    format: str = "auto"

    @staticmethod
    def open(
        path: str | Path, images_root: str | Path | None, format: str = "auto", looking: Looking = Looking()
    ) -> OpenAnnotations:
        """`unseg.data.annotations.open_annotations`, and what it was given."""
        root = None if images_root is None else Path(images_root)
        return OpenAnnotations(open_annotations(path, root, format, looking), Path(path), root, format)

    def name_of(self, sample: SampleFile) -> str:
        """What the annotations call an image: its name relative to their images' folder."""
        if self.images_root is None:
            return sample.name
        return PurePosixPath(sample.image.relative_to(self.images_root)).as_posix()

    def samples(self) -> SampleList:
        """The images that the annotations hold themselves."""
        missing = {problem.name for problem in self.reader.missing}
        return SampleList(
            [SampleFile(name, self.path, self.path) for name in self.reader.names() if name not in missing]
        )


class AnnotatedImages(Objects):
    """Annotations of any format. place: where they lie, as the manifest names it."""

    def __init__(self, opened: OpenAnnotations, rule: ObjectRule, place: str, max_pixels: int) -> None:
        self.opened, self.rule, self.place, self.max_pixels = opened, rule, place, max_pixels
        self.prompt = "classes" if rule.by_class else "mask"

    def settings(self) -> dict[str, Any]:
        return {
            "mask_rule": None,
            "annotations": {
                "format": self.opened.reader.format,
                "rule": asdict(self.rule),
                "holds_images": self.opened.images_root is None,
            },
        }

    def find(self, sample: SampleFile, height: int, width: int) -> Found:
        try:
            annotated = self._read(self.opened.name_of(sample), height, width)
            found = found_in(annotated, self.rule)
        except Unannotated as error:
            raise Refused("copied", f"not annotated: {error.path.name} {error.reason}") from error
        except ImageError as error:
            raise Refused("failed", f"annotations: {error.path.name}: {error.reason}") from error
        if not found.mask_HW.any():
            raise Refused("copied", "no object in its annotations")
        facts = {"mask": self.opened.name_of(sample), "mask_root": self.place, **found.facts}
        return Found(found.mask_HW, facts, None, found.classes_HW, found.no_class, found.notes)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        try:
            annotated = self._read(self.opened.name_of(sample), entry.height or 0, entry.width or 0)
            return found_in(annotated, self.rule).facts["mask_sha256"] == entry.mask_sha256
        except ImageError:
            return False  # as its new line will tell

    def image_bytes(self, sample: SampleFile) -> bytes | None:
        return self.opened.reader.image_bytes(sample.name) if self.opened.images_root is None else None

    def class_areas(self, pool: Executor, track: Callable[[Iterable, int, str], Iterable]) -> Counter[int]:
        missing = {problem.name for problem in self.opened.reader.missing}
        names = [name for name in self.opened.reader.names() if name not in missing]
        return _sum_of(track(pool.map(self._areas_of, names), len(names), "classes"))

    def _areas_of(self, name: str) -> dict[int, int]:
        root, reader = self.opened.images_root, self.opened.reader
        try:
            data = None if root is not None else reader.image_bytes(name)
            size = image_decoding.upright_size(
                self.opened.path / name if root is None else root / name, self.max_pixels, data
            )
            return class_areas([self._read(name, *size).class_codes(self.rule)], NO_CLASS)
        except ImageError:
            return {}

    def _read(self, name: str, height: int, width: int) -> Annotated:
        return self.opened.reader.read(name, height, width)


def found_in(annotated: Annotated, rule: ObjectRule) -> Found:
    """What a rule takes of one image's annotations. The sha256 is that of the mask's bits, row by row, eight a byte (of the
    classes as 32-bit numbers, the low byte first, where classes are told apart): it changes where the object does.
    """
    if rule.by_class:
        classes = annotated.class_codes(rule)
        mask, determining = classes != NO_CLASS, np.ascontiguousarray(classes, "<i4")
    else:
        classes, mask = None, annotated.object_mask(rule)
        determining = np.packbits(mask)
    facts = {"mask_sha256": hashlib.sha256(determining).hexdigest()}
    return Found(mask, facts, None, classes, NO_CLASS, annotated.notes)


def _sum_of(counted: Iterable[Mapping[int, int]]) -> Counter[int]:
    areas: Counter[int] = Counter()
    for part in counted:
        areas.update(part)
    return areas
