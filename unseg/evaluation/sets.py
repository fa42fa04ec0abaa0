"""Training and test images as every task reads them: with their true annotations, clean or as a condition has them.

A condition changes pixels only. Protected images are matched to clean ones by their relative name without suffix.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations import (
    NO_CLASS,
    Annotated,
    Annotations,
    ClassMap,
    ClassTable,
    ObjectRule,
    open_annotations,
)
from unseg.data.annotations.core import first_few
from unseg.data.annotations.label_files import NAMED, LabelFiles
from unseg.data.masks import MaskKind
from unseg.data.name_matching import paired_names
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.evaluation.conditions import Change
from unseg.evaluation.defences.kinds import ImageChange
from unseg.evaluation.hashes import digest
from unseg.evaluation.image_sizes import other_size
from unseg.evaluation.quality import Meter
from unseg.storage.image_decoding import read_image
from unseg.storage.image_limits import IMAGE_SUFFIXES

LABEL_FOLDERS = ("labels", "masks", "annotations", "gt", "groundtruth")
# Of two files of one name, the one that is lossless; the rest by name.
PREFERRED = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg")

# From an image's annotations to its object, H×W bool, and its classes, H×W integers: what a `Change` is told.
Truth = Callable[[Annotated], tuple[np.ndarray, np.ndarray]]


class Images(ABC):
    """Base of all sets here."""

    names: Sequence[str]
    classes: ClassTable

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""

    @abstractmethod
    def annotated(self, index: int) -> Annotated:
        """Returns the true annotations."""

    def stem(self, index: int) -> str:
        """Returns the name without suffix: what a protected image is matched by, and noise is drawn by."""
        return stem_of(self.names[index])


class CleanImages(Images):
    """The annotated images of a folder, one file each.

    files: relative name → path, in the order of the images. unannotated: the images of the folder that the annotations
    do not name, which are left out.
    """

    def __init__(
        self, root: Path, annotations: Annotations, files: Mapping[str, Path], unannotated: Sequence[str]
    ) -> None:
        self.root, self.annotations, self.classes = root, annotations, annotations.classes
        self.names, self.files, self.unannotated = list(files), list(files.values()), list(unannotated)
        self._sizes: dict[int, tuple[int, int]] = {}

    @staticmethod
    def find(root: Path, annotations: Annotations, option: str) -> CleanImages:
        """Returns the images under `root` that the annotations name.

        option: how the user named the folder, for messages. Raises UserError where there is none.
        """
        problems: list[Problem] = []
        files = {
            path.relative_to(root).as_posix() for path in walk(root, problems) if path.suffix.lower() in IMAGE_SUFFIXES
        }
        if problems:
            raise UserError(f"{root / problems[0].name}: {problems[0].reason}")
        names = [name for name in annotations.names() if name in files]
        unannotated = sorted(files - set(names))
        if not names:
            example = f"; there is {unannotated[0]}" if unannotated else ""
            raise UserError(
                f"{option} {root}: no image there is named by the annotations "
                f"({first_few(annotations.names()) or 'which name none'}){example}; the two need relative "
                "names in common"
            )
        return CleanImages(root, annotations, {name: root / name for name in names}, unannotated)

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""
        pixels = read_image(self.files[index]).pixels
        height, width = pixels.shape[:2]
        self._sizes[index] = height, width
        return pixels

    def annotated(self, index: int) -> Annotated:
        """Returns the true annotations."""
        if index not in self._sizes:
            self.pixels(index)
        return self.annotations.read(self.names[index], *self._sizes[index])


class Derived(Images):
    """A set with the names and annotations of another one."""

    def __init__(self, base: Images) -> None:
        self.base, self.names, self.classes = base, base.names, base.classes

    def annotated(self, index: int) -> Annotated:
        """Returns the true annotations."""
        return self.base.annotated(index)

    def stem(self, index: int) -> str:
        """Returns the name without suffix."""
        return self.base.stem(index)


class ChangedImages(Derived):
    """Images under a `change`. meter: measures each image when it is read first."""

    def __init__(self, base: Images, change: Change, truth: Truth, meter: Meter) -> None:
        super().__init__(base)
        self.change, self.truth, self.meter = change, truth, meter

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""
        clean = self.base.pixels(index)
        mask, classes = self.truth(self.base.annotated(index))
        changed = self.change(self.stem(index), clean, mask, classes)
        if self.meter.wants(index):
            self.meter.add(index, clean, changed, mask)
        return changed


class ProtectedImages(Derived):
    """Files that were protected before, one for each clean image."""

    def __init__(self, base: Images, files: Sequence[Path], truth: Truth, meter: Meter) -> None:
        super().__init__(base)
        self.files, self.truth, self.meter = files, truth, meter

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""
        protected = read_image(self.files[index]).pixels
        if self.meter.wants(index):
            clean = self.base.pixels(index)
            if protected.shape != clean.shape:
                (height, width), (high, wide) = protected.shape[:2], clean.shape[:2]
                raise UserError(other_size(self.files[index], (width, height), (wide, high)))
            self.meter.add(index, clean, protected, self.truth(self.base.annotated(index))[0])
        return protected


class DefendedImages(Derived):
    """Every image of `inner` after `changes`, which keep its size.

    clean: what they are measured against, with the same names. truth, meter: of the measurement; without them nothing
    is measured.
    """

    def __init__(
        self,
        inner: Images,
        clean: Images,
        changes: Sequence[ImageChange],
        *,
        truth: Truth | None = None,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(clean)
        self.inner, self.changes, self.truth, self.meter = inner, tuple(changes), truth, meter

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""
        defended = self.inner.pixels(index)
        for change in self.changes:
            defended = change(self.names[index], defended)
        if self.meter is not None and self.truth is not None and self.meter.wants(index):
            self.meter.add(index, self.base.pixels(index), defended, self.truth(self.base.annotated(index))[0])
        return defended


class MixedImages(Derived):
    """The images `chosen` (indices) of `changed`, all others clean."""

    def __init__(self, clean: Images, changed: Images, chosen: Iterable[int]) -> None:
        super().__init__(clean)
        self.changed, self.chosen = changed, frozenset(chosen)

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""
        return (self.changed if index in self.chosen else self.base).pixels(index)


class PartOfImages(Derived):
    """The images `kept` (rising indices) of a set, and no others."""

    def __init__(self, base: Images, kept: Sequence[int]) -> None:
        super().__init__(base)
        self.kept = list(kept)
        self.names = [base.names[index] for index in self.kept]

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size."""
        return self.base.pixels(self.kept[index])

    def annotated(self, index: int) -> Annotated:
        """Returns the true annotations."""
        return self.base.annotated(self.kept[index])

    def stem(self, index: int) -> str:
        """Returns the name without suffix."""
        return self.base.stem(self.kept[index])


