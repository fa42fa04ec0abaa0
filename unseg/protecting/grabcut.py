"""Boxes and points to outlines: GrabCut (Rother et al., SIGGRAPH 2004) on a small copy of what they show.

The work on one box or one set of points is bounded: whatever the image's size, at most about WORK_SIDE² pixels are
segmented. Nothing here is random: colour models start from the pixels' order along their main direction, so that the
same pixels give the same outline in any thread and after any other image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unseg.data.masks import box_spans
from unseg.protecting.points import Points
from unseg.storage.image_decoding import eight_bit_rgb

WORK_SIDE = 320  # pixels: while it is segmented, the side of a square as large as a box, the long side of an image
MOST_SLENDER = 4  # times WORK_SIDE: the long side of a box
MARGIN = 0.5  # of a box's sides: how far around it the background is looked at
LEAST_MARGIN = 8  # pixels
CORE = 0.15  # of a box's half sides: the ellipse in its middle that is object for sure
BOX_ROUNDS, POINT_ROUNDS = 3, 2  # at most
SETTLED = 0.005  # of the pixels: after a round that moves fewer, another one moves hardly any, and takes as long
LEAST_SHARE = 0.1  # of a box's area that an outline fills
LEAST_SPAN = 0.5  # of a box's height and of its width that an outline reaches over
SEED_RADIUS = 0.015  # of the long side: the disc around a point that is as the point says
REACHES = (1.0, 0.6, 0.35)  # of the way to the background: up to there from the points a pixel is probably object
LEAKED = 0.05  # of the image's border: an outline that takes more is tried with the next reach
FLAT_COST = 0.5  # CIE Lab units a pixel: what a way costs where colours do not change
MOST_SWEEPS = 24  # along rows and columns, there and back: a way may have as many bends
SPECK = 0.05  # of the largest part's area: smaller parts are left out
SMALLEST_HOLE = 0.02  # of an outline's area: smaller holes are filled

CLUSTERS = 4
SAMPLES = 4096  # pixels at most that a colour model is made of
LEAST_VARIANCE = 4.0  # grey levels squared, of a cluster in any direction
STRAY_SHARE, STRAY_VARIANCE = 0.01, 128.0**2  # of the cluster for colours that fit no other


def outline_of_boxes(samples_HWC: np.ndarray, boxes_N4: Sequence[Sequence[float]]) -> tuple[np.ndarray, int]:
    """Returns the union of the objects in boxes, H×W bool, and how many boxes are filled since none was found in them.

    samples: H×W×3 RGB or H×W×1 grey, uint8 or uint16. boxes: XYXY in pixels, corners inclusive. An object lies inside
    its box. Boxes that lie outside the image count as neither.
    """
    height, width = samples_HWC.shape[:2]
    union_HW, filled = np.zeros((height, width), bool), 0
    for rows, columns in box_spans(boxes_N4, height, width):
        found = _outline_in(samples_HWC, rows, columns)
        filled += found is None
        union_HW[rows, columns] |= True if found is None else found
    return union_HW, filled


def outline_around(samples_HWC: np.ndarray, points: Points) -> np.ndarray | None:
    """Returns the object that points show, H×W bool; None where that is the points alone, or the whole image.

    samples: as for boxes. points: in pixels; at least one of the object's must lie on the image.
    """
    height, width = samples_HWC.shape[:2]
    view = _View.of(samples_HWC, slice(0, height), slice(0, width), max(height, width))
    inside = points.inside(height, width)
    on, off = view.discs(inside.object), view.discs(inside.background)
    off &= ~on
    to_points, to_ground = _ways(view.pixels, on, off)
    for reach in REACHES:
        marks = np.where(to_points < reach * to_ground, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        marks[on], marks[off] = cv2.GC_FGD, cv2.GC_BGD
        found = _without_holes(_touching(_segmented(view.pixels, marks, POINT_ROUNDS), on))
        if _border_of(found).mean() <= LEAKED:
            break
    if found.sum() <= 2 * on.sum() or found.all():
        return None
    return view.enlarged(found)


@dataclass(frozen=True)
class _View:
    """A small copy of a part of an image. rows, columns: the part, H×W. pixels: h×w×3 uint8."""

    pixels: np.ndarray
    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        """Returns the height and width of the part."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @staticmethod
    def of(samples_HWC: np.ndarray, rows: slice, columns: slice, side: float) -> _View:
        """Returns a part so small that `side` of its pixels become at most WORK_SIDE."""
        part = samples_HWC[rows, columns]
        scale = min(1.0, WORK_SIDE / side)
        height, width = (max(1, round(length * scale)) for length in part.shape[:2])
        small = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_AREA)
        return _View(eight_bit_rgb(small.reshape(height, width, -1)), rows, columns)

    def reduced(self, box: tuple[slice, slice]) -> np.ndarray:
        """Returns rows and columns of the part as the view shows them, h×w bool: a pixel is on where half of it is."""
        inside = np.zeros(self.size, np.uint8)
        inside[box] = 255
        height, width = self.pixels.shape[:2]
        return cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA) > 127

    def enlarged(self, mask_hw: np.ndarray) -> np.ndarray:
        """Returns a mask of the view as one of the part, H×W bool, with smooth edges."""
        height, width = self.size
        return cv2.resize(mask_hw.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR) > 127

    def discs(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        """Returns the pixels of the view around points of the image, h×w bool."""
        height, width = self.pixels.shape[:2]
        drawn = np.zeros((height, width), np.uint8)
        for x, y in points:
            column = int((x + 0.5 - self.columns.start) * width / (self.columns.stop - self.columns.start))
            row = int((y + 0.5 - self.rows.start) * height / (self.rows.stop - self.rows.start))
            cv2.circle(
                drawn, (min(column, width - 1), min(row, height - 1)), round(SEED_RADIUS * max(height, width)), 1, -1
            )
        return drawn > 0


# --- boxes


def _outline_in(samples_HWC: np.ndarray, rows: slice, columns: slice) -> np.ndarray | None:
    """Returns the object in a box of these rows and columns, as a mask of the box, H×W bool; None if none is found."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    around = (_widened(rows, samples_HWC.shape[0]), _widened(columns, samples_HWC.shape[1]))
    view = _View.of(samples_HWC, *around, max(math.sqrt(height * width), max(height, width) / MOST_SLENDER))
    inside = (_from(rows, around[0].start), _from(columns, around[1].start))
    box = view.reduced(inside)
    if not box.any():
        return None
    found = _touching(_segmented(view.pixels, _marks_of(box), BOX_ROUNDS), box)
    mask_HW = view.enlarged(_without_holes(found))[inside]
    if mask_HW.sum() < LEAST_SHARE * height * width:
        return None
    spans = _extents(mask_HW)
    if any(span.stop - span.start < LEAST_SPAN * side for span, side in zip(spans, (height, width), strict=True)):
        return None
    return mask_HW


def _extents(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns from the first to the last row, and from the first to the last column, that a mask reaches over."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _from(part: slice, start: int) -> slice:
    """Returns a part as counted from `start`."""
    return slice(part.start - start, part.stop - start)


def _widened(part: slice, length: int) -> slice:
    margin = max(LEAST_MARGIN, round(MARGIN * (part.stop - part.start)))
    return slice(max(0, part.start - margin), min(length, part.stop + margin))


def _marks_of(box_hw: np.ndarray) -> np.ndarray:
    """Returns what GrabCut begins with: an ellipse in the box is probably object, its middle surely."""
    rows, columns = _extents(box_hw)
    down = np.abs(np.arange(box_hw.shape[0]) - (rows.start + rows.stop - 1) / 2) / ((rows.stop - rows.start) / 2)
    across = np.abs(np.arange(box_hw.shape[1]) - (columns.start + columns.stop - 1) / 2) / (
        (columns.stop - columns.start) / 2
    )
    distance = np.hypot(down[:, None], across[None])
    marks = np.where(box_hw, np.where(distance <= 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD).astype(np.uint8)
    marks[box_hw & (distance <= CORE)] = cv2.GC_FGD
    return marks


# --- points


def _border_of(mask_hw: np.ndarray) -> np.ndarray:
    """Returns the values of a mask along its border."""
    return np.concatenate([mask_hw[0], mask_hw[-1], mask_hw[:, 0], mask_hw[:, -1]])


def _ways(pixels_hw3: np.ndarray, on_hw: np.ndarray, off_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how far each pixel is from the object's points, and from the image's border or the background's points.

    Ways are measured by the changes of colour along them (the geodesic distance of Bai and Sapiro, IJCV 2009): a border
    of the image is more often background than not.
    """
    smooth = cv2.GaussianBlur(pixels_hw3, (0, 0), 1.0)
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    border = off_hw.copy()
    border[[0, -1]] = border[:, [0, -1]] = True
    return _distances(lab, on_hw), _distances(lab, border & ~on_hw)


def _distances(lab_hw3: np.ndarray, from_hw: np.ndarray) -> np.ndarray:
    """Returns the cost of the cheapest way from the marked pixels to every other, over sides of pixels."""
    across = _steps(lab_hw3)
    down = _steps(lab_hw3.transpose(1, 0, 2))
    cost = np.where(from_hw, 0.0, np.inf)
    for _ in range(MOST_SWEEPS):
        before = cost
        cost = _swept(_swept(cost, across).T, down).T
        if np.array_equal(cost, before):
            break
    return cost


def _steps(lab_hw3: np.ndarray) -> np.ndarray:
    """Returns what the way along each row costs from its first pixel, h×w."""
    steps = np.linalg.norm(np.diff(lab_hw3.astype(np.float64), axis=1), axis=2) + FLAT_COST
    return np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))


