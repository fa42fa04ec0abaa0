"""What networks of objects learn from: the regions of an image, taken from its annotations, and its views in training.

Shapes: H×W the image's own size or that of a view, N regions. Labels are places in `ClassList.ids`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations import Annotated, ClassMap, ClassTable, ObjectRule
from unseg.data.annotations.core import Segment, first_few
from unseg.errors import UserError
from unseg.evaluation.augmentation import recoloured, standardised
from unseg.evaluation.coco_metrics import NOTHING, RunLengths, TrueRegion, decode, encode
from unseg.evaluation.learner import AnnotatedImages
from unseg.victims.targets import Targets

What = Literal["instances", "panoptic"]
ZOOM = (0.7, 1.6)  # a view's magnification over "the whole image fits", log-uniform
GEOMETRY_DRAWS = 4  # random numbers a view: flip, zoom, shift across and down
ANY_OBJECT = ObjectRule()
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


# --- views -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """How an image becomes a view of `size` (width, height).

    It is scaled to `content` (width, height), flipped or not, and seen through a window at (left, top). What the window
    has beyond the content is empty, to the right and below. colour: factors of brightness, contrast and saturation and
    a shift of the hue; None: colours stay.
    """

    size: tuple[int, int]
    content: tuple[int, int]
    flip: bool = False
    left: int = 0
    top: int = 0
    colour: tuple[float, float, float, float] | None = None

    @property
    def filled(self) -> tuple[int, int]:
        """Returns the columns and rows of the view that show the image."""
        return min(self.size[0], self.content[0] - self.left), min(self.size[1], self.content[1] - self.top)

    def place(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        """Returns the window over the scaled image, its filled part alone."""
        scaled = cv2.resize(pixels, self.content, interpolation=interpolation)
        if self.flip:
            scaled = cv2.flip(scaled, 1)
        columns, rows = self.filled
        return scaled[self.top : self.top + rows, self.left : self.left + columns]


def size_of(pixels: np.ndarray) -> tuple[int, int]:
    """Returns the width and height of an image or mask, H×W or H×W×3."""
    height, width = pixels.shape[:2]
    return width, height


def whole(size: tuple[int, int], image_size: tuple[int, int], zoom: float = 1.0) -> tuple[int, int]:
    """Returns the width and height of an image (width, height) that fits into `size`, its shape kept, times `zoom`."""
    fit = min(size[0] / image_size[0], size[1] / image_size[1]) * zoom
    return max(1, round(image_size[0] * fit)), max(1, round(image_size[1] * fit))


def draw_view(
    draws: Sequence[float],
    image_size: tuple[int, int],
    size: tuple[int, int],
    colour: tuple[float, float, float, float] | None,
) -> View:
    """Returns a random view.

    draws: GEOMETRY_DRAWS numbers in [0, 1). colour: as `unseg.evaluation.augmentation.recoloured` takes it.
    """
    flip, zoom, across, down = draws
    content = whole(size, image_size, math.exp(math.log(ZOOM[0]) + zoom * math.log(ZOOM[1] / ZOOM[0])))
    spare = (max(0, content[0] - size[0]), max(0, content[1] - size[1]))
    return View(size, content, flip < 0.5, int(across * (spare[0] + 1)), int(down * (spare[1] + 1)), colour)


def reduced(
    pixels_HW3: np.ndarray, regions: Sequence[TrueRegion], size: tuple[int, int]
) -> tuple[np.ndarray, list[TrueRegion]]:
    """Returns an image and its regions no larger than the largest view of `size` shows them; smaller ones as they
    are.
    """
    content = whole(size, size_of(pixels_HW3), ZOOM[1])
    if content[0] >= pixels_HW3.shape[1]:
        return pixels_HW3, list(regions)
    masks = [
        cv2.resize(decode(region.mask).astype(np.uint8), content, interpolation=cv2.INTER_NEAREST_EXACT)
        for region in regions
    ]
    return (
        cv2.resize(pixels_HW3, content, interpolation=cv2.INTER_AREA),
        [
            TrueRegion(region.label, region.crowd, encode(mask))
            for region, mask in zip(regions, masks, strict=True)
            if mask.any()
        ],
    )


def view_pixels(pixels_HW3: np.ndarray, view: View) -> torch.Tensor:
    """Returns the normalised view of an H×W×3 uint8 image: 3×H×W float32; 0, the mean colour, where it is not
    filled.
    """
    shrinks = view.content[0] < pixels_HW3.shape[1]
    shown = view.place(pixels_HW3, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    plain = torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1)[None].to(torch.float32) / 255
    if view.colour is not None:
        plain = recoloured(plain, torch.tensor([view.colour]))
    image = torch.zeros(3, view.size[1], view.size[0])
    image[:, : shown.shape[0], : shown.shape[1]] = standardised(plain.permute(0, 2, 3, 1))[0]
    return image


def view_targets(regions: Sequence[TrueRegion], view: View) -> Targets:
    """Returns the regions of a view. Crowds are left out, and so is what the window or the scaling leaves no pixel
    of.
    """
    labels, masks = [], []
    for region in regions:
        if region.crowd:
            continue
        shown = view.place(decode(region.mask).astype(np.uint8), cv2.INTER_NEAREST_EXACT)
        if shown.any():
            mask = np.zeros(view.size[::-1], bool)
            mask[: shown.shape[0], : shown.shape[1]] = shown
            labels.append(region.label)
            masks.append(mask)
    stacked = np.stack(masks) if masks else np.zeros((0, *view.size[::-1]), bool)
    return Targets(
        torch.tensor(labels, dtype=torch.int64), torch.from_numpy(stacked), torch.from_numpy(tight_boxes(stacked))
    )


def tight_boxes(masks_NHW: np.ndarray) -> np.ndarray:
    """Returns the smallest boxes around masks that are not empty, N×4 float32 XYXY.

    Right and lower edges lie behind the last pixel.
    """
    boxes = np.zeros((len(masks_NHW), 4), np.float32)
    for box, mask in zip(boxes, masks_NHW, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def restore(probabilities_NHW: torch.Tensor, view: View, image_size: tuple[int, int]) -> torch.Tensor:
    """Returns maps of a view of the whole image (N×h×w, of any size over the view's frame), on the image itself:
    N×H×W.
    """
    columns, rows = view.filled
    frame = F.interpolate(probabilities_NHW[None], view.size[::-1], mode="bilinear", align_corners=False)
    return F.interpolate(frame[..., :rows, :columns], image_size[::-1], mode="bilinear", align_corners=False)[0]


def painted(regions: Sequence[RunLengths], height: int, width: int) -> np.ndarray:
    """Returns the place of the region that owns each pixel, or NOTHING: H×W int32.

    Of regions that overlap, the smaller one is on top.
    """
    masks = [decode(region) for region in regions]
    owner = np.full((height, width), NOTHING, np.int32)
    for place in sorted(range(len(masks)), key=lambda place: -int(masks[place].sum())):
        owner[masks[place]] = place
    return owner
