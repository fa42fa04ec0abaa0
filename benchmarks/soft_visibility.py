"""How visible noise is, with gradients: what `unseg.method.visibility` measures, with Euclidean distances in CIELAB
in place of ΔE2000."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.method.visibility import BLUR, PIXELS_A_DEGREE

REACH = 3.0  # standard deviations after which a Gaussian ends
# Linear sRGB → XYZ over the white point D65, so that white is (1, 1, 1).
XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
SMALLEST = 1e-6  # of squared distances: a root has no gradient at 0


def lab(pixels_3HW: Tensor) -> Tensor:
    """Returns CIELAB of sRGB in grey levels, 3×H×W."""
    shares = (pixels_3HW / 255).clamp(0, 1)
    linear = torch.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    xyz = torch.einsum("cd,dhw->chw", torch.tensor(XYZ), linear)
    low = 6 / 29
    roots = torch.where(xyz > low**3, xyz.clamp(min=low**3) ** (1 / 3), xyz / (3 * low**2) + 4 / 29)
    return torch.stack([116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])])


@lru_cache
def _gaussian(degrees: float) -> Tensor:
    deviation = PIXELS_A_DEGREE * degrees
    reach = math.ceil(REACH * deviation)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-((places / deviation) ** 2) / 2)
    return weights / weights.sum()


def as_seen(lab_3HW: Tensor) -> Tensor:
    """Returns L, a and b each blurred as an eye blurs them."""
    planes = []
    for plane, degrees in zip(lab_3HW, BLUR, strict=True):
        weights = _gaussian(degrees)
        reach = len(weights) // 2
        wide = F.pad(plane[None, None], (reach,) * 4, mode="replicate")
        rows = F.conv2d(wide, weights[None, None, :, None])
        planes.append(F.conv2d(rows, weights[None, None, None])[0, 0])
    return torch.stack(planes)


def seen_change(clean_3HW: Tensor, changed_3HW: Tensor, where_HW: Tensor) -> Tensor:
    """Returns the mean distance in CIELAB between two images as seen, over the pixels of `where`, of which there are
    some."""
    difference = as_seen(lab(changed_3HW)) - as_seen(lab(clean_3HW))
    return (difference.square().sum(dim=0) + SMALLEST).sqrt()[where_HW].mean()
