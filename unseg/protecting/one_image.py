"""One image on its way: from its file to what the network is given, and from noise to the protected file's bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unseg.data.samples import SampleFile
from unseg.method.config import Budget
from unseg.protecting.effect import effect_of
from unseg.protecting.manifest import Entry, Key
from unseg.protecting.noise_source import NoiseSource, Prepared
from unseg.protecting.objects import FoundObject, Objects, Refused, whole_image
from unseg.protecting.outputs import Planned
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, image_encoding
from unseg.storage.image_metadata import oriented


@dataclass(frozen=True, slots=True)
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

    def decode(self, job: Job, may_be_whole: bool = True) -> Loaded:
        """Returns an input with its object; raises Refused or ImageError where it cannot be protected.

        may_be_whole: as for `find`.
        """
        image = self._read(job)
        height, width, _ = image.samples.shape
        frame = image_decoding.Frame(height, width, image.orientation)
        reason = image_encoding.unsupported(self.settings.format, image.samples, image.alpha)
        if reason:
            raise Refused("failed", reason)
        found = self.objects.outlined(self.find(job.sample, frame, may_be_whole), image.samples)
        prepared = self.source.prepare(image.samples, found)
        return Loaded(job, image, prepared, self._facts(job, image, found))

    def find(self, sample: SampleFile, frame: image_decoding.Frame, may_be_whole: bool = True) -> FoundObject:
        """Returns the object of an image; raises Refused where it stays without protection.

        may_be_whole: whether `--unmasked whole` may make the whole image its object.
        """
        try:
            return self.objects.find(sample, frame)
        except Refused as refused:
            if refused.status == "failed" or self.settings.unmasked != "whole" or not may_be_whole:
                raise
            return whole_image(frame, refused)

    def _read(self, job: Job) -> image_decoding.Image:
        data = self.objects.image_bytes(job.sample)
        path, max_pixels = job.sample.image, self.settings.max_pixels
        describe, upright = self.settings.metadata == "keep", not self.settings.keep_frame
        if data is None:
            within = job.sample.within
            return image_decoding.read_image(path, max_pixels, describe=describe, upright=upright, within=within)
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
        protected = self.source.apply(loaded.image.samples, loaded.prepared, noise)
        data = encoded(loaded.image, protected, self.settings, loaded.facts.orientation or 1)
        lossy = self.settings.format == "jpeg"
        effect = effect_of(
            loaded.image.samples,
            image_decoding.decode_samples(data) if lossy else protected,
            loaded.prepared.region_HW,
            Budget(self.settings.budget.object, self.source.background_budget),
            noised_HWC=protected if lossy else None,
            quality=self.settings.quality,
        )
        return data, replace(loaded.facts, **effect.facts())

    def made(self, job: Job) -> tuple[bytes, Entry]:
        """Returns what `make` does for an input that is looked at by itself; raises Refused or ImageError."""
        loaded = self.decode(job)
        return self.make(loaded, self.source.noises([loaded.prepared])[0])


def encoded(
    image: image_decoding.Image, protected_HWC: np.ndarray, settings: ProtectSettings, orientation: int = 1
) -> bytes:
    """Returns the file of an image's protected samples, in the settings' format, with the metadata that they keep.

    orientation: EXIF's, of pixels that lie as they were stored.
    """
    metadata, _ = image.metadata.select(settings.metadata).fitting(settings.format)
    if settings.format == "webp" and protected_HWC.shape[2] == 1:
        metadata = replace(metadata, icc_profile=None)  # it is for grey, and WebP has none
    metadata = oriented(metadata, orientation)
    return image_encoding.encode(settings.format, protected_HWC, image.alpha, metadata, settings.png_level)