def _swept(cost_hw: np.ndarray, along_hw: np.ndarray) -> np.ndarray:
    """Returns the costs after all ways along rows, in both directions."""
    right = along_hw + np.minimum.accumulate(cost_hw - along_hw, axis=1)
    left = np.minimum.accumulate((cost_hw + along_hw)[:, ::-1], axis=1)[:, ::-1] - along_hw
    return np.minimum(cost_hw, np.minimum(right, left))


# --- segmenting


def _segmented(pixels_hw3: np.ndarray, marks_hw: np.ndarray, rounds: int) -> np.ndarray:
    """Returns the object that GrabCut finds from marks, h×w bool.

    OpenCV's own colour models let its graph cut run for ever where a colour is so far from every cluster that its
    probability becomes 0. So they are made here, with a cluster for stray colours, and OpenCV only cuts.
    """
    marks = marks_hw.copy()
    if not (marks & 1 == 0).any():  # no background
        marks[[0, -1]] = marks[:, [0, -1]] = cv2.GC_PR_BGD
    for _ in range(rounds if marks.size > 1 else 0):  # one pixel has no neighbour to be cut from
        before = marks.copy()
        on = marks & 1 == 1  # GC_FGD is 1, GC_PR_FGD 3
        background, thing = _colour_model(pixels_hw3[~on]), _colour_model(pixels_hw3[on])
        cv2.grabCut(pixels_hw3, marks, (0, 0, 1, 1), background, thing, 1, cv2.GC_EVAL_FREEZE_MODEL)  # no rectangle
        if (marks & 1 != before & 1).mean() < SETTLED:
            break
    return marks & 1 == 1


