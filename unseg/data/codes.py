"""Codes: which of a generator's numbered noises each class of a data set gets."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from unseg.noise import NO_CODE


def class_areas(label_maps: Iterable[np.ndarray], ignore_label: int | None = 255) -> dict[int, int]:
    """Pixels of every class over all label maps (H×W integers each); `ignore_label` is no class."""
    areas: dict[int, int] = {}
    for label_HW in label_maps:
        values, counts = np.unique(label_HW, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value != ignore_label:
                areas[value] = areas.get(value, 0) + count
    return areas


def class_codes(areas: Mapping[int, int], available: int) -> dict[int, int]:
    """Class → code: 0 for the class of the largest area, 1 for the next, and so on; of equal areas the lower class comes first.

    A generator's first codes are thus the most used ones, whatever numbers a data set gives to its classes. available: how
    many codes the generator has; classes beyond them begin again at 0, so that small classes share a code with large ones.
    """
    ranked = sorted(areas, key=lambda value: (-areas[value], value))
    return {value: rank % available for rank, value in enumerate(ranked)}


def code_map(classes_HW: np.ndarray, codes: Mapping[int, int], ignore_label: int | None = 255) -> np.ndarray:
    """A map of classes (H×W integers) as one of codes: H×W uint8, NO_CODE where the class is `ignore_label`.

    ValueError where a class has no code, or one that a map cannot hold (0 to 254).
    """
    coded = np.full(classes_HW.shape, NO_CODE, np.uint8)
    for value in np.unique(classes_HW).tolist():
        if value == ignore_label:
            continue
        if not 0 <= codes.get(value, -1) < NO_CODE:
            raise ValueError(f"class {value} has code {codes.get(value)}; a map holds codes from 0 to {NO_CODE - 1}")
        coded[classes_HW == value] = codes[value]
    return coded