def choose_share(names: Sequence[str], share: int, seed: int) -> list[int]:
    """Returns the indices of `share` percent of the images, rounded to whole images, rising.

    They are drawn by seed and name, so that what is in 20 % is in 40 % too.
    """
    count = round(len(names) * share / 100)
    if 0 < share < 100 and not 0 < count < len(names):
        which = "none" if count == 0 else "all"
        told = f"{share} % of {len(names)} training images are {which}"
        raise UserError(f"--conditions or --shares: @{share}: {told}; give another share")
    order = sorted(range(len(names)), key=lambda index: hashlib.sha256(f"{seed} {names[index]}".encode()).digest())
    return sorted(order[:count])


def truth_by(rule: ObjectRule) -> Truth:
    """Returns the truth whose object is what `rule` takes, with the class of every pixel that has one.

    Pixels without a class hold NO_CLASS, but in class maps that mark them the ignored label, as the map does.
    """
    every = ObjectRule("all", True, rule.ignore_label, None)

    def truth(annotated: Annotated) -> tuple[np.ndarray, np.ndarray]:
        classes = annotated.class_codes(every)
        if isinstance(annotated, ClassMap) and annotated.kind == "index" and rule.ignore_label is not None:
            classes = np.where(classes == NO_CLASS, rule.ignore_label, classes)
        return annotated.object_mask(rule), classes

    return truth


# --- folders ---------------------------------------------------------------------------------------------------------


