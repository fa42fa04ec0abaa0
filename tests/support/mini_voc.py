"""A miniature Pascal VOC in its own layout: crops of scikit-image's photographs, each with regions of two classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from scipy import ndimage
from skimage import color, data, filters

from tests.support.annotation_sets import full_voc_palette

CAT, PERSON = 8, 15
TRAIN = tuple(f"2007_{number:06d}" for number in range(6))
TEST = tuple(f"2008_{number:06d}" for number in range(3))


def photograph(number: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A crop of a photograph, H×W×3 uint8; every number gives another."""
    source = (data.chelsea(), data.astronaut(), data.coffee())[number % 3]
    top, left = 30 + 20 * (number // 3), 40 + 35 * (number // 3)
    return source[top : top + 4 * height : 4, left : left + 4 * width : 4][:height, :width]


def class_map(pixels: np.ndarray, label: int) -> np.ndarray:
    """`label` where the photograph is bright, 0 elsewhere, 255 along the border, as VOC has it: H×W uint8."""
    grey = ndimage.gaussian_filter(color.rgb2gray(pixels), 2)
    bright = grey > filters.threshold_otsu(grey)
    border = ndimage.binary_dilation(bright) & ~bright
    return np.where(bright, label, np.where(border, 255, 0)).astype(np.uint8)


def write_voc(root: Path, lists: bool = True) -> Path:
    """JPEGImages, SegmentationClass with VOC's palette, and its lists train and val."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(TRAIN + TEST):
        pixels = photograph(number)
        Pillow.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        label = Pillow.fromarray(class_map(pixels, (CAT, PERSON)[number % 2]))
        label.putpalette(full_voc_palette())
        label.save(root / "SegmentationClass" / f"{name}.png")
    if lists:
        for split, names in (("train", TRAIN), ("val", TEST)):
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root
