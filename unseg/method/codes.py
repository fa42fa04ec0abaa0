"""Codes: which of the numbered noises each class of a data set gets, decided once over all of its masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unseg.method.patterns import ABSENCE, NO_CODE

CODES_IN_USE = 2  # by the classes of a set: networks tell few patterns apart sooner, and learn less of the images
OBJECT = 1  # the code of an object that is told from nothing else but the rest
ABSENT_SHARE = 0.08  # of the pixels of all classes, that a class needs at least to be the absent one
HARDLY = 0.01  # of the pixels, that may have no class where classes cover images
NAMED_CLASSES = 8  # at most, in a message
LOOKS_IMAGES = 64  # whose pixels say how varied the classes look
CLOSE, BAND = 2**16, 2**20  # a span of values that may be counted in a table; pixels that are looked at together


@dataclass(frozen=True)
class Areas:
    """Holds pixels over label maps. classes: of every class. unlabelled: of none."""

    classes: Mapping[int, int] = field(default_factory=dict)
    unlabelled: int = 0

    def share_of(self, label: int | None) -> float:
        """Returns a class's share of the pixels that have a class, 0 to 1; None stands for no class."""
        return 0 if label is None else self.classes.get(label, 0) / max(1, sum(self.classes.values()))

    @property
    def unlabelled_share(self) -> float:
        """Returns the share of the pixels that have no class, 0 to 1."""
        return self.unlabelled / max(1, self.unlabelled + sum(self.classes.values()))

    @property
    def covers(self) -> bool:
        """Returns whether hardly a pixel has no class."""
        return bool(self.classes) and self.unlabelled_share <= HARDLY

    def has_background(self, label: int | None) -> bool:
        """Returns whether a class that is called the background is one: not just a rim or a few stray pixels.

        It has at least `ABSENT_SHARE` of the pixels, as the absent class must, or beside it there is at most one class.
        """
        if label is None or label not in self.classes:
            return False
        return len(self.classes) <= 2 or self.share_of(label) >= ABSENT_SHARE


def areas_of(label_HW: np.ndarray, ignore_label: int | None) -> Areas:
    """Returns the pixels of one label map of integers; `ignore_label` stands for no class."""
    classes = class_areas([label_HW], ignore_label)
    return Areas(classes, label_HW.size - sum(classes.values()))


def total_of(parts: Iterable[Areas]) -> Areas:
    """Returns the sum of the pixels."""
    classes: Counter[int] = Counter()
    unlabelled = 0
    for part in parts:
        classes.update(part.classes)
        unlabelled += part.unlabelled
    return Areas(classes, unlabelled)


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
    if span > CLOSE or lowest + span > 2**63:  # beyond int64
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


@dataclass
class Looks:
    """How varied each class looks: counts and sums over pixels, from which the variance of its colours follows.

    Values are those of 8 bits, whatever the image has.
    """

    pixels: dict[int, int] = field(default_factory=dict)
    _sums: dict[int, np.ndarray] = field(default_factory=dict)
    _squares: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, image_HWC: np.ndarray, classes_HW: np.ndarray, ignore_label: int | None = 255) -> None:
        """Adds an image's pixels. image: uint8, three channels or one. classes: H×W integers."""
        values = np.broadcast_to(image_HWC, (*classes_HW.shape, 3)).reshape(-1, 3).astype(np.float64)
        found, places = np.unique(classes_HW, return_inverse=True)
        places = places.reshape(-1)
        counts = np.bincount(places, minlength=len(found))
        sums, squares = (
            np.stack([np.bincount(places, part[:, channel], len(found)) for channel in range(3)], axis=1)
            for part in (values, values * values)
        )
        for place, label in enumerate(found.tolist()):
            if label == ignore_label:
                continue
            self.pixels[label] = self.pixels.get(label, 0) + int(counts[place])
            self._sums[label] = self._sums.get(label, 0) + sums[place]
            self._squares[label] = self._squares.get(label, 0) + squares[place]

    def variances(self) -> dict[int, float]:
        """Returns each class's variance of colour over all its pixels, the mean of the three channels'."""
        return {
            label: float(np.mean(self._squares[label] / count - (self._sums[label] / count) ** 2))
            for label, count in self.pixels.items()
        }


def absent_class(areas: Mapping[int, int], variances: Mapping[int, float]) -> int | None:
    """Returns the class that goes without noise where none is the background; None where there is no class.

    Among the classes with at least `ABSENT_SHARE` of the pixels it is the one that looks most varied: a network cannot
    tell it by its looks, and reads clean images as it. Where no class is so large, or nothing is known of their looks,
    it is the largest. Of equal ones it is the lower class.
    """
    if not areas:
        return None
    least = ABSENT_SHARE * sum(areas.values())
    large = [label for label in sorted(areas) if areas[label] >= least and label in variances]
    if large:
        return max(large, key=lambda label: (variances[label], -label))
    return max(areas, key=lambda label: (areas[label], -label))


def codes_with_absence(areas: Mapping[int, int], absent: int | None, in_use: int = CODES_IN_USE) -> dict[int, int]:
    """Returns class → code: `ABSENCE` for the absent class; for the others codes from 1 to `in_use`, dealt in turns.

    The class of the largest area gets code 1, the next code 2, and after the last code the first again, so that the
    largest classes have different codes. Of equal areas the lower class comes first.
    """
    ranked = sorted((label for label in areas if label != absent), key=lambda label: (-areas[label], label))
    codes = {label: rank % in_use + 1 for rank, label in enumerate(ranked)}
    return codes if absent is None else {absent: ABSENCE, **codes}


def _classes(labels: Sequence[str]) -> str:
    """Returns the subject of a sentence and its verb: `class 2 has`, `classes 2, 5 and 9 have`."""
    if len(labels) == 1:
        return f"class {labels[0]} has"
    named = labels if len(labels) <= NAMED_CLASSES else [*labels[: NAMED_CLASSES - 1], "others"]
    return f"classes {', '.join(named[:-1])} and {named[-1]} have"


def code_map(classes_HW: np.ndarray, codes: Mapping[int, int], ignore_label: int | None = 255) -> np.ndarray:
    """Returns a map of classes (H×W integers) as a map of codes: H×W uint8, NO_CODE where it is `ignore_label`.

    ValueError where classes have no code, which it names, or one that a map cannot hold (0 to 254).
    """
    present = sorted(_counts(classes_HW).keys() - {ignore_label})
    lacking = [str(value) for value in present if codes.get(value) is None]
    if lacking:
        raise ValueError(f"{_classes(lacking)} no code")
    for value in present:
        if not 0 <= codes[value] < NO_CODE:
            raise ValueError(f"class {value} has code {codes[value]}, and a map holds codes from 0 to {NO_CODE - 1}")
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
