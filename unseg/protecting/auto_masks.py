"""The foreground of a photograph as proposals, one an object, from how sure a network is of each pixel.

Nothing here reads a file or knows a network: the command keeps what is proposed as masks, a page can show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SURE, OBJECT = 230, 128  # of 255: pixels that are foreground for certain, and that belong to it
LEAST_SURE = 0.5  # of the foreground's pixels: below it, the network guesses
LEAST_SHARE, MOST_SHARE = 0.002, 0.95  # of the image's pixels
SMALLEST_PART = 0.1  # of the largest object's sure pixels: smaller parts are specks, or belong to a larger one
MOST_OBJECTS = 7  # that are told apart
LEVEL_STEP = 20  # grey levels between two objects in a mask: the seventh has 135, which is above 127

Network = Callable[[np.ndarray], np.ndarray]
"""image (H×W×3 uint8 RGB) → how sure it is that each pixel is foreground, H×W uint8."""


@dataclass(frozen=True)
class Proposal:
    """One object that a network sees.

    mask: H×W bool. box: XYXY in pixels, corners inclusive. share: of the image's pixels, 0 to 1.
    """

    mask_HW: np.ndarray
    box: tuple[int, int, int, int]
    share: float


@dataclass(frozen=True)
class Foreground:
    """The objects that a network sees in an image, the largest first, in pieces that do not overlap.

    unclear: why there is none; None where there are some.
    """

    proposals: tuple[Proposal, ...]
    unclear: str | None = None

    def numbers(self, height: int, width: int) -> np.ndarray:
        """Returns the number of the object that each pixel belongs to, H×W uint8 from 1 on; 0: to none."""
        numbers_HW = np.zeros((height, width), np.uint8)
        for number, proposal in enumerate(self.proposals, 1):
            numbers_HW[proposal.mask_HW] = number
        return numbers_HW

    def levels(self, height: int, width: int) -> np.ndarray:
        """Returns the mask that people look at and change, H×W uint8: 0 where no object is, 255 on the first one, and
        20 less on each further one, so that any of them can be filled with black at a click. Above 127 is object.
        """
        levels = np.arange(256) * -LEVEL_STEP + (255 + LEVEL_STEP)
        levels[0] = 0
        return levels.clip(0, 255).astype(np.uint8)[self.numbers(height, width)]


def propose(image_HW3: np.ndarray, network: Network) -> Foreground:
    """Returns the objects that a network sees in an image, H×W×3 uint8 RGB; see `foreground_of`."""
    return foreground_of(network(image_HW3))


def foreground_of(sureness_HW: np.ndarray) -> Foreground:
    """Returns the objects of an image from how sure a network is of each pixel, H×W uint8.

    Networks as rembg has them stretch their answer to the whole range, so that even a wall has a surest pixel. So it is
    the form of the answer that tells: a foreground is clear where at least half of its pixels are sure (0.9), and it is
    neither a speck nor the whole image. Several objects are several connected parts of sure pixels, each at least a
    tenth of the largest one: two people count as two also where a strip of unsure pixels joins them, and a hand that a
    strap cuts off counts as a part of its owner. Pixels that belong to the foreground go to the nearest of these
    parts that they are connected with; what is connected with none is left out.
    """
    belongs_HW, sure_HW = sureness_HW >= OBJECT, sureness_HW >= SURE
    size = max(sureness_HW.size, 1)
    sure, foreground = int(sure_HW.sum()), int(belongs_HW.sum())
    if not sure or sure < LEAST_SHARE * size:
        return Foreground((), "nothing stands out")
    if foreground > MOST_SHARE * size:
        return Foreground((), "nothing is background")
    if sure < LEAST_SURE * foreground:
        return Foreground((), f"only {sure / foreground:.0%} of what stands out does so clearly")
    owners_HW = _owners(belongs_HW, sure_HW)
    parts = (_proposal(owners_HW == number) for number in range(1, int(owners_HW.max()) + 1))
    found = sorted(parts, key=lambda part: (-part.share, part.box))
    return Foreground(tuple(found))


def _owners(belongs_HW: np.ndarray, sure_HW: np.ndarray) -> np.ndarray:
    """Returns the number of the object that each pixel belongs to, H×W int32 from 1 on; 0: to none."""
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(sure_HW.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # of what is not sure
    kept = [
        part for part in np.argsort(-areas, kind="stable")[:MOST_OBJECTS] if areas[part] >= SMALLEST_PART * areas.max()
    ]
    numbers = np.zeros(len(areas), np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    cores_HW = numbers[labels_HW]
    count, regions_HW = cv2.connectedComponents(belongs_HW.astype(np.uint8), connectivity=8)
    reached = np.zeros(count, bool)
    reached[regions_HW[cores_HW > 0]] = True
    reached[0] = False
    nearest_HW = _nearest(cores_HW)
    return np.where(reached[regions_HW], nearest_HW, 0)


def _nearest(cores_HW: np.ndarray) -> np.ndarray:
    """Returns the number of the nearest core for every pixel, H×W int32."""
    _, ways_HW = cv2.distanceTransformWithLabels(
        (cores_HW == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    numbers = np.zeros(int(ways_HW.max()) + 1, np.int32)
    on_core = cores_HW > 0
    numbers[ways_HW[on_core]] = cores_HW[on_core]
    return numbers[ways_HW]


def _proposal(mask_HW: np.ndarray) -> Proposal:
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return Proposal(mask_HW, box, float(mask_HW.mean()))
