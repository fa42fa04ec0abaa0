"""DICOM segmentations (PS3.3, A.51) as masks: the number of the segment at every pixel of an instance's frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.dicom_reading import SEGMENTATION, dicom_errors, frames_of, listed, read_data_set
from unseg.storage.stacks.stack import Labels, Layout, Part, check_pixels


@dataclass(frozen=True)
class _Frame:
    """What a frame of a segmentation shows. segment: its number. sources: instance → its frames, from 0; None: all."""

    segment: int
    sources: Mapping[str, tuple[int, ...] | None]


class DicomSegments(Labels):
    """Segment numbers, planes×H×W; of segments that overlap, the one with the highest number."""

    def __init__(self, planes: np.ndarray) -> None:
        self._planes, self.highest = planes, int(planes.max(initial=0))

    @classmethod
    def open(cls, path: Path, max_pixels: int, source: str | None, layout: Layout | None) -> DicomSegments:
        """Opens a segmentation. source, layout: of the instance that it is for; without them, all its frames count."""
        data_set = read_data_set(path, max_pixels)
        with dicom_errors(path):
            if data_set.get("SOPClassUID") != SEGMENTATION or "PixelData" not in data_set:
                raise ImageError(path, "is no DICOM segmentation; give one, or masks as PNG")
            count, height, width = frames_of(path, data_set), int(data_set.Rows), int(data_set.Columns)
            check_pixels(path, count, height, width, max_pixels)
            if layout is not None and (height, width) != (layout.height, layout.width):
                raise ImageError(path, f"is {width}×{height}, its image is {layout.width}×{layout.height}")
            frames = list(_frames(data_set, count))
            shown = _shown(data_set).reshape(count, height, width)
            if layout is None:
                return cls(np.stack([_numbered(shown[place], frames[place].segment) for place in range(count)]))
            planes = np.zeros((layout.planes, height, width), np.uint16)
            for place, plane in _places(path, frames, source or "", layout.planes):
                planes[plane] = np.maximum(planes[plane], _numbered(shown[place], frames[place].segment))
            return cls(planes)

    def values(self, part: Part) -> np.ndarray:
        return self._planes[part.plane][part.rows, part.columns]

    def tall(self) -> np.ndarray:
        return self._planes.reshape(-1, self._planes.shape[2])


def instances_in(path: Path, max_pixels: int) -> frozenset[str]:
    """Returns the instances that a segmentation's frames speak of; none where the file is no segmentation."""
    data_set = read_data_set(path, max_pixels)
    with dicom_errors(path):
        if data_set.get("SOPClassUID") != SEGMENTATION:
            return frozenset()
        return frozenset(source for frame in _frames(data_set, frames_of(path, data_set)) for source in frame.sources)


def _shown(data_set: Dataset) -> np.ndarray:
    """Returns where each frame's segment is; of label maps, the numbers themselves."""
    pixels = data_set.pixel_array
    if data_set.get("SegmentationType") == "FRACTIONAL":
        return 2 * pixels.astype(np.uint16) > int(data_set.get("MaximumFractionalValue", 255))
    return pixels


def _numbered(shown_HW: np.ndarray, segment: int) -> np.ndarray:
    """Returns a frame's segment numbers. segment: 0 of label maps, whose pixels are the numbers."""
    return shown_HW.astype(np.uint16) if segment == 0 else (shown_HW != 0) * np.uint16(segment)


def _frames(data_set: Dataset, count: int) -> Iterator[_Frame]:
    shared = next(iter(data_set.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    own = list(data_set.get("PerFrameFunctionalGroupsSequence") or ())
    for place in range(count):
        groups = (own[place], shared) if place < len(own) else (shared,)
        yield _Frame(_segment(data_set, groups), _sources(groups))


def _segment(data_set: Dataset, groups: tuple[Dataset, ...]) -> int:
    if data_set.get("SegmentationType") == "LABELMAP":
        return 0
    for group in groups:
        for item in group.get("SegmentIdentificationSequence") or ():
            return int(item.ReferencedSegmentNumber)
    return 1


def _sources(groups: tuple[Dataset, ...]) -> dict[str, tuple[int, ...] | None]:
    found: dict[str, tuple[int, ...] | None] = {}
    for group in groups:
        for derivation in group.get("DerivationImageSequence") or ():
            for item in derivation.get("SourceImageSequence") or ():
                numbers = item.get("ReferencedFrameNumber")
                frames = [numbers] if isinstance(numbers, int) else listed(numbers)
                found[str(item.ReferencedSOPInstanceUID)] = tuple(int(number) - 1 for number in frames) or None
    return found


def _places(path: Path, frames: list[_Frame], source: str, planes: int) -> Iterator[tuple[int, int]]:
    """Yields each of the segmentation's frames that speaks of an instance, with the plane of that."""
    if not any(frame.sources for frame in frames):
        yield from _places_in_order(path, frames, planes)
        return
    if not any(source in frame.sources for frame in frames):
        raise ImageError(path, "none of its frames speaks of this instance")
    for place, frame in enumerate(frames):
        if source not in frame.sources:
            continue
        for plane in frame.sources[source] or range(planes):
            if not 0 <= plane < planes:
                raise ImageError(path, f"speaks of frame {plane + 1}, its image has {planes}")
            yield place, plane


def _places_in_order(path: Path, frames: list[_Frame], planes: int) -> Iterator[tuple[int, int]]:
    """Yields frames that name no source: those of each segment are the image's, one after the other."""
    seen: dict[int, int] = {}
    for place, frame in enumerate(frames):
        plane = seen[frame.segment] = seen.get(frame.segment, -1) + 1
        if plane >= planes:
            raise ImageError(path, f"holds more frames of segment {frame.segment} than its image has ({planes})")
        yield place, plane
    if set(seen.values()) != {planes - 1}:
        raise ImageError(path, f"names no source, and has not {planes} frames of each segment, as its image has")
