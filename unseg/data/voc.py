"""Pascal VOC's lists as folders of links, which is what `unseg protect` and `unseg evaluate` read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from unseg.data.edition_catalog import PASCAL, VOC_IMAGES, VOC_LISTS
from unseg.data.edition_layout import home_of
from unseg.errors import UserError
from unseg.storage.files import read_text

LABELS, AUGMENTED = "SegmentationClass", "SegmentationClassAug"
AUGMENTED_LIST = "train_aug"
MADE = "links"  # a file of this name marks a folder as made here, so that it may be made anew


def find_voc(root: Path) -> Path | None:
    """Returns the folder of JPEGImages, in `root` or where VOC usually lies under it; None where there is none."""
    place = root / home_of(root, PASCAL)
    return place if (place / VOC_IMAGES).is_dir() else None


def listed(voc: Path, which: str) -> list[str] | None:
    """Returns the names of a list, in its order: one of VOC's own lists, or a file; None where there is none.

    Lists for SBD's labels have paths and suffixes (`/JPEGImages/2007_000032.jpg
    /SegmentationClassAug/2007_000032.png`): the name in the first column counts.
    """
    file = Path(which) if Path(which).is_file() else voc / VOC_LISTS.format(split=which)
    if not file.is_file():
        return None
    try:
        lines = read_text(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: cannot be read as a list of names ({error}); give a text file with a name a line"
        ) from None
    paths = [Path(line.split()[0]) for line in lines if line.split()]
    return list(dict.fromkeys(path.name.removesuffix(".jpg").removesuffix(".png") for path in paths))


def training_names(voc: Path, train_list: str, labels: str, test_names: Sequence[str]) -> list[str]:
    """Returns the names of the training list.

    Where VOC has no list train_aug they are all labelled images that are not tested on: the published 10,582 where
    the labels are SBD's and VOC's.
    """
    names = listed(voc, train_list)
    if names is None and train_list == AUGMENTED_LIST and (voc / labels).is_dir():
        names = sorted({path.stem for path in (voc / labels).glob("*.png")} - set(test_names))
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
    files = {
        split: [(voc / VOC_IMAGES / f"{name}.jpg", voc / where / f"{name}.png") for name in names]
        for split, (names, where) in splits.items()
    }
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
