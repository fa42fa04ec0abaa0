"""Pretrained weights of evaluators, from local files alone: all fits by name and shape, or the message names what does
not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from segment_anything_training.key_remaps import State, shapes_of
from unseg.errors import UserError
from unseg.storage.checkpoint_files import MISFITS
from unseg.storage.files import open_for_reading
from unseg.storage.state_files import Misfit, compare, open_state, read_state
from unseg.storage.tensor_files import shown

CONFIG, SHARDS = "config.json", "model.safetensors.index.json"
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
# Bounds on a configuration, far above those of networks for images: bytes, any number, and a number of layers.
MOST_OF_A_CONFIG, MOST_SIZE, MOST_LAYERS = 2**20, 2**20, 512
LAYERS = re.compile(r"layers|depth|blocks")


@dataclass(frozen=True)
class Backbone:
    """A network's part that a classifier's folder can start.

    model_type: the classifier's. place, name: the module that holds the part, and its name there. idle: entries (a
    pattern) that only one of the two has.
    """

    model_type: str
    place: str
    name: str
    idle: str


def read_weights(path: Path) -> State:
    """Returns the tensors of a .safetensors or .pth file, or of a Hugging Face folder (one file or shards).

    A .pth may hold its tensors under "model", as torchvision's training scripts leave them. Raises UserError, which
    names what is missing.
    """
    if path.is_dir():
        return {name: tensor for file in _files_of(path) for name, tensor in read_state(file).items()}
    if not path.exists():
        raise UserError(
            f"--weights {path}: no such file or folder; nothing is downloaded, so get it first and give its path"
        )
    return read_state(path, inside="model")


def _files_of(folder: Path) -> list[Path]:
    """Returns the weight files of a Hugging Face folder; UserError where there is none."""
    shards = sorted(folder.glob("model-*-of-*.safetensors")) if (folder / SHARDS).is_file() else []
    files = shards or [folder / name for name in MODEL_FILES if (folder / name).is_file()][:1]
    if not files:
        raise UserError(
            f"--weights {folder}: holds none of {', '.join(MODEL_FILES)}; give a weight file, or the folder of a"
            " Hugging Face model (config.json and its weights)"
        )
    return files


def _told_by(folder: Path) -> dict[str, Any]:
    """Returns what a Hugging Face folder's config.json says; UserError where it says nothing, or sizes of no network.

    The library builds a network of whatever size before it looks at the weights.
    """
    try:
        with open_for_reading(folder / CONFIG) as file:
            told = json.loads(file.read(MOST_OF_A_CONFIG))
    except OSError as error:
        raise UserError(f"--weights {folder}: {CONFIG} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UserError(f"--weights {folder}: {CONFIG} is no configuration of a network; get it again")
    left: list[tuple[str, Any]] = list(told.items())
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(name, item) for item in value]
        elif isinstance(value, (int, float)) and not abs(value) <= (MOST_LAYERS if LAYERS.search(name) else MOST_SIZE):
            raise UserError(
                f"--weights {folder}: {CONFIG} says {shown(name)} {shown(value)}, as no network has; get it again"
            )
    return told


def load_strictly(network: nn.Module, state: Mapping[str, torch.Tensor], heads: str, source: Path) -> list[str]:
    """Loads a state and returns one sentence where a class head stayed random, naming its entries.

    A head's entries (their names match `heads`) stay random where they have another number of classes. Raises UserError
    for whatever else is missing, unexpected or of another shape.
    """
    entries = network.state_dict()
    expected, given = shapes_of(entries), shapes_of(dict(state))
    head = re.compile(heads)
    misfit = compare(given, expected)
    # Entries that share their memory with one that is there, as tied heads do, are saved once.
    there = {entries[name].data_ptr() for name in given if name in entries and entries[name].numel()}
    missing = [name for name in misfit.missing if entries[name].data_ptr() not in there]
    renewed = [name for name in expected if head.search(name) and given.get(name, expected[name]) != expected[name]]
    wrong = Misfit(
        missing, misfit.unexpected, [text for text in misfit.misshaped if text.partition(" ")[0] not in renewed]
    )
    if wrong:
        raise UserError(f"--weights {source}: does not fit this network: {wrong}")
    network.load_state_dict({name: tensor for name, tensor in state.items() if name not in renewed}, strict=False)
    return _told(source, renewed)


def build_transformers(
    family: str,
    head: str,
    class_count: int,
    weights: Path | None,
    heads: str,
    configure: Callable[[Any], Any],
    idle: str = r"^$",
    backbone: Backbone | None = None,
) -> tuple[nn.Module, list[str]]:
    """Returns a network of transformers with `class_count` classes, and sentences on what weights left random.

    family, head: its class is transformers' FAMILY + HEAD, its configuration FAMILY + "Config". configure: from that
    class to the configuration; a Hugging Face folder in `weights` brings its own. heads: see `load_strictly`. idle:
    entries (a pattern) that play no part, so that a folder may lack them or have them. backbone: what a folder of a
    classifier starts. Nothing is downloaded.
    """
    import transformers

    network_class, config_class = getattr(transformers, family + head), getattr(transformers, f"{family}Config")
    if weights is None or not (weights / CONFIG).is_file():
        network = network_class(configure(config_class))
        return network, [] if weights is None else load_strictly(network, read_weights(weights), heads, weights)
    told = _told_by(weights)
    for file in _files_of(weights):
        open_state(file)  # the library reads it, but does not look at what it claims
    if backbone is not None and told.get("model_type") == backbone.model_type:
        network = network_class(configure(config_class))
        holder = network.get_submodule(backbone.place)
        loaded, _ = _from_pretrained(
            type(getattr(holder, backbone.name)),
            getattr(holder, backbone.name).config,
            weights,
            r"^$",
            rf"{idle}|{backbone.idle}",
        )
        setattr(holder, backbone.name, loaded)
        return network, [f"--weights {weights.name}: of the backbone alone; all else starts from random weights"]
    if told.get("model_type") != config_class.model_type:
        raise UserError(
            f"--weights {weights}: is a {told.get('model_type')}, this network is a {config_class.model_type}"
        )
    names = {place: str(place) for place in range(class_count)}
    labels = {"num_labels": class_count, "id2label": names, "label2id": {name: place for place, name in names.items()}}
    with _one_line(weights):
        config = config_class.from_dict({**told, **labels})
    network, renewed = _from_pretrained(network_class, config, weights, heads, idle)
    return network, _told(weights, renewed)


def _from_pretrained(
    network_class: Any, config: Any, weights: Path, heads: str, idle: str
) -> tuple[nn.Module, list[str]]:
    """Returns the network of a folder, and the entries of heads that stayed random.

    The library's own loading knows the names that its earlier releases gave to entries.
    """
    with _quiet(), _one_line(weights):
        network, found = network_class.from_pretrained(
            weights, config=config, local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True
        )
    head = re.compile(heads)
    misshaped = sorted(name for name, *_ in found["mismatched_keys"])
    renewed = [name for name in misshaped if head.search(name)]
    # How many batches a batch norm has seen is no weight, and fixed norms do not keep it.
    left_out = re.compile(rf"{idle}|num_batches_tracked$")
    missing, unexpected = (
        sorted(name for name in found[kind] if not left_out.search(name))
        for kind in ("missing_keys", "unexpected_keys")
    )
    wrong = Misfit(missing, unexpected, [name for name in misshaped if name not in renewed])
    if wrong:
        raise UserError(f"--weights {weights}: does not fit this network: {wrong}")
    return network.train(), renewed


def _told(source: Path, renewed: Sequence[str]) -> list[str]:
    return (
        [f"--weights {source.name}: its classes are others; these start at random: {', '.join(renewed)}"]
        if renewed
        else []
    )


@contextmanager
def _one_line(weights: Path) -> Iterator[None]:
    """Turns what the library raises for a folder of somebody else into a UserError inside."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        *MISFITS,
        OSError,
        MemoryError,
        ZeroDivisionError,
        StrictDataclassError,
        safetensors.SafetensorError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--weights {weights}: cannot be read ({shown(reason)}); get it again") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warnings and progress bars of transformers inside; what they tell is told in our words."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
