"""One protected file against its original: the largest changes, and whatever else is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseg.method.metrics import psnr
from unseg.method.pixels import VALUES_A_GREY_LEVEL
from unseg.protecting.effect import effect
from unseg.protecting.manifest import Entry, Status
from unseg.protecting.originals import Broken, Originals, size_of
from unseg.storage import image_decoding
from unseg.storage.files import is_missing, link_on_the_way
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.second_decoder import disagreement


@dataclass(frozen=True)
class Comparison:
    """How a protected file differs from its original.

    problems: in words; empty where the file keeps its promise. on_object, elsewhere: the greatest change on the
    object's region and beside it, in grey levels of 255; None where there is no such pixel. psnr: in dB; None where
    nothing changed.
    """

    problems: tuple[str, ...]
    on_object: float | None
    elsewhere: float | None
    psnr: float | None


def compare(entry: Entry, originals: Originals) -> Comparison:
    """Reads a protected file back and returns how it differs from its original.

    Raises Broken, or ImageError, where the two cannot be compared.
    """
    output = output_of(entry, originals)
    original = originals.image(entry)
    changed_HWC = _like(output.samples, original.samples)
    height, width = original.samples.shape[:2]
    region_HW = originals.region(entry, image_decoding.Frame(height, width, original.orientation))
    on_object, elsewhere = _greatest_changes(original.samples, changed_HWC, region_HW)
    beyond = breaches(entry, on_object, elsewhere)
    others = _other_differences(entry, originals.settings.metadata, output, original)
    ratio = psnr(original.samples, changed_HWC)
    if entry.object_budget is not None:
        status, reason = effect(original.samples, changed_HWC, region_HW, entry.object_budget)
        beyond += overclaims(entry, status, reason, originals.settings.calls_weak or not np.isfinite(ratio))
    return Comparison((*beyond, *others), on_object, elsewhere, psnr=ratio if np.isfinite(ratio) else None)


def breaches(entry: Entry, on_object: float | None, elsewhere: float | None) -> list[str]:
    """Returns where the greatest changes, in grey levels, are beyond the budget of a line."""
    return [
        f"changes {where} by {value:g}, budget {limit:g}"
        for where, value, limit in (
            ("the object", on_object, entry.object_budget),
            ("the background", elsewhere, entry.background_budget),
        )
        if value is not None and limit is not None and value > limit
    ]


def overclaims(entry: Entry, status: Status, reason: str | None, calls_weak: bool) -> list[str]:
    """Returns that a line calls an image protected which, by its files, has another status for this reason.

    calls_weak: whether little change is told apart from enough.
    """
    is_good = entry.status != "protected" or status == "protected" or (status == "weak" and not calls_weak)
    return [] if is_good else [f"is called protected, but {reason}"]


def output_of(entry: Entry, originals: Originals) -> image_decoding.Image:
    """Reads the protected picture of a line; raises Broken where there is none."""
    if entry.kind is not None:
        raise Broken(f"is {entry.kind}, and no picture")
    path = path_of_output(entry, originals)
    data = bytes_of_image(path, originals.max_pixels)
    image = image_decoding.decode_image(path, data, originals.max_pixels, upright=entry.orientation is None)
    different = disagreement(data, image, must_read=True)
    if different is not None:
        raise Broken(different)
    return image


def path_of_output(entry: Entry, originals: Originals) -> Path:
    """Returns where the protected file of a line lies; raises Broken where there is none."""
    if entry.output is None or entry.object_budget is None or entry.background_budget is None:
        raise Broken("its line in the manifest has no output or no budget")
    link = link_on_the_way(originals.folder, entry.output)
    if link is not None:
        raise Broken(f"{link} is a link, which is not followed")
    path = originals.folder / entry.output
    if is_missing(path):
        raise Broken("missing")
    return path


def _greatest_changes(
    original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray
) -> tuple[float | None, float | None]:
    """Returns the greatest changes in the region and elsewhere, in grey levels of 255; None where there is no pixel."""
    largest = (np.maximum(changed_HWC, original_HWC) - np.minimum(changed_HWC, original_HWC)).max(axis=2)
    values = VALUES_A_GREY_LEVEL[largest.dtype]
    return _in_grey_levels(largest[region_HW], values), _in_grey_levels(largest[~region_HW], values)


def _in_grey_levels(changes_N: np.ndarray, values: int) -> float | None:
    """Returns the largest change. values: how many of the samples' values are a grey level of 255."""
    if changes_N.size == 0:
        return None
    largest = int(changes_N.max())
    return largest if values == 1 else largest / values


def _other_differences(
    entry: Entry, policy: str, output: image_decoding.Image, original: image_decoding.Image
) -> Iterator[str]:
    """Yields what is not as it should be beside the pixels. policy: the run's --metadata."""
    if not _same_transparency(output.alpha, original.alpha):
        yield "its transparency is not the original's"
    as_rgb = output.samples.shape[2] != original.samples.shape[2]  # a profile for grey does not fit then
    kept, _ = original.metadata.select(policy).fitting(output.format)
    if output.metadata.icc_profile != (None if as_rgb else kept.icc_profile):
        yield f"its colour profile is not what --metadata {policy} leaves"
    if policy != "keep" and output.tells:
        yield f"it carries {' and '.join(output.tells)}, which --metadata {policy} leaves out"
    if output.orientation != (entry.orientation or 1):
        yield f"its EXIF orientation is {output.orientation}, not {entry.orientation or 1}: it is shown turned"
    if output.sha256 != entry.output_sha256:
        yield "changed since it was written (another sha256)"
    if original.sha256 != entry.input_sha256:
        yield "its original changed since (another sha256)"


def _like(output_HWC: np.ndarray, original_HWC: np.ndarray) -> np.ndarray:
    """Returns the output's samples in the original's layout: a grey original may have three equal channels (WebP)."""
    if output_HWC.shape[2] == 3 and original_HWC.shape[2] == 1 and (output_HWC == output_HWC[..., :1]).all():
        output_HWC = output_HWC[..., :1]
    if output_HWC.shape[:2] != original_HWC.shape[:2]:
        raise Broken(f"its size {size_of(output_HWC)} is not the original's {size_of(original_HWC)}")
    if output_HWC.shape != original_HWC.shape or output_HWC.dtype != original_HWC.dtype:
        raise Broken(f"it is {_kind(output_HWC)}, its original is {_kind(original_HWC)}")
    return output_HWC


def _kind(samples_HWC: np.ndarray) -> str:
    return f"{8 * samples_HWC.itemsize}-bit {'grey' if samples_HWC.shape[2] == 1 else 'colour'}"


def _same_transparency(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    """Returns whether two alphas say the same; None is opaque, as WebP stores no alpha that says no more than that."""
    if first is None or second is None:
        return all(alpha is None or (alpha == np.iinfo(alpha.dtype).max).all() for alpha in (first, second))
    return np.array_equal(first, second)
