#!/usr/bin/env python3
"""Convert MAE's official weights to the names of the surrogate's image encoder, as the published UnSeg code wants them.

    python utils/convert_mae.py pretrained_checkpoint/mae_pretrain_vit_base.pth \
        pretrained_checkpoint/modified_mae_pretrain_vit_base.pth

`unseg train --mae` reads the official file as well, so this is needed only to exchange files with the published code.
MAE's weights are licensed CC BY-NC 4.0: neither they, nor this file, nor what is trained from it is for commercial use.
Nothing is downloaded, and no file that exists is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from segment_anything_training.build import SAM_CONFIGS, SURROGATE_IMAGE_SIZE
from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.key_remaps import is_dropped_from_mae, shapes_of
from unseg.errors import UserError
from unseg.storage.files import refuse_existing
from unseg.storage.state_files import read_state, save_pth
from unseg.storage.weights import read_mae

LICENCE = "CC BY-NC 4.0"


def convert(official: Path, converted: Path, size: str, image_size: int) -> list[str]:
    """Writes the encoder's entries into `converted` and returns the lines to print about them."""
    refuse_existing([converted])
    with torch.device("meta"):  # names and shapes only
        encoder = ImageEncoder(replace(SAM_CONFIGS[size], image_size=image_size))
    expected = shapes_of(encoder.state_dict())
    state = read_mae(official, expected)
    dropped = [name for name in read_state(official, inside="model") if is_dropped_from_mae(name)]
    save_pth({name: state[name].clone() for name in expected if name in state}, converted)
    grid = expected["pos_embed"][1]
    return [
        f"{converted}: {len(state)} entries; pos_embed for {grid}×{grid} patches",
        f"not in MAE, starting afresh: {', '.join(name for name in expected if name not in state)}",
        f"not in SAM's encoder, left out: {', '.join(dropped) or 'nothing'}",
        f"licence: {LICENCE}, as MAE's weights",
    ]


def main() -> int:
    """Runs the tool on the command line's arguments and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path, help="mae_pretrain_vit_base.pth")
    parser.add_argument("converted", type=Path, help="the file to write")
    parser.add_argument("--size", choices=list(SAM_CONFIGS), default="vit_b")
    parser.add_argument("--image-size", type=int, default=SURROGATE_IMAGE_SIZE, help="side of the surrogate's input")
    options = parser.parse_args()
    try:
        if options.image_size < 16 or options.image_size % 16:
            raise UserError(f"--image-size {options.image_size}: give a multiple of 16")
        for line in convert(options.official, options.converted, options.size, options.image_size):
            print(line)
    except UserError as error:
        print(f"convert_mae: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
