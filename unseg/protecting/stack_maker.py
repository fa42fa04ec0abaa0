"""Files of planes on their way: from their values and their object to protected files of the same format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from unseg.method.pixels import GREY_LEVELS
from unseg.protecting.coded_source import CodedSource
from unseg.protecting.effect import PlaneChanges
from unseg.protecting.manifest import Entry
from unseg.protecting.noise_source import NoiseSource
from unseg.protecting.objects import Objects, Refused
from unseg.protecting.one_image import Job
from unseg.protecting.plane_objects import PlaneObjects, plane_objects
from unseg.protecting.settings import ProtectSettings
from unseg.storage.files import sha256_of
from unseg.storage.stacks.stack import Layout, Part, Samples, Stack
from unseg.storage.stacks.stack_kinds import KINDS

LOST_TOLD = 3  # of what was not kept, in the reason of a file that is refused


class StackMaker:
    """Makes protected versions of files of planes."""

    def __init__(self, settings: ProtectSettings, source: NoiseSource, objects: Objects) -> None:
        self.settings, self.source, self.objects = settings, source, objects

    def foreseen(self, job: Job, may_be_whole: bool = True) -> Entry:
        """Returns the line of a file, as far as its header and what says its object tell.

        Raises Refused or ImageError where it cannot be protected. may_be_whole: as for `plane_objects`.
        """
        stack = self._open(job)
        try:
            source, objects = self._source(stack), self._objects(job, stack, may_be_whole)
            changes = PlaneChanges(stack.layout.height, stack.layout.width)
            for part in stack.parts():
                region_HW = source.region(objects.found(part))
                changes.add(part.plane, np.full((*region_HW.shape, 1), self.settings.budget.object), region_HW)
        finally:
            stack.close()
        if not changes.pixels:
            raise objects.refusal()
        status, reason = changes.status(self.settings.budget.object)
        note = "; ".join(filter(None, (*stack.layout.notes, job.planned.note, *objects.notes))) or None
        return Entry(*job.key, status, output=job.planned.output, reason=reason, note=note, kind=job.kind)

    def make(self, job: Job, target: Path, may_be_whole: bool = True) -> Entry:
        """Writes the protected version of a file to `target`, and returns what its manifest line says of it.

        Raises Refused or ImageError where it cannot be protected; what is written by then is of no use. may_be_whole:
        as for `plane_objects`.
        """
        stack = self._open(job)
        try:
            source, objects = self._source(stack), self._objects(job, stack, may_be_whole)
            sha256, tally = sha256_of(job.sample.image), _Tally(stack.layout)
            stack.write(target, _changed(stack, objects, source, tally), source.key)
        finally:
            stack.close()
        if not tally.changes.pixels:
            if tally.void:
                raise Refused("failed", "every pixel of its object stands for no value (nodata, padding or a mask)")
            raise objects.refusal()
        tally.check(self.settings.budget.object)
        self._prove(job, target)
        return self._entry(job, stack, objects, tally, sha256=sha256)

    def _prove(self, job: Job, target: Path) -> None:
        """Raises Refused where an independent reader finds something beside the values that was not kept."""
        assert job.kind is not None, "a picture is made elsewhere"
        proof = KINDS[job.kind].proof(job.sample.image, target, self.settings.max_pixels, self.settings.bands)
        try:
            lost = list(islice(proof.differences(), LOST_TOLD))
        finally:
            proof.close()
        if lost:
            raise Refused("failed", f"cannot be written back as it was: {'; '.join(lost)}")

    def _open(self, job: Job) -> Stack:
        assert job.kind is not None, "a picture is made elsewhere"
        return KINDS[job.kind].open(job.sample.image, self.settings.max_pixels, self.settings.bands)

    def _source(self, stack: Stack) -> CodedSource:
        if not isinstance(self.source, CodedSource):
            raise Refused("failed", f"{stack.kind} gets noise of codes alone: leave out --noise and --generator")
        return self.source

    def _objects(self, job: Job, stack: Stack, may_be_whole: bool) -> PlaneObjects:
        self._source(stack)
        return plane_objects(self.objects, job.sample, stack, self.settings, may_be_whole=may_be_whole)

    def _entry(self, job: Job, stack: Stack, objects: PlaneObjects, tally: _Tally, sha256: str | None) -> Entry:
        layout = stack.layout
        status, reason = tally.changes.status(self.settings.budget.object)
        return Entry(
            *job.key,
            status,
            output=job.planned.output,
            reason=reason,
            note="; ".join(filter(None, (*layout.notes, job.planned.note, *objects.notes))) or None,
            width=layout.width,
            height=layout.height,
            input_sha256=sha256,
            prompt=self.objects.prompt,
            kind=stack.kind,
            planes=layout.planes,
            bands=layout.bands,
            range_of=layout.range_of,
            value_ranges=tuple((found.low, found.high) for found in layout.ranges),
            object_budget=float(self.settings.budget.object),
            background_budget=self.source.background_budget,
            object_share=tally.changes.pixels / layout.pixels,
            psnr=tally.psnr,
            **objects.facts,
        )


def _changed(
    stack: Stack, objects: PlaneObjects, source: CodedSource, tally: _Tally
) -> Iterator[tuple[Part, np.ndarray]]:
    """Yields the parts of a file with their noise."""
    for part in stack.parts():
        samples = stack.read(part)
        prepared = source.prepare(samples.values_HWC, objects.found(part))
        changed_HWC = source.apply_in_range(samples, prepared, stack.layout)
        tally.add(samples, changed_HWC, prepared.region_HW, part.plane)
        yield part, changed_HWC


class _Tally:
    """Adds up how a file changes, part by part. void: pixels of the object that stand for no value."""

    def __init__(self, layout: Layout) -> None:
        self._levels = np.array([found.grey_level for found in layout.ranges])
        self.changes, self.void = PlaneChanges(layout.height, layout.width), 0
        self._greatest, self._squares, self._values = 0.0, 0.0, 0

    def add(self, samples: Samples, changed_HWC: np.ndarray, region_HW: np.ndarray, plane: int) -> None:
        before = samples.values_HWC.astype(np.float64)
        with np.errstate(invalid="ignore"):  # what is not finite stays as it is
            change = np.abs(changed_HWC.astype(np.float64) - before)
        change = np.where(np.isfinite(before), change, 0.0) / self._levels
        self.changes.add(plane, change, region_HW & ~samples.fixed_HW)
        self.void += int(np.count_nonzero(region_HW & samples.fixed_HW))
        self._greatest = max(self._greatest, float(change.max()))
        self._squares += float((change * change).sum())
        self._values += change.size

    def check(self, budget: float) -> None:
        """Raises Refused where a value changed by more than it may, so that no fault of ours is called protected."""
        if not self._greatest <= budget * (1 + 1e-9):
            raise Refused("failed", f"a value would change by {self._greatest:g} grey levels, and may by {budget:g}")

    @property
    def psnr(self) -> float | None:
        """Returns the peak signal-to-noise ratio in dB, of which the peak is the range; None where nothing changed."""
        if self._squares == 0:
            return None
        return 10 * math.log10(GREY_LEVELS**2 / (self._squares / self._values))
