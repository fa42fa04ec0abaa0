#!/usr/bin/env python3
"""Convert ResNet38's ImageNet weights from MXNet's file to safetensors, without MXNet.

    python utils/convert_resnet38.py pretrained_checkpoint/ilsvrc-cls_rna-a1_cls1000_ep-0001.params \
        pretrained_checkpoint/resnet38_imagenet.safetensors

`eval/run_seg.sh` reads the .params file as well (WEIGHTS=FILE), so this is needed only for other programs: the entries
have the names of PSA's, SEAM's and MCTformer's ResNet38. ImageNet's classifier is left out. Nothing is downloaded, and
no file that exists is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import safetensors.torch

from unseg.errors import UserError
from unseg.storage.files import refuse_existing, write_durably
from unseg.storage.state_files import sorted_header
from unseg.victims.resnet38 import IMAGENET_PARAMS, read_mxnet


def convert(params: Path, converted: Path) -> list[str]:
    """Writes the backbone's entries into `converted` and returns the lines to print about them."""
    refuse_existing([converted])
    state = read_mxnet(params)
    facts = {"network": "resnet38", "source": params.name}
    digest = write_durably(converted, sorted_header(safetensors.torch.save(state, facts)))
    return [
        f"{converted}: {len(state)} entries, {sum(tensor.numel() for tensor in state.values()):,} numbers",
        f"sha256: {digest}",
    ]


def main() -> int:
    """Runs the tool on the command line's arguments and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path, help=IMAGENET_PARAMS)
    parser.add_argument("converted", type=Path, help="the safetensors file to write")
    options = parser.parse_args()
    try:
        for line in convert(options.params, options.converted):
            print(line)
    except UserError as error:
        print(f"convert_resnet38: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
