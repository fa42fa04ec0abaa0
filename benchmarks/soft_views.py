"""What happens to published images before a network learns from them, with gradients for the noise in them.

Every function returns exactly what the ordinary code returns (8-bit values, libjpeg, OpenCV), and its gradient is that
of a smooth stand-in: "straight through" (Bengio et al., "Estimating or Propagating Gradients Through Stochastic
Neurons", 2013). Pixels are float32 in grey levels, 0 to 255. Shapes: H×W an image or a part of one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.evaluation.conditions import reencoded
from unseg.evaluation.practice_views import FILL, Distortion, View, distorted
from unseg.method.metrics import IGNORE_LABEL
from unseg.method.pixels import LUMINANCE

BLOCK, MCU = 8, 16  # sides of what JPEG transforms, and of what it stores together with halved colours
# Quantisation of quality 50, ITU-T T.81, tables K.1 and K.2.
BRIGHTNESS_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR_STEPS = (
    (17, 18, 24, 47),
    (18, 21, 26, 66),
    (24, 26, 56, 99),
    (47, 66, 99, 99),
)
COLOUR_REST = 99  # the entries of the larger table beyond those
# RGB → YCbCr of JFIF 1.02, without its offset of 128.
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
SMALLEST_CHROMA = 1e-3  # grey levels: below it a pixel has no hue


def through(soft: Tensor, exact: Tensor) -> Tensor:
    """Returns `exact` with the gradient of `soft`."""
    return soft + (exact - soft).detach()


def eight_bit(pixels: Tensor) -> Tensor:
    """Returns whole grey levels from 0 to 255; gradients pass rounding, but not the ends."""
    inside = pixels.clamp(0, 255)
    return through(inside, inside.round())


def as_pixels(image_3HW: Tensor) -> np.ndarray:
    """Returns whole grey levels as H×W×3 uint8."""
    return np.ascontiguousarray(image_3HW.detach().permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())


def _from_pixels(pixels_HW3: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1))).float()


# --- JPEG


def jpeg(image_3HW: Tensor, quality: int) -> Tensor:
    """Returns an image of whole grey levels as JPEG of that quality with halved colours leaves it."""
    height, width = image_3HW.shape[1:]
    whole = F.pad(image_3HW[None], (0, -width % MCU, 0, -height % MCU), mode="replicate")[0]
    soft = soft_jpeg(whole, quality)[:, :height, :width]
    return through(soft, _from_pixels(reencoded(as_pixels(image_3HW), quality)))


def soft_jpeg(image_3HW: Tensor, quality: int) -> Tensor:
    """Returns JPEG computed in floats, without limits to 8 bits: colours halved by means, then each 8×8 block's cosine
    transform, quantised. H and W are multiples of 16.

    Where a coefficient is rounded to zero, its gradient is weighed by how near it was to staying: what JPEG removes for
    certain has none, and what it nearly keeps has nearly all.
    """
    matrix = torch.tensor(YCC)
    brightness, *colours = torch.einsum("cd,dhw->chw", matrix, image_3HW)
    kept = [_quantised(brightness - 128, quality, "brightness") + 128]
    for colour in colours:
        half = F.avg_pool2d(colour[None], 2)[0]
        back = F.interpolate(
            _quantised(half, quality, "colour")[None, None], scale_factor=2, mode="bilinear", align_corners=False
        )
        kept.append(back[0, 0])
    return torch.einsum("cd,dhw->chw", torch.linalg.inv(matrix), torch.stack(kept))


def _quantised(plane_HW: Tensor, quality: int, kind: str) -> Tensor:
    height, width = plane_HW.shape
    basis, steps = cosine_basis(), quantisation(quality, kind)
    blocks = plane_HW.view(height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(1, 2)
    coefficients = (basis @ blocks @ basis.T) / steps
    rounded = coefficients.detach().round()
    # A coefficient under a half is removed; its gradient rises from 0 at 0 to all at a half.
    weight = torch.where(rounded == 0, (2 * coefficients.detach().abs()).clamp(max=1), torch.ones(()))
    kept = through(coefficients * weight, rounded) * steps
    return (basis.T @ kept @ basis).transpose(1, 2).reshape(height, width)


@lru_cache
def cosine_basis() -> Tensor:
    """Returns the orthonormal cosine transform of type II as a matrix, 8×8: its rows are the waves."""
    waves = torch.arange(BLOCK, dtype=torch.float64)[:, None]
    places = torch.arange(BLOCK, dtype=torch.float64)[None]
    basis = torch.cos(math.pi * waves * (2 * places + 1) / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()


@lru_cache
def quantisation(quality: int, kind: str) -> Tensor:
    """Returns the steps of coefficients, 8×8, as libjpeg scales them. kind: brightness or colour."""
    table = torch.full((BLOCK, BLOCK), float(COLOUR_REST))
    if kind == "brightness":
        table = torch.tensor(BRIGHTNESS_STEPS, dtype=torch.float32)
    else:
        table[:4, :4] = torch.tensor(COLOUR_STEPS)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((table * scale + 50) / 100).floor().clamp(1, 255)


# --- views


def span_of(first: int, count: int, length: int, scaled: int) -> tuple[int, int]:
    """Returns which source pixels, from and up to, the pixels first … first + count − 1 of a resized side look at.

    The span begins and ends at multiples of 16 pixels, or at the side's end.
    """
    factor = length / scaled
    low = max(0, math.floor((first + 0.5) * factor - 0.5))
    high = min(length, math.floor((first + count - 0.5) * factor - 0.5) + 2)
    return low // MCU * MCU, min(length, -(-high // MCU) * MCU)


class Sight:
    """A view of an image: which part of the source it shows, and how.

    height, width: of the source. rows, columns: the part of the source that the view depends on. crop: the view's side.
    """

    def __init__(self, height: int, width: int, view: View, crop: int) -> None:
        self.view, self.crop, self.source = view, crop, (height, width)
        self.scaled = tuple(max(1, round(side * view.scale)) for side in (height, width))
        shares = (view.top, view.left)
        pairs = list(zip(self.scaled, shares, strict=True))
        self.first = tuple(int(share * (max(0, side - crop) + 1)) for side, share in pairs)
        self.shown = tuple(min(crop, side) for side in self.scaled)
        spans = [span_of(*four) for four in zip(self.first, self.shown, self.source, self.scaled, strict=True)]
        self.rows, self.columns = (slice(*span) for span in spans)

    def labels(self, labels_HW: np.ndarray) -> np.ndarray:
        """Returns the labels that the view shows, crop×crop, 255 where it shows no image."""
        rows, columns = (self._nearest(axis) for axis in (0, 1))
        seen = labels_HW[np.ix_(rows, columns)]
        seen = seen[:, ::-1] if self.view.flip else seen
        labels = np.full((self.crop, self.crop), IGNORE_LABEL, np.uint8)
        labels[: seen.shape[0], : seen.shape[1]] = seen
        return labels

    def _nearest(self, axis: int) -> np.ndarray:
        places = np.arange(self.first[axis], self.first[axis] + self.shown[axis]) + 0.5
        return np.floor(places * self.source[axis] / self.scaled[axis]).astype(np.int64)

    def image(self, part_3HW: Tensor) -> Tensor:
        """Returns the view, 3×crop×crop in whole grey levels. part: the pixels of `rows` and `columns`."""
        places = [self._places(axis, part_3HW.shape[1 + axis]) for axis in (0, 1)]
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], dim=-1)[None]
        seen = F.grid_sample(part_3HW[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
        seen = seen.flip(2) if self.view.flip else seen
        seen = recoloured(eight_bit(seen), self.view.distortion)
        rest = (0, self.crop - seen.shape[2], 0, self.crop - seen.shape[1])
        return F.pad(seen, rest, value=FILL)

    def _places(self, axis: int, length: int) -> Tensor:
        """Returns where the view's pixels lie in the part of the source, from −1 to 1 between its ends."""
        start = (self.rows, self.columns)[axis].start
        steps = torch.arange(self.shown[axis], dtype=torch.float64) + self.first[axis] + 0.5
        return ((steps * self.source[axis] / self.scaled[axis] - start) * 2 / length - 1).float()