def open_clean(
    folder: Path, annotations: Path | None, annotations_format: str, option: str, progress: Progress = SILENT
) -> tuple[CleanImages, Path]:
    """Returns the images of DIR with their annotations, and the annotations' path.

    Where DIR has a folder images, that is where the images are; annotations: by default the one of LABEL_FOLDERS that
    lies in DIR. option: how the user named DIR, for messages.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: no such folder")
    root = folder / "images" if (folder / "images").is_dir() else folder
    if annotations is None:
        there = [folder / name for name in LABEL_FOLDERS if (folder / name).is_dir()]
        prefix = "test-" if option == "--test" else ""
        if len(there) != 1:
            found = (
                f"holds {', '.join(path.name for path in there)}"
                if there
                else f"has no folder {', '.join(LABEL_FOLDERS)}"
            )
            raise UserError(f"{option} {folder}: {found}; name the annotations with --{prefix}annotations")
        annotations = there[0]
    opened = open_annotations(annotations, root, annotations_format, progress=progress)
    return CleanImages.find(root, opened, option), annotations


def open_alike(
    train: tuple[str, Path, Path | None],
    test: tuple[str, Path, Path | None],
    annotations_format: str,
    progress: Progress,
) -> tuple[tuple[CleanImages, Path], tuple[CleanImages, Path]]:
    """Returns training and test images as `open_clean` does, with masks that mean the same in both.

    train, test: the option, DIR and annotations of each. What masks are shows in all of a folder; few do not show it
    (those that are black all over may be anything), and are taken for what the other folder's are. Raises UserError
    where the two hold masks of two kinds, which would be learnt as one thing and measured as another.
    """
    opened = [_open_one(part, annotations_format, progress) for part in (train, test)]
    first, second = (images.annotations for images, _ in opened)
    if annotations_format != "auto" or not (isinstance(first, LabelFiles) and isinstance(second, LabelFiles)):
        return opened[0], opened[1]
    if first.kind == second.kind:
        return opened[0], opened[1]
    kind = _kind_of_both(first, second)
    if kind is None or not {first.format, second.format} <= NAMED.keys():
        raise UserError(
            f"{train[0]} and {test[0]}: their masks are of two kinds: {first.statement}; {second.statement}; write them"
            " alike, or name one kind with --annotations-format"
        )
    progress.say(f"note: {train[0]} and {test[0]} hold masks of two kinds; the masks of both are taken for {kind}")
    form = next((reader.format for reader in (first, second) if reader.kind == kind), kind)
    return _open_one(train, form, progress), _open_one(test, form, progress)


def _kind_of_both(train: LabelFiles, test: LabelFiles) -> MaskKind | None:
    """Returns what the masks of both may be, soft and then the training's own kind first; None where nothing fits."""
    for kind in ("soft" if "soft" in (train.kind, test.kind) else train.kind, train.kind, test.kind, *train.fits):
        if kind in train.fits and kind in test.fits:
            return kind
    return None


def _open_one(part: tuple[str, Path, Path | None], form: str, progress: Progress) -> tuple[CleanImages, Path]:
    option, folder, annotations = part
    return open_clean(folder, annotations, form, option, progress)


def protected_files(folder: Path, stems: Sequence[str], option: str = "--protected") -> list[Path]:
    """Returns the protected version of every image, by `stem`.

    Raises UserError where the folder holds none or not all of them.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: no such folder")
    root = folder / "images" if (folder / "images").is_dir() else folder
    problems: list[Problem] = []
    by_stem: dict[str, list[Path]] = {}
    for path in walk(root, problems):
        if path.suffix.lower() in PREFERRED:
            by_stem.setdefault(stem_of(path.relative_to(root).as_posix()), []).append(path)
    if problems:
        raise UserError(f"{root / problems[0].name}: {problems[0].reason}")
    pairs = paired_names(stems, by_stem)
    missing = [stem for stem in stems if stem not in pairs]
    if len(missing) == len(stems):
        example = first_few(sorted(by_stem), 1) or "no image"
        raise UserError(
            f"{option} {folder}: no name in common with the clean images (there is {example}, the clean images are "
            f"{first_few(stems, 2)}); protect the clean folder itself, so that relative names are kept"
        )
    if missing:
        raise UserError(
            f"{option} {folder}: no protected version of training image {missing[0]} ({len(missing)} of "
            f"{len(stems)} are missing); protect them too (those without an object: --unmasked whole, or copy)"
        )
    return [min(by_stem[pairs[stem]], key=lambda path: (PREFERRED.index(path.suffix.lower()), path)) for stem in stems]


def check_apart(train: Iterable[Path], test: Iterable[Path]) -> None:
    """Raises UserError where a test image is, byte for byte, a training image (clean or protected): it would measure
    memory.
    """
    seen: dict[int, list[Path]] = {}
    for path in train:
        seen.setdefault(path.stat().st_size, []).append(path)
    for path in test:
        for twin in seen.get(path.stat().st_size, ()):
            if digest(twin) == digest(path):
                raise UserError(f"{path}: this test image is also a training image ({twin}); remove one of the two")


def annotation_files(path: Path) -> list[Path]:
    """Returns the files that annotations consist of: a file itself, or everything in a folder."""
    if path.is_file():
        return [path]
    problems: list[Problem] = []
    return walk(path, problems)
