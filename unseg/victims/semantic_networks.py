"""The semantic networks: segmentation_models_pytorch by rule, a few with widths of their own, torchvision's DeepLabV3,
your own.

All take B×3×H×W of any size and give logits B×C×H×W.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from segment_anything_training.key_remaps import shapes_of
from unseg.compute.plugins import OwnCode, is_spec, load_object
from unseg.errors import UserError, naming_the_extra
from unseg.storage.state_files import compare
from unseg.victims.pretrained import load_strictly, read_weights

STRIDE = 32  # the encoders halve their input at most five times

# Architectures in lower case → their class in segmentation_models_pytorch.
ARCHITECTURES = {
    name.lower(): name
    for name in (
        "Unet",
        "UnetPlusPlus",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "Segformer",
        "UPerNet",
        "MAnet",
        "Linknet",
        "PAN",
    )
}
DEEPLABV3 = "torchvision_deeplabv3_resnet50"
CLASSIFIER = re.compile(r"(fc|classifier|head|last_linear)\.")  # the last layer of an ImageNet classifier
HEADS = r"segmentation_head|classifier\.4|aux_classifier"  # entries of networks whose size is the number of classes


def _packages() -> ModuleType:
    with naming_the_extra("--networks"):
        import segmentation_models_pytorch  # an optional dependency: only measuring needs it
    return segmentation_models_pytorch


def _smp(architecture: str, encoder: str, **options: int | tuple[int, ...]) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        return getattr(_packages(), architecture)(encoder, encoder_weights=None, classes=classes, **options)

    return build


def _torchvision_deeplabv3(classes: int) -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet50

    return OutOf(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes))


# A training step on 4 images of 128×96, one free 2.5 GHz AVX2 core: unet_resnet18 0.29 s, fpn_resnet34 0.45,
# deeplabv3plus_mobilenet_v2 0.21, segformer_b0 0.10; fpn_mobilenet_v2 takes about half of unet_resnet18's time.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    # The decoder is half as wide as the default one: 1.6 times faster, which is what measuring on two cores allows.
    "unet_resnet18": _smp("Unet", "resnet18", decoder_channels=(128, 64, 32, 16, 8)),
    "fpn_resnet34": _smp("FPN", "resnet34", decoder_pyramid_channels=128, decoder_segmentation_channels=64),
    "fpn_mobilenet_v2": _smp("FPN", "mobilenet_v2", decoder_pyramid_channels=128, decoder_segmentation_channels=64),
    "deeplabv3plus_mobilenet_v2": _smp("DeepLabV3Plus", "mobilenet_v2", decoder_channels=128),
    "segformer_b0": _smp("Segformer", "mit_b0", decoder_segmentation_channels=64),
    DEEPLABV3: _torchvision_deeplabv3,
}


class OutOf(nn.Module):
    """A network whose answer is a dictionary, as torchvision's are; this one answers with its entry "out"."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Returns logits, B×C×H×W."""
        return self.network(images_B3HW)["out"]


class AnySize(nn.Module):
    """`network` for images of any size: pads with zeros right and below to a multiple of STRIDE, crops the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Returns logits, B×C×H×W."""
        height, width = images_B3HW.shape[-2:]
        return self.network(F.pad(images_B3HW, (0, -width % STRIDE, 0, -height % STRIDE)))[..., :height, :width]


