"""DICOM segmentations and their images: one file speaks of many instances, and names them by identity, not by name."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from unseg.compute.threads import in_order
from unseg.data.samples import SampleFile, SampleList, spooled_samples
from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.stack_kinds import KINDS, stack_kind_of

DICOM = KINDS["DICOM"]


def paired_by_reference(found: SampleList, masks: Path, max_pixels: int, pool: Executor) -> SampleList:
    """Returns the samples with the segmentations that speak of them, where no mask has their name."""
    candidates = [name for name in found.unused_masks if stack_kind_of(masks / name) is DICOM]
    if not candidates or not DICOM.is_there:
        return found
    from unseg.storage.stacks.dicom_segments import instances_in  # which needs pydicom

    named: dict[str, str] = {}
    for name in candidates:
        try:
            for instance in sorted(instances_in(masks / name, max_pixels)):
                named.setdefault(instance, name)
        except ImageError:
            continue  # it stays among the masks without an image
    samples = spooled_samples(
        in_order(pool, lambda sample: _with_mask(sample, masks, named, max_pixels), found.samples)
    )
    used = {sample.mask_name for sample in samples} & set(candidates)
    return replace(found, samples=samples, unused_masks=[name for name in found.unused_masks if name not in used])


def _with_mask(sample: SampleFile, masks: Path, named: dict[str, str], max_pixels: int) -> SampleFile:
    from unseg.storage.stacks.dicom_reading import instance_of

    if sample.mask is not None or stack_kind_of(sample.image) is not DICOM:
        return sample
    try:
        name = named.get(instance_of(sample.image, max_pixels))
    except ImageError:
        return sample  # as its own line will tell
    return sample if name is None else replace(sample, mask_file=masks / name, mask_name=name)
