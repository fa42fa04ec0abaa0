"""Collects an image's polygons and run-length masks, within limits that keep one image affordable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from unseg.data.annotations.core import ClassTable, Outlined, Segment, check_segment_count, first_few
from unseg.data.annotations.runs import (
    MAX_OUTLINE,
    MAX_RUNS,
    OutlineError,
    Runs,
    outline_length,
    parse_counts,
    runs_of_counts,
    runs_of_mask,
    runs_of_polygons,
)
from unseg.storage.image_limits import ImageError

MAX_CORNERS = 4_000_000  # an image, all its polygons together
MAX_OUTLINES = 40_000_000  # pixels of outline an image: 10,000 buildings with 4,000 each; drawing them takes 3 s
MAX_MASK_PIXELS = 1 << 29  # an image, all masks of its shapes together: 40 that fill a photograph of 12 megapixels
FEWEST_CORNERS = 3


class OutlineCollector:
    """Collects the outlines of one image.

    path: the file that errors name. height, width: of the upright image. `what` names an entry: "annotation 17".
    """

    def __init__(self, path: Path, height: int, width: int, classes: ClassTable) -> None:
        self.path, self.height, self.width, self.classes = path, height, width, classes
        self._outlines: list[tuple[Segment, Runs]] = []
        self._cut: list[str] = []
        self._unseen: list[str] = []
        self._without_area: list[tuple[str, str]] = []
        self._corners = self._runs = self._mask_pixels = 0
        self._outline = 0.0

    def add_polygons(
        self, what: str, polygons: Sequence[np.ndarray], class_id: int, instance_id: int | None, crowd: bool = False
    ) -> None:
        """Adds polygons that together are one segment, each N×2 float64, (x, y) in pixels.

        Those of fewer than three corners have no area and are left out.
        """
        self._corners += sum(len(polygon) for polygon in polygons)
        if self._corners > MAX_CORNERS:
            raise ImageError(self.path, f"{what}: over {MAX_CORNERS} corners in one image")
        with_area = [polygon for polygon in polygons if len(polygon) >= FEWEST_CORNERS]
        if len(with_area) < len(polygons):
            fewest = min(map(len, polygons))
            self.leave_out(what, f"a polygon with {fewest} corners; it needs {FEWEST_CORNERS}")
        if not with_area:
            return
        self._outline += sum(min(outline_length(polygon), MAX_OUTLINE) for polygon in with_area)
        if self._outline > MAX_OUTLINES:
            raise ImageError(self.path, f"{what}: over {MAX_OUTLINES} pixels of outline in one image")
        try:
            runs, cut = runs_of_polygons(with_area, self.height, self.width)
        except OutlineError as error:
            raise ImageError(self.path, f"{what}: {error}") from error
        if cut:
            self._cut.append(what)
        if not runs.starts.size:
            self._unseen.append(what)
        self._add(what, runs, class_id, instance_id, crowd)

    def leave_out(self, what: str, reason: str) -> None:
        """Passes over an entry, or a part of one, that has no area. An image without any other is refused."""
        self._without_area.append((what, reason))

    def add_counts(
        self, what: str, counts: str | Sequence[object], class_id: int, instance_id: int | None, crowd: bool = False
    ) -> bool:
        """Adds a segment from COCO's compressed text or its run lengths; returns whether it shows a pixel."""
        try:
            lengths = parse_counts(counts) if isinstance(counts, str) else _whole_numbers(counts)
            runs = runs_of_counts(lengths, self.height, self.width)
        except OutlineError as error:
            raise ImageError(self.path, f"{what}: {error}") from error
        if not runs.starts.size:
            self._unseen.append(what)
        self._add(what, runs, class_id, instance_id, crowd)
        return bool(runs.starts.size)

    def add_mask(self, what: str, mask_HW: np.ndarray, class_id: int, instance_id: int | None) -> None:
        """Adds a segment from its H×W bool mask."""
        self._mask_pixels += mask_HW.size
        if self._mask_pixels > MAX_MASK_PIXELS:
            raise ImageError(self.path, f"{what}: over {MAX_MASK_PIXELS} pixels of masks in one image")
        self._add(what, runs_of_mask(mask_HW), class_id, instance_id, False)

    def finish(self, notes: Sequence[str] = ()) -> Outlined:
        """Returns the image's segments, with a note on outlines that were cut, have no area or show no pixel.

        ImageError where all that is said of the image is outlines without an area.
        """
        if self._without_area and not self._outlines:
            what, reason = self._without_area[0]
            raise ImageError(self.path, f"{what}: {reason}")
        told = []
        if self._cut:
            told += [
                f"{len(self._cut)} outlines reach outside the image and are cut at its border ({first_few(self._cut)})"
            ]
        if self._unseen:
            told += [f"{len(self._unseen)} outlines cover no pixel ({first_few(self._unseen)})"]
        if self._without_area:
            names = first_few(what for what, _ in self._without_area)
            told += [f"{len(self._without_area)} outlines without an area are left out ({names})"]
        return Outlined(self.height, self.width, self._outlines, [*notes, *told])

    def _add(self, what: str, runs: Runs, class_id: int, instance_id: int | None, crowd: bool) -> None:
        check_segment_count(self.path, len(self._outlines) + 1)
        self._runs += runs.starts.size
        if self._runs > MAX_RUNS:
            raise ImageError(self.path, f"{what}: over {MAX_RUNS} runs of pixels in one image")
        segment = Segment(
            class_id,
            self.classes.names.get(class_id),
            instance_id=instance_id,
            crowd=crowd,
            thing=self.classes.is_thing(class_id),
            void=class_id in self.classes.void,
            decode=partial(runs.mask, self.height, self.width),
        )
        self._outlines.append((segment, runs))


def _whole_numbers(counts: Sequence[object]) -> np.ndarray:
    """Returns run lengths, int64; whole numbers that are written as floats are fine."""
    if not all(_is_length(count) for count in counts):
        raise OutlineError("its run lengths must be whole numbers from 0 on")
    return np.array(counts, np.int64)


def _is_length(count: object) -> bool:
    if isinstance(count, bool) or not isinstance(count, (int, float)):
        return False
    return 0 <= count < 1 << 40 and count % 1 == 0
