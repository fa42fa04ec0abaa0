"""Codes: which of a generator's numbered noises each class of a data set gets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from unseg.method.noise import NO_CODE

CLOSE, BAND = 2**16, 2**20  # a span of values that may be counted in a table; pixels that are looked at together


def class_areas(label_maps: Iterable[np.ndarray], ignore_label: int | None = 255) -> dict[int, int]:
    """Returns the pixels of every class over all label maps (H×W integers each); `ignore_label` is no class."""
    areas: dict[int, int] = {}
    for label_HW in label_maps:
        for value, count in _counts(label_HW).items():
            if value != ignore_label:
                areas[value] = areas.get(value, 0) + count
    return areas


def _counts(values_HW: np.ndarray) -> dict[int, int]:
    """Returns the pixels of every value. Values that lie close together are counted without sorting the pixels."""
    if values_HW.size == 0:
        return {}
    lowest, span = int(values_HW.min()), int(values_HW.max()) - int(values_HW.min()) + 1
    if span > CLOSE:
        return dict(zip(*(part.tolist() for part in np.unique(values_HW, return_counts=True)), strict=True))
    counts = np.zeros(span, np.int64)
    for band in _bands(values_HW):
        counts += np.bincount(_from(band, lowest).ravel(), minlength=span)
    return {lowest + place: int(counts[place]) for place in np.flatnonzero(counts).tolist()}


def _bands(values_HW: np.ndarray) -> Iterator[np.ndarray]:
    """Yields rows together as long as they are few pixels: numpy takes 8 bytes for each on its way."""
    rows = max(1, BAND // values_HW.shape[1])
    return (values_HW[top : top + rows] for top in range(0, values_HW.shape[0], rows))


def _from(band: np.ndarray, lowest: int) -> np.ndarray:
    return band.astype(np.int64) - lowest


def class_codes(areas: Mapping[int, int], available: int) -> dict[int, int]:
    """Returns class → code: 0 for the class of the largest area, 1 for the next, and so on.

    Of equal areas the lower class comes first. A generator's first codes are thus the most used ones, whatever
    numbers a data set gives to its classes. available: how many codes the generator has; classes beyond them begin
    again at 0, so that small classes share a code with large ones.
    """
    ranked = sorted(areas, key=lambda value: (-areas[value], value))
    return {value: rank % available for rank, value in enumerate(ranked)}


def code_map(classes_HW: np.ndarray, codes: Mapping[int, int], ignore_label: int | None = 255) -> np.ndarray:
    """Returns a map of classes (H×W integers) as a map of codes: H×W uint8, NO_CODE where it is `ignore_label`.

    ValueError where a class has no code, or one that a map cannot hold (0 to 254).
    """
    present = sorted(_counts(classes_HW).keys() - {ignore_label})
    for value in present:
        if not 0 <= codes.get(value, -1) < NO_CODE:
            raise ValueError(f"class {value} has code {codes.get(value)}; a map holds codes from 0 to {NO_CODE - 1}")
    coded = np.full(classes_HW.shape, NO_CODE, np.uint8)
    if present and present[-1] - present[0] < CLOSE:
        table = np.full(present[-1] - present[0] + 2, NO_CODE, np.uint8)  # the last one: for all that is no class
        table[np.array(present) - present[0]] = [codes[value] for value in present]
        for band, target in zip(_bands(classes_HW), _bands(coded), strict=True):
            place = _from(band, present[0])
            target[:] = table[np.where((place >= 0) & (place < len(table)), place, len(table) - 1)]
        return coded
    for value in present:
        coded[classes_HW == value] = codes[value]
    return coded
