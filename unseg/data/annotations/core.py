"""Every annotation format is read into the classes of this module: segments of an image, and what a rule takes of them.

Shapes: HW is height × width of the upright image; pixel masks are bool, class codes int32.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from unseg.data.annotations.runs import Runs, count_coverage, paint
from unseg.data.masks import MaskKind, object_mask
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import Problem
from unseg.errors import UserError
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError

T = TypeVar("T")
NO_CLASS = -1  # in class codes: the pixel belongs to nothing that the rule takes
MAX_SEGMENTS = 10_000  # an image; the largest sets of dense aerial images stay below


class Unannotated(ImageError):
    """Says that the annotations do not name an image at all: it has no mask, which is not the same as no object."""


@dataclass(frozen=True)
class Segment:
    """One annotated region.

    class_id is the annotations' own number of the class; class_name and instance_id are None where the format has none.
    A crowd is several objects under one mask and never taken. thing says whether the class is countable; it is None
    where the format does not tell. "all" and "things" leave void segments out (unlabelled, or not evaluated by their
    data set), but a rule can name their id.
    """

    class_id: int
    class_name: str | None
    instance_id: int | None
    crowd: bool
    thing: bool | None
    void: bool
    decode: Callable[[], np.ndarray] = field(repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """Returns the region's pixels, H×W bool, decoded anew at every call."""
        return self.decode()

    def taken(self, rule: ObjectRule) -> bool:
        """Returns whether the region belongs to the object."""
        if self.crowd or (self.void and not isinstance(rule.which, tuple)):
            return False
        if rule.which == "things":
            return bool(self.thing)
        return rule.which == "all" or self.class_id in rule.which


class Annotated(ABC):
    """The annotations of one image.

    height and width are the upright image's; notes tell in words what was left out or cut.
    """

    def __init__(self, height: int, width: int, notes: Sequence[str] = ()) -> None:
        self.height, self.width, self.notes = height, width, tuple(notes)

    @property
    @abstractmethod
    def segments(self) -> Sequence[Segment]:
        """Returns every region, crowds and void among them."""

    @abstractmethod
    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        """Returns the union of the segments that the rule takes, H×W bool."""

    @abstractmethod
    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        """Returns the class id of every pixel that the rule takes, else NO_CLASS: H×W int32.

        Where segments overlap, the one with fewer pixels wins, and of two equal ones the earlier.
        """

    def select(self, rule: ObjectRule) -> np.ndarray:
        """Returns `class_codes` for a rule by class, else `object_mask`."""
        return self.class_codes(rule) if rule.by_class else self.object_mask(rule)


class Outlined(Annotated):
    """Holds segments that may overlap as runs of pixels: polygons and run-length masks."""

    def __init__(
        self, height: int, width: int, outlines: Sequence[tuple[Segment, Runs]], notes: Sequence[str] = ()
    ) -> None:
        super().__init__(height, width, notes)
        self._outlines = tuple(outlines)

    @property
    def segments(self) -> Sequence[Segment]:
        return tuple(segment for segment, _ in self._outlines)

    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        taken = [runs for segment, runs in self._outlines if segment.taken(rule)]
        return count_coverage(taken, self.height, self.width)

    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        taken = [(segment.class_id, runs) for segment, runs in self._outlines if segment.taken(rule)]
        taken.reverse()
        taken.sort(key=lambda item: -item[1].area)  # stable: of two equal ones the earlier on top
        return paint([runs for _, runs in taken], [code for code, _ in taken], NO_CLASS, self.height, self.width)


class Indexed(Annotated):
    """Holds segments that never overlap, as the number of its segment for each pixel.

    index_HW: integers; segment i owns the pixels that hold i, and len(segments) stands for none.
    """

    def __init__(self, index_HW: np.ndarray, segments: Sequence[Segment], notes: Sequence[str] = ()) -> None:
        height, width = index_HW.shape
        super().__init__(height, width, notes)
        self._index, self._segments = index_HW, tuple(segments)

    @property
    def segments(self) -> Sequence[Segment]:
        return self._segments

    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        return np.array([*(segment.taken(rule) for segment in self._segments), False])[self._index]

    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        codes = [segment.class_id if segment.taken(rule) else NO_CLASS for segment in self._segments]
        return np.array([*codes, NO_CLASS], np.int32)[self._index]


