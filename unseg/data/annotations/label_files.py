"""Masks and label maps as image files, one an image: VOC's palette PNG, class ids, binary masks, Cityscapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np

from unseg.compute.progress import SILENT, Progress
from unseg.counts import count_of
from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassMap,
    ClassTable,
    Indexed,
    Segment,
    Unannotated,
    check_pixel_count,
    check_segment_count,
    check_size,
    index_values,
)
from unseg.data.annotations.names import ImagesFolder
from unseg.data.finding import find_samples
from unseg.data.mask_detection import detect_kind
from unseg.data.masks import MASK_KINDS, MaskKind, check_kind, object_mask, values_of
from unseg.data.name_matching import file_form, paired_names
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import IMAGE_SUFFIXES, MAX_PIXELS, ImageError
from unseg.storage.image_opening import opened
from unseg.storage.label_decoding import Label, open_label

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOC_INSTANCES = "SegmentationObject"  # same palette as SegmentationClass, but the values number the objects

# Cityscapes' label ids (cityscapesScripts, helpers/labels.py). Those that its evaluation leaves out are void here.
CITYSCAPES_CLASSES = dict(
    enumerate(
        (
            "unlabeled",
            "ego vehicle",
            "rectification border",
            "out of roi",
            "static",
            "dynamic",
            "ground",
            "road",
            "sidewalk",
            "parking",
            "rail track",
            "building",
            "wall",
            "fence",
            "guard rail",
            "bridge",
            "tunnel",
            "pole",
            "polegroup",
            "traffic light",
            "traffic sign",
            "vegetation",
            "terrain",
            "sky",
            "person",
            "rider",
            "car",
            "truck",
            "bus",
            "caravan",
            "trailer",
            "train",
            "motorcycle",
            "bicycle",
        )
    )
)
CITYSCAPES_VOID = frozenset((*range(7), 9, 10, 14, 15, 16, 18, 29, 30))
CITYSCAPES_THINGS = frozenset(range(24, 34))
INSTANCES_A_CLASS = 1000  # instanceIds: class × 1000 + number; below 1000 the class of what is not told apart
# Formats of masks that a user can name → what their values are, in a word and for the statement.
NAMED: dict[str, tuple[MaskKind, str]] = {
    "voc": ("index", "class ids of VOC"),
    "index": ("index", "class ids"),
    "binary": ("binary", "the brighter of two levels is object, of more those above 127"),
    "soft": ("soft", "above 127 is object"),
    "trimap": ("trimap", "all but black is object"),
}
CITYSCAPES_OWN = re.compile(r"_gt(Fine|Coarse)_\w+\.(?i:png)$")  # labels, instances and pictures of them
CITYSCAPES_SUFFIXES = ("_gtFine_labelIds.png", "_gtCoarse_labelIds.png")


def label_map(label: Label, path: Path, height: int, width: int, kind: MaskKind, classes: ClassTable) -> ClassMap:
    """Returns a decoded label as a class map; ImageError where it is not height × width."""
    check_size(path, "the mask", (label.values.shape[0], label.values.shape[1]), height, width)
    values = values_of(label, kind, path)
    if kind == "index":
        return ClassMap(values, kind, classes)
    return ClassMap(np.where(object_mask(values, kind), np.uint8(255), np.uint8(0)), "binary", classes)


class LabelFiles(Annotations):
    """Reads masks that are image files, one for each image.

    files: image name → its mask. missing: masks without an image, and what cannot be looked into. kind: what the masks
    hold; fits: what else they may hold, where that was detected. statement: as `Annotations` has it.
    """

    def __init__(
        self,
        format_name: str,
        files: Mapping[str, Path],
        missing: Sequence[Problem],
        kind: MaskKind,
        statement: str,
        fits: Sequence[MaskKind] = (),
    ) -> None:
        self.format, self.kind, self.statement, self.fits = format_name, kind, statement, tuple(fits) or (kind,)
        self._files, self.missing = dict(files), tuple(missing)
        self.classes = ClassTable(dict(enumerate(VOC_CLASSES)) if format_name == "voc" else {})

    def names(self) -> Sequence[str]:
        return sorted([*self._files, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        path = self._files.get(image_name)
        if path is None:
            raise Unannotated(Path(image_name), "no mask for it")
        check_pixel_count(path, height, width)
        return label_map(open_label(path, height * width), path, height, width, self.kind, self.classes)

    def own_images(self) -> Iterable[Path]:
        return self._files.values()

    def check_rule(self, rule: ObjectRule, option: str = "--objects") -> None:
        super().check_rule(rule, option)
        check_kind(self.kind, rule, "--annotations-format")


def open_label_files(
    path: Path,
    images_root: Path,
    format_name: str | None,
    pool: Executor | None = None,
    progress: Progress = SILENT,
) -> LabelFiles:
    """Pairs masks with images by relative name without suffix.

    format_name: voc, index, binary, soft or trimap; without it every mask is looked at, in the threads of `pool`.
    """
    found = find_samples([images_root], path)
    files = {sample.name: sample.mask for sample in found.samples if sample.mask is not None}
    missing = [*found.problems, *(Problem(name, "a mask without an image") for name in found.unused_masks)]
    if not files:
        raise UserError(f"{path}: no mask there has the name of an image in {images_root}")
    if format_name is None:
        return detected_label_files(path, files, missing, pool, progress)
    return named_label_files(format_name, path, files, missing)


def named_label_files(
    format_name: str, folder: Path, files: Mapping[str, Path], missing: Sequence[Problem]
) -> LabelFiles:
    """Returns masks of a format that is known: one of `NAMED`. No file is opened."""
    kind, told = NAMED[format_name]
    return LabelFiles(format_name, files, missing, kind, _statement(format_name, folder, len(files), told))


def detected_label_files(
    folder: Path,
    files: Mapping[str, Path],
    missing: Sequence[Problem],
    pool: Executor | None = None,
    progress: Progress = SILENT,
) -> LabelFiles:
    """Returns masks whose format shows when all of them are looked at."""
    paths = sorted(files.values())
    found = detect_kind(paths, pool, progress)
    kind = found.settled(f"--annotations {folder}", f"--annotations-format {' or '.join(MASK_KINDS)}")
    format_name = "voc" if kind == "index" and _all_of_voc(folder, paths) else kind
    statement = _statement(format_name, folder, len(files), found.statement)
    return LabelFiles(format_name, files, missing, kind, statement, found.fits)


def _statement(format_name: str, folder: Path, count: int, told: str) -> str:
    what = "VOC palette PNG" if format_name == "voc" else f"{format_name} masks"
    return f"{what}: {count_of(count, 'file')} in {folder}, {told}"


def _all_of_voc(folder: Path, paths: Sequence[Path]) -> bool:
    """Returns whether the first mask has VOC's colours, so that its ids are VOC's classes."""
    if folder.name.startswith(VOC_INSTANCES) or not paths:
        return False
    try:
        with opened(paths[0], bytes_of_image(paths[0], MAX_PIXELS), MAX_PIXELS) as found:
            palette = found.image.getpalette() if found.image.mode == "P" else None
    except ImageError:
        return False
    return palette is not None and palette[: 3 * len(VOC_CLASSES)] == voc_palette()[: 3 * len(VOC_CLASSES)]


def voc_palette() -> list[int]:
    """Returns VOC's 256 colours, flat: the id's bits, three at a time, fill the channels from their highest bit down.

    Source: VOCdevkit's VOClabelcolormap.
    """
    colours = []
    for number in range(256):
        for channel in range(3):
            colours.append(sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)))
    return colours


class Cityscapes(Annotations):
    """Reads X_gtFine_labelIds.png for X_leftImg8bit.png, whatever folders lie between.

    Where X_gtFine_instanceIds.png lies beside it, that is read: it has the same classes, and tells objects and crowds
    apart, as Cityscapes' own panoptic conversion does.
    """

    format = "cityscapes"
    classes = ClassTable(CITYSCAPES_CLASSES, CITYSCAPES_THINGS, CITYSCAPES_VOID, frozenset(CITYSCAPES_CLASSES))

    def __init__(
        self, files: Mapping[str, Path], own_images: Sequence[Path], missing: Sequence[Problem], statement: str
    ) -> None:
        self._files, self._own, self.missing, self.statement = dict(files), own_images, tuple(missing), statement

    @classmethod
    def open(cls, path: Path, images_root: Path) -> Cityscapes:
        """Lists the label files under `path` and pairs them with the images."""
        folder = ImagesFolder.open(images_root)
        problems = list(folder.problems)
        listed = walk(path, problems)
        labels = _by_key(listed, CITYSCAPES_SUFFIXES, path)
        if not labels:
            raise UserError(f"{path}: no file named …{CITYSCAPES_SUFFIXES[0]} there")
        images = _by_key(
            [images_root / name for name in folder.names],
            tuple(f"_leftImg8bit{suffix}" for suffix in IMAGE_SUFFIXES),
            images_root,
        )
        pairs = paired_names(images, labels)
        files = {images[key].relative_to(images_root).as_posix(): labels[label] for key, label in pairs.items()}
        for label in sorted(labels[key] for key in labels.keys() - set(pairs.values())):
            problems.append(Problem(label.relative_to(path).as_posix(), "a label file without an image"))
        instances = sum(_instances_beside(label).is_file() for label in labels.values())
        statement = (
            f"Cityscapes: {len(labels)} label files in {path}, {instances} of them with instances;"
            " classes outside its evaluation are left out"
        )
        return cls(files, [file for file in listed if CITYSCAPES_OWN.search(file.name)], problems, statement)

    def names(self) -> Sequence[str]:
        return sorted([*self._files, *(problem.name for problem in self.missing)])

    def own_images(self) -> Iterable[Path]:
        return self._own

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        label = self._files.get(image_name)
        if label is None:
            raise Unannotated(Path(image_name), "no Cityscapes label file for it")
        instances = _instances_beside(label)
        path = instances if instances.is_file() else label
        check_pixel_count(path, height, width)
        decoded = open_label(path, height * width)
        if path == label:
            return label_map(decoded, path, height, width, "index", self.classes)
        check_size(path, "the mask", (decoded.values.shape[0], decoded.values.shape[1]), height, width)
        known = np.unique(decoded.values)
        check_segment_count(path, known.size)
        index = index_values(decoded.values, known)
        return Indexed(index, [self._segment(value, index, place) for place, value in enumerate(known.tolist())])

    def _segment(self, value: int, index_HW: np.ndarray, place: int) -> Segment:
        apart = value >= INSTANCES_A_CLASS
        class_id = value // INSTANCES_A_CLASS if apart else value
        thing = class_id in CITYSCAPES_THINGS
        return Segment(
            class_id,
            CITYSCAPES_CLASSES.get(class_id),
            instance_id=value if apart else None,
            crowd=thing and not apart,
            thing=thing,
            void=class_id in CITYSCAPES_VOID or class_id not in CITYSCAPES_CLASSES,
            decode=partial(np.equal, index_HW, place),
        )


def is_cityscapes_label(path: Path) -> bool:
    """Returns whether a file has the name of Cityscapes' class ids."""
    return file_form(path.name).endswith(CITYSCAPES_SUFFIXES)


def _instances_beside(label: Path) -> Path:
    return label.with_name(label.name.replace("_labelIds.", "_instanceIds."))


def _by_key(paths: Sequence[Path], suffixes: Sequence[str], root: Path) -> dict[str, Path]:
    """Returns files by what stands before the suffix; UserError where two have the same."""
    found: dict[str, Path] = {}
    for path in paths:
        suffix = next((suffix for suffix in suffixes if file_form(path.name).endswith(suffix)), None)
        if suffix is None:
            continue
        key = path.name[: -len(suffix)]
        if key in found:
            raise UserError(
                f"{root}: both {found[key].relative_to(root)} and {path.relative_to(root)} are {key}; give"
                " a folder with one of them"
            )
        found[key] = path
    return found
