"""Pretrained weights of evaluators, from local files alone: all fits by name and shape, or the message names what does not."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unseg.checkpoint import Misfit, State, compare, read_state, shapes_of
from unseg.errors import UserError

CONFIG, SHARDS = "config.json", "model.safetensors.index.json"
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> State:
    """The tensors of a .safetensors or .pth file, or of a Hugging Face folder (one file or shards). UserError: what is missing.

    A .pth may hold its tensors under "model" or "state_dict", as training scripts leave them.
    """
    if path.is_dir():
        shards = sorted(path.glob("model-*-of-*.safetensors")) if (path / SHARDS).is_file() else []
        files = shards or [path / name for name in MODEL_FILES if (path / name).is_file()][:1]
        if not files:
            raise UserError(f"--weights {path}: holds none of {', '.join(MODEL_FILES)}; give a weight file, or the folder of a"
                            " Hugging Face model (config.json and its weights)")
        return {name: tensor for file in files for name, tensor in read_state(file)[0].items()}
    if not path.exists():
        raise UserError(f"--weights {path}: no such file or folder; nothing is downloaded, so get it first and give its path")
    state = read_state(path, inside="model")[0]
    return state


def load_strictly(network: nn.Module, state: Mapping[str, torch.Tensor], heads: str, source: Path) -> list[str]:
    """Loads a state. Entries of the class heads (their names match `heads`) that have another number of classes stay random.

    Returns one sentence where a head stayed random, naming its entries. UserError for whatever else is missing, unexpected or of
    another shape.
    """
    expected, given = shapes_of(network.state_dict()), shapes_of(dict(state))
    head = re.compile(heads)
    misfit = compare(given, expected)
    renewed = [name for name in expected if head.search(name) and given.get(name, expected[name]) != expected[name]]
    wrong = Misfit(misfit.missing, misfit.unexpected,
                   [text for text in misfit.misshaped if text.partition(" ")[0] not in renewed])
    if wrong:
        raise UserError(f"--weights {source}: does not fit this network: {wrong}")
    network.load_state_dict({name: tensor for name, tensor in state.items() if name not in renewed}, strict=False)
    return [f"--weights {source.name}: its classes are others; these start at random: {', '.join(renewed)}"] if renewed else []


def saved_config(path: Path | None, model_type: str) -> dict[str, Any] | None:
    """The config.json of a Hugging Face folder; None where `path` is no such folder. UserError where it is another model's."""
    if path is None or not path.is_dir() or not (path / CONFIG).is_file():
        return None
    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(path, local_files_only=True)
    if config.get("model_type") != model_type:
        raise UserError(f"--weights {path}: is a {config.get('model_type')}, this network is a {model_type}")
    return config
