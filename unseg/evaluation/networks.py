"""The networks that are trained from scratch on clean and on protected images. None starts from pretrained weights.

A network is a callable from images B×3×H×W to logits B×C×H×W (H and W multiples of 32). To add one, add a row.
"""
from __future__ import annotations

from collections.abc import Callable

import segmentation_models_pytorch as smp
from torch import nn

from unseg.errors import UserError

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "unet_resnet18": lambda classes: smp.Unet("resnet18", encoder_weights=None, classes=classes),
    "fpn_mobilenet_v2": lambda classes: smp.FPN("mobilenet_v2", encoder_weights=None, classes=classes),
}


def build_network(name: str, num_classes: int) -> nn.Module:
    """The network `name` with `num_classes` outputs and random weights drawn from torch's global generator."""
    if name not in NETWORKS:
        raise UserError(f"--networks: unknown network '{name}'; available: {', '.join(NETWORKS)}")
    return NETWORKS[name](num_classes)
