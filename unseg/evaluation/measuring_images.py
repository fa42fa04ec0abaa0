"""The sets of `unseg.data.measuring_sets` as images to train and test on, with label maps of their own classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unseg.data.annotations import Annotated, ClassMap, ClassTable, ObjectRule
from unseg.data.measuring_sets import CCP, CCP_OTHERS, UNLABELLED, MeasuringSet, OpenedPart, home_of_set, open_part
from unseg.errors import UserError
from unseg.evaluation.defences.grey import turned_grey
from unseg.evaluation.hashes import fingerprint
from unseg.evaluation.sets import Images, annotation_files
from unseg.storage.image_decoding import read_image
from unseg.storage.places import lies_in


class MeasuringImages(Images):
    """The images of a part, each shrunk to the row's long side, after it was enlarged where the row says so.

    Label maps hold the row's labels, and 255 where nothing is labelled. They stay in memory, a byte a pixel.
    """

    def __init__(self, row: MeasuringSet, part: OpenedPart) -> None:
        self.row, self.part = row, part
        self.names, self.files = list(part.files), list(part.files.values())
        self.classes = class_table(row)
        self._labels: dict[int, np.ndarray] = {}

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8, enlarged by cubic interpolation, shrunk by the mean over areas."""
        return self.shrunk(self.enlarged(self._read(index)))

    def annotated(self, index: int) -> Annotated:
        """Returns the label map at the shrunk size, by the nearest pixel centre."""
        if index not in self._labels:
            self._read(index)
        return ClassMap(self._labels[index], "index", self.classes)

    def large(self, index: int) -> tuple[np.ndarray, Annotated]:
        """Returns an image and its label map at the size that they are enlarged to."""
        pixels = self._read(index)
        labels = label_map(self.part.annotations.read(self.names[index], *pixels.shape[:2]), self.row)
        return self.enlarged(pixels), ClassMap(self.enlarged_labels(labels), "index", self.classes)

    def enlarged(self, pixels_HW3: np.ndarray) -> np.ndarray:
        """Returns an image at the row's `enlarged` size; the same array where there is none."""
        return resized(pixels_HW3, self.row.enlarged, cv2.INTER_CUBIC)

    def enlarged_labels(self, labels_HW: np.ndarray) -> np.ndarray:
        """Returns uint8 labels at the row's `enlarged` size, by the nearest pixel centre."""
        return resized(labels_HW, self.row.enlarged, cv2.INTER_NEAREST_EXACT)

    def shrunk(self, pixels_HW3: np.ndarray) -> np.ndarray:
        """Returns an image at the row's long side, by the mean over areas."""
        return shrunk(pixels_HW3, self.row.long_side, cv2.INTER_AREA)

    def _read(self, index: int) -> np.ndarray:
        """Returns an image as its file has it, or grey where the row says so, and keeps its labels."""
        pixels = read_image(self.files[index]).pixels
        if self.row.grey:
            pixels = turned_grey(pixels)
        if index not in self._labels:
            labels = label_map(self.part.annotations.read(self.names[index], *pixels.shape[:2]), self.row)
            self._labels[index] = shrunk(self.enlarged_labels(labels), self.row.long_side, cv2.INTER_NEAREST_EXACT)
        return pixels

    def check_beside(self, out: Path) -> None:
        """Raises UserError where a folder of results would lie in one of these images or annotations."""
        folders = {path.parent for path in self.files} | ({self.part.source} if self.part.source.is_dir() else set())
        for folder in sorted(folders):
            if lies_in(out, folder):
                raise UserError(f"--out: {out} lies in {folder}, which is read; give another folder")

    def hash(self) -> str:
        """Returns a short hash of the files that these images and labels are read from."""
        if self.part.source.is_file():
            return fingerprint([*self.files, self.part.source])
        stems = {self.stem(index) for index in range(len(self))}
        maps = [path for path in annotation_files(self.part.source) if path.stem in stems]
        return fingerprint([*self.files, *maps])


@dataclass(frozen=True)
class OpenedSet:
    """A set on disk. rule: which pixels are an object, by class: those of every label but the background's."""

    row: MeasuringSet
    train: MeasuringImages
    test: MeasuringImages

    @property
    def rule(self) -> ObjectRule:
        return ObjectRule("all", True, UNLABELLED, self.row.background)


def open_measuring_set(root: Path, row: MeasuringSet) -> OpenedSet:
    """Returns a set's training and test images under a data root; UserError names the folder that lacks them."""
    home = home_of_set(root, row)
    train, test = (MeasuringImages(row, open_part(row, home, part)) for part in (row.train, row.test))
    return OpenedSet(row, train, test)


def open_photographs(root: Path, instead: str = "give another --data-root") -> MeasuringImages:
    """Returns photographs of a data root that nothing is measured on: the first of CCP's training images.

    instead: what the user can do where CCP is not there, which is a UserError.
    """
    return MeasuringImages(CCP, open_part(CCP, home_of_set(root, CCP, instead), CCP_OTHERS))


def class_table(row: MeasuringSet) -> ClassTable:
    """Returns the classes of a row, with labels as ids."""
    return ClassTable(dict(enumerate(row.classes)), ids=frozenset(range(len(row.classes))))


def label_map(annotated: Annotated, row: MeasuringSet) -> np.ndarray:
    """Returns the label of every pixel, H×W uint8. Of outlines that overlap, the later one counts.

    Raises UserError for a class id that the row does not list.
    """
    if isinstance(annotated, ClassMap):
        ids, places = np.unique(annotated.values, return_inverse=True)
        labels = np.array([_label_of(number, row) for number in ids.tolist()], np.uint8)
        return labels[places.reshape(annotated.values.shape)]
    if row.between is None:
        raise UserError(f"{row.title}: outlines leave pixels without a class, but the row of the set has none for them")
    found = np.full((annotated.height, annotated.width), row.between, np.uint8)
    for segment in annotated.segments:
        found[segment.mask] = _label_of(segment.class_id, row)
    return found


def _label_of(class_id: int, row: MeasuringSet) -> int:
    if class_id not in row.labels:
        raise UserError(f"{row.title}: class {class_id} of its annotations is not among those that it is known for")
    return row.labels[class_id]


def shrunk(values: np.ndarray, long_side: int | None, interpolation: int) -> np.ndarray:
    """Returns an image or a label map whose longer side has at most `long_side` pixels; None: the same array."""
    if long_side is None or max(values.shape[:2]) <= long_side:
        return values
    return resized(values, long_side, interpolation)


def resized(values: np.ndarray, long_side: int | None, interpolation: int) -> np.ndarray:
    """Returns an image or a label map whose longer side has `long_side` pixels; None: the same array."""
    if long_side is None:
        return values
    height, width = values.shape[:2]
    scale = long_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(values, size, interpolation=interpolation)
