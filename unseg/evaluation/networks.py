"""The networks that are trained from scratch on clean and on protected images. None starts from pretrained weights.

To add one, add a row to NETWORKS: a function from the number of classes to a module that takes B×3×H×W, H and W multiples
of 32, to logits B×C×H×W.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from unseg.errors import UserError

STRIDE = 32  # the encoders below halve their input five times


def _smp(architecture: str, encoder: str, **options: int | tuple[int, ...]) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        try:
            import segmentation_models_pytorch as smp  # an optional dependency: only measuring needs it
        except ImportError:
            raise UserError("segmentation-models-pytorch is not installed; run: pip install 'unseg[evaluate]'") from None
        return getattr(smp, architecture)(encoder, encoder_weights=None, classes=classes, **options)
    return build


# A training step on 4 images of 128×96, one free 2.5 GHz AVX2 core: unet_resnet18 0.29 s, fpn_resnet34 0.45,
# deeplabv3plus_mobilenet_v2 0.21, segformer_b0 0.10; fpn_mobilenet_v2 takes about half of unet_resnet18's time.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    # The decoder is half as wide as the default one: 1.6 times faster, which is what measuring on two cores allows.
    "unet_resnet18": _smp("Unet", "resnet18", decoder_channels=(128, 64, 32, 16, 8)),
    "fpn_resnet34": _smp("FPN", "resnet34", decoder_pyramid_channels=128, decoder_segmentation_channels=64),
    "fpn_mobilenet_v2": _smp("FPN", "mobilenet_v2", decoder_pyramid_channels=128, decoder_segmentation_channels=64),
    "deeplabv3plus_mobilenet_v2": _smp("DeepLabV3Plus", "mobilenet_v2", decoder_channels=128),
    "segformer_b0": _smp("Segformer", "mit_b0", decoder_segmentation_channels=64),
}


class AnySize(nn.Module):
    """`network` for images of any size: pads with zeros right and below to a multiple of STRIDE, crops the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        height, width = images_B3HW.shape[-2:]
        return self.network(F.pad(images_B3HW, (0, -width % STRIDE, 0, -height % STRIDE)))[..., :height, :width]


def check_network(name: str) -> None:
    """Raises UserError where there is no such network."""
    if name not in NETWORKS:
        raise UserError(f"--networks: unknown network '{name}'; available: {', '.join(NETWORKS)}")


def build_network(name: str, num_classes: int) -> nn.Module:
    """The network `name` with `num_classes` outputs and random weights drawn from torch's global generator."""
    check_network(name)
    return AnySize(NETWORKS[name](num_classes))