def find_network(name: str) -> Callable[[int], nn.Module]:
    """Returns the function that builds the network `name` with random weights, from the number of classes.

    name: a row of NETWORKS, ARCHITECTURE_ENCODER with an encoder of segmentation_models_pytorch at its default widths,
    or `module:name` of your own. Raises UserError where there is none.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if is_spec(name):
        return _own(name)
    architecture, _, encoder = name.partition("_")
    known = f"{', '.join(NETWORKS)}, ARCHITECTURE_ENCODER such as unetplusplus_resnet34, or module:name of your own"
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"--networks: unknown network '{name}'; available: {known}, with architecture {', '.join(ARCHITECTURES)}"
        )
    encoders = _packages().encoders.get_encoder_names()
    if encoder not in encoders and not encoder.startswith("tu-"):
        close = sorted(item for item in encoders if item.split("_")[0].rstrip("0123456789-") in encoder)[:8]
        raise UserError(
            f"--networks: unknown network '{name}': segmentation_models_pytorch has no encoder '{encoder}'"
            f"{' (near it: ' + ', '.join(close) + ')' if close else ''}; available: {known}"
        )
    return _smp(ARCHITECTURES[architecture], encoder)


def _own(spec: str) -> Callable[[int], nn.Module]:
    """Returns a user's function from the number of classes to a network; what it returns is checked when it is
    called.
    """
    found = load_object(spec, "--networks")
    if not callable(found):
        raise UserError(f"--networks {spec}: give a function from the number of classes to a network")

    def build(classes: int) -> nn.Module:
        with OwnCode(f"--networks {spec}: cannot be built"):
            network = found(classes)
        if not isinstance(network, nn.Module):
            raise UserError(f"--networks {spec}: returns a {type(network).__name__}, not a torch.nn.Module")
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise UserError(f"--networks {spec}: its network has no parameter that learns")
        return OwnNetwork(network, spec, classes)

    return build


class OwnNetwork(nn.Module):
    """A user's own network, whose answers are checked: B×3×H×W to logits B×C×H×W."""

    def __init__(self, network: nn.Module, spec: str, classes: int) -> None:
        super().__init__()
        self.network, self.spec, self.classes = network, spec, classes

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Returns the network's logits; raises UserError where they have another shape or the network fails."""
        with OwnCode(f"--networks {self.spec}: its network fails"):
            logits_BCHW = self.network(images_B3HW)
        batch, _, height, width = images_B3HW.shape
        expected = (batch, self.classes, height, width)
        if not isinstance(logits_BCHW, torch.Tensor) or tuple(logits_BCHW.shape) != expected:
            found = tuple(logits_BCHW.shape) if isinstance(logits_BCHW, torch.Tensor) else type(logits_BCHW).__name__
            raise UserError(
                f"--networks {self.spec}: its network gives {found} for images {tuple(images_B3HW.shape)}; return"
                f" logits {expected}, one for each class and pixel"
            )
        return logits_BCHW


def own_source(name: str) -> Path | None:
    """Returns the file that a network of your own (`module:name`) is written in; None for all other networks."""
    if name in NETWORKS or not is_spec(name):
        return None
    module = inspect.getmodule(load_object(name, "--networks"))
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def check_network(name: str) -> None:
    """Raises UserError where there is no such network."""
    find_network(name)


def build_network(name: str, num_classes: int) -> nn.Module:
    """Returns the network `name` with `num_classes` outputs and random weights drawn from torch's global generator."""
    build = find_network(name)
    try:
        return AnySize(build(num_classes))
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "check its code" if is_spec(name) else "choose another encoder"
        raise UserError(f"--networks {name}: cannot be built: {reason}; {remedy}") from error


def load_pretrained(network: nn.Module, path: Path) -> list[str]:
    """Loads a whole network's weights, or its encoder's alone, and returns sentences on what starts from random
    weights.

    The encoder's may be an ImageNet classifier, whose last layer is left out. Raises UserError where the file fits
    neither.
    """
    inner = network
    while isinstance(inner, (AnySize, OwnNetwork, OutOf)):
        inner = inner.network
    state = read_weights(path)
    parts = ((name, getattr(inner, name, None)) for name in ("encoder", "backbone"))
    part, encoder = next(((name, module) for name, module in parts if isinstance(module, nn.Module)), ("", None))
    if encoder is None or any(name.startswith(f"{part}.") for name in state):
        return load_strictly(inner, state, HEADS, path)
    given = {name: tensor for name, tensor in state.items() if not CLASSIFIER.match(name)}
    misfit = compare(shapes_of(given), shapes_of(encoder.state_dict()))
    if misfit:
        raise UserError(f"--weights {path}: fits neither the network nor its {part}: {misfit}")
    nn.Module.load_state_dict(encoder, given)  # the encoders' own methods take no `strict`
    return [f"--weights {path.name}: the {part}'s; all else starts from random weights"]
