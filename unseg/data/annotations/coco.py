"""COCO's two json formats, and Cityscapes' panoptic edition, which has the second one's form.

The file is read once; for each image only the places of its entries in the file are kept. Sources: the format page of
cocodataset.org; panopticapi for ids; cityscapesScripts' createPanopticImgs for names.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
from unseg.data.annotations.json_stream import JsonStream, open_json, read_entries, stamp
from unseg.data.annotations.names import ImagesFolder, absent, safe_name, shown, whole_number
from unseg.data.annotations.outlines import OutlineCollector
from unseg.errors import UserError
from unseg.storage.image_decoding import read_image
from unseg.storage.image_limits import ImageError

MAX_IMAGES = 2_000_000
MAX_ENTRIES = 10_000_000
MAX_CATEGORIES = 100_000
MAX_SIDE = 1_000_000  # pixels; a declared size is only compared, never allocated
CITYSCAPES_IMAGE, CITYSCAPES_PANOPTIC = "_leftImg8bit.png", "_gtFine_panoptic.png"

ImageId = int | str


class _CocoFile(Annotations):
    """What both formats share: images, categories, and where each image's annotations stand."""

    def __init__(self, path: Path, images_root: Path) -> None:
        self.path, self._stamp = path, stamp(path)
        self._numbers: dict[ImageId, int] = {}  # image id → a number in the order of first mention
        self._images: dict[int, tuple[str, int, int]] = {}  # number → name, height, width
        self._category_names: dict[int, str] = {}
        self._things: set[int] = set()
        self._says_things = False
        self._used: dict[int, str] = {}  # category → the first entry that names it
        self._first_entry: dict[int, int] = {}  # image number → its first annotation
        self._entries = {name: array("q") for name in ("image", "begin", "end")}
        self._read_file()
        self._check_references()
        order = np.argsort(np.asarray(self._entries["image"]), kind="stable")
        self._image_sorted = np.asarray(self._entries["image"])[order]
        self._spans = np.stack([np.asarray(self._entries[name])[order] for name in ("begin", "end")], axis=1)
        self._order = order
        self._match(ImagesFolder(images_root))
        names = self._category_names
        things = frozenset(self._things) if self._says_things else None
        if not self.one_entry_an_image:  # in an instances file everything is countable
            things = "all"
        self.classes = ClassTable(names, things, frozenset(), frozenset(names))

    # --- one pass over the file

    def _read_file(self) -> None:
        readers = {
            "images": self._read_images,
            "annotations": self._read_annotations,
            "categories": self._read_categories,
        }
        with open_json(self.path) as stream:
            for key in stream.members():
                reader = readers.pop(key, None)
                if reader is None:
                    stream.skip()
                else:
                    reader(stream)
        if readers:
            raise UserError(f'{self.path}: has no list "{next(iter(readers))}", which {self.format} annotations need')

    def _read_images(self, stream: JsonStream) -> None:
        names: dict[str, int] = {}
        for place, (image, _, _) in enumerate(stream.elements()):
            where = f"{self.path}: images[{place}]"
            _need_object(image, where)
            if place >= MAX_IMAGES:
                raise UserError(f"{where}: over {MAX_IMAGES} images in one file; split it")
            number = self._number(image.get("id"), where)
            if number in self._images:
                raise UserError(f"{where}: the id {shown(image['id'])} is there twice")
            name = self._image_name(image, where)
            if name in names:
                raise UserError(f"{where}: the image {shown(name)} is there twice (also images[{names[name]}])")
            names[name] = place
            self._images[number] = (
                name,
                whole_number(image.get("height"), f"{where}.height", 1, MAX_SIDE),
                whole_number(image.get("width"), f"{where}.width", 1, MAX_SIDE),
            )

    def _image_name(self, image: dict[str, Any], where: str) -> str:
        return safe_name(image.get("file_name"), f"{where}.file_name")

    def _read_annotations(self, stream: JsonStream) -> None:
        ids = array("q")
        for place, (entry, begin, end) in enumerate(stream.elements()):
            where = f"{self.path}: annotations[{place}]"
            _need_object(entry, where)
            if place >= MAX_ENTRIES:
                raise UserError(f"{where}: over {MAX_ENTRIES} annotations in one file; split it")
            number = self._number(entry.get("image_id"), where)
            self._first_entry.setdefault(number, place)
            if self.one_entry_an_image and self._first_entry[number] != place:
                raise UserError(
                    f"{where}: the image {shown(entry['image_id'])} is annotated twice (also"
                    f" annotations[{self._first_entry[number]}])"
                )
            for category in self._categories_of(entry, where):
                if category not in self._used and len(self._used) < MAX_CATEGORIES:
                    self._used[category] = where
            if "id" in entry and not self.one_entry_an_image:
                ids.append(whole_number(entry["id"], f"{where}.id", -(2**62), 2**62))
            for name, value in (("image", number), ("begin", begin), ("end", end)):
                self._entries[name].append(value)
        twice = np.sort(np.asarray(ids))
        twice = twice[1:][twice[1:] == twice[:-1]]
        if twice.size:
            raise UserError(
                f"{self.path}: {twice.size} annotation ids are there twice, such as {twice[0]}; ids must be unique"
            )

    @property
    @abstractmethod
    def one_entry_an_image(self) -> bool: ...

    @abstractmethod
    def _categories_of(self, entry: dict[str, Any], where: str) -> Sequence[int]: ...

    def _read_categories(self, stream: JsonStream) -> None:
        for place, (category, _, _) in enumerate(stream.elements()):
            where = f"{self.path}: categories[{place}]"
            _need_object(category, where)
            number = whole_number(category.get("id"), f"{where}.id", 0, 2**31 - 1)
            if number in self._category_names or place >= MAX_CATEGORIES:
                raise UserError(
                    f"{where}: "
                    + (f"the id {number} is there twice" if number in self._category_names else "too many categories")
                )
            name = category.get("name")
            if not isinstance(name, str):
                raise UserError(f"{where}.name: expected a text, found {shown(name)}")
            self._category_names[number] = name
            thing = category.get("isthing")
            if thing not in (None, 0, 1):
                raise UserError(f"{where}.isthing: expected 0 or 1, found {shown(thing)}")
            self._says_things |= thing is not None
            if thing:
                self._things.add(number)

    def _number(self, image_id: object, where: str) -> int:
        if not isinstance(image_id, str):
            image_id = whole_number(image_id, f"{where}: its image's id", -(2**62), 2**62)
        elif len(image_id) > 1000:
            raise UserError(f"{where}: its image's id has over 1000 characters")
        return self._numbers.setdefault(image_id, len(self._numbers))

    def _check_references(self) -> None:
        unknown = sorted(set(self._used) - set(self._category_names))
        if unknown:
            raise UserError(f"{self._used[unknown[0]]}: the category {unknown[0]} is not among the file's categories")
        for number, place in self._first_entry.items():
            if number not in self._images:
                image_id = next(key for key, value in self._numbers.items() if value == number)
                raise UserError(
                    f"{self.path}: annotations[{place}]: the image {shown(image_id)} is not among the file's images"
                )

    def _match(self, folder: ImagesFolder) -> None:
        """Which entry belongs to which file; `missing` gets those without."""
        self._by_name: dict[str, int] = {}
        without: dict[str, str] = {}
        for number, (name, _, _) in self._images.items():
            found = folder.find(name, str(self.path))
            if found in self._by_name:
                other = self._images[self._by_name[found]][0]
                raise UserError(f"{self.path}: both {other} and {name} are {found} in {folder.root}")
            if found is None:
                without[name] = self.path.name
            else:
                self._by_name[found] = number
        self.missing = tuple([*folder.problems, *absent(without)])
        self._names = sorted([*self._by_name, *without])

    # --- images

    def names(self) -> Sequence[str]:
        return self._names

    def _image_entries(self, image_name: str, height: int, width: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The places of an image's annotations in the list and in the file."""
        number = self._by_name.get(image_name)
        if number is None:
            raise Unannotated(self.path, f"does not name {image_name}")
        name, *size = self._images[number]
        check_size(self.path, f"the image {name} there", tuple(size), height, width)
        first, last = np.searchsorted(self._image_sorted, [number, number + 1])
        check_segment_count(self.path, int(last - first))
        return self._order[first:last].tolist(), [tuple(span) for span in self._spans[first:last].tolist()]


class CocoInstances(_CocoFile):
    """Polygons and run-length masks. Every category is a thing."""

    format = "coco"
    one_entry_an_image = False

    def __init__(self, path: Path, images_root: Path) -> None:
        super().__init__(path, images_root)
        self.statement = (
            f"COCO instances: {self._spans.shape[0]} annotations of {len(self._images)} images in"
            f" {len(self._category_names)} categories"
        )

    def _categories_of(self, entry: dict[str, Any], where: str) -> Sequence[int]:
        return [whole_number(entry.get("category_id"), f"{where}.category_id", 0, 2**31 - 1)]

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        places, spans = self._image_entries(image_name, height, width)
        outlines = OutlineCollector(self.path, height, width, self.classes)
        for place, entry in zip(places, read_entries(self.path, spans, self._stamp)):
            self._add(outlines, f"annotations[{place}]", entry)
        return outlines.finish()

    def _add(self, outlines: OutlineCollector, what: str, entry: dict[str, Any]) -> None:
        shape, crowd = entry.get("segmentation"), entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ImageError(self.path, f"{what}.iscrowd: expected 0 or 1, found {shown(crowd)}")
        facts = int(entry["category_id"]), int(entry["id"]) if "id" in entry else None, bool(crowd)
        if not shape:
            raise ImageError(self.path, f"{what}: has no segmentation (a box alone says nothing of pixels)")
        if isinstance(shape, list):
            polygons = [_corners(self.path, f"{what}.segmentation[{part}]", flat) for part, flat in enumerate(shape)]
            outlines.add_polygons(what, polygons, *facts)
            return
        counts = shape.get("counts") if isinstance(shape, dict) else None
        size = shape.get("size") if isinstance(shape, dict) else None
        if not isinstance(counts, (str, list)) or not isinstance(size, list):
            raise ImageError(self.path, f"{what}.segmentation: expected polygons or {{size, counts}}")
        if size != [outlines.height, outlines.width]:
            declared = "×".join(shown(side) for side in reversed(size[:2]))
            raise ImageError(
                self.path,
                f"{what}: its run-length mask is of {declared} pixels, the image (upright) is"
                f" {outlines.width}×{outlines.height}",
            )
        outlines.add_counts(what, counts, *facts)


class CocoPanoptic(_CocoFile):
    """A json and a folder of PNG files, where a pixel's segment id is R + 256 G + 65536 B.

    pngs: that folder; without it, the one of the json's name beside it.
    """

    format = "coco-panoptic"
    one_entry_an_image = True

    def __init__(self, path: Path, images_root: Path, pngs: Path | None = None) -> None:
        self.pngs = pngs or path.with_suffix("")
        if not self.pngs.is_dir():
            raise UserError(f"{path}: expected its PNG files in the folder {self.pngs}, which is not there")
        super().__init__(path, images_root)
        self.statement = (
            f"COCO panoptic: {self._spans.shape[0]} annotated images in {len(self._category_names)}"
            f" categories ({len(self._things)} of things), PNG files in {self.pngs.name}/"
        )

    def _categories_of(self, entry: dict[str, Any], where: str) -> Sequence[int]:
        segments = entry.get("segments_info")
        if not isinstance(segments, list):
            raise UserError(f"{where}.segments_info: expected a list, found {shown(segments)}")
        safe_name(entry.get("file_name"), f"{where}.file_name")
        for part, segment in enumerate(segments):
            _need_object(segment, f"{where}.segments_info[{part}]")
            whole_number(segment.get("id"), f"{where}.segments_info[{part}].id", 1, 256**3 - 1)
        return [
            whole_number(segment.get("category_id"), f"{where}.segments_info[{part}].category_id", 0, 2**31 - 1)
            for part, segment in enumerate(segments)
        ]

    def own_images(self) -> Iterable[Path]:
        return [self.pngs]

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        places, spans = self._image_entries(image_name, height, width)
        if not places:
            raise Unannotated(self.path, f"lists {image_name}, but holds no annotation for it")
        entry = next(read_entries(self.path, spans, self._stamp))
        what = f"annotations[{places[0]}]"
        segments = entry["segments_info"]
        check_segment_count(self.path, len(segments))
        numbers = [int(segment["id"]) for segment in segments]
        order = np.argsort(np.array(numbers, np.int64), kind="stable")
        known = np.array(numbers, np.int32)[order]
        if (known[1:] == known[:-1]).any():
            raise ImageError(self.path, f"{what}: two segments have the id {known[1:][known[1:] == known[:-1]][0]}")
        ids = self._ids(self.pngs / safe_name(entry["file_name"], what), height, width)
        index = index_values(ids, known)
        strangers = ids[(index == len(known)) & (ids != 0)]
        if strangers.size:
            raise ImageError(
                self.pngs / entry["file_name"],
                f"{strangers.size} pixels have ids such as {strangers[0]}, which the json does not list for this image",
            )
        crowds = [segment.get("iscrowd", 0) for segment in segments]
        if any(crowd not in (0, 1) for crowd in crowds):
            raise ImageError(self.path, f"{what}: iscrowd must be 0 or 1")
        parts = [
            self._segment(segments[part], bool(crowds[part]), numbers[part], index, place)
            for place, part in enumerate(order.tolist())
        ]
        present = np.zeros(len(known) + 1, bool)
        present[np.unique(index)] = True
        unseen = known[~present[:-1]].tolist()
        notes = [f"{len(unseen)} segments of the json have no pixel ({first_few(map(str, unseen))})"] if unseen else []
        return Indexed(index, parts, notes)

    def _segment(self, info: dict[str, Any], crowd: bool, number: int, index: np.ndarray, place: int) -> Segment:
        class_id = int(info["category_id"])
        return Segment(
            class_id,
            self._category_names[class_id],
            number,
            crowd,
            self.classes.is_thing(class_id),
            False,
            lambda: index == place,
        )

    @staticmethod
    def _ids(path: Path, height: int, width: int) -> np.ndarray:
        """H×W int32."""
        check_pixel_count(path, height, width)
        pixels = read_image(path, height * width).pixels
        check_size(path, "the file", pixels.shape[:2], height, width)
        ids = pixels[..., 2].astype(np.int32)
        for channel in (1, 0):
            ids <<= 8
            ids |= pixels[..., channel]
        return ids


class CityscapesPanoptic(CocoPanoptic):
    """Cityscapes' own panoptic conversion: the image of id X is CITY/X_leftImg8bit.png, whatever file_name says."""

    format = "cityscapes-panoptic"

    def __init__(self, path: Path, images_root: Path, pngs: Path | None = None) -> None:
        super().__init__(path, images_root, pngs)
        self.statement = self.statement.replace("COCO panoptic", "Cityscapes panoptic")

    def _image_name(self, image: dict[str, Any], where: str) -> str:
        return safe_name(f"{image.get('id')}{CITYSCAPES_IMAGE}", f"{where}.id")


def _need_object(value: object, where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, found {shown(value)}")


def _corners(path: Path, what: str, flat: object) -> np.ndarray:
    """[x1, y1, x2, y2, …] → N×2 float64."""
    if not isinstance(flat, list) or len(flat) % 2 or not all(type(value) in (int, float) for value in flat):
        raise ImageError(path, f"{what}: expected a list of numbers x1, y1, x2, y2, …")
    try:
        return np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError as error:  # a whole number of hundreds of digits
        raise ImageError(path, f"{what}: holds a number that is too large") from error
