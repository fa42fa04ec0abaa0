"""A segmentation data set in memory, at the size that networks are trained at.

Layout: ROOT/images/SPLIT/NAME.jpg|jpeg|png and ROOT/labels/SPLIT/NAME.png (class index; 255 = not labelled); SPLIT is train,
val or test.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unseg.errors import UserError
from unseg.method.metrics import IGNORE_LABEL
from unseg.storage.files import sha256_or_refuse
from unseg.storage.image_decoding import read_image, read_label

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
        """H×W uint8: a class, or 255 for pixels that are not labelled."""
        classes = read_label(self.label)
        if classes.min() < 0 or classes.max() > IGNORE_LABEL:
            raise UserError(
                f"{self.label}: value {classes.max()} is out of range; a label map holds classes from 0 to 254, "
                "and 255 where nothing is labelled"
            )
        return classes.astype(np.uint8)


@dataclass(frozen=True)
class Task:
    """What is to be learnt, and which pixels are the object that is protected.

    binary: learn the object against the rest; otherwise every class apart. objects: the classes that are the object;
    None: all labelled pixels are. by_class: the generator is told every pixel's class (in the binary task, object or rest), so
    every labelled pixel has the object's budget, whatever `objects` says.
    """

    name: str
    binary: bool
    objects: tuple[int, ...] | None = None
    by_class: bool = False

    def __post_init__(self) -> None:
        if self.binary and self.objects is None:
            raise UserError("--object-classes: the binary task needs the classes that are the object, such as 3,4")

    def labels(self, classes: np.ndarray) -> np.ndarray:
        """The training labels of class maps of any shape: if binary 1 on objects, 0 elsewhere; 255 stays. uint8."""
        if not self.binary:
            return classes
        return np.where(classes == IGNORE_LABEL, classes, np.isin(classes, self.objects).astype(np.uint8))

    def object_mask(self, classes_HW: np.ndarray) -> np.ndarray:
        """The pixels that prompt the generator and have the object's budget: H×W bool."""
        if self.objects is None or self.by_class:
            return classes_HW != IGNORE_LABEL
        return np.isin(classes_HW, self.objects)

    def num_classes(self, train_classes: np.ndarray) -> int:
        """2 if binary, else one more than the highest class of the training labels."""
        present = np.unique(train_classes[train_classes != IGNORE_LABEL])
        if present.size == 0:
            raise UserError(f"--data: the training labels hold no class (every pixel is {IGNORE_LABEL}, not labelled)")
        missing = [str(value) for value in self.objects or () if value not in present]
        if missing:
            raise UserError(
                f"--object-classes: no training label has class {', '.join(missing)}; "
                f"there are {', '.join(map(str, present))}"
            )
        return 2 if self.binary else int(present[-1]) + 1


def list_pairs(root: Path, split: str) -> list[Pair]:
    """The images of `split` with their label maps, by name. UserError where a folder or a label map is missing."""
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(
                f"--data {root}: there is no folder {folder.relative_to(root)}; "
                f"expected images/{split} and labels/{split}"
            )
    found: dict[str, Path] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise UserError(f"{path}: {found[path.stem].name} has the same name; remove one of the two")
            found[path.stem] = path
    if not found:
        raise UserError(f"--data {root}: no image ({', '.join(SUFFIXES)}) in images/{split}")
    unlabelled = [name for name in found if not (labels / f"{name}.png").is_file()]
    if len(unlabelled) == len(found):
        raise UserError(
            f"--data {root}: images/{split} and labels/{split} have no name in common; "
            "the label map of NAME.jpg is NAME.png"
        )
    if unlabelled:
        raise UserError(
            f"{found[unlabelled[0]]}: its label map {labels / (unlabelled[0] + '.png')} is missing "
            f"(so for {len(unlabelled)} of {len(found)} images); add it or remove the image"
        )
    return [Pair(name, path, labels / f"{name}.png") for name, path in found.items()]


def fingerprint(paths: Iterable[Path]) -> str:
    """Short hash over the names and contents of files: whether results were made from the same ones."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {digest(path)}\n".encode())
    return total.hexdigest()[:16]


@functools.cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    return sha256_or_refuse(path)


def digest(path: Path) -> str:
    """sha256 of a file's content; read once as long as size and time stamp stay. UserError where it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return _digest_of(path, status.st_size, status.st_mtime_ns)


def shrink_image(pixels_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resized by pixel area (antialiased), uint8."""
    return cv2.resize(pixels_HW3, (width, height), interpolation=cv2.INTER_AREA)


def shrink_label(label_HW: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resized by nearest neighbour at pixel centres, uint8."""
    return cv2.resize(label_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
