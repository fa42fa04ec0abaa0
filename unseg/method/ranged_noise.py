"""Noise of codes for values of any type: integers of any width, and floats, whose range says what a grey level is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unseg.method.coded_noise import axis_of, contrast_shares, present_codes, states_of
from unseg.method.patterns import CodeBook, ImagePatterns, image_digest
from unseg.method.pixels import GREY_LEVELS, LUMINANCE, bands, is_grey

WIDEST = 2**53  # integers beyond it are not computed with exactly


def apply_codes_in_range(
    values_HWC: np.ndarray,
    codes_HW: np.ndarray,
    book: CodeBook,
    key: bytes,
    most_C: Sequence[float],
    *,
    lowest: float | None = None,
    highest: float | None = None,
    mask_by_contrast: bool = False,
    survive_grey: bool = False,
    ranges_C: Sequence[tuple[float, float]] = (),
    void_HW: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the values with the pattern of each pixel's code; others stay as they are.

    values: H×W×C integers or floats. Three channels are colours; of any other number, all follow the codes' grey twins
    together. codes: as for `unseg.method.coded_noise.apply_codes`. most: the largest change of a value in each channel,
    in values of its own; integers change by whole numbers up to it. lowest, highest: values that may be written; None:
    the type's. mask_by_contrast, survive_grey: as there; the former needs ranges, the values from black to white of
    each channel, and takes the contrast of what is shown of them. void: pixels that stand for no value and have no code
    (H×W bool), which count there as the mean of the others.

    |changed − value| ≤ most holds exactly, floats included: where rounding would break it, the next float towards the
    value is taken. Values that are not finite stay.
    """
    if codes_HW.shape != values_HWC.shape[:2] or codes_HW.dtype != np.uint8:
        raise ValueError(f"codes: expected uint8 of the values' size, got {codes_HW.shape} {codes_HW.dtype}")
    height, width, channels = values_HWC.shape
    present = present_codes(codes_HW, book)
    changed = values_HWC.copy()
    if not present:
        return changed
    grey = channels != 3 or is_grey(values_HWC)
    patterns = ImagePatterns(book, height, width, key=key, digest=image_digest(values_HWC), grey=grey or survive_grey)
    signs = np.zeros((256, channels), np.int8)
    for code in present:
        axis = axis_of(book, code, grey=grey, survive_grey=survive_grey)
        signs[2 * code] = axis if channels == 3 else axis[0]
        signs[2 * code - 1] = -signs[2 * code]
    shares = _shares(values_HWC, ranges_C, void_HW, patterns.scale) if mask_by_contrast else None
    for rows in bands(height, width):
        most = np.asarray(most_C, np.float64)
        most_HWC = np.broadcast_to(most, changed[rows].shape) if shares is None else shares[rows][..., None] * most
        moves = signs[states_of(codes_HW, rows, present, patterns)]
        move = _moved_whole if values_HWC.dtype.kind in "iu" else _moved
        changed[rows] = move(values_HWC[rows], moves, most_HWC, _limits(values_HWC.dtype, lowest, highest))
    return changed


def _limits(kind: np.dtype, lowest: float | None, highest: float | None) -> tuple[float, float]:
    of_type = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    return (
        float(of_type.min) if lowest is None else max(lowest, float(of_type.min)),
        float(of_type.max) if highest is None else min(highest, float(of_type.max)),
    )


def _moved_whole(
    values_HWC: np.ndarray, signs_HWC: np.ndarray, most_HWC: np.ndarray, limits: tuple[float, float]
) -> np.ndarray:
    """Returns integers moved by whole numbers; those beyond 2^53 stay, since floats do not tell them apart."""
    kind = values_HWC.dtype
    beyond = values_HWC >= WIDEST
    if kind.kind == "i":
        beyond |= values_HWC <= -WIDEST  # not by the absolute value, which the lowest of a type has none of
    before = np.where(beyond, kind.type(0), values_HWC).astype(np.int64)
    low, high = max(int(limits[0]), -WIDEST), min(int(limits[1]), WIDEST)
    moved = before + signs_HWC * np.floor(np.minimum(most_HWC, WIDEST)).astype(np.int64)
    moved = np.clip(moved, np.minimum(before, low), np.maximum(before, high))
    return np.where(beyond, values_HWC, moved.astype(kind))


def _moved(
    values_HWC: np.ndarray, signs_HWC: np.ndarray, most_HWC: np.ndarray, limits: tuple[float, float]
) -> np.ndarray:
    before = values_HWC.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = np.clip(before + signs_HWC * most_HWC, np.minimum(before, limits[0]), np.maximum(before, limits[1]))
        moved = wanted.astype(values_HWC.dtype)
        for _ in range(2):  # one step makes up for the rounding to this type, a second for that of the sum
            beyond = np.abs(moved.astype(np.float64) - before) > most_HWC
            moved = np.where(beyond, np.nextafter(moved, values_HWC), moved)
        kept = ~np.isfinite(moved) | ~np.isfinite(values_HWC) | (np.abs(moved.astype(np.float64) - before) > most_HWC)
    return np.where(kept, values_HWC, moved)


def _shares(
    values_HWC: np.ndarray, ranges_C: Sequence[tuple[float, float]], void_HW: np.ndarray | None, scale: float
) -> np.ndarray:
    """Returns the share of the budget that each pixel's surroundings allow, H×W."""
    channels = values_HWC.shape[2]
    weights = LUMINANCE if channels == 3 else [1 / channels] * channels
    brightness = np.zeros(values_HWC.shape[:2], np.float32)
    for channel, (weight, (low, high)) in enumerate(zip(weights, ranges_C, strict=True)):
        shown = np.clip(np.nan_to_num(values_HWC[..., channel].astype(np.float64), nan=low), low, high)
        brightness += ((shown - low) * (weight * GREY_LEVELS / (high - low))).astype(np.float32)
    if void_HW is not None and void_HW.any() and not void_HW.all():
        brightness[void_HW] = brightness[~void_HW].mean()
    return contrast_shares(brightness, scale)
