"""What every annotation format becomes: segments of an image, and the object or the classes that a rule takes of them.

Shapes: HW is height × width of the upright image; pixel masks are bool, class codes int32.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from unseg.data.annotations.runs import Runs, count_coverage, paint
from unseg.data.masks import Detected, MaskKind, MaskRule, detect_kind, object_mask, parse_objects
from unseg.data.samples import Problem
from unseg.errors import UserError
from unseg.storage.image_decoding import Label, open_label
from unseg.storage.image_limits import ImageError, pixel_count

T = TypeVar("T")
NO_CLASS = -1  # in class codes: the pixel belongs to nothing that the rule takes
MAX_SEGMENTS = 10_000  # an image; the largest sets of dense aerial images stay below


class Unannotated(ImageError):
    """The annotations do not name this image at all: it has no mask, which is not the same as no object."""


@dataclass(frozen=True)
class ObjectRule:
    """Which segments are the object. Crowds, void and the ignore label never are.

    which: "all", "things" (countable objects only) or class ids (a single class: one id). by_class: the classes stay
    apart, as codes. ignore_label, background_label: for class-index masks alone, as in `unseg.data.masks.MaskRule`.
    """

    which: Literal["all", "things"] | tuple[int, ...] = "all"
    by_class: bool = False
    ignore_label: int | None = 255
    background_label: int | None = 0

    @staticmethod
    def parse(
        text: str, ignore_label: int | None = 255, background_label: int | None = 0, option: str = "--objects"
    ) -> ObjectRule:
        """`all`, `things` (or `multi`, as the published scripts call it), `by-class`, or ids such as 3,4 or 1-5."""
        word = text.strip().lower()
        if word in ("things", "multi"):
            return ObjectRule("things", False, ignore_label, background_label)
        if word == "by-class":
            return ObjectRule("all", True, ignore_label, background_label)
        ids = parse_objects(text, option)
        return ObjectRule("all" if ids is None else ids, False, ignore_label, background_label)


@dataclass(frozen=True)
class Segment:
    """One annotated region.

    class_id: as the annotations number it. class_name, instance_id: None where the format has none. crowd: several
    objects under one mask, never taken. thing: countable; None where the format does not tell. void: left out by "all"
    and "things" (unlabelled, or not evaluated by its data set), but can be named by its id.
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
        """H×W bool, decoded anew at every call."""
        return self.decode()

    def taken(self, rule: ObjectRule) -> bool:
        if self.crowd or (self.void and not isinstance(rule.which, tuple)):
            return False
        if rule.which == "things":
            return bool(self.thing)
        return rule.which == "all" or self.class_id in rule.which


class Annotated(ABC):
    """One image's annotations. height, width: of the upright image. notes: what was left out or cut, in words."""

    def __init__(self, height: int, width: int, notes: Sequence[str] = ()) -> None:
        self.height, self.width, self.notes = height, width, tuple(notes)

    @property
    @abstractmethod
    def segments(self) -> Sequence[Segment]:
        """Every region, crowds and void among them."""

    @abstractmethod
    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        """The union of the segments that the rule takes, H×W bool."""

    @abstractmethod
    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        """The class id of every pixel that the rule takes, else NO_CLASS: H×W int32. Where segments overlap, the one
        with fewer pixels wins, and of two equal ones the earlier."""

    def select(self, rule: ObjectRule) -> np.ndarray:
        """`class_codes` for a rule by class, else `object_mask`."""
        return self.class_codes(rule) if rule.by_class else self.object_mask(rule)


class Outlined(Annotated):
    """Segments that may overlap, held as runs of pixels: polygons and run-length masks."""

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
        taken = sorted(reversed(taken), key=lambda item: -item[1].area)  # stable: of two equal ones the earlier on top
        return paint([runs for _, runs in taken], [code for code, _ in taken], NO_CLASS, self.height, self.width)


class Indexed(Annotated):
    """Segments that never overlap: for each pixel the number of its segment.

    index: H×W integers; segment i owns the pixels that hold i, and len(segments) stands for none.
    """

    def __init__(self, index_HW: np.ndarray, segments: Sequence[Segment], notes: Sequence[str] = ()) -> None:
        super().__init__(*index_HW.shape, notes)
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
    """For each value its place in `known` (sorted, without repeats), or len(known): H×W uint16.

    In bands of rows, since the search works on 8 bytes a pixel.
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
    """What a format says of its classes.

    names: id → name, empty where unknown. things: the ids of countable classes, "all" where every class is one, None
    where unknown. void: ids that "all" leaves out besides the rule's own labels. ids: every id there is; None: unknown.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    things: frozenset[int] | Literal["all"] | None = None
    void: frozenset[int] = frozenset()
    ids: frozenset[int] | None = None

    def is_thing(self, class_id: int) -> bool | None:
        return None if self.things is None else self.things == "all" or class_id in self.things


