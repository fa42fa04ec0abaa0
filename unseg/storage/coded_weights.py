"""Files of coded generators: safetensors with the whole state, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch

from segment_anything_training.coded import CodedGenerator
from segment_anything_training.key_remaps import shapes_of
from unseg.errors import UserError
from unseg.storage.files import sha256_or_refuse, write_durably
from unseg.storage.state_files import compare, open_state, sorted_header

NAME = "coded"
KIND = "network"  # the entry of the metadata that tells whose weights a file holds


@dataclass(frozen=True)
class LoadedCoded:
    """A coded generator ready to use, the sha256 of its file, and the facts of its training that the file tells."""

    network: CodedGenerator
    sha256: str
    facts: Mapping[str, str] = field(default_factory=dict)


def load_coded(path: Path) -> LoadedCoded:
    """Returns the coded generator in a file, in evaluation mode and without gradients; UserError where it is none."""
    file, network = open_state(path), CodedGenerator()
    if misfit := compare(file.shapes, shapes_of(network.state_dict())):
        raise UserError(f"{path}: is not a coded generator: {misfit}; give a file that benchmarks.learn_codes wrote")
    network.load_state_dict(file.read_floats(), strict=True)
    return LoadedCoded(network.eval().requires_grad_(False), sha256_or_refuse(path), file.metadata)


def save_coded(network: CodedGenerator, path: Path, facts: Mapping[str, str]) -> str:
    """Writes a coded generator that `load_coded` reads, atomically, and returns the file's sha256. facts: of its
    training, which the metadata hold."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    data = safetensors.torch.save(state, {**facts, KIND: NAME})
    return write_durably(path, sorted_header(data))
