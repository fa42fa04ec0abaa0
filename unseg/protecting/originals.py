"""The originals of a protected folder and what says where their objects are, found again as its manifest names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from unseg.data.annotations import NO_CLASS
from unseg.data.annotations.runs import OutlineError, parse_counts, runs_of_counts
from unseg.data.masks import box_mask, object_mask, values_of
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import count_files
from unseg.errors import UserError
from unseg.protecting.annotation_objects import found_in
from unseg.protecting.header import Recorded
from unseg.protecting.manifest import Entry
from unseg.protecting.mask_placing import Misfit, Placing
from unseg.protecting.network_protector import image_region
from unseg.protecting.objects import WHOLE_IMAGE
from unseg.protecting.open_annotations import OpenAnnotations, looked_through
from unseg.storage import image_decoding, label_decoding
from unseg.storage.files import is_missing
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.picture_kinds import side_files
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

    def opened(self, entries: Sequence[Entry], pool: Executor) -> Originals:
        """Returns these originals with all annotations open that the lines speak of, once each.

        What cannot be opened is told with every image that needs it.
        """
        if not self.settings.is_annotated or isinstance(self.annotations, OpenAnnotations):
            return self
        found: dict[Place, OpenAnnotations | UserError] = {}
        left = LOOKED_AT + LOOKED_AT_A_LINE * len(entries)
        for place, root in dict.fromkeys(self._place_of(entry) for entry in entries):
            try:
                if self.annotations is None:
                    left = looked_at(looked_through(place), left, "--annotations")
                if self.originals is None:
                    left = looked_at(root, left, "--originals")
                found[place, root] = OpenAnnotations.open(place, root, self.settings.format, pool=pool)
            except UserError as error:
                found[place, root] = error
        return replace(self, read_annotations=found)

    def image(self, entry: Entry) -> image_decoding.Image:
        """Returns an original that two decoders agree on, in the frame of its protected version; raises Broken where it
        is not there, or they do not agree."""
        path = self._path_of(entry)
        data = self._bytes_of(entry, path)
        image = image_decoding.decode_image(path, data, self.max_pixels, upright=entry.orientation is None)
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
        return bytes_of_image(self.original_path(entry), self.max_pixels)

    def original_path(self, entry: Entry) -> Path:
        """Returns where the original of a line lies; raises Broken where it is not there."""
        path = self._path_of(entry)
        if is_missing(path):
            raise Broken(f"its original {path} is not there: give --originals")
        return path

    def mask_path(self, entry: Entry) -> Path:
        """Returns where the mask file of a line lies; raises Broken where it is not there."""
        folder = self.masks
        if folder is None and entry.mask_root is not None:
            folder = self.folder / entry.mask_root
        if entry.mask is None or folder is None:
            raise Broken("its line in the manifest names no mask")
        path = folder / entry.mask
        if is_missing(path):
            raise Broken(f"its mask {path} is not there: give --masks")
        return path

    def files_of(self, entry: Entry) -> list[Path]:
        """Returns where what a line speaks of may lie: its protected file, its original, its mask with what belongs to
        it."""
        root = self.masks or (None if entry.mask_root is None else self.folder / entry.mask_root)
        mask = [] if root is None or entry.mask is None else [root / entry.mask, *side_files(root / entry.mask)]
        if isinstance(self.annotations, OpenAnnotations) and entry.mask is not None:
            mask = self.annotations.reader.files_of(entry.mask)
        return [self.folder / (entry.output or entry.input), self._path_of(entry), *mask]

    @property
    def files_of_all(self) -> Iterator[Path]:
        """Yields the files that reading what the annotations say of any line may open, and others among them."""
        for opened in (self.annotations, *self.read_annotations.values()):
            if isinstance(opened, OpenAnnotations):
                yield from opened.files

    def of(self, entries: Iterable[Entry]) -> Originals:
        """Returns the originals of these lines, which take no more to be sent than these need."""
        if not isinstance(self.annotations, OpenAnnotations):
            return self
        masks = (entry.mask for entry in entries if entry.mask is not None)
        return replace(self, annotations=self.annotations.of_images(masks))

    def region(self, entry: Entry, frame: image_decoding.Frame) -> np.ndarray:
        """Returns where the object's budget holds, H×W bool; raises Broken where nothing says it any more."""
        mask, _ = self._object(entry, frame)
        settings = self.settings
        if settings.region == "mask":
            return np.ascontiguousarray(mask, dtype=bool)
        return image_region(mask, settings.region, settings.image_size, settings.mask_size)

    def classes(self, entry: Entry, frame: image_decoding.Frame) -> np.ndarray:
        """Returns the class of every pixel that has noise, H×W int32: 0 where nothing tells classes apart, NO_CLASS
        elsewhere. Raises Broken where nothing says it any more."""
        mask, classes = self._object(entry, frame)
        return np.where(mask, 0 if classes is None else classes.astype(np.int32), np.int32(NO_CLASS))

    def _object(self, entry: Entry, frame: image_decoding.Frame) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the object, H×W bool, and the classes of its pixels where they are told apart, H×W integers."""
        rule, height, width = self.settings.rule, frame.height, frame.width
        if entry.outline is not None:
            return _recorded_outline(entry.outline, height, width), None
        if entry.points is not None:
            raise Broken("its line in the manifest has points and no outline that was found around them")
        if entry.boxes is not None:
            return box_mask(entry.boxes, height, width), None
        if rule is None or entry.object == WHOLE_IMAGE:
            return np.ones((height, width), bool), None
        if self.settings.is_annotated:
            return self._annotated(entry, rule, height, width)
        return self._masked(entry, rule, frame)

    def _annotated(
        self, entry: Entry, rule: ObjectRule, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        opened = self._annotations_of(entry)
        if entry.mask is None:
            raise Broken("its line in the manifest does not say what it is called in the annotations")
        found = found_in(opened.reader.read(entry.mask, height, width), rule)
        if found.facts["mask_sha256"] != entry.mask_sha256:
            raise Broken(f"its annotations in {opened.path} changed since (the object is another)")
        return _without(found.mask_HW, found.classes_HW, self.settings.absent), found.classes_HW

    def _masked(
        self, entry: Entry, rule: ObjectRule, frame: image_decoding.Frame
    ) -> tuple[np.ndarray, np.ndarray | None]:
        path = self.mask_path(entry)
        placing = Placing.recorded(entry.mask_placed)
        try:
            label = label_decoding.open_label(path, self.max_pixels, placing.expected(frame))
        except label_decoding.OtherSize as error:
            raise Broken(f"its mask {entry.mask} {placing.misfit(error.size, error.orientation, frame)}") from error
        if label.sha256 != entry.mask_sha256:
            raise Broken(f"its mask {path} changed since (another sha256)")
        kind = self.settings.kind
        assert kind is not None, "a rule without annotations is one of masks"
        try:
            placed = placing.place(values_of(label, kind, path), label, frame)
        except Misfit as error:
            raise Broken(f"its mask {entry.mask} {error}") from error
        values = placed.values_HW
        mask = _without(object_mask(values, kind, rule), values, self.settings.absent)
        return mask, values if kind == "index" else None

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


def _recorded_outline(counts: str, height: int, width: int) -> np.ndarray:
    try:
        return runs_of_counts(parse_counts(counts), height, width).mask(height, width)
    except OutlineError as error:
        raise Broken(f"the outline in its line of the manifest cannot be used: {error}") from error


def _without(mask_HW: np.ndarray, classes_HW: np.ndarray | None, absent: frozenset[int]) -> np.ndarray:
    """Returns the object without the classes whose code is no noise."""
    if classes_HW is None or not absent:
        return mask_HW
    return mask_HW & ~np.isin(classes_HW, sorted(absent))


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
