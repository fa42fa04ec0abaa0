"""One image on its way: from its file to what the network is given, and from noise to the protected file's bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unseg.data.samples import SampleFile
from unseg.method.config import Budget
from unseg.method.metrics import mean_change, psnr
from unseg.protecting.manifest import Entry, Key, Status
from unseg.protecting.noise_source import NoiseSource, Prepared
from unseg.protecting.objects import FoundObject, Objects, Refused, whole_image
from unseg.protecting.outputs import Planned
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, image_encoding
from unseg.storage.image_metadata import oriented

WEAK_SHARE = 0.25  # of the object's budget: an object that changes by less, on average, is not called protected


@dataclass(frozen=True)
class Job:
    """One input and the names that are planned for it.

    earlier: its line of an earlier run. kind: its format where it is a file of planes, which stays of that format, see
    `unseg.storage.stacks`; None of pictures.
    """

    sample: SampleFile
    planned: Planned
    key: Key
    earlier: Entry | None
    kind: str | None = None

    @property
    def is_new(self) -> bool:
        """Returns whether no earlier run finished it, as far as the manifest says."""
        return self.earlier is None or not self.earlier.is_written


@dataclass(frozen=True)
class Loaded:
    """A decoded sample, ready for its noise. facts: what of its manifest line is known."""

    job: Job
    image: image_decoding.Image
    prepared: Prepared
    facts: Entry


class ImageMaker:
    """Decodes inputs and makes protected images of them."""

    def __init__(self, settings: ProtectSettings, source: NoiseSource, objects: Objects) -> None:
        self.settings, self.source, self.objects = settings, source, objects

    def decode(self, job: Job) -> Loaded:
        """Returns an input with its object; raises Refused or ImageError where it cannot be protected."""
        image = self._read(job)
        height, width, _ = image.samples.shape
        frame = image_decoding.Frame(height, width, image.orientation)
        reason = image_encoding.unsupported(self.settings.format, image.samples, image.alpha)
        if reason:
            raise Refused("failed", reason)
        found = self.objects.outlined(self.find(job.sample, frame), image.samples)
        prepared = self.source.prepare(image.samples, found)
        return Loaded(job, image, prepared, self._facts(job, image, found))

    def find(self, sample: SampleFile, frame: image_decoding.Frame) -> FoundObject:
        """Returns the object of an image; raises Refused where it stays without protection."""
        try:
            return self.objects.find(sample, frame)
        except Refused as refused:
            if refused.status == "failed" or self.settings.unmasked != "whole":
                raise
            return whole_image(frame, refused)

    def _read(self, job: Job) -> image_decoding.Image:
        data = self.objects.image_bytes(job.sample)
        path, max_pixels = job.sample.image, self.settings.max_pixels
        describe, upright = self.settings.metadata == "keep", not self.settings.keep_frame
        if data is None:
            return image_decoding.read_image(path, max_pixels, describe=describe, upright=upright)
        return image_decoding.decode_image(path, data, max_pixels, describe=describe, upright=upright)

    def _facts(self, job: Job, image: image_decoding.Image, found: FoundObject) -> Entry:
        height, width, channels = image.samples.shape
        as_rgb = channels == 1 and self.settings.format == "webp"
        _, too_large = image.metadata.select(self.settings.metadata).fitting(self.settings.format)
        notes = [
            image.note,
            "grey kept as RGB with equal channels: WebP has no grey" if as_rgb else None,
            *too_large,
            job.planned.note,
            *found.notes,
        ]
        return Entry(
            *job.key,
            "protected",
            output=job.planned.output,
            note="; ".join(filter(None, notes)) or None,
            width=width,
            height=height,
            input_sha256=image.sha256,
            prompt=self.objects.prompt,
            object_budget=float(self.settings.budget.object),
            background_budget=self.source.background_budget,
            generator=self.source.generator,
            orientation=image.orientation if self.settings.keep_frame and image.orientation != 1 else None,
            object_share=float(found.mask_HW.mean()),
            **found.facts,
        )

    def make(self, loaded: Loaded, noise: Any) -> tuple[bytes, Entry]:
        """Returns the protected image's file, and what its manifest line says of it.

        noise: what the source gave for it. Raises Refused where that is none.
        """
        image, settings, region_HW = loaded.image, self.settings, loaded.prepared.region_HW
        protected = self.source.apply(image.samples, loaded.prepared, noise)
        metadata, _ = image.metadata.select(settings.metadata).fitting(settings.format)
        if settings.format == "webp" and protected.shape[2] == 1:
            metadata = replace(metadata, icc_profile=None)  # it is for grey, and WebP has none
        metadata = oriented(metadata, loaded.facts.orientation or 1)
        data = image_encoding.encode(settings.format, protected, image.alpha, metadata, settings.png_level)
        facts = loaded.facts
        if settings.format == "jpeg":
            protected = image_decoding.decode_samples(data)
            budget = Budget(settings.budget.object, self.source.background_budget)
            over_budget, max_over = breach(image.samples, protected, region_HW, budget)
            facts = replace(facts, over_budget=over_budget, max_over=max_over)
        ratio = psnr(image.samples, protected)
        status, reason = effect(mean_change(image.samples, protected, region_HW), settings.budget.object)
        return data, replace(facts, status=status, reason=reason, psnr=ratio if math.isfinite(ratio) else None)


def effect(change: float | None, budget: float) -> tuple[Status, str | None]:
    """Returns whether an object changed by enough to be called protected, and if not, why.

    change: its mean, in grey levels; None where it has no pixel.
    """
    if change is None:
        return "uncoded", "every pixel is of a class without noise, or of none: nothing was changed"
    if change >= WEAK_SHARE * budget and change > 0:
        return "protected", None
    return "weak", f"its object changed by {change:.2g} grey levels on average, under a quarter of {budget:g}"


def breach(
    original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray, budget: Budget
) -> tuple[float, int]:
    """Returns how far an image (uint8) is outside its budget: share of its values, and whole grey levels at most."""
    change = np.abs(changed_HWC.astype(np.int16) - original_HWC)
    over = change - np.where(region_HW, int(budget.object), int(budget.background)).astype(np.int16)[..., None]
    return float((over > 0).mean()), max(0, int(over.max()))
