"""Makes the compact generator's ONNX file of the safetensors beside it: `python -m benchmarks.export_onnx`.

Needs the package `onnx` beside torch. Run it whenever `unseg/weights/compact.safetensors` changes; a test fails until
then. The file takes images and prompts as `unseg.storage.onnx_generator.OnnxGenerator` gives them, in batches of any
size.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from io import BytesIO
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

import unseg
from segment_anything_training.prompt_batch import Prompts
from unseg.storage.files import write_durably
from unseg.storage.onnx_generator import FACTS, INPUTS, ONNX_FILE, OUTPUT
from unseg.storage.weights import COMPACT, LoadedGenerator, load_generator

OPSET = 17


class _FlatPrompts(nn.Module):
    """A generator whose prompts are plain tensors, which is what a graph has."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3SS: Tensor, masks_B1MM: Tensor, boxes_B4: Tensor, given_B3: Tensor) -> Tensor:
        return self.network(images_B3SS, Prompts(masks=masks_B1MM, boxes=boxes_B4, given=given_B3))


def onnx_of(loaded: LoadedGenerator) -> bytes:
    """Returns the ONNX file of a compact generator, with its facts."""
    network, file = loaded.network, BytesIO()
    side, mask_side = network.image_size, network.mask_size
    example = (
        torch.zeros(2, 3, side, side),
        torch.zeros(2, 1, mask_side, mask_side),
        torch.zeros(2, 4),
        torch.ones(2, 3, dtype=torch.bool),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on sides that are constants here, and on its successor
        torch.onnx.export(
            _FlatPrompts(network).eval(),
            example,
            file,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in (*INPUTS, OUTPUT)},
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs one more package
        )
    model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model, full_check=True)
    facts = {
        "name": loaded.name,
        "sha256": loaded.sha256,
        "image_size": side,
        "mask_size": mask_side,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "code_tints": network.code_noise().tolist(),
        "metadata": loaded.metadata,
    }
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts, sort_keys=True)})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_onnx", description=__doc__.partition(":")[0])
    shipped = Path(unseg.__file__).parent / "weights" / ONNX_FILE
    parser.add_argument("--out", type=Path, default=shipped, help="the file to write (default: the shipped one)")
    options = parser.parse_args(arguments)
    sha256 = write_durably(options.out, onnx_of(load_generator(COMPACT)))
    print(f"{options.out}: sha256 {sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
