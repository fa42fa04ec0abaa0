"""The semantic networks: segmentation_models_pytorch by rule, a few with widths of their own, torchvision's DeepLabV3.

All take B×3×H×W of any size and give logits B×C×H×W.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from unseg.errors import UserError

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


def _packages() -> ModuleType:
    try:
        import segmentation_models_pytorch  # an optional dependency: only measuring needs it
    except ImportError:
        raise UserError("segmentation-models-pytorch is not installed; run: pip install 'unseg[evaluate]'") from None
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
    """torchvision's answer is a dictionary; this is its entry "out"."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return self.network(images_B3HW)["out"]


class AnySize(nn.Module):
    """`network` for images of any size: pads with zeros right and below to a multiple of STRIDE, crops the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        height, width = images_B3HW.shape[-2:]
        return self.network(F.pad(images_B3HW, (0, -width % STRIDE, 0, -height % STRIDE)))[..., :height, :width]


def find_network(name: str) -> Callable[[int], nn.Module]:
    """From the number of classes to the network `name` with random weights: a row of NETWORKS, or ARCHITECTURE_ENCODER with an
    encoder of segmentation_models_pytorch at its default widths. UserError where there is none."""
    if name in NETWORKS:
        return NETWORKS[name]
    architecture, _, encoder = name.partition("_")
    known = f"{', '.join(NETWORKS)}, or ARCHITECTURE_ENCODER such as unetplusplus_resnet34"
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


def check_network(name: str) -> None:
    """Raises UserError where there is no such network."""
    find_network(name)


def build_network(name: str, num_classes: int) -> nn.Module:
    """The network `name` with `num_classes` outputs and random weights drawn from torch's global generator."""
    build = find_network(name)
    try:
        return AnySize(build(num_classes))
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--networks {name}: cannot be built: {reason}; choose another encoder") from None