class ClassMap(Annotated):
    """Class ids or grey levels, one a pixel: `values`, H×W integers, interpreted by `unseg.data.masks`."""

    def __init__(self, values_HW: np.ndarray, kind: MaskKind, classes: ClassTable) -> None:
        super().__init__(*values_HW.shape)
        self.values, self.kind, self.classes = values_HW, kind, classes

    @cached_property
    def segments(self) -> Sequence[Segment]:
        """One a class. Which ids are ignored or background is up to the rule, so none of them is missing here."""
        if self.kind == "binary":
            decode = lambda: object_mask(self.values, MaskRule("binary"))  # noqa: E731
            return (Segment(1, "object", None, False, None, False, decode),) if decode().any() else ()
        return tuple(
            Segment(
                value,
                self.classes.names.get(value),
                None,
                False,
                self.classes.is_thing(value),
                value in self.classes.void,
                lambda value=value: self.values == value,
            )
            for value in np.unique(self.values).tolist()
        )

    def object_mask(self, rule: ObjectRule) -> np.ndarray:
        return object_mask(self.values, self._mask_rule(rule))

    def class_codes(self, rule: ObjectRule) -> np.ndarray:
        codes = np.int32(1) if self.kind == "binary" else self.values.astype(np.int32)
        return np.where(self.object_mask(rule), codes, np.int32(NO_CLASS))

    def _mask_rule(self, rule: ObjectRule) -> MaskRule:
        if isinstance(rule.which, tuple):
            return MaskRule(self.kind, rule.which, rule.ignore_label, rule.background_label)
        ids = None
        if rule.which == "things":
            ids = tuple(sorted(frozenset(self.classes.things or ()) - self.classes.void))
        elif self.classes.void and self.classes.ids is not None:
            ids = tuple(sorted(self.classes.ids - self.classes.void))
        return MaskRule(self.kind, ids, rule.ignore_label, rule.background_label)


@dataclass(frozen=True)
class Looking:
    """How all the files of a set are looked at when it is opened: in which threads, and who is told how far it is.

    track: called with the files, their number and what they are; see `unseg.protecting.run.Reporter`.
    """

    executor: Executor | None = None
    track: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda items, total, what: items

    def kind_of(self, masks: Sequence[T], opener: Callable[[T], Label] = open_label) -> Detected:
        """What masks hold; see `detect_kind`."""
        return detect_kind(masks, self.executor, lambda looks: self.track(looks, len(masks), "masks"), opener)


class Annotations(ABC):
    """The annotations of a set of images, opened and checked; single images are decoded on demand, from any thread.

    format: one of `FORMATS`. statement: the sentence that tells the user what was detected and how to name another.
    classes: what is known of the classes. missing: what is annotated but has no image, one line each.
    """

    format: str
    statement: str
    classes: ClassTable
    missing: Sequence[Problem]

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The annotated images, sorted: relative to the images' folder with forward slashes where they are on disk,
        else as the annotations name them."""

    @abstractmethod
    def read(self, image_name: str, height: int, width: int) -> Annotated:
        """The annotations of one image, whose upright size is height × width.

        Raises Unannotated where nothing is said of it, ImageError where what is said cannot be used (sizes that differ,
        outlines outside the image, broken masks): both concern this image alone.
        """

    def image_bytes(self, image_name: str) -> bytes | None:
        """The encoded image, where the annotations hold it themselves, as Hugging Face tables do; else None."""
        return None

    def own_images(self) -> Iterable[Path]:
        """Files, and folders of files, that look like images and are annotations, such as masks: no images to protect."""
        return ()

    def check_rule(self, rule: ObjectRule, option: str = "--objects") -> None:
        """UserError where the rule asks for what these annotations cannot tell."""
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
    """The classes in a line: `1 person, 2 bicycle, … (80 in all)`."""
    ids = sorted(classes.ids or ())
    shown = ", ".join(f"{number} {classes.names.get(number, '')}".strip() for number in ids[:at_most])
    return shown if len(ids) <= at_most else f"{shown}, … ({len(ids)} in all)"


def check_segment_count(path: Path, count: int) -> None:
    if count > MAX_SEGMENTS:
        raise ImageError(path, f"{count} segments in one image; at most {MAX_SEGMENTS} are read")


def check_size(path: Path, what: str, size: tuple[int, int], height: int, width: int) -> None:
    """size: (height, width) that `what` claims."""
    if size != (height, width):
        raise ImageError(
            path, f"{what} is {size[1]}×{size[0]}, the image (upright) is {width}×{height}: make them one size"
        )


def check_pixel_count(path: Path, height: int, width: int, data: bytes | None = None) -> None:
    """ImageError where the header promises another number of pixels: nothing of another size is ever decoded.

    data: the file's bytes, where it is no file of its own.
    """
    promised = pixel_count(path if data is None else io.BytesIO(data))
    if promised and promised != height * width:
        raise ImageError(path, f"has {promised} pixels, {width}×{height} are expected: make them one size")


def first_few(items: Iterable[str], at_most: int = 3) -> str:
    """`a, b, c, …`."""
    listed = list(items)
    return ", ".join(listed[:at_most]) + (", …" if len(listed) > at_most else "")
