"""The object in files of planes: one mask for all planes, or a mask of planes as the file has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from unseg.data.masks import MaskKind, object_mask
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile
from unseg.protecting.objects import WHOLE_IMAGE, FoundObject, MaskFiles, Objects, Refused, WholeImage
from unseg.protecting.settings import ProtectSettings
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import Frame
from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.stack import Labels, Part, Stack
from unseg.storage.stacks.stack_kinds import open_labels

LEVEL_ON, LEVEL_OFF = np.uint8(255), np.uint8(0)


class PlaneObjects(ABC):
    """Says where the object is, part by part. facts, notes: as of `FoundObject`."""

    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def found(self, part: Part) -> FoundObject:
        """Returns the object in a part of a plane."""

    def refusal(self) -> Refused:
        """Returns what to say where no part has any."""
        return Refused("unmasked", "no object in it: nothing was changed", self.facts)


class WholePlanes(PlaneObjects):
    """All of every plane is the object."""

    def __init__(self, notes: tuple[str, ...] = (), facts: Mapping[str, Any] | None = None) -> None:
        self.facts, self.notes = {**(facts or {}), "object": WHOLE_IMAGE}, notes

    def found(self, part: Part) -> FoundObject:
        size = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
        return FoundObject(np.ones(size, bool))


class FlatObjects(PlaneObjects):
    """The object has one outline, in all planes alike."""

    def __init__(self, found: FoundObject, planes: int) -> None:
        self._found, self.facts = found, found.facts
        self.notes = (*found.notes, *((f"one mask for all of {planes} planes",) if planes > 1 else ()))

    def found(self, part: Part) -> FoundObject:
        whole, here = self._found, (part.rows, part.columns)
        classes = None if whole.classes_HW is None else whole.classes_HW[here]
        return FoundObject(np.ascontiguousarray(whole.mask_HW[here]), {}, None, classes, whole.no_class)


class LabelledPlanes(PlaneObjects):
    """The object is what a rule takes of a mask that has planes of its own.

    kind: what its values mean, "binary" or "index". without: classes that are no object.
    """

    def __init__(
        self,
        labels: Labels,
        kind: MaskKind,
        rule: ObjectRule,
        facts: Mapping[str, Any],
        without: frozenset[int] = frozenset(),
    ) -> None:
        self._labels, self._kind, self._rule, self.facts, self._without = labels, kind, rule, facts, without
        self._brightest = labels.highest if kind == "binary" else None

    def found(self, part: Part) -> FoundObject:
        values = self._labels.values(part)
        if self._brightest is not None:
            values = np.where((values == self._brightest) & (values != 0), LEVEL_ON, LEVEL_OFF)
        mask = object_mask(values, self._kind, self._rule)
        if self._without:
            mask &= ~np.isin(values, sorted(self._without))
        classes = values if self._rule.by_class else None
        return FoundObject(mask, {}, None, classes, self._rule.ignore_label)

    def refusal(self) -> Refused:
        return Refused("unmasked", f"no object in its mask ({self.facts.get('mask')})", self.facts)


def plane_objects(
    objects: Objects, sample: SampleFile, stack: Stack, settings: ProtectSettings, *, may_be_whole: bool = True
) -> PlaneObjects:
    """Returns where the object of a file is; raises Refused where nothing says it.

    may_be_whole: whether `--unmasked whole` may make the whole file its object.
    """
    if isinstance(objects, WholeImage):
        return WholePlanes()
    if objects.settings().get("refined"):
        raise Refused("failed", f"outlines are found in pictures, and this is {stack.kind}: give masks or whole boxes")
    try:
        labelled = _labelled(objects, sample, stack, settings)
        if labelled is not None:
            return labelled
        frame = Frame(stack.layout.height, stack.layout.width)
        return FlatObjects(objects.find(sample, frame), stack.layout.planes)
    except Refused as refused:
        if refused.status == "failed" or settings.unmasked != "whole" or not may_be_whole:
            raise
        return WholePlanes((f"{refused.reason}: the whole image is its object",), refused.facts)


def _labelled(objects: Objects, sample: SampleFile, stack: Stack, settings: ProtectSettings) -> PlaneObjects | None:
    """Returns what a mask of planes shows; None where there is none."""
    if not isinstance(objects, MaskFiles) or sample.mask is None:
        return None
    try:
        labels = open_labels(sample.mask, settings.max_pixels, stack)
    except ImageError as error:
        raise Refused("failed", f"mask: {error.reason}") from error
    if labels is None:
        return None
    facts = {"mask": sample.mask_name, "mask_root": objects.folder.root, "mask_sha256": sha256_of(sample.mask)}
    return labelled_planes(labels, objects.folder.kind, objects.rule, facts)


def labelled_planes(
    labels: Labels, kind: MaskKind, rule: ObjectRule, facts: Mapping[str, Any], without: frozenset[int] = frozenset()
) -> PlaneObjects:
    """Returns what a rule takes of a mask of planes; raises Refused for masks of grey levels."""
    if kind not in ("binary", "index"):
        raise Refused("failed", f"masks of planes hold two values or class ids, not {kind}: give --mask-type")
    return LabelledPlanes(labels, kind, rule, facts, without)
