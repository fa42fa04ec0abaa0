"""Reads COCO's two json formats, and Cityscapes' panoptic edition, which has the second one's form.

Sources: the format page of cocodataset.org; panopticapi for ids; cityscapesScripts' createPanopticImgs for names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unseg.data.annotations.coco_index import HIGHEST_CATEGORY, CocoForm, CocoIndex, need_object, read_index
from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassTable,
    Indexed,
    Segment,
    Unannotated,
    check_pixel_count,
    check_segment_count,
    check_size,
    first_few,
    index_values,
)
from unseg.data.annotations.json_stream import read_entries
from unseg.data.annotations.names import ImagesFolder, absent, number_in, safe_name, shown, whole_number
from unseg.data.annotations.outlines import FEWEST_CORNERS, OutlineCollector
from unseg.data.name_matching import file_form
from unseg.data.samples import Problem
from unseg.errors import UserError
from unseg.storage.image_decoding import read_image
from unseg.storage.image_limits import ImageError

CITYSCAPES_IMAGE, CITYSCAPES_PANOPTIC = "_leftImg8bit.png", "_gtFine_panoptic.png"

NO_RUNS: tuple[object, ...] = ([], "", [0])  # run lengths of a mask without a pixel


@dataclass(frozen=True)
class _Matched:
    """Maps images on disk to numbers of the index. missing: what has no image, or cannot be looked into."""

    by_name: Mapping[str, int]
    names: Sequence[str]
    missing: tuple[Problem, ...]


def _match(index: CocoIndex, folder: ImagesFolder) -> _Matched:
    by_name: dict[str, int] = {}
    without: dict[str, str] = {}
    for number, (name, _, _) in sorted(index.images.items(), key=lambda item: item[1][0] not in folder):
        found = folder.find(name, str(index.path))
        other = None if found is None or found not in by_name else index.images[by_name[found]][0]
        if other is not None and file_form(other) != file_form(name):
            raise UserError(f"{index.path}: both {other} and {name} are {found} in {folder.root}")
        if found is None or other is not None:  # the image is another's, whose very name it has
            without[name] = index.path.name
        else:
            by_name[found] = number
    return _Matched(by_name, sorted([*by_name, *without]), (*folder.problems, *absent(without)))


class _CocoFile(Annotations):
    """Holds what the formats share: an index of the json, and the images that belong to it."""

    form: ClassVar[CocoForm]

    def __init__(self, index: CocoIndex, matched: _Matched, classes: ClassTable) -> None:
        self._index, self._matched, self.classes = index, matched, classes
        self.path, self.missing = index.path, matched.missing

    def names(self) -> Sequence[str]:
        return self._matched.names

    def _image_entries(self, image_name: str, height: int, width: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the places of an image's annotations in the list and in the file."""
        number = self._matched.by_name.get(image_name)
        if number is None:
            raise Unannotated(self.path, f"does not name {image_name}")
        name, *size = self._index.images[number]
        check_size(self.path, f"the image {name} there", (size[0], size[1]), height, width)
        return self._index.entries_of(number)

    def _is_crowd(self, entry: dict[str, Any], what: str) -> bool:
        crowd = number_in(entry.get("iscrowd"))
        if crowd not in (None, 0, 1):
            raise ImageError(self.path, f"{what}.iscrowd: expected 0 or 1, found {shown(crowd)}")
        return bool(crowd)


def _file_name(image: dict[str, Any], where: str) -> str:
    return safe_name(image.get("file_name"), f"{where}.file_name")


def _cityscapes_name(image: dict[str, Any], where: str) -> str:
    return safe_name(f"{image.get('id')}{CITYSCAPES_IMAGE}", f"{where}.id")


# --- instances -------------------------------------------------------------------------------------------------------


def _category(entry: dict[str, Any], where: str) -> Sequence[int]:
    return [whole_number(entry.get("category_id"), f"{where}.category_id", 0, HIGHEST_CATEGORY)]


class CocoInstances(_CocoFile):
    """Reads polygons and run-length masks. Every category is a thing."""

    format = "coco"
    form = CocoForm("coco", False, image_name=_file_name, categories_of=_category)

    @classmethod
    def open(cls, path: Path, images_root: Path) -> CocoInstances:
        """Reads the json once and matches its images with those on disk."""
        index = read_index(path, cls.form)
        names = index.categories
        classes = ClassTable(names, "all", frozenset(), frozenset(names))
        return cls(index, _match(index, ImagesFolder.open(images_root)), classes)

    @classmethod
    def of_one(cls, path: Path, image_name: str) -> CocoInstances:
        """Opens a json of one image, whatever it calls it; UserError where it speaks of another number of images."""
        index = read_index(path, cls.form)
        if len(index.images) != 1:
            raise UserError(f"{path}: speaks of {len(index.images)} images, not of one")
        names = index.categories
        matched = _Matched({image_name: next(iter(index.images))}, [image_name], ())
        return cls(index, matched, ClassTable(names, "all", frozenset(), frozenset(names)))

    def __init__(self, index: CocoIndex, matched: _Matched, classes: ClassTable) -> None:
        super().__init__(index, matched, classes)
        self.statement = (
            f"COCO instances: {index.entry_count} annotations of {len(index.images)} images in"
            f" {len(index.categories)} categories"
        )

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        places, spans = self._image_entries(image_name, height, width)
        outlines = OutlineCollector(self.path, height, width, self.classes)
        for place, entry in zip(places, read_entries(self.path, spans, self._index.stamp), strict=True):
            self._add(outlines, f"annotations[{place}]", entry)
        return outlines.finish()

    def _add(self, outlines: OutlineCollector, what: str, entry: dict[str, Any]) -> None:
        add_entry(outlines, what, entry, int(entry["category_id"]), self._is_crowd(entry, what))


