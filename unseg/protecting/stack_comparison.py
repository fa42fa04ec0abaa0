"""One protected file of planes against its original: every value by two readers, and whatever else is to be equal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from unseg.method.pixels import GREY_LEVELS
from unseg.protecting.comparison import Comparison, breaches, overclaims, path_of_output
from unseg.protecting.effect import PlaneChanges
from unseg.protecting.manifest import Entry
from unseg.protecting.objects import WHOLE_IMAGE, FoundObject, Refused
from unseg.protecting.originals import Broken, Originals
from unseg.protecting.plane_objects import FlatObjects, PlaneObjects, WholePlanes, labelled_planes
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import Frame
from unseg.storage.stacks.stack import Proof, Samples, Stack
from unseg.storage.stacks.stack_kinds import KINDS, open_labels


def compare_stacks(entry: Entry, originals: Originals) -> Comparison:
    """Reads a protected file of planes back and returns how it differs from its original.

    Raises Broken, or ImageError, where the two cannot be compared.
    """
    output, original = path_of_output(entry, originals), originals.original_path(entry)
    kind = KINDS.get(entry.kind or "")
    if kind is None:
        raise Broken(f"its line in the manifest names a format that is not known: {str(entry.kind)[:40]!r}")
    stack = kind.open(original, originals.max_pixels, entry.bands)
    try:
        proof = kind.proof(original, output, originals.max_pixels, entry.bands)
        try:
            changes = _Changes(stack)
            objects = _objects(entry, originals, stack)
            for part in stack.parts():
                changes.add(stack.read(part), proof.pair(part), objects.found(part).mask_HW, part.plane)
            others = tuple(_other_differences(entry, stack, proof))
        finally:
            proof.close()
    finally:
        stack.close()
    if sha256_of(output) != entry.output_sha256:
        others += ("changed since it was written (another sha256)",)
    if sha256_of(original) != entry.input_sha256:
        others += ("its original changed since (another sha256)",)
    beyond = breaches(entry, changes.on_object, changes.elsewhere)
    if entry.object_budget is not None:
        beyond += overclaims(entry, *changes.planes.status(entry.object_budget), originals.settings.calls_weak)
    return Comparison((*beyond, *changes.problems, *others), changes.on_object, changes.elsewhere, changes.psnr)


def _other_differences(entry: Entry, stack: Stack, proof: Proof) -> Iterator[str]:
    ranges = tuple((found.low, found.high) for found in stack.layout.ranges)
    if ranges != entry.value_ranges or stack.layout.range_of != entry.range_of:
        yield f"its original's values range over {ranges}, not over {entry.value_ranges} as its line says"
    yield from proof.differences()


def _objects(entry: Entry, originals: Originals, stack: Stack) -> PlaneObjects:
    """Returns where the object's budget holds; raises Broken where nothing says it any more."""
    settings = originals.settings
    if entry.object == WHOLE_IMAGE:
        return WholePlanes()
    if entry.mask is not None and entry.boxes is None and not settings.is_annotated:
        path = originals.mask_path(entry)
        labels = open_labels(path, originals.max_pixels, stack)
        if labels is not None:
            if sha256_of(path) != entry.mask_sha256:
                raise Broken(f"its mask {path} changed since (another sha256)")
            if settings.rule is None or settings.kind is None:
                raise Broken("its line in the manifest names a mask, and the first line no rule for masks")
            try:
                return labelled_planes(labels, settings.kind, settings.rule, {}, settings.absent)
            except Refused as refused:
                raise Broken(refused.reason) from refused
    region_HW = originals.region(entry, Frame(stack.layout.height, stack.layout.width))
    return FlatObjects(FoundObject(region_HW), stack.layout.planes)


class _Changes:
    """Finds the greatest changes of a file, part by part, in grey levels of its ranges."""

    def __init__(self, stack: Stack) -> None:
        self._levels = np.array([found.grey_level for found in stack.layout.ranges])
        self.on_object: float | None = None
        self.elsewhere: float | None = None
        self.planes = PlaneChanges(stack.layout.height, stack.layout.width)
        self._squares, self._values = 0.0, 0
        self._problems: dict[str, None] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Returns what else is wrong with the values, in words."""
        return tuple(self._problems)

    @property
    def psnr(self) -> float | None:
        """Returns the peak signal-to-noise ratio in dB, of which the peak is the range; None where nothing changed."""
        if self._squares == 0:
            return None
        return 10 * math.log10(GREY_LEVELS**2 / (self._squares / self._values))

    def add(self, samples: Samples, pair: tuple[np.ndarray, np.ndarray], region_HW: np.ndarray, plane: int) -> None:
        """Adds a part of a plane. samples: as the protecting reader has the original; pair: as another has both."""
        before, after = pair
        if before.shape != after.shape or before.dtype != after.dtype:
            raise Broken(f"its values are {after.shape} {after.dtype}, its original's {before.shape} {before.dtype}")
        if not np.array_equal(before, samples.values_HWC, equal_nan=before.dtype.kind == "f"):
            raise Broken("two readers find other values in its original")
        if before.dtype.kind == "f" and not np.array_equal(np.isfinite(before), np.isfinite(after)):
            self._problems["values that are not finite are not the original's"] = None
        change = _difference(before, after)
        void = samples.void(before)
        if change[samples.fixed_HW].any() or change[void].any() or (samples.void(after) & ~void).any():
            self._problems["pixels that stand for no value are not the original's"] = None
        levels = change / self._levels
        self.planes.add(plane, levels, region_HW & ~samples.fixed_HW)
        self._squares += float((levels * levels).sum())
        self._values += levels.size
        largest = levels.max(axis=2)
        self.on_object = _largest(self.on_object, largest[region_HW])
        self.elsewhere = _largest(self.elsewhere, largest[~region_HW])


def _difference(before_HWC: np.ndarray, after_HWC: np.ndarray) -> np.ndarray:
    """Returns how much values changed, as float64, exact for whole numbers; 0 where both are not finite."""
    if before_HWC.dtype.kind in "iu":
        apart = np.maximum(before_HWC, after_HWC).astype(np.uint64) - np.minimum(before_HWC, after_HWC).astype(
            np.uint64
        )
        return apart.astype(np.float64)
    with np.errstate(invalid="ignore"):
        change = np.abs(after_HWC.astype(np.float64) - before_HWC.astype(np.float64))
    return np.where(np.isfinite(before_HWC) & np.isfinite(after_HWC), change, 0.0)


def _largest(so_far: float | None, levels_N: np.ndarray) -> float | None:
    if not levels_N.size:
        return so_far
    found = round(float(levels_N.max()), 9)  # the division by a grey level may miss a whole budget by its last bit
    return found if so_far is None else max(so_far, found)