# --- colours


def recoloured(image_3HW: Tensor, distortion: Distortion) -> Tensor:
    """Returns what `distorted` makes of whole grey levels."""
    return through(soft_recoloured(image_3HW, distortion), _from_pixels(distorted(as_pixels(image_3HW), distortion)))


def soft_recoloured(image_3HW: Tensor, distortion: Distortion) -> Tensor:
    """Returns the distortion computed in floats, whose gradient that of `recoloured` is."""
    if distortion.brightness is not None:
        image_3HW = (image_3HW + distortion.brightness).clamp(0, 255)
    if distortion.contrast is not None and distortion.contrast_first:
        image_3HW = (image_3HW * distortion.contrast).clamp(0, 255)
    if distortion.saturation is not None:
        image_3HW = _saturated(image_3HW, distortion.saturation)
    if distortion.hue is not None:
        image_3HW = _turned(image_3HW, distortion.hue / 30)  # OpenCV's hue has 180 for a circle, this one 6
    if distortion.contrast is not None and not distortion.contrast_first:
        image_3HW = (image_3HW * distortion.contrast).clamp(0, 255)
    return image_3HW


def _saturated(image_3HW: Tensor, factor: float) -> Tensor:
    """Returns an image whose saturation in HSV is multiplied, up to 1; hue and value stay."""
    value = image_3HW.amax(dim=0, keepdim=True)
    chroma = value - image_3HW.amin(dim=0, keepdim=True)
    most = value.detach() / chroma.detach().clamp(min=SMALLEST_CHROMA)
    return value - (value - image_3HW) * most.clamp(max=factor)


def _turned(image_3HW: Tensor, turn: float) -> Tensor:
    """Returns an image whose hue in HSV is turned by a number of sixths of a circle."""
    red, green, blue = image_3HW
    value = image_3HW.amax(dim=0)
    chroma = value - image_3HW.amin(dim=0)
    safe = chroma.clamp(min=SMALLEST_CHROMA)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    planes = []
    for start in (5.0, 3.0, 1.0):
        sector = torch.remainder(start + hue + turn, 6)
        planes.append(value - chroma * torch.minimum(sector, 4 - sector).clamp(0, 1))
    return torch.stack(planes)


def grey(image_3HW: Tensor) -> Tensor:
    """Returns an image without its colours, as ITU-R BT.601 weighs them."""
    weights = torch.tensor(LUMINANCE)[:, None, None]
    return eight_bit((image_3HW * weights).sum(dim=0, keepdim=True).expand(3, -1, -1))
