"""The object of each image: all of it, what a mask shows, or what annotations of any format say."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unseg.compute.in_flight import PIXELS
from unseg.compute.progress import Progress, track
from unseg.compute.threads import in_order
from unseg.data.annotations.core import first_few
from unseg.data.fixed_choice import fixed_choice
from unseg.data.masks import MaskKind, object_mask, values_of
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile
from unseg.method.codes import Areas, areas_of, total_of
from unseg.protecting.given_images import Boxes
from unseg.protecting.manifest import Entry
from unseg.protecting.mask_placing import STORED, Misfit, Placing
from unseg.storage import image_decoding, label_decoding
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import Frame
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.stack_kinds import any_label

LOOKED_AT = 32  # masks that are looked at together
SAMPLED = 64  # masks that tell whether a set has a background
WHOLE_IMAGE = "whole image"  # what a manifest's line calls the object where nothing says where it is


class Refused(Exception):
    """Says that an image stays without protection, and why.

    status: "unmasked" where nothing shows an object in it, which `--unmasked` decides on; "failed" for all else. facts:
    what its manifest line says of the mask that shows none, should the image be protected all the same.
    """

    def __init__(
        self, status: Literal["unmasked", "failed"], reason: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.facts = status, reason, dict(facts or {})


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
    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        """Returns the object of an image in its frame; raises Refused where it has none."""

    def lacks(self, sample: SampleFile) -> bool:
        """Returns whether nothing is said of an image, as far as names tell."""
        return False

    @abstractmethod
    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        """Returns whether the object is still the one of an earlier run's line; the image itself is unchanged."""

    def image_bytes(self, sample: SampleFile) -> bytes | None:
        """Returns the encoded image where it is no file of its own, else None."""
        return sample.data

    def outlined(self, found: FoundObject, samples_HWC: np.ndarray) -> FoundObject:
        """Returns a found object as the image's pixels show it; raises Refused where they show none.

        samples: the upright image, H×W×3 RGB or H×W×1 grey, uint8 or uint16.
        """
        return found


class ClassedObjects(Objects):
    """Objects whose classes can be told apart, by masks or annotations. rule: which part of them is the object."""

    def __init__(self, rule: ObjectRule, max_pixels: int) -> None:
        self.rule, self.max_pixels = rule, max_pixels
        self.prompt = "classes" if rule.by_class else "mask"

    @property
    def has_classes(self) -> bool:
        """Returns whether there are class ids to tell apart."""
        return True

    @property
    @abstractmethod
    def is_map(self) -> bool:
        """Returns whether class ids are the values of maps: the rule's labels are of such ids alone."""

    @abstractmethod
    def ruled(self, rule: ObjectRule) -> ClassedObjects:
        """Returns the same objects by another rule."""

    @abstractmethod
    def tiles(self) -> bool:
        """Returns whether every pixel can have a class: regions do not overlap, and none is left open."""

    @abstractmethod
    def _items(self) -> Sequence[str]:
        """Returns the masks or annotated images of the whole set, also those of images that are not in this run: codes
        must not depend on which images are protected together."""

    @abstractmethod
    def _areas_of(self, item: str) -> Areas:
        """Returns the pixels of one of `_items`; none where it cannot be read, as its image's line tells."""

    def shows(self, labels: Collection[int], pool: Executor) -> bool:
        """Returns whether any mask of the set shows one of these classes; looks at no more of them than it must."""
        items, wanted = self._items(), frozenset(labels)
        for start in range(0, len(items), LOOKED_AT):
            looked_at = pool.map(self._areas_of, items[start : start + LOOKED_AT])
            if any(not wanted.isdisjoint(areas.classes) for areas in looked_at):
                return True
        return False

    def areas(self, pool: Executor, progress: Progress) -> Areas:
        """Returns the pixels of every class over the whole set, counted in the threads of `pool`."""
        items = self._items()
        return total_of(track(progress, in_order(pool, self._areas_of, items), len(items), "classes"))

    def areas_of_some(self, pool: Executor) -> Areas:
        """Returns the same over a fixed choice of the masks."""
        return total_of(pool.map(self._areas_of, fixed_choice(self._items(), SAMPLED, os.path.basename)))


class WholeImage(Objects):
    """The object is the whole image."""

    prompt = "whole"

    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        return whole_image(frame)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.mask_sha256 is None


