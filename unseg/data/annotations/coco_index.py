"""Reads a COCO json once: its images, its categories, and where each image's annotations stand in the file.

The file is read once; for each image only the places of its entries are kept, 24 bytes an entry, so that a file of 450
MB stays on disk. Sources: the format page of cocodataset.org; panopticapi for ids.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from unseg.data.annotations.core import check_segment_count
from unseg.data.annotations.json_stream import JsonStream, open_json, stamp
from unseg.data.annotations.names import number_in, shown, whole_number
from unseg.errors import UserError

MAX_IMAGES = 2_000_000
MAX_ENTRIES = 10_000_000
MAX_CATEGORIES = 100_000
MAX_SIDE = 1_000_000  # pixels; a declared size is only compared, never allocated
MAX_ID = 1000  # characters of an id
HIGHEST_CATEGORY = 2**31 - 1

Id = int | str


@dataclass(frozen=True)
class CocoForm:
    """Says how one of the formats that share COCO's three lists differs from the others.

    image_name returns an image entry's name, categories_of the category ids of an annotation entry; both take the entry
    and where it stands, for errors.
    """

    name: str
    one_entry_an_image: bool
    image_name: Callable[[dict[str, Any], str], str]
    categories_of: Callable[[dict[str, Any], str], Sequence[int]]


@dataclass(frozen=True)
class CocoIndex:
    """Holds what is kept of a json.

    images: number → (name, height, width); numbers count the images' ids in the order of first mention. things: ids of
    countable categories, None where the file does not say. image_N, begin_end_N2, place_N: of each annotation the
    image's number, its bytes in the file, and its place in the list, sorted by image.
    """

    path: Path
    stamp: tuple[int, int]
    images: Mapping[int, tuple[str, int, int]]
    categories: Mapping[int, str]
    things: frozenset[int] | None
    image_N: np.ndarray
    begin_end_N2: np.ndarray
    place_N: np.ndarray

    @property
    def entry_count(self) -> int:
        """Returns the number of annotations."""
        return self.image_N.size

    def entries_of(self, number: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the places of an image's annotations in the list, and their (begin, end) bytes in the file."""
        first, last = np.searchsorted(self.image_N, [number, number + 1])
        check_segment_count(self.path, int(last - first))
        spans = [(begin, end) for begin, end in self.begin_end_N2[first:last].tolist()]
        return self.place_N[first:last].tolist(), spans


def read_index(path: Path, form: CocoForm) -> CocoIndex:
    """Reads a json once; UserError names the first entry that is not as the format wants it."""
    scan = _Scan(path, form)
    known = stamp(path)
    scan.read()
    scan.check_references()
    image_N = np.asarray(scan.entry_images)
    order = np.argsort(image_N, kind="stable")
    spans = np.stack([np.asarray(scan.entry_begins)[order], np.asarray(scan.entry_ends)[order]], axis=1)
    things = frozenset(scan.things) if scan.says_things else None
    return CocoIndex(path, known, scan.images, scan.categories, things, image_N[order], spans, order)


