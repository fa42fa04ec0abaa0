"""Where data sets keep their files: one row a set, and from a row's folders to pairs of an image and its masks.

Nothing is read here but names. What does not pair up is returned by name, as `Problem`s; the caller decides whether it
is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from unseg.data.name_matching import paired_names
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES

Role = Literal["train", "validation"]

MASK_SUFFIX = ".png"
# Reasons of problems, as they are counted and shown.
MISSING_SET = "missing set"
NO_MASK = "image without a mask"
NO_IMAGE = "mask without an image"
SAME_NAME = "image whose name is taken by another file type"
PLURALS = {
    MISSING_SET: "missing sets",
    NO_MASK: "images without a mask",
    NO_IMAGE: "masks without an image",
    SAME_NAME: "images whose name is taken by another file type",
}


@dataclass(frozen=True)
class PairedSet:
    """Describes a published set of images, each with one grey mask of 0 to 255 that has its stem.

    name: what options, samples and reports call it. title: in words. images, masks: its folders, relative to the data
    root; where both are the same, .png files are the masks. role: what the paper uses it for. count: pairs in the
    published set.
    """

    name: str
    title: str
    images: str
    masks: str
    role: Role
    count: int


# HQSeg-44K in the folders that HQ-SAM published it in; counts as the sets' authors state them (44,320 to train on).
HQSEG_TRAIN = (
    PairedSet("DIS5K-TR", "DIS5K, training", "DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt", "train", 3_000),
    PairedSet(
        "ThinObject5K-TR",
        "ThinObject5K, training",
        "thin_object_detection/ThinObject5K/images_train",
        "thin_object_detection/ThinObject5K/masks_train",
        "train",
        4_748,
    ),
    PairedSet("FSS", "FSS-1000", "cascade_psp/fss_all", "cascade_psp/fss_all", "train", 10_000),
    PairedSet("DUTS-TR", "DUTS, training", "cascade_psp/DUTS-TR", "cascade_psp/DUTS-TR", "train", 10_553),
    PairedSet("DUTS-TE", "DUTS, test", "cascade_psp/DUTS-TE", "cascade_psp/DUTS-TE", "train", 5_019),
    PairedSet("ECSSD", "ECSSD", "cascade_psp/ecssd", "cascade_psp/ecssd", "train", 1_000),
    PairedSet("MSRA_10K", "MSRA10K", "cascade_psp/MSRA_10K", "cascade_psp/MSRA_10K", "train", 10_000),
)
HQSEG_VALIDATION = (
    PairedSet("DIS5K-VD", "DIS5K, validation", "DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt", "validation", 470),
    PairedSet(
        "COIFT", "COIFT", "thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks", "validation", 280
    ),
    PairedSet(
        "HRSOD",
        "HRSOD",
        "thin_object_detection/HRSOD/images",
        "thin_object_detection/HRSOD/masks_max255",
        "validation",
        287,
    ),
    PairedSet(
        "ThinObject5K-TE",
        "ThinObject5K, test",
        "thin_object_detection/ThinObject5K/images_test",
        "thin_object_detection/ThinObject5K/masks_test",
        "validation",
        500,
    ),
)
HQSEG = (*HQSEG_TRAIN, *HQSEG_VALIDATION)

# What a plain folder's sub-folders may be called.
IMAGE_FOLDERS = ("images", "im", "image", "JPEGImages")
MASK_FOLDERS = ("segments", "masks", "gt", "mask", "labels", "SegmentationClass")


class Pair(NamedTuple):
    """Names an image and its masks on disk. Paths are text, since 44,000 of them travel to every worker process.

    name: the image's identity. grey: its masks are grey levels of 0 to 255, whatever values a file holds; else the
    values tell whether it is a mask or a map of segment ids.
    """

    name: str
    image: str
    masks: tuple[str, ...]
    grey: bool = False


class Pairing(NamedTuple):
    """Holds pairs in the order of their paths, and what did not pair up."""

    pairs: list[Pair]
    problems: list[Problem]


def hqseg_root(root: Path) -> Path | None:
    """Returns the folder that holds HQSeg-44K's top folders, `root` or `root`/data; None where there is none."""
    tops = {PurePosixPath(row.images).parts[0] for row in HQSEG}
    return next((base for base in (root, root / "data") if any((base / top).is_dir() for top in tops)), None)


