"""The originals of a protected folder and what says where their objects are, found again as its manifest names them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from unseg.data.masks import box_mask, object_mask
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import count_files
from unseg.errors import UserError
from unseg.protecting.header import Recorded
from unseg.protecting.manifest import Entry
from unseg.protecting.objects import OpenAnnotations, found_in
from unseg.protecting.protector import image_region
from unseg.storage import image_decoding
from unseg.storage.files import is_missing
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.second_decoder import disagreement

LOOKED_AT, LOOKED_AT_A_LINE = 100_000, 10  # files in folders that a manifest names, in all and for each line
Place = tuple[Path, Path | None]
"""Where annotations lie, and the folder that the names in them are relative to."""


class Broken(Exception):
    """Says why a file does not keep its promise."""


@dataclass(frozen=True)
class Originals:
    """Where everything lies that a bound is computed from.

    folder: the protected images. settings: what their manifest says. originals, masks, annotations: where these lie
    now, if not where the manifest says. read_annotations: those that `opened` found, each open or the reason why not.
    """

    folder: Path
    settings: Recorded
    originals: Path | None
    masks: Path | None
    annotations: Path | OpenAnnotations | None
    max_pixels: int
    read_annotations: Mapping[Place, OpenAnnotations | UserError] = field(default_factory=dict)

    def opened(self, entries: Iterable[Entry], pool: Executor) -> Originals:
        """Returns these originals with all annotations open that the lines speak of, once each.

        What cannot be opened is told with every image that needs it.
        """
        if not self.settings.is_annotated or isinstance(self.annotations, OpenAnnotations):
            return self
        entries = list(entries)
        found: dict[Place, OpenAnnotations | UserError] = {}
        left = LOOKED_AT + LOOKED_AT_A_LINE * len(entries)
        for place, root in dict.fromkeys(self._place_of(entry) for entry in entries):
            try:
                if self.annotations is None:
                    left = looked_at(_looked_through(place), left, "--annotations")
                if self.originals is None:
                    left = looked_at(root, left, "--originals")
                found[place, root] = OpenAnnotations.open(place, root, self.settings.format, pool=pool)
            except UserError as error:
                found[place, root] = error
        return replace(self, read_annotations=found)

    def image(self, entry: Entry) -> image_decoding.Image:
        """Returns an original that two decoders agree on; raises Broken where it is not there, or they do not agree."""
        path = self._path_of(entry)
        data = self._bytes_of(entry, path)
        image = image_decoding.decode_image(path, data, self.max_pixels)
        different = disagreement(data, image, must_read=False)
        if different is not None:
            raise Broken(f"its original {path}: {different}")
        return image

    def _bytes_of(self, entry: Entry, path: Path) -> bytes:
        if self.settings.is_annotated and self.settings.holds_images:
            opened = self._annotations_of(entry)
            data = opened.reader.image_bytes(entry.input)
            if data is None:
                raise Broken(f"its original is not in {opened.path}")
            return data
        if is_missing(path):
            raise Broken(f"its original {path} is not there: give --originals")
        return bytes_of_image(path, self.max_pixels)

    def region(self, entry: Entry, height: int, width: int) -> np.ndarray:
        """Returns where the object's budget holds, H×W bool; raises Broken where nothing says it any more."""
        mask = self._object(entry, height, width)
        if mask.shape != (height, width):
            raise Broken(f"its mask {entry.mask} is {size_of(mask)}, the image is {width}×{height}")
        settings = self.settings
        return image_region(mask, settings.region, settings.image_size, settings.mask_size)

    def _object(self, entry: Entry, height: int, width: int) -> np.ndarray:
        rule = self.settings.rule
        if entry.boxes is not None:
            return box_mask(entry.boxes, height, width)
        if rule is None:
            return np.ones((height, width), bool)
        if self.settings.is_annotated:
            return self._annotated(entry, rule, height, width)
        return self._masked(entry, rule, (height, width))

    def _annotated(self, entry: Entry, rule: ObjectRule, height: int, width: int) -> np.ndarray:
        opened = self._annotations_of(entry)
        if entry.mask is None:
            raise Broken("its line in the manifest does not say what it is called in the annotations")
        found = found_in(opened.reader.read(entry.mask, height, width), rule)
        if found.facts["mask_sha256"] != entry.mask_sha256:
            raise Broken(f"its annotations in {opened.path} changed since (the object is another)")
        return found.mask_HW

    def _masked(self, entry: Entry, rule: ObjectRule, size: tuple[int, int]) -> np.ndarray:
        folder = self.masks
        if folder is None and entry.mask_root is not None:
            folder = self.folder / entry.mask_root
        if entry.mask is None or folder is None:
            raise Broken("its line in the manifest names no mask")
        path = folder / entry.mask
        if is_missing(path):
            raise Broken(f"its mask {path} is not there: give --masks")
        try:
            label = image_decoding.open_label(path, self.max_pixels, size)
        except image_decoding.OtherSize as error:
            raise Broken(f"its mask {entry.mask} {error.reason}") from error
        if label.sha256 != entry.mask_sha256:
            raise Broken(f"its mask {path} changed since (another sha256)")
        assert self.settings.kind is not None, "a rule without annotations is one of masks"
        return object_mask(label.values, self.settings.kind, rule)

    def _path_of(self, entry: Entry) -> Path:
        if self.originals is not None:
            return self.originals / entry.input
        return self.folder / entry.input_root / entry.input

    def _place_of(self, entry: Entry) -> Place:
        given = self.annotations
        place = given if isinstance(given, Path) else self.folder / (entry.mask_root or "")
        if self.settings.holds_images:
            return place, None
        parts, name = self._path_of(entry).parts, PurePosixPath(entry.mask or "").parts
        below = parts[len(parts) - len(name) :] == name
        return place, Path(*parts[: len(parts) - len(name)]) if below else None

    def _annotations_of(self, entry: Entry) -> OpenAnnotations:
        if isinstance(self.annotations, OpenAnnotations):
            return self.annotations
        opened = self.read_annotations[self._place_of(entry)]
        if isinstance(opened, UserError):
            raise Broken(f"its annotations cannot be read; give --annotations ({opened})") from opened
        return opened


def _looked_through(place: Path) -> Path | None:
    """Returns the folder that opening annotations looks through: they are one, or YOLO's file lies beside its own."""
    if os.path.isdir(place):
        return place
    return place.parent if place.suffix.lower() in (".yaml", ".yml") else None


def looked_at(folder: Path | None, left: int, option: str) -> int:
    """Returns how many more files may be looked at once a folder was looked through that only a manifest names.

    left: how many may be now. UserError where the folder holds more: a manifest may come from anyone, and name the
    whole disk.
    """
    if folder is None:
        return left
    found = count_files(folder, left)
    if found > left:
        raise UserError(
            f"{folder}: only the manifest names it, and it holds over {left:,} files; if it is the right one, name it"
            f" with {option}"
        )
    return left - found


def size_of(pixels: np.ndarray) -> str:
    """Returns an image's size as messages write it: width×height."""
    return f"{pixels.shape[1]}×{pixels.shape[0]}"
