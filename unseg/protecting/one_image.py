"""One image on its way: from its file to what the network is given, and from noise to the protected file's bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from unseg.data.samples import SampleFile
from unseg.method import noise
from unseg.method.codes import code_map
from unseg.method.config import Budget
from unseg.method.metrics import psnr
from unseg.protecting.manifest import Entry, Key
from unseg.protecting.objects import FoundObject, Objects, Refused
from unseg.protecting.outputs import Planned
from unseg.protecting.protector import Framed, Protector
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, image_encoding
from unseg.storage.weights import LoadedGenerator


@dataclass(frozen=True)
class Job:
    """One input and the names that are planned for it. earlier: its line of an earlier run."""

    sample: SampleFile
    planned: Planned
    key: Key
    earlier: Entry | None

    @property
    def is_new(self) -> bool:
        """Returns whether no earlier run protected it, as far as the manifest says."""
        return self.earlier is None or self.earlier.status != "protected"


@dataclass(frozen=True)
class Loaded:
    """A decoded sample, ready for the network.

    facts: what of its manifest line is known. framed: what the network is given; None where classes are told apart,
    whose codes (H×W uint8) take its place.
    """

    job: Job
    image: image_decoding.Image
    mask_HW: np.ndarray
    framed: Framed | None
    facts: Entry
    codes_HW: np.ndarray | None = None


class ImageMaker:
    """Decodes inputs and makes protected images of them. codes: of the classes, where those are told apart."""

    def __init__(
        self,
        settings: ProtectSettings,
        loaded: LoadedGenerator,
        protector: Protector,
        objects: Objects,
        codes: Mapping[int, int] | None,
    ) -> None:
        self.settings, self.loaded, self.protector = settings, loaded, protector
        self.objects, self.codes = objects, codes

    def decode(self, job: Job) -> Loaded:
        """Returns an input with its object; raises Refused or ImageError where it cannot be protected."""
        image = self._read(job)
        height, width, _ = image.samples.shape
        reason = image_encoding.unsupported(self.settings.format, image.samples, image.alpha)
        if reason:
            raise Refused("failed", reason)
        found = self.objects.find(job.sample, height, width)
        facts = self._facts(job, image, found)
        if self.codes is not None:
            return Loaded(job, image, found.mask_HW, None, facts, codes_HW=_codes_of(found, self.codes))
        framed = self.protector.frame(image.samples, found.mask_HW, found.boxes)
        return Loaded(job, image, found.mask_HW, framed, facts)

    def _read(self, job: Job) -> image_decoding.Image:
        data, describe = self.objects.image_bytes(job.sample), self.settings.metadata == "keep"
        path, max_pixels = job.sample.image, self.settings.max_pixels
        if data is None:
            return image_decoding.read_image(path, max_pixels, describe=describe)
        return image_decoding.decode_image(path, data, max_pixels, describe=describe)

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
            background_budget=float(self.settings.budget.background),
            generator=self.loaded.sha256,
            object_share=float(found.mask_HW.mean()),
            **found.facts,
        )

    def make(self, loaded: Loaded, noise_3NN: torch.Tensor | None) -> tuple[bytes, Entry]:
        """Returns the protected image's file, and what its manifest line says of it.

        noise: 3×N×N float32 in [−1, 1]; None where classes are told apart. Raises Refused where it is not finite.
        """
        if noise_3NN is not None and not torch.isfinite(noise_3NN).all():
            raise Refused("failed", "the generator's noise is not finite: its weights are damaged or not trained")
        image, settings = loaded.image, self.settings
        region = self.protector.region(loaded.mask_HW)
        if loaded.codes_HW is not None:
            protected = self.protector.by_class(image.samples, loaded.codes_HW)
        elif noise_3NN is not None:
            protected = noise.apply(image.samples, noise_3NN, region, settings.budget)
        else:
            raise ValueError(f"{loaded.job.sample.name}: neither noise nor codes")
        metadata, _ = image.metadata.select(settings.metadata).fitting(settings.format)
        if settings.format == "webp" and protected.shape[2] == 1:
            metadata = replace(metadata, icc_profile=None)  # it is for grey, and WebP has none
        data = image_encoding.encode(settings.format, protected, image.alpha, metadata, settings.png_level)
        facts = loaded.facts
        if settings.format == "jpeg":
            protected = image_decoding.decode_samples(data)
            over_budget, max_over = breach(image.samples, protected, region, settings.budget)
            facts = replace(facts, over_budget=over_budget, max_over=max_over)
        ratio = psnr(image.samples, protected)
        return data, replace(facts, psnr=ratio if math.isfinite(ratio) else None)


def _codes_of(found: FoundObject, codes: Mapping[int, int]) -> np.ndarray:
    if found.classes_HW is None:
        raise ValueError("codes are asked of an object without classes")
    try:
        return code_map(found.classes_HW, codes, found.no_class)
    except ValueError as error:
        raise Refused(
            "failed", f"{error}: its classes changed since they were counted; run the same command again"
        ) from error


def breach(
    original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray, budget: Budget
) -> tuple[float, int]:
    """Returns how far an image (uint8) is outside its budget: share of its values, and whole grey levels at most."""
    change = np.abs(changed_HWC.astype(np.int16) - original_HWC)
    over = change - np.where(region_HW, int(budget.object), int(budget.background)).astype(np.int16)[..., None]
    return float((over > 0).mean()), max(0, int(over.max()))