@dataclass(frozen=True)
class MaskFolder:
    """A folder with a mask file an image.

    root: the folder's name in the manifest. kind: what the masks' values mean. paths: texts, of all masks of the set.
    placing: how they lie on their images. unreadable: what could not be looked into.
    """

    root: str
    kind: MaskKind
    paths: Sequence[str]
    placing: Placing = Placing()
    unreadable: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # without `paths`: another process is told the mask of each of its images
        return MaskFolder, (self.root, self.kind, (), self.placing, self.unreadable)


class MaskFiles(ClassedObjects):
    """The object is what a rule takes of an image's mask file."""

    def __init__(self, folder: MaskFolder, rule: ObjectRule, max_pixels: int) -> None:
        super().__init__(rule, max_pixels)
        self.folder = folder

    def settings(self) -> dict[str, Any]:
        which = self.rule.which if isinstance(self.rule.which, tuple) else None
        labels = {"ignore_label": self.rule.ignore_label, "background_label": self.rule.background_label}
        return {"mask_rule": {"kind": self.folder.kind, "objects": which, **labels}}

    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        if sample.mask is None:
            if self.folder.unreadable is not None:
                raise Refused("failed", f"no mask found for it, but {self.folder.unreadable}")
            raise Refused("unmasked", "no mask for it")
        placing = self.folder.placing
        try:
            label = label_decoding.open_label(sample.mask, self.max_pixels, placing.expected(frame))
            values = values_of(label, self.folder.kind, sample.mask)
            placed = placing.place(values, label, frame)
        except label_decoding.OtherSize as error:
            why = placing.misfit(error.size, error.orientation, frame)
            raise Refused("failed", f"mask {sample.mask_name} {why}") from error
        except ImageError as error:
            raise Refused("failed", f"mask: {error.reason}") from error
        except Misfit as error:
            raise Refused("failed", f"mask {sample.mask_name} {error}") from error
        facts = {
            "mask": sample.mask_name,
            "mask_root": self.folder.root,
            "mask_sha256": label.sha256,
            "mask_placed": placed.placed,
        }
        mask = object_mask(placed.values_HW, self.folder.kind, self.rule)
        if not mask.any():
            there = ids_there(self.rule, np.unique(values).tolist())
            raise Refused("unmasked", f"no object in its mask ({sample.mask_name}){there}", facts)
        classes = placed.values_HW if self.rule.by_class else None
        return FoundObject(mask, facts, classes_HW=classes, no_class=self.rule.ignore_label, notes=placed.notes)

    def lacks(self, sample: SampleFile) -> bool:
        return sample.mask is None and self.folder.unreadable is None

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        same = (None if sample.mask is None else sha256_of(sample.mask)) == entry.mask_sha256
        placing, was_turned = self.folder.placing, Placing.recorded(entry.mask_placed).frame == STORED
        if not same or (placing.frame != STORED and not was_turned):
            return same
        try:
            return placing.turns(image_decoding.frame_of(sample.image, self.max_pixels).orientation) == was_turned
        except ImageError:
            return False  # as its new line will tell

    @property
    def has_classes(self) -> bool:
        return self.folder.kind == "index"

    def ruled(self, rule: ObjectRule) -> MaskFiles:
        return MaskFiles(self.folder, rule, self.max_pixels)

    @property
    def is_map(self) -> bool:
        return self.has_classes

    def tiles(self) -> bool:
        return self.has_classes

    def _items(self) -> Sequence[str]:
        return self.folder.paths

    def _areas_of(self, item: str) -> Areas:
        path = Path(item)
        try:
            with PIXELS.room_for(pixel_count(path)):
                label = any_label(path, self.max_pixels)
                return areas_of(values_of(label, self.folder.kind, path), self.rule.ignore_label)
        except ImageError:
            return Areas()


def whole_image(frame: Frame, refused: Refused | None = None) -> FoundObject:
    """Returns an object that is the whole image. refused: why there is no other."""
    known = {} if refused is None else refused.facts
    notes = () if refused is None else (f"{refused.reason}: the whole image is its object",)
    return FoundObject(np.ones((frame.height, frame.width), bool), {**known, "object": WHOLE_IMAGE}, notes=notes)


def ids_there(rule: ObjectRule, ids: Iterable[int]) -> str:
    """Returns which class ids were found where the user asked for others, to follow the reason; else nothing."""
    if not isinstance(rule.which, tuple):
        return ""
    found = sorted(set(ids))
    return f", which has the class ids {first_few(map(str, found), 20)}" if found else ", which has no class at all"
