"""Collects an image's polygons and run-length masks, within limits that keep one image affordable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from unseg.data.annotations.core import ClassTable, Outlined, Segment, check_segment_count, first_few
from unseg.data.annotations.runs import (
    MAX_RUNS,
    OutlineError,
    Runs,
    parse_counts,
    runs_of_counts,
    runs_of_mask,
    runs_of_polygons,
)
from unseg.storage.image_limits import ImageError

MAX_CORNERS = 4_000_000  # an image, all its polygons together


class OutlineCollector:
    """Collects the outlines of one image.

    path: the file that errors name. height, width: of the upright image. `what` names an entry: "annotation 17".
    """

    def __init__(self, path: Path, height: int, width: int, classes: ClassTable) -> None:
        self.path, self.height, self.width, self.classes = path, height, width, classes
        self._outlines: list[tuple[Segment, Runs]] = []
        self._cut: list[str] = []
        self._corners = self._runs = 0

    def add_polygons(
        self, what: str, polygons: Sequence[np.ndarray], class_id: int, instance_id: int | None, crowd: bool = False
    ) -> None:
        """Adds polygons that together are one segment, each N×2 float64, (x, y) in pixels."""
        self._corners += sum(len(polygon) for polygon in polygons)
        if self._corners > MAX_CORNERS:
            raise ImageError(self.path, f"{what}: over {MAX_CORNERS} corners in one image")
        try:
            runs, cut = runs_of_polygons(polygons, self.height, self.width)
        except OutlineError as error:
            raise ImageError(self.path, f"{what}: {error}") from error
        if cut:
            self._cut.append(what)
        self._add(what, runs, class_id, instance_id, crowd)

    def add_counts(
        self, what: str, counts: str | Sequence[object], class_id: int, instance_id: int | None, crowd: bool = False
    ) -> None:
        """Adds a segment from COCO's compressed text or its run lengths."""
        try:
            lengths = parse_counts(counts) if isinstance(counts, str) else _whole_numbers(counts)
            runs = runs_of_counts(lengths, self.height, self.width)
        except OutlineError as error:
            raise ImageError(self.path, f"{what}: {error}") from error
        self._add(what, runs, class_id, instance_id, crowd)

    def add_mask(self, what: str, mask_HW: np.ndarray, class_id: int, instance_id: int | None) -> None:
        """Adds a segment from its H×W bool mask."""
        self._add(what, runs_of_mask(mask_HW), class_id, instance_id, False)

    def finish(self, notes: Sequence[str] = ()) -> Outlined:
        """Returns the image's segments, with a note where an outline was cut at the border."""
        cut = []
        if self._cut:
            cut = [
                f"{len(self._cut)} outlines reach outside the image and are cut at its border ({first_few(self._cut)})"
            ]
        return Outlined(self.height, self.width, self._outlines, [*notes, *cut])

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
    if not all(type(count) is int and 0 <= count < 1 << 40 for count in counts):
        raise OutlineError("its run lengths must be whole numbers from 0 on")
    return np.array(counts, np.int64)
