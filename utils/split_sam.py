#!/usr/bin/env python3
"""Split an official SAM file into the three files of the published code, or join them back.

    python utils/split_sam.py split pretrained_checkpoint/sam_vit_b_01ec64.pth pretrained_checkpoint
    python utils/split_sam.py join pretrained_checkpoint pretrained_checkpoint/sam_vit_b.pth

UnSeg reads either layout, so this is needed only to exchange files with the published code. Nothing is downloaded, and
no file that exists is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segment_anything_training.build import SAM_CONFIGS
from segment_anything_training.key_remaps import SAM_PARTS, sam_name, split_sam
from unseg.errors import UserError
from unseg.storage.files import refuse_existing
from unseg.storage.state_files import read_state, save_pth
from unseg.storage.weights import check_sam, read_sam


def split(file: Path, folder: Path) -> list[Path]:
    """Writes the three parts of the SAM in `file` into `folder`, named after its size, and returns their paths."""
    state = read_state(file)
    config = check_sam(state, file)
    parts = split_sam(state)
    size = sam_name(config) if sam_name(config) in SAM_CONFIGS else "vit_b"
    files = {part: folder / f"sam_{size}_{suffix}.pth" for part, suffix in SAM_PARTS.items()}
    refuse_existing(files.values())
    for part, path in files.items():
        # Cloned: parts of one file may share its storage, which would be written whole into each.
        save_pth({name: tensor.clone() for name, tensor in parts[part].items()}, path)
    return list(files.values())


def join(folder: Path, file: Path, size: str) -> list[Path]:
    """Writes the SAM whose three parts are in `folder` into `file`, and returns its path."""
    refuse_existing([file])
    state = read_sam(folder, size)
    check_sam(state, folder)
    save_pth(state, file)
    return [file]


def main() -> int:
    """Runs the tool on the command line's arguments and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split", help="official file → three files")
    splitting.add_argument("file", type=Path)
    splitting.add_argument("folder", type=Path)
    joining = commands.add_parser("join", help="three files → one file")
    joining.add_argument("folder", type=Path)
    joining.add_argument("file", type=Path)
    joining.add_argument("--size", choices=list(SAM_CONFIGS), default="vit_b")
    options = parser.parse_args()
    try:
        if options.command == "split":
            written = split(options.file, options.folder)
        else:
            written = join(options.folder, options.file, options.size)
    except UserError as error:
        print(f"split_sam: error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
