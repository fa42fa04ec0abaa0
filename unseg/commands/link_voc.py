"""What `eval/run_seg.sh` reads: VOC's lists as folders, any other set as it is."""

from __future__ import annotations

import sys
from pathlib import Path

from unseg.data.voc import find_voc, link_splits
from unseg.errors import UserError

SPLITS = ("images/train", "images/test", "labels/train", "labels/test")


def folder_of(root: Path, folder: Path, train_list: str, test_list: str, labels: str | None) -> Path:
    """Returns the folder that has images and labels by split.

    It is `folder`, made anew with links to VOC's images, or `root` where that has them already. Raises UserError where
    `root` holds neither.
    """
    voc = find_voc(root)
    if voc is not None:
        link_splits(voc, folder, train_list, test_list, labels)
        return folder
    missing = [name for name in SPLITS if not (root / name).is_dir()]
    if missing:
        raise UserError(f"DATA_ROOT={root}: there is neither JPEGImages (Pascal VOC) nor {missing[0]}")
    return root


def main(arguments: list[str]) -> int:
    """Prints the folder that `unseg evaluate` is to read and returns the exit code.

    arguments: DATA_ROOT, FOLDER, TRAIN_LIST, TEST_LIST, and LABELS or nothing.
    """
    root, folder, train_list, test_list, *labels = arguments
    try:
        print(folder_of(Path(root), Path(folder), train_list, test_list, labels[0] if labels and labels[0] else None))
    except UserError as error:
        print(f"run_seg.sh: {error}", file=sys.stderr)
        return 2
    return 0
