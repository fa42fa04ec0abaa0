"""Regions are held as runs of pixels in COCO's order: down the columns, column by column.

Polygons are filled by pycocotools, so that a mask has exactly the pixels that COCO's own tools give it. pycocotools
trusts its input: counts that do not fit the image make it write outside its memory, and corners far outside make it ask
for memory without end. So counts are parsed and summed here, and corners are checked, before anything else happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

MAX_OUTLINE = 4_000_000  # pixels of outline an annotated polygon; pycocotools needs about 60 bytes a pixel of it
CUT_NOTE = 1.0  # pixels that an outline may reach outside without a word: rounding at the border
MAX_RUNS = 8_000_000  # an image; 1,600 objects as wide as a photograph of 5,000 columns
LOOP_COST = 64  # painting one run in a loop takes about as long as passing this many intervals
LONGEST_NUMBER = 7  # characters of 5 bits that a count may take: 2^34 pixels


class OutlineError(ValueError):
    """Says why a region cannot be used, without naming a file."""


@dataclass(frozen=True)
class Runs:
    """A region: pixels from starts[i] up to but not including ends[i], rising, without overlap. Both int32."""

    starts: np.ndarray
    ends: np.ndarray

    @property
    def area(self) -> int:
        """Returns the number of pixels."""
        return int((self.ends - self.starts).sum(dtype=np.int64))

    def mask(self, height: int, width: int) -> np.ndarray:
        """Returns the region, H×W bool."""
        return count_coverage([self], height, width)


def runs_of_counts(counts: np.ndarray, height: int, width: int) -> Runs:
    """Returns the region of COCO's uncompressed form.

    counts: int64 lengths of runs, outside and inside in turn.
    """
    if counts.size and (counts.min() < 0 or counts.max() > height * width):
        raise OutlineError("its run lengths hold a value that is negative or longer than the image")
    ends = np.cumsum(counts)
    if (ends[-1] if ends.size else 0) != height * width:
        raise OutlineError(
            f"its run lengths add up to {ends[-1] if ends.size else 0} pixels, the image has"
            f" {height * width} ({width}×{height})"
        )
    starts = ends - counts
    inside = counts[1::2] > 0
    return Runs(starts[1::2][inside].astype(np.int32), ends[1::2][inside].astype(np.int32))


def parse_counts(text: str | bytes) -> np.ndarray:
    """Returns COCO's compressed counts as int64 lengths.

    From the third on, each count is stored as its difference to the one two before. Each number is a group of
    characters from `0` (48): 5 bits each, lowest first; bit 5 says that more follow, and bit 4 of the last one is the
    sign (pycocotools' rleToString).
    """
    try:
        digits = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise OutlineError("its compressed counts hold a character outside ASCII") from error
    if not digits.size:
        return np.zeros(0, np.int64)
    if digits.min() < 0 or digits.max() > 63:
        raise OutlineError("its compressed counts hold a character that cannot be there")
    last = (digits & 32) == 0
    if not last[-1]:
        raise OutlineError("its compressed counts end within a number")
    group_ends = np.flatnonzero(last)
    group_starts = np.concatenate([[0], group_ends[:-1] + 1])
    lengths = group_ends - group_starts + 1
    if lengths.max() > LONGEST_NUMBER:
        raise OutlineError("its compressed counts hold a number that is too long")
    place = np.arange(digits.size) - np.repeat(group_starts, lengths)
    numbers = np.add.reduceat((digits & 31) << (5 * place), group_starts)
    numbers -= np.where(digits[group_ends] & 16, 1 << (5 * lengths), 0)
    counts = numbers.copy()
    counts[2::2] = np.cumsum(numbers[2::2])  # the first count stands alone: its even followers refer to the third
    counts[1::2] = np.cumsum(numbers[1::2])
    return counts


def runs_of_polygons(polygons: Sequence[np.ndarray], height: int, width: int) -> tuple[Runs, bool]:
    """Returns the union of polygons, and whether an outline reaches more than CUT_NOTE pixels outside the image.

    polygons: each N×2 float64 (x, y) in pixels, N ≥ 3. The image covers [0, W] × [0, H]; what lies outside is cut off.
    """
    compressed, cut = [], False
    for corners in polygons:
        cut |= check_polygon(corners, height, width)
        compressed += coco_mask.frPyObjects([corners.ravel().tolist()], height, width)
    merged = coco_mask.merge(compressed) if len(compressed) > 1 else compressed[0]
    return runs_of_counts(parse_counts(merged["counts"]), height, width), cut


def outline_length(corners_N2: np.ndarray) -> float:
    """Returns how many pixels of outline pycocotools draws: along each side the longer of its two extents."""
    return float(np.abs(np.diff(corners_N2, axis=0, append=corners_N2[:1])).max(axis=1).sum())


def check_polygon(corners_N2: np.ndarray, height: int, width: int) -> bool:
    """Returns whether the polygon reaches noticeably outside; OutlineError where it cannot be drawn."""
    if not np.isfinite(corners_N2).all():
        raise OutlineError("a polygon with a corner that is not a finite number")
    size = np.array([width, height], np.float64)
    low, high = corners_N2.min(axis=0), corners_N2.max(axis=0)
    if (high < 0).any() or (low > size).any():
        raise OutlineError(
            f"a polygon outside the image: x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g} of {width}×{height}"
        )
    if (low < -size).any() or (high > 2 * size).any():
        raise OutlineError(
            f"a polygon with a corner far outside the image: x {low[0]:g} to {high[0]:g}, y {low[1]:g}"
            f" to {high[1]:g} of {width}×{height}"
        )
    length = outline_length(corners_N2)
    if length > MAX_OUTLINE:
        raise OutlineError(f"a polygon with an outline of {length:.0f} pixels; at most {MAX_OUTLINE} are drawn")
    return bool((low < -CUT_NOTE).any() or (high > size + CUT_NOTE).any())


def runs_of_mask(mask_HW: np.ndarray) -> Runs:
    """Returns the runs of an H×W bool mask."""
    flat = np.concatenate([[False], mask_HW.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1]).astype(np.int32)
    return Runs(changes[::2], changes[1::2])


def counts_of_mask(mask_HW: np.ndarray) -> str:
    """Returns an H×W bool mask as COCO's compressed counts, which `parse_counts` reads."""
    return coco_mask.encode(np.asfortranarray(mask_HW, np.uint8))["counts"].decode("ascii")


def count_coverage(regions: Sequence[Runs], height: int, width: int) -> np.ndarray:
    """Returns the union of regions, H×W bool: where the starts passed outnumber the ends."""
    starts, ends = _sorted(regions, "starts"), _sorted(regions, "ends")
    edges = _distinct(starts, ends)
    inside = np.searchsorted(starts, edges, "right") > np.searchsorted(ends, edges, "right")
    return _spread(edges, inside, False, height, width)


def paint(regions: Sequence[Runs], codes: Sequence[int], nothing: int, height: int, width: int) -> np.ndarray:
    """Paints each region in its code over those before it, H×W int32; `nothing` elsewhere.

    Works on the intervals between all edges, so that a large region costs no more than a small one.
    """
    edges = _distinct(_sorted(regions, "starts"), _sorted(regions, "ends"))
    painted = np.full(edges.size, nothing, np.int32)
    for region, code in zip(regions, codes, strict=True):
        first, last = np.searchsorted(edges, region.starts), np.searchsorted(edges, region.ends)
        if first.size * LOOP_COST < edges.size:
            for begin, end in zip(first.tolist(), last.tolist(), strict=True):
                painted[begin:end] = code
        else:
            steps = np.zeros(edges.size, np.int8)
            np.add.at(steps, first, 1)
            np.add.at(steps, last, -1)  # a run may begin where another ends
            painted[np.cumsum(steps, dtype=np.int8) > 0] = code
    return _spread(edges, painted, nothing, height, width)


def _sorted(regions: Sequence[Runs], name: str) -> np.ndarray:
    return np.sort(np.concatenate([np.zeros(0, np.int32), *(getattr(region, name) for region in regions)]))


def _distinct(*parts: np.ndarray) -> np.ndarray:
    """Returns the numbers sorted, each once.

    np.unique of numpy 2.4 took 13 s for 8 million distinct numbers, this takes 0.1 s.
    """
    merged = np.sort(np.concatenate(parts))
    return merged[np.concatenate([[True], merged[1:] != merged[:-1]])[: merged.size]]


def _spread(edges: np.ndarray, values: np.ndarray, nothing: object, height: int, width: int) -> np.ndarray:
    """Spreads values[i] from edges[i] to edges[i + 1] over an H×W array, C order; `nothing` before the first."""
    bounds = np.concatenate([[0], edges, [height * width]])  # int64
    flat = np.repeat(np.concatenate([np.array([nothing], values.dtype), values]), np.diff(bounds))
    return np.ascontiguousarray(flat.reshape(width, height).T)
