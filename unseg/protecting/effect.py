"""What noise did to one image: whether it is called protected, and how far the image is from its original."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from unseg.counts import count_of
from unseg.method.config import Budget
from unseg.method.metrics import mean_change, psnr
from unseg.method.patterns import BOOK
from unseg.method.visibility import structural_similarity, visibility_of_change
from unseg.protecting.manifest import Status
from unseg.storage.image_decoding import eight_bit_rgb

WEAK_SHARE = 0.25  # of the object's budget: an object that changes by less, on average, is not called protected
# Networks hardly see noise on smaller objects than a disc of 6 pixels across, nor on thinner lines than of 2
# (docs/research/patterns.md, from benchmarks/detect_small.py).
SMALLEST = 32  # pixels of an object
THINNEST = 2  # pixels across


@dataclass(frozen=True)
class Effect:
    """What became of one image; the fields are those of a manifest's line, `unseg.protecting.manifest.Entry`."""

    status: Status
    reason: str | None = None
    psnr: float | None = None
    over_budget: float | None = None
    max_over: int | None = None
    delta_e: float | None = None
    s_cielab: float | None = None
    ssim: float | None = None

    def facts(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def effect_of(
    original_HWC: np.ndarray,
    stored_HWC: np.ndarray,
    region_HW: np.ndarray,
    budget: Budget,
    *,
    noised_HWC: np.ndarray | None = None,
    quality: bool = False,
) -> Effect:
    """Returns what became of an image, from it and from what is read back of its protected version.

    original, stored: H×W×C alike, uint8 or uint16. region: where the object's budget holds, H×W bool. noised: for a
    file whose format changes values, the image as it was before; by how much the file breaks the bound is measured
    then, and it is called protected only where the noise itself is enough, too. quality: colour differences on the
    region and SSIM, too.
    """
    lossy = noised_HWC is not None
    over_budget, max_over = breach(original_HWC, stored_HWC, region_HW, budget) if lossy else (None, None)
    ratio = psnr(original_HWC, stored_HWC)
    changed = math.isfinite(ratio)
    seen = similarity = None
    if quality and changed:
        clean, noised = eight_bit_rgb(original_HWC), eight_bit_rgb(stored_HWC)
        seen, similarity = visibility_of_change(clean, noised, region_HW), structural_similarity(clean, noised)
    status, reason = effect(original_HWC, stored_HWC, region_HW, budget.object)
    if noised_HWC is not None and status == "protected":
        status, reason = effect(original_HWC, noised_HWC, region_HW, budget.object)
    return Effect(
        status,
        reason,
        psnr=ratio if changed else None,
        over_budget=over_budget,
        max_over=max_over,
        delta_e=None if seen is None else seen.delta_e,
        s_cielab=None if seen is None else seen.s_cielab,
        ssim=similarity,
    )


def effect(
    original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray, budget: float
) -> tuple[Status, str | None]:
    """Returns whether the object changed by enough, and is large enough, to be called protected, and if not, why.

    budget: of the object, grey levels.
    """
    status, reason = status_of(mean_change(original_HWC, changed_HWC, region_HW), budget)
    return foreseen_status(region_HW) if status == "protected" else (status, reason)


def too_small(region_HW: np.ndarray) -> str | None:
    """Returns why networks hardly see noise on an object, H×W bool: it has few pixels, or is a thin line; else None.

    Patterns of images larger than the book's `trained_side` are wider, so objects must be larger there.
    """
    pixels, (least, across) = int(np.count_nonzero(region_HW)), _least(*region_HW.shape)
    if pixels < least:
        return _too_few(pixels, least)
    square, object_HW = np.ones((across, across), np.uint8), np.ascontiguousarray(region_HW).view(np.uint8)
    inner_HW = cv2.erode(object_HW, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if np.count_nonzero(inner_HW) >= least:  # an opening, which takes longer, leaves no less
        return None
    padded = np.pad(object_HW, across)  # an opening by an even square moves what it leaves
    if np.count_nonzero(cv2.morphologyEx(padded, cv2.MORPH_OPEN, square)) < least:
        return (
            f"its object is hardly anywhere {across} pixels across: in an image of this size, networks hardly see noise"
            " on thinner lines"
        )
    return None


def _least(height: int, width: int) -> tuple[int, int]:
    """Returns how many pixels an object must have, and how many across: in proportion to the finest wave."""
    side = max(height, width)
    scale = side / BOOK.trained_side / (BOOK.octave_ratio if side > BOOK.octaves_from else 1)
    return math.ceil(SMALLEST * max(1.0, scale) ** 2), max(THINNEST, round(THINNEST * scale))


def _too_few(pixels: int, least: int) -> str | None:
    if pixels >= least:
        return None
    return (
        f"its object has {count_of(pixels, 'pixel')}: in an image of this size, networks hardly see noise on fewer than"
        f" {least}"
    )


def status_of(change: float | None, budget: float) -> tuple[Status, str | None]:
    """Returns what an object is called whose values changed by so much on average, and why if not "protected".

    change, budget: in grey levels. change: None where the object has no pixel.
    """
    if change is None:
        return "uncoded", "every pixel is of a class without noise, or of none: nothing was changed"
    if change >= WEAK_SHARE * budget and change > 0:
        return "protected", None
    if change == 0:
        return "weak", f"its object did not change; the budget is {budget:g} grey levels"
    shown = math.floor(100 * change + 1e-6) / 100 or 0.01  # rounded up it could be a quarter
    return "weak", f"its object changed by {shown:g} grey levels on average, under a quarter of {budget:g}"


def foreseen_status(region_HW: np.ndarray) -> tuple[Status, str | None]:
    """Returns what an image is called as far as is known before its noise is made.

    region: where there will be noise, H×W bool.
    """
    if not region_HW.any():
        return status_of(None, 0)
    reason = too_small(region_HW)
    return ("weak", reason) if reason else ("protected", None)


class PlaneChanges:
    """Adds up how the object of each plane of a file changes, part by part.

    height, width: of a plane.
    """

    def __init__(self, height: int, width: int) -> None:
        self._least, _ = _least(height, width)
        self._pixels: dict[int, int] = {}
        self._sums: dict[int, float] = {}

    def add(self, plane: int, levels_HWC: np.ndarray, object_HW: np.ndarray) -> None:
        """Adds a part of a plane. levels: how far its values changed, in grey levels. object: H×W bool."""
        pixels = int(np.count_nonzero(object_HW))
        if pixels:
            self._pixels[plane] = self._pixels.get(plane, 0) + pixels
            self._sums[plane] = self._sums.get(plane, 0.0) + float(levels_HWC[object_HW].sum()) / levels_HWC.shape[2]

    @property
    def pixels(self) -> int:
        """Returns the pixels of the object in all planes."""
        return sum(self._pixels.values())

    def status(self, budget: float) -> tuple[Status, str | None]:
        """Returns what the file is called, and why if not "protected": it is, where the object of every plane is.

        Objects begin and end small from plane to plane, so the largest of them must have pixels enough; parts do not
        tell how thin it is. budget: of the object, grey levels.
        """
        pixels = self.pixels
        status, reason = status_of(sum(self._sums.values()) / pixels if pixels else None, budget)
        if status != "protected":
            return status, reason
        means = {plane: self._sums[plane] / count for plane, count in self._pixels.items()}
        weak = [plane for plane, mean in means.items() if status_of(mean, budget)[0] != "protected"]
        if not weak:
            reason = _too_few(max(self._pixels.values()), self._least)
            return ("weak", reason) if reason else (status, None)
        least = min(weak, key=lambda plane: means[plane])
        return "weak", (
            f"in {len(weak)} of {len(means)} planes with an object it changed by under a quarter of {budget:g} grey"
            f" levels on average, by {means[least]:.2g} in plane {least + 1}"
        )


def breach(
    original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray, budget: Budget
) -> tuple[float, int]:
    """Returns how far an image (uint8) is outside its budget: share of its values, and whole grey levels at most."""
    change = np.abs(changed_HWC.astype(np.int16) - original_HWC)
    over = change - np.where(region_HW, int(budget.object), int(budget.background)).astype(np.int16)[..., None]
    return float((over > 0).mean()), max(0, int(over.max()))
