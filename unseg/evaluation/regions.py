"""What networks of objects learn from: the regions of an image, taken from its annotations.

Shapes: H×W the image's own size. Labels are places in `ClassList.ids`. `unseg.evaluation.region_views` has the views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations import Annotated, ClassMap, ClassTable, ObjectRule
from unseg.data.annotations.core import Segment, first_few
from unseg.errors import UserError
from unseg.evaluation.coco_metrics import NOTHING, RunLengths, TrueRegion, decode, encode
from unseg.evaluation.learner import AnnotatedImages
from unseg.method.metrics import IGNORE_LABEL

What = Literal["instances", "panoptic"]
ANY_OBJECT = ObjectRule()
LAST_PLACE = IGNORE_LABEL - 1
LEFT_OUT = frozenset((0, 255))  # of class-id masks: background and "not labelled"


# --- classes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassList:
    """The classes that a network tells apart.

    ids: the annotations' own, sorted. names: each once. things: countable or not. left_out: ids that class-id masks use
    for background and "not labelled".
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    things: tuple[bool, ...]
    left_out: frozenset[int] = LEFT_OUT

    @cached_property
    def _places(self) -> dict[int, int]:
        return {class_id: place for place, class_id in enumerate(self.ids)}

    def label(self, class_id: int) -> int | None:
        """Returns the place of a class id; None where it is not among them."""
        return self._places.get(class_id)


def class_list(train: AnnotatedImages, test: AnnotatedImages, what: What, rule: ObjectRule = ANY_OBJECT) -> ClassList:
    """Returns the classes of both sets. Where the format does not list them, all annotations are looked through once.

    rule: its labels of background and of pixels that are ignored are no classes of class-id masks. Raises UserError
    where the two sets number their classes differently, where there is none, or where panoptic classes are wanted of
    annotations that do not tell things from stuff.
    """
    check_same_numbering(train.classes, test.classes)
    if what == "panoptic" and train.classes.things is None:
        raise UserError(
            "--task panoptic: these annotations do not tell things from stuff; give coco-panoptic, cityscapes or"
            " cityscapes-panoptic annotations"
        )
    left_out = frozenset(label for label in (rule.ignore_label, rule.background_label) if label is not None)
    known = train.classes.ids
    if known is None:
        known = frozenset(
            class_id
            for images in (train, test)
            for place in range(len(images.names))
            for class_id in class_ids(images.annotated(place), what, left_out)
        )
    table = train.classes
    ids = tuple(
        class_id
        for class_id in sorted(known - table.void)
        if what == "panoptic" or table.is_thing(class_id) is not False
    )
    if not ids:
        raise UserError(
            "--annotations: there is no class of objects; detectors and instance networks need countable things"
        )
    names = [table.names.get(class_id, str(class_id)) for class_id in ids]
    return ClassList(
        ids, tuple(told_apart(names, ids)), tuple(table.is_thing(class_id) is not False for class_id in ids), left_out
    )


