"""Pascal VOC's lists as folders of links, which is what `unseg protect` and `unseg evaluate` read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from unseg.data.edition_catalog import PASCAL, VOC_IMAGES, VOC_LISTS
from unseg.data.edition_layout import home_of
from unseg.data.name_list import listed_images
from unseg.data.name_matching import paired_names
from unseg.data.samples import stem_of
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES

IMAGE_SUFFIX, LABEL_SUFFIX = ".jpg", ".png"  # of VOC's own files
LABELS, AUGMENTED = "SegmentationClass", "SegmentationClassAug"
AUGMENTED_LIST = "train_aug"
MADE = "links"  # a file of this name marks a folder as made here, so that it may be made anew


def find_voc(root: Path) -> Path | None:
    """Returns the folder of JPEGImages, in `root` or where VOC usually lies under it; None where there is none."""
    place = root / home_of(root, PASCAL)
    return place if (place / VOC_IMAGES).is_dir() else None


def listed(voc: Path, which: str) -> list[str] | None:
    """Returns the names of a list without suffix, in its order; None where there is none.

    which: one of VOC's own lists, or a file. See `listed_images` for what its lines may be.
    """
    file = Path(which) if Path(which).is_file() else voc / VOC_LISTS.format(split=which)
    if not file.is_file():
        return None
    there = [path.name for path in _by_stem(voc / VOC_IMAGES, IMAGE_SUFFIX).values()]
    return [stem_of(name) for name in listed_images(file, there)]


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Returns the image files of a folder by name without suffix; of two of one name, the one with this suffix."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES] if folder.is_dir() else []
    return {path.stem: path for path in sorted(files, key=lambda path: (path.suffix.lower() == suffix, path))}


def training_names(voc: Path, train_list: str, labels: str, test_names: Sequence[str]) -> list[str]:
    """Returns the names of the training list.

    Where VOC has no list train_aug they are all labelled images that are not tested on: the published 10,582 where
    the labels are SBD's and VOC's.
    """
    names = listed(voc, train_list)
    if names is None and train_list == AUGMENTED_LIST and (voc / labels).is_dir():
        names = sorted(_by_stem(voc / labels, LABEL_SUFFIX).keys() - set(test_names))
    if names is None:
        raise _no_list(voc, train_list, "TRAIN_LIST")
    return names


def _no_list(voc: Path, which: str, setting: str) -> UserError:
    return UserError(
        f"{voc / VOC_LISTS.format(split=which)}: no such file; name a list of VOC's, or a file with a name a line, "
        f"with {setting}"
    )


def link_splits(
    voc: Path, folder: Path, train_list: str = "train", test_list: str = "val", labels: str | None = None
) -> dict[str, int]:
    """Makes `folder` anew, with links into `voc`: images/{train,test} and labels/{train,test}; returns their counts.

    labels: the folder of the training labels; None: SegmentationClassAug for train_aug, else SegmentationClass, which
    test labels always come from. UserError where a list, an image or a label is missing, an image is in both lists,
    or `folder` is not ours.
    """
    labels = labels or (AUGMENTED if train_list == AUGMENTED_LIST else LABELS)
    test = listed(voc, test_list)
    if test is None:
        raise _no_list(voc, test_list, "TEST_LIST")
    train = training_names(voc, train_list, labels, test)
    if both := set(train) & set(test):
        raise UserError(
            f"{min(both)} is in the training list {train_list} and in the test list {test_list} ({len(both)} such "
            "names): that would measure memory; give TRAIN_LIST and TEST_LIST without names in common"
        )
    splits = {"train": (train, labels), "test": (test, LABELS)}
    images = _by_stem(voc / VOC_IMAGES, IMAGE_SUFFIX)
    files = {}
    for split, (names, where) in splits.items():
        found = _by_stem(voc / where, LABEL_SUFFIX)
        stems = paired_names(names, found)
        files[split] = [
            (
                images.get(name, voc / VOC_IMAGES / f"{name}{IMAGE_SUFFIX}"),
                found.get(stems.get(name, name), voc / where / f"{name}{LABEL_SUFFIX}"),
            )
            for name in names
        ]
    for split, pairs in files.items():
        missing = [path for pair in pairs for path in pair if not path.is_file()]
        if missing or not pairs:
            told = (
                f"{missing[0]}: no such file, but the {split} list names it ({len(missing)} are missing)"
                if missing
                else f"the {split} list is empty"
            )
            raise UserError(f"{told}; check DATA_ROOT, TRAIN_LIST, TEST_LIST and LABELS")
    _clear(folder)
    for split, pairs in files.items():
        for place, kind in enumerate(("images", "labels")):
            (folder / kind / split).mkdir(parents=True)
            for pair in pairs:
                os.symlink(pair[place].resolve(), folder / kind / split / pair[place].name)
    return {split: len(pairs) for split, pairs in files.items()}


def _clear(folder: Path) -> None:
    """Removes what an earlier call made; nothing else."""
    if os.path.lexists(folder):
        if folder.is_symlink() or not (folder / MADE).is_file():
            raise UserError(f"{folder}: is in the way of links to VOC's images; move it away, or give another OUT")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MADE).touch()
