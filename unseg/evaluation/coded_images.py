"""This project's own noise as conditions: training images with the patterns of `unseg.method.patterns`, as `unseg
protect` makes them by default, or under one option."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from unseg.compute.progress import Progress, track
from unseg.data.annotations import NO_CLASS
from unseg.evaluation.conditions import Change
from unseg.evaluation.hashes import SHORT
from unseg.evaluation.results import Json
from unseg.evaluation.sets import Images, Truth
from unseg.method.coded_noise import apply_codes
from unseg.method.codes import (
    CODES_IN_USE,
    LOOKS_IMAGES,
    Looks,
    absent_class,
    class_areas,
    code_map,
    codes_with_absence,
)
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK, ONE_CODE_BOOK, Axis, CodeBook, Grating, book_of
from unseg.storage.image_decoding import decode_samples
from unseg.storage.image_encoding import encode_jpeg

UNLABELLED = -2  # in maps of labels: what is ignored. NO_CLASS is what has no class: the background


@dataclass(frozen=True)
class CodedOptions:
    """How images are coded. told_apart: whether classes have codes of their own; None: where no pixel is background.
    survive_grey, mask_by_contrast: see `apply_codes`. jpeg: whether images are published as JPEG."""

    told_apart: Literal["object", "class"] | None = None
    survive_grey: bool = False
    mask_by_contrast: bool = False
    jpeg: bool = False


LEARNED = "codes-learned"  # as "codes", then changed image by image by a network of a file
CODED: dict[str, CodedOptions] = {
    "codes": CodedOptions(),
    "codes-one": CodedOptions(told_apart="object"),
    "codes-by-class": CodedOptions(told_apart="class"),
    "codes-grey-safe": CodedOptions(survive_grey=True),
    "codes-by-contrast": CodedOptions(mask_by_contrast=True),
    "codes-jpeg": CodedOptions(jpeg=True),
}
"""The conditions of this noise by name."""


@dataclass(frozen=True)
class Labels:
    """What of an image is coded. ignored: the label of what nobody labelled. binary: whether classes are 1, the object,
    and 0, the rest."""

    ignored: int | None
    binary: bool

    def of(self, mask_HW: np.ndarray, classes_HW: np.ndarray) -> np.ndarray:
        """Returns the class of every pixel of the object, NO_CLASS on the background, UNLABELLED: H×W int32."""
        coded_HW = mask_HW & (classes_HW != 0) if self.binary else mask_HW
        labels = np.where(coded_HW, classes_HW.astype(np.int32), np.int32(NO_CLASS))
        return labels if self.ignored is None else np.where(classes_HW == self.ignored, np.int32(UNLABELLED), labels)


@dataclass(frozen=True)
class Allocation:
    """Which label has which code. unseen: the code of labels that no training image shows."""

    codes: Mapping[int, int]
    unseen: int

    @property
    def book(self) -> CodeBook:
        """Returns the book of these codes."""
        return book_of(self.codes.values())

    def map_of(self, labels_HW: np.ndarray) -> np.ndarray:
        """Returns the codes of a map of labels, H×W uint8, NO_CODE where it is UNLABELLED."""
        present = class_areas([labels_HW], UNLABELLED)
        return code_map(labels_HW, {label: self.codes.get(label, self.unseen) for label in present}, UNLABELLED)


def allocate(
    images: Images, truth: Truth, labels: Labels, told_apart: Literal["object", "class"] | None, progress: Progress
) -> Allocation:
    """Returns the codes that `unseg protect` would give to the classes of these images.

    Absence is the background's, where there is one, else one class's. told_apart: see `CodedOptions`.
    """
    maps = (labels.of(*truth(images.annotated(index))) for index in range(len(images)))
    areas = class_areas(track(progress, maps, len(images), "codes: counting the classes' pixels"), UNLABELLED)
    background = NO_CLASS in areas or labels.binary or len(areas) < 2
    absent = NO_CLASS if background else absent_class(areas, _variances(images, truth, labels))
    if told_apart == "object" or (told_apart is None and background):
        return Allocation({label: ABSENCE if label == absent else 1 for label in areas}, unseen=1)
    return Allocation(codes_with_absence(areas, absent), unseen=ABSENCE)


def _variances(images: Images, truth: Truth, labels: Labels) -> dict[int, float]:
    looks, step = Looks(), -(-len(images) // LOOKS_IMAGES)
    for index in range(0, len(images), step):
        looks.add(images.pixels(index), labels.of(*truth(images.annotated(index))), UNLABELLED)
    return looks.variances()


def key_of(purpose: str, seed: int | str) -> bytes:
    """Returns a key that depends on what it is for and a seed alone."""
    return hashlib.sha256(f"unseg {purpose} {seed}".encode()).digest()


# From an image, its codes, their book and a key to the image with what a network makes of them.
WithCodes = Callable[[np.ndarray, np.ndarray, CodeBook, bytes], np.ndarray]


def coded_by_network(allocation: Allocation, labels: Labels, with_codes: WithCodes, key: bytes) -> Change:
    """Returns the change that gives every pixel what a network makes of its label's code."""

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return with_codes(pixels, allocation.map_of(labels.of(mask, classes)), allocation.book, key)

    return change


def coded(allocation: Allocation, labels: Labels, budget: Budget, options: CodedOptions, key: bytes) -> Change:
    """Returns the change that gives every pixel the pattern of its label's code."""

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        changed = apply_codes(
            pixels,
            allocation.map_of(labels.of(mask, classes)),
            allocation.book,
            key,
            budget,
            mask_by_contrast=options.mask_by_contrast,
            survive_grey=options.survive_grey,
        )
        return decode_samples(encode_jpeg(changed)) if options.jpeg else changed

    return change


def _short(*values: Any) -> str:
    """Returns a hash of constants: one that is tried out makes images anew."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:SHORT]


def _colours_of(book: CodeBook) -> tuple[dict[str, Any], list[tuple[Axis, Grating]]]:
    """Returns what images of colours depend on."""
    others = {name: value for name, value in vars(book).items() if name not in ("patterns", "grey_safe_axis")}
    return others, [(one.axis, one.colour) for one in book.patterns]


def coded_identity(options: CodedOptions, grey: bool) -> Json:
    """Returns what coded images depend on besides the budget, the seed and the classes.

    grey: whether images may be without colour, so that the patterns' grey twins count, too.
    """
    books = [ONE_CODE_BOOK] if options.told_apart == "object" else [BOOK, ONE_CODE_BOOK]
    identity: Json = {"codes": ", ".join(book.version for book in books), "book": _short(*map(_colours_of, books))}
    if grey or options.survive_grey:
        identity["grey_book"] = _short(*((book.grey_safe_axis, [one.grey for one in book.patterns]) for book in books))
    if options.told_apart != "object":
        identity["in_use"] = CODES_IN_USE
    return {**identity, **{name: value for name, value in asdict(options).items() if value}}