def add_entry(outlines: OutlineCollector, what: str, entry: dict[str, Any], class_id: int, crowd: bool) -> None:
    """Adds an entry's segmentation, polygons or run lengths; one without is passed over.

    ImageError where it cannot be used, and where an entry without one says of an object that it has an area.
    """
    path, shape, own_id = outlines.path, entry.get("segmentation"), number_in(entry.get("id"))
    facts = class_id, own_id if isinstance(own_id, int) else None, crowd
    if not shape or (isinstance(shape, dict) and shape.get("counts") in NO_RUNS):
        reason = "has no segmentation (a box alone says nothing of pixels)"
        if not crowd and _has_area(entry):
            raise ImageError(path, f"{what}: {reason}")
        outlines.leave_out(what, reason)
        return
    if isinstance(shape, list):
        shape = shape if isinstance(shape[0], list) else [shape]  # one polygon without the list around it
        polygons = [_corners(path, f"{what}.segmentation[{part}]", flat) for part, flat in enumerate(shape)]
        if all(len(polygon) < FEWEST_CORNERS for polygon in polygons):
            _check_says_nothing(path, what, entry, f"its outline has fewer than {FEWEST_CORNERS} corners", crowd=crowd)
        outlines.add_polygons(what, polygons, *facts)
        return
    counts = shape.get("counts") if isinstance(shape, dict) else None
    size = shape.get("size") if isinstance(shape, dict) else None
    size = [number_in(side) for side in size[:3]] if isinstance(size, list) else None
    if not isinstance(counts, (str, list)) or not isinstance(size, list):
        raise ImageError(path, f"{what}.segmentation: expected polygons or {{size, counts}}")
    if size != [outlines.height, outlines.width]:
        declared = "×".join(shown(side) for side in reversed(size[:2]))
        raise ImageError(
            path,
            f"{what}: its run-length mask is of {declared} pixels, the image (upright) is"
            f" {outlines.width}×{outlines.height}",
        )
    if not outlines.add_counts(what, counts, *facts):
        _check_says_nothing(path, what, entry, "its run lengths show no pixel", crowd=crowd)


def _check_says_nothing(path: Path, what: str, entry: dict[str, Any], reason: str, *, crowd: bool) -> None:
    """Raises ImageError where an entry without a usable outline says of an object that it has an area."""
    if not crowd and _has_area(entry):
        raise ImageError(path, f"{what}: {reason}, but it has a box or an area: its pixels are unknown")


def _has_area(entry: dict[str, Any]) -> bool:
    """Returns whether an entry's box or area is of any size, as far as it says."""
    box = entry.get("bbox")
    sides = box[2:4] if isinstance(box, list) else []
    return bool(entry.get("area")) or (len(sides) == 2 and all(sides))


def _corners(path: Path, what: str, flat: object) -> np.ndarray:
    """Returns the corners of [x1, y1, x2, y2, …], N×2 float64."""
    if not isinstance(flat, list) or len(flat) % 2 or not all(type(value) in (int, float) for value in flat):
        raise ImageError(path, f"{what}: expected a list of numbers x1, y1, x2, y2, …")
    try:
        return np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError as error:  # a whole number of hundreds of digits
        raise ImageError(path, f"{what}: holds a number that is too large") from error


# --- panoptic --------------------------------------------------------------------------------------------------------


def _categories_of_segments(entry: dict[str, Any], where: str) -> Sequence[int]:
    segments = entry.get("segments_info")
    if not isinstance(segments, list):
        raise UserError(f"{where}.segments_info: expected a list, found {shown(segments)}")
    safe_name(entry.get("file_name"), f"{where}.file_name")
    for part, segment in enumerate(segments):
        need_object(segment, f"{where}.segments_info[{part}]")
        whole_number(segment.get("id"), f"{where}.segments_info[{part}].id", 1, 256**3 - 1)
    return [
        whole_number(segment.get("category_id"), f"{where}.segments_info[{part}].category_id", 0, HIGHEST_CATEGORY)
        for part, segment in enumerate(segments)
    ]