def _colour_model(pixels_N3: np.ndarray) -> np.ndarray:
    """Returns clusters of colours as cv2.grabCut takes them: 1×65, five weights, five means, five covariances."""
    weights, means, covariances = np.zeros(5), np.full((5, 3), 127.5), np.tile(np.eye(3) * STRAY_VARIANCE, (5, 1, 1))
    weights[CLUSTERS] = STRAY_SHARE
    samples = pixels_N3[:: max(1, len(pixels_N3) // SAMPLES)].astype(np.float32)
    for number, members in enumerate(_clusters(samples)):
        weights[number] = (1 - STRAY_SHARE) * len(members) / len(samples)
        means[number] = members.mean(axis=0)
        centred = members - means[number]
        covariances[number] = centred.T @ centred / len(members) + np.eye(3) * LEAST_VARIANCE
    weights /= weights.sum()
    return np.concatenate([weights, means.ravel(), covariances.ravel()])[None]


def _clusters(samples_N3: np.ndarray) -> list[np.ndarray]:
    """Returns colours in at most CLUSTERS groups by k-means, which starts from their order along the main direction."""
    count = min(CLUSTERS, len(samples_N3))
    if count < 2:
        return [samples_N3] if count else []
    centred = samples_N3 - samples_N3.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(centred @ direction, kind="stable")
    labels = np.empty((len(order), 1), np.int32)
    labels[order, 0] = np.arange(len(order)) * count // len(order)
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 10, 1.0)
    _, found, _ = cv2.kmeans(samples_N3, count, labels, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    groups = [samples_N3[found[:, 0] == number] for number in range(count)]
    return [group for group in groups if len(group)]


def _touching(mask_hw: np.ndarray, seeds_hw: np.ndarray) -> np.ndarray:
    """Returns the connected parts of a mask that touch the seeds, without specks."""
    smooth = cv2.medianBlur(mask_hw.astype(np.uint8), 3)
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(smooth, connectivity=8)
    areas = facts[:, cv2.CC_STAT_AREA].astype(np.int64)
    areas[0] = 0  # what is not the mask
    touched = np.zeros(len(areas), bool)
    touched[np.unique(numbers[seeds_hw])] = True
    kept = touched & (areas > SPECK * areas.max())
    return kept[numbers]


def _without_holes(mask_hw: np.ndarray) -> np.ndarray:
    """Returns a mask whose small holes are filled."""
    _, numbers, facts, _ = cv2.connectedComponentsWithStats((~mask_hw).astype(np.uint8), connectivity=4)
    small = facts[:, cv2.CC_STAT_AREA] < SMALLEST_HOLE * mask_hw.sum()
    return mask_hw | small[numbers]