def told_apart(names: Sequence[str], ids: Iterable[int]) -> list[str]:
    """Returns classes' names, those that several classes have with the class's id."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({class_id})" for name, class_id in zip(names, ids, strict=True)]


def check_same_numbering(train: ClassTable, test: ClassTable) -> None:
    """Raises UserError where a class of the test annotations is another one, or none, in the training annotations."""
    for class_id, name in sorted(test.names.items()):
        if train.ids is not None and class_id not in train.ids:
            raise UserError(
                f"--test-annotations: class {class_id} ({name}) is not among the classes of --annotations; both must"
                " number their classes alike"
            )
        if train.names.get(class_id, name) != name:
            raise UserError(
                f"--test-annotations: class {class_id} is {name}, in --annotations it is {train.names[class_id]};"
                " both must number their classes alike"
            )


# --- regions ---------------------------------------------------------------------------------------------------------


def pieces(annotated: Annotated, what: What, left_out: frozenset[int] = LEFT_OUT) -> list[tuple[int, bool, np.ndarray]]:
    """Returns class id, crowd and mask (H×W bool) of every region, void left out.

    Masks of class ids and binary masks have no instances: there, every connected component (8 neighbours) of a class is
    one. left_out: see `ClassList`.
    """
    if isinstance(annotated, ClassMap):
        return _pieces_of_a_map(annotated, what, left_out)
    found = [segment for segment in annotated.segments if not segment.void]
    if what == "instances":
        return _as_pieces(segment for segment in found if segment.thing is not False)
    stuff: dict[int, np.ndarray] = {}  # one segment a class, which it is in most sets anyway
    for segment in found:
        if _is_stuff(segment):
            stuff[segment.class_id] = stuff.get(segment.class_id, False) | segment.mask
    apart = _as_pieces(segment for segment in found if not _is_stuff(segment))
    return [*apart, *((class_id, False, mask) for class_id, mask in stuff.items() if mask.any())]


def _is_stuff(segment: Segment) -> bool:
    return segment.thing is False and not segment.crowd


def _as_pieces(segments: Iterable[Segment]) -> list[tuple[int, bool, np.ndarray]]:
    found = ((segment.class_id, segment.crowd, segment.mask) for segment in segments)
    return [(class_id, crowd, mask) for class_id, crowd, mask in found if mask.any()]


def _pieces_of_a_map(annotated: ClassMap, what: What, left_out: frozenset[int]) -> list[tuple[int, bool, np.ndarray]]:
    masks = class_masks(annotated, left_out)
    if what == "panoptic":
        return [(class_id, False, mask) for class_id, mask in masks]
    things = [(class_id, mask) for class_id, mask in masks if annotated.classes.is_thing(class_id) is not False]
    return [(class_id, False, part) for class_id, mask in things for part in components(mask)]


def class_ids(annotated: Annotated, what: What, left_out: frozenset[int] = LEFT_OUT) -> set[int]:
    """Returns the classes of `pieces`, without taking them apart."""
    if isinstance(annotated, ClassMap):
        return {class_id for class_id, _ in class_masks(annotated, left_out)}
    return {
        segment.class_id
        for segment in annotated.segments
        if not segment.void and (what == "panoptic" or segment.thing is not False)
    }


def class_masks(annotated: ClassMap, left_out: frozenset[int] = LEFT_OUT) -> list[tuple[int, np.ndarray]]:
    """Returns each class of a class map with its mask; background, "not labelled" and what the format calls void are
    left out.
    """
    if annotated.kind == "binary":
        mask = annotated.object_mask(ObjectRule())
        return [(1, mask)] if mask.any() else []
    # A format that lists its classes knows its void itself.
    without = left_out if annotated.classes.ids is None else frozenset()
    return [
        (segment.class_id, segment.mask)
        for segment in annotated.segments
        if not segment.void and segment.class_id not in without
    ]


def components(mask_HW: np.ndarray) -> list[np.ndarray]:
    """Returns the connected components of a mask (8 neighbours), each H×W bool."""
    count, numbers = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    return [numbers == number for number in range(1, count)]


def read_regions(images: AnnotatedImages, place: int, classes: ClassList, what: What) -> list[TrueRegion]:
    """Returns the regions of an image in the classes' labels.

    Raises UserError, naming the image, where one is of a class that is not listed, or where panoptic regions are wanted
    of a map that does not tell single things apart.
    """
    annotated = images.annotated(place)
    if what == "panoptic" and isinstance(annotated, ClassMap) and _merges_things(annotated, classes):
        raise UserError(
            f"{images.names[place]}: its annotation does not tell single things apart (Cityscapes: the instanceIds"
            " file is missing beside labelIds), which --task panoptic needs"
        )
    regions = []
    for class_id, crowd, mask in pieces(annotated, what, classes.left_out):
        label = classes.label(class_id)
        if label is None:
            raise UserError(
                f"{images.names[place]}: its annotation has class {class_id}, which is not among the"
                f" {len(classes.ids)} classes ({first_few(classes.names, 5)})"
            )
        regions.append(TrueRegion(label, crowd, encode(mask)))
    return regions


def _merges_things(annotated: ClassMap, classes: ClassList) -> bool:
    return any(annotated.classes.is_thing(class_id) for class_id, _ in class_masks(annotated, classes.left_out))


# What was read of a set, as long as the set itself lives: one set of test images serves all runs.
_READ: WeakKeyDictionary[AnnotatedImages, dict[tuple[ClassList, What], list[list[TrueRegion]]]] = WeakKeyDictionary()


def all_regions(
    images: AnnotatedImages, classes: ClassList, what: What, progress: Progress = SILENT
) -> list[list[TrueRegion]]:
    """Returns the `read_regions` of every image, read once for all networks and conditions."""
    known, key = _READ.setdefault(images, {}), (classes, what)
    if key not in known:
        places = track(progress, range(len(images.names)), len(images.names), "reading annotations")
        known[key] = [read_regions(images, place, classes, what) for place in places]
    return known[key]


def painted(regions: Sequence[RunLengths], height: int, width: int) -> np.ndarray:
    """Returns the place of the region that owns each pixel, or NOTHING: H×W int32.

    Of regions that overlap, the smaller one is on top.
    """
    masks = [decode(region) for region in regions]
    owner = np.full((height, width), NOTHING, np.int32)
    for place in sorted(range(len(masks)), key=lambda place: -int(masks[place].sum())):
        owner[masks[place]] = place
    return owner


def class_places(images: AnnotatedImages, place: int, classes: ClassList, what: What) -> np.ndarray:
    """Returns the class of every pixel of an image, H×W uint8: its label + 1, at most 254.

    Where there is no region it is 0, the background; in panoptic annotations 255, which is not counted. Of regions that
    overlap, the smaller one is on top.
    """
    annotated, regions = images.annotated(place), read_regions(images, place, classes, what)
    owner = painted([region.mask for region in regions], annotated.height, annotated.width)
    nothing = IGNORE_LABEL if what == "panoptic" else 0
    return np.array([*(min(region.label + 1, LAST_PLACE) for region in regions), nothing], np.uint8)[owner]
