"""Encoders of segmentation_models_pytorch as backbones of torchvision's detectors, with a feature pyramid (Lin et al.,
"Feature pyramid networks for object detection", CVPR 2017) on top."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from unseg.errors import naming_the_extra

CHANNELS = 256  # of each level, as published
FIRST_LEVEL = 2  # among an encoder's features: those at a quarter of the image's size


class EncoderPyramid(nn.Module):
    """An encoder with random weights and its pyramid: levels at 1/4, 1/8, 1/16, 1/32 and 1/64 of the image's size.

    body: the encoder. out_channels: channels of each level, as torchvision's detectors ask for them.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__()
        with naming_the_extra("--networks"):
            from segmentation_models_pytorch.encoders import get_encoder
        self.body = get_encoder(encoder, in_channels=3, depth=5, weights=None)
        channels = list(self.body.out_channels)[FIRST_LEVEL:]
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS, extra_blocks=LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)
        self.out_channels = CHANNELS

    def forward(self, images_B3HW: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Returns the levels, the finest first. Sides are multiples of 32."""
        features = self.body(images_B3HW)[FIRST_LEVEL:]
        return self.fpn(OrderedDict((str(place), level) for place, level in enumerate(features)))


def is_encoder(name: str) -> bool:
    """Returns whether segmentation_models_pytorch has an encoder so named."""
    with naming_the_extra("--networks"):
        from segmentation_models_pytorch.encoders import encoders
    return name in encoders