def index_values(values_HW: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns for each value its place in `known` (sorted, without repeats), or len(known): H×W uint16.

    Works in bands of rows, since the search takes 8 bytes a pixel.
    """
    index = np.full(values_HW.shape, len(known), np.uint16)
    if len(known):
        for top in range(0, values_HW.shape[0], 256):
            band = values_HW[top : top + 256]
            place = np.minimum(np.searchsorted(known, band), len(known) - 1)
            index[top : top + 256] = np.where(known[place] == band, place, len(known))
    return index


@dataclass(frozen=True)
class ClassTable:
    """Holds what a format says of its classes.

    names maps ids to names and is empty where they are unknown. things holds the ids of countable classes; it is "all"
    where every class is one, None where that is unknown. "all" leaves out the ids in void, besides the rule's own
    labels. ids holds every id there is, None where unknown.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    things: frozenset[int] | Literal["all"] | None = None
    void: frozenset[int] = frozenset()
    ids: frozenset[int] | None = None

    def is_thing(self, class_id: int) -> bool | None:
        """Returns whether a class is countable, None where that is unknown."""
        if self.things is None:
            return None
        return self.things == "all" or class_id in self.things


class ClassMap(Annotated):
    """Holds one class id or grey level a pixel: `values`, H×W integers, interpreted by `unseg.data.masks`."""

    def __init__(self, values_HW: np.ndarray, kind: MaskKind, classes: ClassTable) -> None:
        height, width = values_HW.shape
        super().__init__(height, width)
        self.values, self.kind, self.classes = values_HW, kind, classes

    @cached_property
    def segments(self) -> Sequence[Segment]:
        """Returns one segment a class. None is left out, because the rule says which ids are ignored or background."""
        if self.kind == "binary":
            return (Segment(1, "object", None, False, None, False, self._bright),) if self._bright().any() else ()
        return tuple(self._segment(value) for value in np.unique(self.values).tolist())

    def _segment(self, value: int) -> Segment:
        return Segment(
            value,
            self.classes.names.get(value),
            instance_id=None,
            crowd=False,
            thing=self.classes.is_thing(value),
            void=value in self.classes.void,
            decode=partial(np.equal, self.values, value),
        )

    def _bright(self) -> np.ndarray:
        return object_mask(self.values, "binary")

    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        return object_mask(self.values, self.kind, self._by_ids(rule))

    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        codes = np.int32(1) if self.kind == "binary" else self.values.astype(np.int32)
        return np.where(self.object_mask(rule), codes, np.int32(NO_CLASS))

    def _by_ids(self, rule: ObjectRule) -> ObjectRule:
        """Returns the rule in class ids, where the classes say which are things or void."""
        if rule.which == "things":
            things = self.classes.things if isinstance(self.classes.things, frozenset) else frozenset()
            return replace(rule, which=tuple(sorted(things - self.classes.void)))
        if rule.which == "all" and self.classes.void and self.classes.ids is not None:
            return replace(rule, which=tuple(sorted(self.classes.ids - self.classes.void)))
        return rule


def form_of(annotated: Annotated) -> Literal["map", "mask", "regions", "objects"]:
    """Returns what annotations are: "map", a class id for every pixel; "mask", the object or not; "regions" of classes
    that never overlap; else "objects" of classes, which may."""
    if isinstance(annotated, ClassMap):
        return "map" if annotated.kind == "index" else "mask"
    return "regions" if isinstance(annotated, Indexed) else "objects"


class Annotations(ABC):
    """The annotations of a set of images, opened and checked; single images are decoded on demand, from any thread.

    Constructors read no disk; each format has a class method `open` that reads and checks.

    format: one of `FORMATS`. statement: the sentence that tells the user what was detected and how to name another.
    classes: what is known of the classes. missing: what is annotated but has no image, one line each.
    """

    format: str
    statement: str
    classes: ClassTable
    missing: Sequence[Problem]

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Returns the annotated images, sorted.

        Names are relative to the images' folder, with forward slashes; an image that is not on disk has the name that
        the annotations give it.
        """

    @abstractmethod
    def read(self, image_name: str, height: int, width: int) -> Annotated:
        """Returns the annotations of one image, whose upright size is height × width.

        Raises Unannotated where nothing is said of it, ImageError where what is said cannot be used (sizes that differ,
        outlines outside the image, broken masks): both concern this image alone.
        """

    def image_bytes(self, image_name: str) -> bytes | None:
        """Returns the encoded image where the annotations hold it themselves, as Hugging Face tables do; else None."""
        return None

    def files_of(self, image_name: str) -> list[Path]:
        """Returns the files of its own that the annotations of one image are read from, where these are lent."""
        return []

    def of_images(self, names: Iterable[str]) -> Annotations:
        """Returns annotations that can be read of these images, and take no more to be sent than these need."""
        return self

    def own_images(self) -> Iterable[Path]:
        """Returns files and folders that look like images and are annotations, such as masks: no images to protect."""
        return ()

    def check_rule(self, rule: ObjectRule, option: str = "--objects") -> None:
        """Raises UserError where the rule asks for what these annotations cannot tell."""
        if rule.which == "things" and self.classes.things is None:
            raise UserError(f"{option} things: {self.format} annotations do not tell things from stuff; give class ids")
        if isinstance(rule.which, tuple) and self.classes.ids is not None:
            unknown = sorted(set(rule.which) - self.classes.ids)
            if unknown:
                raise UserError(
                    f"{option}: class {unknown[0]} is not among the annotations' classes: "
                    f"{describe_classes(self.classes)}"
                )


def describe_classes(classes: ClassTable, at_most: int = 10) -> str:
    """Returns the classes in a line: `1 person, 2 bicycle, … (80 in all)`."""
    ids = sorted(classes.ids or ())
    shown = ", ".join(f"{number} {classes.names.get(number, '')}".strip() for number in ids[:at_most])
    return shown if len(ids) <= at_most else f"{shown}, … ({len(ids)} in all)"


def check_segment_count(path: Path, count: int) -> None:
    """Raises ImageError where one image has more segments than are read."""
    if count > MAX_SEGMENTS:
        raise ImageError(path, f"{count} segments in one image; at most {MAX_SEGMENTS} are read")


def check_size(path: Path, what: str, size: tuple[int, int], height: int, width: int) -> None:
    """Raises ImageError where `what` claims another size, (height, width), than the image has."""
    if size != (height, width):
        raise ImageError(
            path, f"{what} is {size[1]}×{size[0]}, the image (upright) is {width}×{height}: make them one size"
        )


def check_pixel_count(path: Path, height: int, width: int, data: bytes | None = None) -> None:
    """Raises ImageError where the header promises another number of pixels: nothing of another size is ever decoded.

    data: the encoded image, where it is no file of its own.
    """
    promised = pixel_count(path if data is None else io.BytesIO(data))
    if promised and promised != height * width:
        raise ImageError(path, f"has {promised} pixels, {width}×{height} are expected: make them one size")


def first_few(items: Iterable[str], at_most: int = 3) -> str:
    """Returns the first few items in a line: `a, b, c, …`."""
    listed = list(items)
    return ", ".join(listed[:at_most]) + (", …" if len(listed) > at_most else "")