class CocoPanoptic(_CocoFile):
    """Reads a json and a folder of PNG files, where a pixel's segment id is R + 256 G + 65536 B."""

    format = "coco-panoptic"
    form = CocoForm("coco-panoptic", True, image_name=_file_name, categories_of=_categories_of_segments)
    title = "COCO panoptic"

    def __init__(self, index: CocoIndex, matched: _Matched, classes: ClassTable, pngs: Path) -> None:
        super().__init__(index, matched, classes)
        self.pngs = pngs
        self.statement = (
            f"{self.title}: {index.entry_count} annotated images in {len(index.categories)}"
            f" categories ({len(index.things or ())} of things), PNG files in {pngs.name}/"
        )

    @classmethod
    def open(cls, path: Path, images_root: Path, pngs: Path | None = None) -> CocoPanoptic:
        """Reads the json once and matches its images with those on disk.

        pngs: the folder of the PNG files; without it, the one of the json's name beside it.
        """
        pngs = pngs or path.with_suffix("")
        if not pngs.is_dir():
            raise UserError(f"{path}: expected its PNG files in the folder {pngs}, which is not there")
        index = read_index(path, cls.form)
        names = index.categories
        classes = ClassTable(names, index.things, frozenset(), frozenset(names))
        return cls(index, _match(index, ImagesFolder.open(images_root)), classes, pngs)

    def own_images(self) -> Iterable[Path]:
        return [self.pngs]

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        places, spans = self._image_entries(image_name, height, width)
        if not places:
            raise Unannotated(self.path, f"lists {image_name}, but holds no annotation for it")
        entry = next(read_entries(self.path, spans, self._index.stamp))
        what = f"annotations[{places[0]}]"
        segments = entry["segments_info"]
        order, known = self._sorted_ids(segments, what)
        png = self._png(safe_name(entry["file_name"], what), what)
        ids = _segment_ids(png, height, width)
        index = index_values(ids, known)
        strangers = ids[(index == len(known)) & (ids != 0)]
        if strangers.size:
            raise ImageError(
                png,
                f"{strangers.size} pixels have ids such as {strangers[0]}, which the json does not list for this image",
            )
        parts = [
            self._segment(segments[part], index, place, f"{what}.segments_info[{part}]")
            for place, part in enumerate(order)
        ]
        return Indexed(index, parts, _unseen(index, known))

    def _png(self, name: str, what: str) -> Path:
        """Returns the PNG file of a name, which may begin with the folder's own name, or be in another Unicode form."""
        if not (self.pngs / name).is_file():
            try:
                name = self._png_files.find(name, what) or name
            except UserError as error:
                raise ImageError(self.path, str(error)) from error
        return self.pngs / name

    @cached_property
    def _png_files(self) -> ImagesFolder:
        return ImagesFolder.open(self.pngs)

    def _sorted_ids(self, segments: Sequence[dict[str, Any]], what: str) -> tuple[list[int], np.ndarray]:
        """Returns the order of an image's segments by id, and their ids in it, int32."""
        check_segment_count(self.path, len(segments))
        numbers = np.array([int(segment["id"]) for segment in segments], np.int64)
        order = np.argsort(numbers, kind="stable")
        known = numbers[order].astype(np.int32)
        twice = known[1:][known[1:] == known[:-1]]
        if twice.size:
            raise ImageError(self.path, f"{what}: two segments have the id {twice[0]}")
        return order.tolist(), known

    def _segment(self, info: dict[str, Any], index_HW: np.ndarray, place: int, what: str) -> Segment:
        class_id = int(info["category_id"])
        return Segment(
            class_id,
            self._index.categories[class_id],
            instance_id=int(info["id"]),
            crowd=self._is_crowd(info, what),
            thing=self.classes.is_thing(class_id),
            void=False,
            decode=partial(np.equal, index_HW, place),
        )


class CityscapesPanoptic(CocoPanoptic):
    """Reads Cityscapes' own panoptic conversion: image X is CITY/X_leftImg8bit.png, whatever file_name says."""

    format = "cityscapes-panoptic"
    form = CocoForm("cityscapes-panoptic", True, image_name=_cityscapes_name, categories_of=_categories_of_segments)
    title = "Cityscapes panoptic"


def _unseen(index_HW: np.ndarray, known: np.ndarray) -> list[str]:
    """Returns the note on segments that own no pixel."""
    present = np.zeros(len(known) + 1, bool)
    present[np.unique(index_HW)] = True
    unseen = known[~present[:-1]].tolist()
    return [f"{len(unseen)} segments of the json have no pixel ({first_few(map(str, unseen))})"] if unseen else []


def _segment_ids(path: Path, height: int, width: int) -> np.ndarray:
    """Returns the segment id of every pixel, H×W int32."""
    check_pixel_count(path, height, width)
    pixels = read_image(path, height * width).pixels
    check_size(path, "the file", (pixels.shape[0], pixels.shape[1]), height, width)
    ids = pixels[..., 2].astype(np.int32)
    for channel in (1, 0):
        ids <<= 8
        ids |= pixels[..., channel]
    return ids
