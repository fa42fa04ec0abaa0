"""Random views of training images: flip, zoom, shift, colour. All is drawn on the CPU, in an amount that depends on the
number of images alone, so that runs that differ in their pixels see the same views.

Shapes: B images of a batch, H×W the training size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as colours

from unseg.method import metrics

# ImageNet's statistics, as the smp networks are usually fed; any fixed affine map would do.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ZOOM = (0.8, 1.4)  # a view's magnification, log-uniform
# Of brightness, contrast and saturation: a factor uniform in 1 ± JITTER; of the hue: a shift uniform in ± HUE of the
# circle.
JITTER, HUE = 0.3, 0.05


@dataclass(frozen=True)
class Views:
    """How each image of a batch is seen.

    theta: B×2×3, as F.affine_grid takes it. colour: B×4 float32 (factors of brightness, contrast and saturation, shift
    of the hue); None where colours stay.
    """

    theta: torch.Tensor
    colour: torch.Tensor | None = None

    def part(self, rank: int, size: int) -> Views:
        """Returns the views of the images rank, rank + size, …"""
        return Views(self.theta[rank::size], None if self.colour is None else self.colour[rank::size])


def draw_views(
    count: int, draw: torch.Generator, colour: bool = False, zoom_range: tuple[float, float] = ZOOM
) -> Views:
    """Returns `count` views: horizontal flip, zoom within `zoom_range` (log-uniform), shift, and colours if asked.

    `draw` is on the CPU.
    """
    zoom = torch.exp(torch.empty(count).uniform_(math.log(zoom_range[0]), math.log(zoom_range[1]), generator=draw))
    flip = torch.where(torch.rand(count, generator=draw) < 0.5, -1.0, 1.0)
    room = (1 - 1 / zoom).abs()  # how far the view may shift and still be inside the image (or the image inside it)
    shift = (torch.rand(count, 2, generator=draw) * 2 - 1) * room[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = flip / zoom, 1 / zoom, shift
    return Views(theta, draw_colours(count, draw) if colour else None)


def draw_colours(count: int, draw: torch.Generator) -> torch.Tensor:
    """Returns what `recoloured` takes: count×4 float32."""
    return torch.tensor([1.0, 1.0, 1.0, 0.0]) + (torch.rand(count, 4, generator=draw) * 2 - 1) * torch.tensor(
        [JITTER, JITTER, JITTER, HUE]
    )


def recoloured(images_B3HW: torch.Tensor, colour_B4: torch.Tensor) -> torch.Tensor:
    """Returns images in [0, 1] with their brightness, contrast, saturation and hue changed, in this order; in [0, 1]
    again.
    """
    changed = [
        colours.adjust_hue(
            colours.adjust_saturation(
                colours.adjust_contrast(colours.adjust_brightness(image, brightness), contrast), saturation
            ),
            hue,
        )
        for image, (brightness, contrast, saturation, hue) in zip(images_B3HW, colour_B4.tolist(), strict=True)
    ]
    return torch.stack(changed)


def augment(images_BHW3: torch.Tensor, labels_BHW: torch.Tensor, views: Views) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the views of images and labels: normalised B×3×H×W float32 (channels last in memory) and B×H×W int64.

    images, labels: uint8. Zooming in crops; zooming out pads with the mean colour, labelled 255.
    """
    if views.colour is None:
        images = normalise(images_BHW3)
    else:
        plain = images_BHW3.permute(0, 3, 1, 2).to(torch.float32) / 255
        images = standardised(recoloured(plain, views.colour).permute(0, 2, 3, 1))
    grid = F.affine_grid(views.theta, list(images.shape), align_corners=False).to(images.device)
    view = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # Shifted by 255 so that the zeros outside the image come back as "ignored".
    labels = metrics.IGNORE_LABEL - labels_BHW[:, None].to(torch.float32)
    target = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (
        view.contiguous(memory_format=torch.channels_last),
        (metrics.IGNORE_LABEL - target[:, 0]).round().to(torch.int64),
    )


def normalise(images_BHW3: torch.Tensor) -> torch.Tensor:
    """Returns uint8 B×H×W×3 as B×3×H×W float32 (channels last in memory), normalised by ImageNet's mean and
    deviation.
    """
    return standardised(images_BHW3.to(torch.float32) / 255)


def standardised(images_BHW3: torch.Tensor) -> torch.Tensor:
    """Returns the same as `normalise` of float images in [0, 1]."""
    mean, std = (torch.tensor(value, device=images_BHW3.device) for value in (MEAN, STD))
    return ((images_BHW3 - mean) / std).permute(0, 3, 1, 2)


def standardised_planes(images_B3HW: torch.Tensor) -> torch.Tensor:
    """Returns the same as `standardised` of images whose channels come first."""
    return standardised(images_B3HW.permute(0, 2, 3, 1))


def plain_values(images_B3HW: torch.Tensor) -> torch.Tensor:
    """Returns standardised images as values in [0, 1] again, channels first."""
    mean, std = (torch.tensor(value, device=images_B3HW.device)[:, None, None] for value in (MEAN, STD))
    return images_B3HW * std + mean
