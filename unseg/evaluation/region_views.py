"""Views of images that networks of regions and prompted networks see, with the regions in them.

A view is drawn in one of two ways: of whole images that are scaled to the training size, or as people train, at the
images' own scale (`unseg.evaluation.practice_views`). Shapes: H×W an image's own size or that of a view, N regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from unseg.evaluation.augmentation import draw_colours, recoloured, standardised
from unseg.evaluation.coco_metrics import TrueRegion, decode, encode
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.practice_views import Distortion, distorted, draw_practice_views
from unseg.evaluation.practice_views import View as PracticeView
from unseg.victims.targets import Targets

ViewOf = Callable[[tuple[int, int]], "View"]  # from an image's width and height to its view
ZOOM = (0.7, 1.6)  # a view's magnification over "the whole image fits", log-uniform
GEOMETRY_DRAWS = 4  # random numbers a view: flip, zoom, shift across and down
STRIDE = 32  # pixels: views of images at their own size are padded to a multiple of it


@dataclass(frozen=True)
class View:
    """How an image becomes a view of `size` (width, height).

    It is scaled to `content` (width, height), flipped or not, and seen through a window at (left, top). What the window
    has beyond the content is empty, to the right and below. colour: factors of brightness, contrast and saturation and
    a shift of the hue; None: colours stay. distortion: the same as people draw it, at most one of the two. smooth:
    whether pixels are averaged where the image shrinks.
    """

    size: tuple[int, int]
    content: tuple[int, int]
    flip: bool = False
    left: int = 0
    top: int = 0
    colour: tuple[float, float, float, float] | None = None
    distortion: Distortion | None = None
    smooth: bool = True

    @property
    def filled(self) -> tuple[int, int]:
        """Returns the columns and rows of the view that show the image."""
        return min(self.size[0], self.content[0] - self.left), min(self.size[1], self.content[1] - self.top)

    def shown(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the window over the scaled image (or a soft mask), its filled part alone."""
        shrinks = self.smooth and self.content[0] < pixels.shape[1]
        return self.place(pixels, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def place(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        """Returns the window over the scaled image, its filled part alone."""
        scaled = cv2.resize(pixels, self.content, interpolation=interpolation)
        if self.flip:
            scaled = cv2.flip(scaled, 1)
        columns, rows = self.filled
        return scaled[self.top : self.top + rows, self.left : self.left + columns]


def size_of(pixels: np.ndarray) -> tuple[int, int]:
    """Returns the width and height of an image or mask, H×W or H×W×3."""
    height, width = pixels.shape[:2]
    return width, height


def whole(size: tuple[int, int], image_size: tuple[int, int], zoom: float = 1.0) -> tuple[int, int]:
    """Returns the width and height of an image (width, height) that fits into `size`, its shape kept, times `zoom`."""
    fit = min(size[0] / image_size[0], size[1] / image_size[1]) * zoom
    return max(1, round(image_size[0] * fit)), max(1, round(image_size[1] * fit))


def draw_view(
    draws: Sequence[float],
    image_size: tuple[int, int],
    *,
    size: tuple[int, int],
    colour: tuple[float, float, float, float] | None,
) -> View:
    """Returns a random view.

    draws: GEOMETRY_DRAWS numbers in [0, 1). colour: as `unseg.evaluation.augmentation.recoloured` takes it.
    """
    flip, zoom, across, down = draws
    content = whole(size, image_size, math.exp(math.log(ZOOM[0]) + zoom * math.log(ZOOM[1] / ZOOM[0])))
    spare = (max(0, content[0] - size[0]), max(0, content[1] - size[1]))
    return View(size, content, flip < 0.5, int(across * (spare[0] + 1)), int(down * (spare[1] + 1)), colour)


def practice_view(view: PracticeView, crop: int, image_size: tuple[int, int]) -> View:
    """Returns a view as people train: `crop` × `crop` pixels of an image (width, height) that is scaled from its own
    size."""
    width, height = (max(1, round(side * view.scale)) for side in image_size)
    room = max(0, width - crop), max(0, height - crop)
    left, top = int(view.left * (room[0] + 1)), int(view.top * (room[1] + 1))
    if view.flip:  # the window is chosen before it is flipped, here after
        left = room[0] - left
    content = (width, height)
    return View((crop, crop), content, view.flip, left, top, distortion=view.distortion, smooth=False)


def drawn_views(count: int, draw: torch.Generator, options: LearnerOptions, size: tuple[int, int]) -> list[ViewOf]:
    """Returns `count` random views: as people train where the options say how, else of whole images at `size`.

    All randomness comes from `draw`, on the CPU, in an amount that depends on `count` alone.
    """
    practice = options.practice
    if practice is not None:
        views = draw_practice_views(count, draw, practice.distort)
        return [partial(practice_view, view, practice.crop) for view in views]
    draws = torch.rand(count, GEOMETRY_DRAWS, generator=draw).tolist()
    colours = draw_colours(count, draw).tolist() if options.colour_jitter else [None] * count
    return [partial(draw_view, one, size=size, colour=colour) for one, colour in zip(draws, colours, strict=True)]


def test_view(image_size: tuple[int, int], options: LearnerOptions) -> View:
    """Returns the view of a whole test image: at its own size, padded to a multiple of STRIDE, where networks are
    trained as people train; else fitted into the training size."""
    if options.practice is None:
        return View(options.size, whole(options.size, image_size))
    width, height = image_size
    return View((width + -width % STRIDE, height + -height % STRIDE), image_size)


def reduced(
    pixels_HW3: np.ndarray, regions: Sequence[TrueRegion], size: tuple[int, int]
) -> tuple[np.ndarray, list[TrueRegion]]:
    """Returns an image and its regions no larger than the largest view of `size` shows them; smaller ones as they
    are.
    """
    content = whole(size, size_of(pixels_HW3), ZOOM[1])
    if content[0] >= pixels_HW3.shape[1]:
        return pixels_HW3, list(regions)
    masks = [
        cv2.resize(decode(region.mask).astype(np.uint8), content, interpolation=cv2.INTER_NEAREST_EXACT)
        for region in regions
    ]
    return (
        cv2.resize(pixels_HW3, content, interpolation=cv2.INTER_AREA),
        [
            TrueRegion(region.label, region.crowd, encode(mask))
            for region, mask in zip(regions, masks, strict=True)
            if mask.any()
        ],
    )


def view_pixels(pixels_HW3: np.ndarray, view: View) -> torch.Tensor:
    """Returns the normalised view of an H×W×3 uint8 image: 3×H×W float32; 0, the mean colour, where it is not
    filled.
    """
    shown = view.shown(pixels_HW3)
    if view.distortion is not None:
        shown = distorted(np.ascontiguousarray(shown), view.distortion)
    plain = torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1)[None].to(torch.float32) / 255
    if view.colour is not None:
        plain = recoloured(plain, torch.tensor([view.colour]))
    image = torch.zeros(3, view.size[1], view.size[0])
    image[:, : shown.shape[0], : shown.shape[1]] = standardised(plain.permute(0, 2, 3, 1))[0]
    return image


def view_targets(regions: Sequence[TrueRegion], view: View) -> Targets:
    """Returns the regions of a view. Crowds are left out, and so is what the window or the scaling leaves no pixel
    of.
    """
    labels, masks = [], []
    for region in regions:
        if region.crowd:
            continue
        shown = view.place(decode(region.mask).astype(np.uint8), cv2.INTER_NEAREST_EXACT)
        if shown.any():
            mask = np.zeros(view.size[::-1], bool)
            mask[: shown.shape[0], : shown.shape[1]] = shown
            labels.append(region.label)
            masks.append(mask)
    stacked = np.stack(masks) if masks else np.zeros((0, *view.size[::-1]), bool)
    return Targets(
        torch.tensor(labels, dtype=torch.int64), torch.from_numpy(stacked), torch.from_numpy(tight_boxes(stacked))
    )


def tight_boxes(masks_NHW: np.ndarray) -> np.ndarray:
    """Returns the smallest boxes around masks that are not empty, N×4 float32 XYXY.

    Right and lower edges lie behind the last pixel.
    """
    boxes = np.zeros((len(masks_NHW), 4), np.float32)
    for box, mask in zip(boxes, masks_NHW, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def restore(probabilities_NHW: torch.Tensor, view: View, image_size: tuple[int, int]) -> torch.Tensor:
    """Returns maps of a view of the whole image (N×h×w, of any size over the view's frame), on the image itself:
    N×H×W.
    """
    columns, rows = view.filled
    frame = F.interpolate(probabilities_NHW[None], view.size[::-1], mode="bilinear", align_corners=False)
    return F.interpolate(frame[..., :rows, :columns], image_size[::-1], mode="bilinear", align_corners=False)[0]
