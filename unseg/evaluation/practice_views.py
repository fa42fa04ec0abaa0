"""Random views of training images as people draw them: scale, crop, flip and photometric distortion, at the images'
own scale.

The distortion is that of Mask2Former's default for Cityscapes and ADE20K (`ColorAugSSDTransform` of detectron2's
PointRend, after Liu et al., "SSD", ECCV 2016). It computes on 8-bit values and on OpenCV's 8-bit HSV, where hue
counts from 0 to 179. torchvision's functions cannot stand in: its contrast mixes with the mean grey, its brightness
multiplies, its hue is not rounded.

All randomness is drawn on the CPU from a `torch.Generator`, NUMBERS_A_VIEW numbers a view whatever the images hold,
so that runs that differ in their pixels alone see the same views.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from unseg.errors import UserError
from unseg.method.metrics import IGNORE_LABEL

SCALES = (0.5, 2.0)
FILL = 124  # grey level where a view shows no image: ImageNet's mean, which networks see as about 0
BRIGHTNESS = 32.0  # grey levels, up or down
CONTRAST, SATURATION = (0.5, 1.5), (0.5, 1.5)  # factors
HUE = 18  # of OpenCV's 180, up or down
HUES = 180
NUMBERS_A_VIEW = 13
SMALLEST_CROP, LARGEST_CROP = 32, 4096


@dataclass(frozen=True)
class Distortion:
    """How the colours of a view change. A value of None leaves that property as it is.

    brightness: added grey levels. contrast: a factor on all values. saturation: a factor. hue: added to OpenCV's hue.
    contrast_first: whether contrast changes before saturation and hue, or after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True


@dataclass(frozen=True)
class View:
    """How one image is seen. scale: factor on its sides. left, top: shares in [0, 1) of the room that the crop may
    move in."""

    scale: float
    left: float
    top: float
    flip: bool
    distortion: Distortion


def check_crop(crop: int) -> None:
    """Raises UserError where a crop has too few pixels for networks that halve their input five times, or too many."""
    if not SMALLEST_CROP <= crop <= LARGEST_CROP:
        raise UserError(f"--crop {crop}: give {SMALLEST_CROP} to {LARGEST_CROP} pixels")


def draw_practice_views(count: int, draw: torch.Generator, distort: bool = True) -> list[View]:
    """Draws `count` views. distort: whether colours change; the numbers are drawn in either case."""
    numbers = torch.rand(count, NUMBERS_A_VIEW, generator=draw, dtype=torch.float64).tolist()
    return [_view(row, distort) for row in numbers]


def _view(numbers: list[float], distort: bool) -> View:
    scale, left, top, flip, *colour = numbers
    return View(
        scale=_between(SCALES, scale),
        left=left,
        top=top,
        flip=flip < 0.5,
        distortion=_distortion(colour) if distort else Distortion(),
    )


def _distortion(numbers: list[float]) -> Distortion:
    """Returns the distortion that nine numbers in [0, 1) stand for: four coins, four values and the place of
    contrast."""
    coins, (brightness, contrast, saturation, hue, order) = numbers[:4], numbers[4:]
    return Distortion(
        brightness=_between((-BRIGHTNESS, BRIGHTNESS), brightness) if coins[0] < 0.5 else None,
        contrast=_between(CONTRAST, contrast) if coins[1] < 0.5 else None,
        saturation=_between(SATURATION, saturation) if coins[2] < 0.5 else None,
        hue=int(hue * (2 * HUE + 1)) - HUE if coins[3] < 0.5 else None,
        contrast_first=order < 0.5,
    )


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def distorted(pixels_HW3: np.ndarray, distortion: Distortion) -> np.ndarray:
    """Returns RGB pixels (uint8) with their colours changed, as a new array or the same one. Fractions are cut off,
    as there."""
    pixels = _scaled(pixels_HW3, 1.0, distortion.brightness)
    if distortion.contrast_first:
        pixels = _scaled(pixels, distortion.contrast, 0.0)
    pixels = _recoloured(pixels, distortion.saturation, distortion.hue)
    if not distortion.contrast_first:
        pixels = _scaled(pixels, distortion.contrast, 0.0)
    return pixels


def _scaled(values: np.ndarray, factor: float | None, offset: float | None) -> np.ndarray:
    """Returns values · factor + offset, limited to 0 … 255 and cut to whole numbers; the same array where one of them
    is None."""
    if factor is None or offset is None:
        return values
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(values), table)


def _recoloured(pixels_HW3: np.ndarray, saturation: float | None, hue: int | None) -> np.ndarray:
    """Changes saturation, then hue. The source turns to RGB and back in between, which rounds once more; so does
    this."""
    if saturation is not None:
        hsv = cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _scaled(hsv[..., 1], saturation, 0.0)
        pixels_HW3 = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if hue is not None:
        hsv = cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int32) + hue) % HUES
        pixels_HW3 = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return pixels_HW3


def take_view(pixels_HW3: np.ndarray, labels_HW: np.ndarray, view: View, crop: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the view of an image and its labels: crop×crop×3 and crop×crop, both uint8.

    The image is resized bilinearly, the labels to the nearest pixel centre. Where the resized image is smaller than
    the crop it lies at the top left; the rest has the value FILL and the label 255.
    """
    height, width = (max(1, round(side * view.scale)) for side in labels_HW.shape)
    top, left = int(view.top * (max(0, height - crop) + 1)), int(view.left * (max(0, width - crop) + 1))
    rows, columns = slice(top, top + crop), slice(left, left + crop)
    seen = cv2.resize(pixels_HW3, (width, height), interpolation=cv2.INTER_LINEAR)[rows, columns]
    known = cv2.resize(labels_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)[rows, columns]
    if view.flip:
        seen, known = seen[:, ::-1], known[:, ::-1]
    seen = distorted(np.ascontiguousarray(seen), view.distortion)
    image = np.full((crop, crop, 3), FILL, np.uint8)
    labels = np.full((crop, crop), IGNORE_LABEL, np.uint8)
    image[: seen.shape[0], : seen.shape[1]] = seen
    labels[: known.shape[0], : known.shape[1]] = known
    return image, labels
