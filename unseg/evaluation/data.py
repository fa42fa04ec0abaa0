"""A segmentation data set in memory, at the size that networks are trained at.

Layout: ROOT/images/{train,test}/NAME.jpg|jpeg|png and ROOT/labels/{train,test}/NAME.png (class index; 255 = not labelled).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unseg.errors import UserError
from unseg.images import read_image, read_label
from unseg.metrics import IGNORE_LABEL

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Pair:
    """One image and its label map, on disk."""

    name: str
    image: Path
    label: Path

    def pixels(self) -> np.ndarray:
        """H×W×3 uint8."""
        return read_image(self.image).pixels

    def classes(self) -> np.ndarray:
        """H×W uint8, class or 255; the size of the image."""
        label = read_label(self.label)
        if label.min() < 0 or label.max() > IGNORE_LABEL:
            raise UserError(f"{self.label}: class {label.max()} is out of range; labels are class indices from 0 to 254, or 255")
        return label.astype(np.uint8)


@dataclass(frozen=True)
class Task:
    """What is to be learnt. objects: the classes that are the object; None: every labelled pixel is, and classes stay apart."""

    name: str
    num_classes: int
    objects: tuple[int, ...] | None = None

    def labels(self, classes_HW: np.ndarray) -> np.ndarray:
        """The training label of every pixel: with objects, 1 on them and 0 elsewhere; 255 stays 255. uint8."""
        if self.objects is None:
            return classes_HW
        binary = np.isin(classes_HW, self.objects).astype(np.uint8)
        return np.where(classes_HW == IGNORE_LABEL, np.uint8(IGNORE_LABEL), binary)

    def object_mask(self, classes_HW: np.ndarray) -> np.ndarray:
        """The pixels that are prompted with and that get the object's budget: H×W bool."""
        if self.objects is None:
            return classes_HW != IGNORE_LABEL
        return np.isin(classes_HW, self.objects)


def list_pairs(root: Path, split: str) -> list[Pair]:
    """The images of `split` that have a label map, by name. UserError where a folder is missing or they share no name."""
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"--data {root}: no folder {folder.relative_to(root)}; expected images/{{train,test}} and "
                            "labels/{train,test}")
    found: dict[str, Path] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise UserError(f"{path}: has the same name as {found[path.stem].name}; keep one of the two")
            found[path.stem] = path
    if not found:
        raise UserError(f"--data {root}: no image in images/{split} ({', '.join(SUFFIXES)})")
    unlabelled = [name for name in found if not (labels / f"{name}.png").is_file()]
    if len(unlabelled) == len(found):
        raise UserError(f"--data {root}: images/{split} and labels/{split} have no common name; "
                        "labels are NAME.png for an image NAME.jpg or NAME.png")
    if unlabelled:
        raise UserError(f"{found[unlabelled[0]]}: no label map {labels / (unlabelled[0] + '.png')} "
                        f"({len(unlabelled)} images lack one); add it or remove the image")
    return [Pair(name, path, labels / f"{name}.png") for name, path in found.items()]


def shrink_image(pixels_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resized by pixel area (antialiased), uint8."""
    return cv2.resize(pixels_HW3, (width, height), interpolation=cv2.INTER_AREA)


def shrink_label(label_HW: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resized by nearest neighbour at pixel centres, uint8."""
    return cv2.resize(label_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def load_split(pairs: Sequence[Pair], task: Task, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """All of a split at the training size: images N×H×W×3 uint8 and the task's labels N×H×W uint8."""
    images = np.empty((len(pairs), height, width, 3), np.uint8)
    labels = np.empty((len(pairs), height, width), np.uint8)
    for i, pair in enumerate(pairs):
        pixels, classes = pair.pixels(), pair.classes()
        if pixels.shape[:2] != classes.shape:
            raise UserError(f"{pair.image}: {pixels.shape[1]}×{pixels.shape[0]} pixels, but its label map {pair.label} has "
                            f"{classes.shape[1]}×{classes.shape[0]}; they must be of one size")
        images[i], labels[i] = shrink_image(pixels, width, height), shrink_label(task.labels(classes), width, height)
    return images, labels