class _Scan:
    """Gathers what one pass over the file shows."""

    def __init__(self, path: Path, form: CocoForm) -> None:
        self.path, self.form = path, form
        self.images: dict[int, tuple[str, int, int]] = {}
        self.categories: dict[int, str] = {}
        self.things: set[int] = set()
        self.says_things = False
        self.entry_images, self.entry_begins, self.entry_ends = array("q"), array("q"), array("q")
        self._numbers: dict[Id, int] = {}
        self._used: dict[int, str] = {}  # category → the first entry that names it
        self._first_entry: dict[int, int] = {}  # image number → its first annotation

    def read(self) -> None:
        """Reads the three lists, in whatever order they stand."""
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
            raise UserError(
                f'{self.path}: has no list "{next(iter(readers))}", which {self.form.name} annotations need'
            )

    def _read_images(self, stream: JsonStream) -> None:
        names: dict[str, int] = {}
        for place, (image, _, _) in enumerate(stream.elements()):
            where = f"{self.path}: images[{place}]"
            need_object(image, where)
            if place >= MAX_IMAGES:
                raise UserError(f"{where}: over {MAX_IMAGES} images in one file; split it")
            number = self._number(image.get("id"), where)
            if number in self.images:
                raise UserError(f"{where}: the id {shown(image['id'])} is there twice")
            name = self.form.image_name(image, where)
            if name in names:
                raise UserError(f"{where}: the image {shown(name)} is there twice (also images[{names[name]}])")
            names[name] = place
            self.images[number] = (
                name,
                whole_number(image.get("height"), f"{where}.height", 1, MAX_SIDE),
                whole_number(image.get("width"), f"{where}.width", 1, MAX_SIDE),
            )

    def _read_annotations(self, stream: JsonStream) -> None:
        ids, places = array("q"), array("q")
        for place, (entry, begin, end) in enumerate(stream.elements()):
            where = f"{self.path}: annotations[{place}]"
            need_object(entry, where)
            if place >= MAX_ENTRIES:
                raise UserError(f"{where}: over {MAX_ENTRIES} annotations in one file; split it")
            number = self._number(entry.get("image_id"), where)
            self._first_entry.setdefault(number, place)
            if self.form.one_entry_an_image and self._first_entry[number] != place:
                raise UserError(
                    f"{where}: the image {shown(entry['image_id'])} is annotated twice (also"
                    f" annotations[{self._first_entry[number]}])"
                )
            for category in self.form.categories_of(entry, where):
                if category not in self._used and len(self._used) < MAX_CATEGORIES:
                    self._used[category] = where
            own_id = entry.get("id")
            if own_id is not None and not self.form.one_entry_an_image:
                ids.append(_id_as_number(own_id, f"{where}.id"))
                places.append(place)
            self.entry_images.append(number)
            self.entry_begins.append(begin)
            self.entry_ends.append(end)
        self._check_unique(np.asarray(ids), np.asarray(places))

    def _check_unique(self, ids: np.ndarray, places: np.ndarray) -> None:
        order = np.argsort(ids, kind="stable")
        ids, places = ids[order], places[order]
        twice = places[1:][ids[1:] == ids[:-1]]
        if twice.size:
            raise UserError(
                f"{self.path}: {twice.size} annotation ids are there twice, such as that of annotations[{twice[0]}];"
                " ids must be unique"
            )

    def _read_categories(self, stream: JsonStream) -> None:
        for place, (category, _, _) in enumerate(stream.elements()):
            where = f"{self.path}: categories[{place}]"
            need_object(category, where)
            number = whole_number(category.get("id"), f"{where}.id", 0, HIGHEST_CATEGORY)
            if number in self.categories:
                raise UserError(f"{where}: the id {number} is there twice")
            if place >= MAX_CATEGORIES:
                raise UserError(f"{where}: too many categories")
            name = category.get("name")
            if not isinstance(name, (str, int, float, NoneType)):
                raise UserError(f"{where}.name: expected a text, found {shown(name)}")
            self.categories[number] = "" if name is None else str(name)
            thing = number_in(category.get("isthing"))
            if thing not in (None, 0, 1):
                raise UserError(f"{where}.isthing: expected 0 or 1, found {shown(thing)}")
            self.says_things |= thing is not None
            if thing:
                self.things.add(number)

    def _number(self, image_id: object, where: str) -> int:
        """Returns an image's number; the first mention of an id makes one."""
        return self._numbers.setdefault(_read_id(image_id, f"{where}: its image's id"), len(self._numbers))

    def check_references(self) -> None:
        """Raises UserError where an annotation names a category or an image that the file does not list."""
        unknown = sorted(set(self._used) - set(self.categories))
        if unknown:
            raise UserError(f"{self._used[unknown[0]]}: the category {unknown[0]} is not among the file's categories")
        for number, place in self._first_entry.items():
            if number not in self.images:
                image_id = next(key for key, value in self._numbers.items() if value == number)
                raise UserError(
                    f"{self.path}: annotations[{place}]: the image {shown(image_id)} is not among the file's images"
                )


def _read_id(value: object, where: str) -> Id:
    """Returns an id, a whole number or any text; a text that holds a number is that number."""
    number = number_in(value)
    if not isinstance(number, str):
        return whole_number(number, where, -(2**62), 2**62)
    if len(number) > MAX_ID:
        raise UserError(f"{where}: has over {MAX_ID} characters")
    return number


def _id_as_number(value: object, where: str) -> int:
    """Returns a number of 8 bytes that stands for an annotation's id: texts need not be kept to tell them apart."""
    known = _read_id(value, where)
    if isinstance(known, int):
        return known
    digest = hashlib.blake2b(known.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def need_object(value: object, where: str) -> None:
    """Raises UserError where an entry is no JSON object."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, found {shown(value)}")