def pair_set(root: Path, row: PairedSet) -> Pairing:
    """Returns the pairs of a set under `root`, by names that begin with the set's.

    A set without a folder or without a pair is one problem.
    """
    images, masks = root / row.images, root / row.masks
    absent = [folder for folder, path in ((row.images, images), (row.masks, masks)) if not path.is_dir()]
    if absent:
        return Pairing([], [Problem(f"{row.name} ({absent[0]})", MISSING_SET)])
    found = pair_folders(images, masks, f"{row.name}/", grey=True)
    if not found.pairs and not found.problems:
        return Pairing([], [Problem(f"{row.name} ({row.images} is empty)", MISSING_SET)])
    return found


def pair_plain(root: Path) -> Pairing:
    """Returns the pairs of a plain folder: images/ with masks/ or segments/ (or another name of those lists).

    An image may have several masks: NAME.png, or NAME.SOMETHING.png. UserError where a folder is missing.
    """
    if not root.is_dir():
        raise UserError(f"--data-root {root}: no such folder; it must hold images/ and masks/ (or segments/)")
    return pair_folders(_folder(root, IMAGE_FOLDERS, "images"), _folder(root, MASK_FOLDERS, "masks"), several=True)


def _folder(root: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"{root}: no folder of {what} in it; expected one of {', '.join(names)}, or HQSeg-44K's folders "
        "(data/README.md)"
    )


def pair_folders(images: Path, masks: Path, prefix: str = "", *, grey: bool = False, several: bool = False) -> Pairing:
    """Returns images and masks of two folders (or of one, where .png files are the masks), paired by relative stem.

    prefix: put before every name. several: NAME.SOMETHING.png is a mask of NAME, too.
    """
    problems: list[Problem] = []
    together = images.resolve() == masks.resolve()
    found: dict[str, str] = {}
    twice: set[str] = set()
    for stem, suffix, path in _by_stem(images, IMAGE_SUFFIXES, prefix, problems):
        if together and suffix == MASK_SUFFIX:
            continue
        if stem in found:
            twice.add(stem)
            problems.append(Problem(f"{prefix}{stem}{suffix}", SAME_NAME))
        found.setdefault(stem, path)
    masks_of: dict[str, list[str]] = {}
    there = [(stem, path) for stem, _, path in _by_stem(masks, (MASK_SUFFIX,), prefix, problems)]
    shorter = (stem.rpartition(".")[0] for stem, _ in there if several)
    image_of = paired_names((*(stem for stem, _ in there), *shorter), found)
    for stem, path in there:
        name = image_of.get(stem) or (image_of.get(stem.rpartition(".")[0]) if several else None)
        if name is not None:
            masks_of.setdefault(name, []).append(path)
        else:
            problems.append(Problem(f"{prefix}{stem}", NO_IMAGE))
    problems += [Problem(f"{prefix}{stem}", NO_MASK) for stem in found if stem not in masks_of]
    # Of two images of one name it cannot be known whose the mask is: neither is used.
    pairs = [
        Pair(f"{prefix}{stem}", image, tuple(masks_of[stem]), grey)
        for stem, image in found.items()
        if stem in masks_of and stem not in twice
    ]
    return Pairing(pairs, sorted(set(problems)))


def _by_stem(
    folder: Path, suffixes: tuple[str, ...], prefix: str, problems: list[Problem]
) -> Iterable[tuple[str, str, str]]:
    """Yields relative stem, suffix in lower case, and path of the folder's files that have one of the suffixes."""
    unreadable: list[Problem] = []
    start = len(os.path.join(folder, ""))
    for path in map(str, walk(folder, unreadable)):  # as text: pathlib takes three times as long for 90,000 files
        stem, suffix = os.path.splitext(path[start:])
        if suffix.lower() in suffixes:
            yield stem.replace(os.sep, "/"), suffix.lower(), path
    problems += [Problem(f"{prefix}{problem.name}", problem.reason) for problem in unreadable]


NAMES_SHOWN = 5


def describe(problems: Sequence[Problem]) -> str:
    """Returns one line: every reason with its count and its first names."""
    names: dict[str, list[str]] = {}
    for problem in problems:
        names.setdefault(problem.reason, []).append(problem.name)
    reasons = [reason for reason in PLURALS if reason in names]
    reasons += [reason for reason in names if reason not in PLURALS]
    return "; ".join(_counted(reason, names[reason]) for reason in reasons)


def _counted(reason: str, names: Sequence[str]) -> str:
    what = reason if len(names) == 1 else PLURALS.get(reason, reason)
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} {what}: {', '.join(names[:NAMES_SHOWN])}{more}"
