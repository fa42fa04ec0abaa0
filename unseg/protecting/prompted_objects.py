"""The object of each image by a user's hints: what lies in boxes, or the outline that GrabCut finds in boxes or around
points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unseg.data.annotations.runs import counts_of_mask
from unseg.data.masks import box_mask, box_spans
from unseg.data.samples import SampleFile
from unseg.protecting.given_images import Boxes
from unseg.protecting.grabcut import outline_around, outline_of_boxes
from unseg.protecting.manifest import Entry
from unseg.protecting.objects import FoundObject, Objects, Refused
from unseg.protecting.points import Points
from unseg.storage.image_decoding import Frame


class BoxFile(Objects):
    """The object is what lies in an image's boxes. boxes: image name → its boxes, XYXY. refine: outlines in them."""

    prompt = "boxes"

    def __init__(self, boxes: Mapping[str, Boxes], refine: bool = False) -> None:
        self.boxes, self.refine = boxes, refine

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **({"refined": True} if self.refine else {})}

    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        boxes = self.boxes.get(sample.name)
        if not boxes:
            raise Refused("unmasked", "no box for it in the boxes file")
        mask = box_mask(boxes, frame.height, frame.width)
        if not mask.any():
            raise Refused("failed", f"every box lies outside the image ({frame.width}×{frame.height})")
        outside = len(boxes) - len(box_spans(boxes, frame.height, frame.width))
        note = f"{outside} of {len(boxes)} boxes hold no pixel of the image"
        return FoundObject(
            mask, {"boxes": boxes}, boxes, notes=(*((note,) if outside else ()), *_turned(frame, "boxes"))
        )

    def lacks(self, sample: SampleFile) -> bool:
        return not self.boxes.get(sample.name)

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.boxes == self.boxes.get(sample.name)

    def outlined(self, found: FoundObject, samples_HWC: np.ndarray) -> FoundObject:
        if not self.refine or found.boxes is None:  # none: the whole image stands in for missing boxes
            return found
        boxes = found.facts["boxes"]
        mask, filled = outline_of_boxes(samples_HWC, boxes)
        note = f"no outline was found in {filled} of {len(boxes)} boxes, which count as object whole"
        return _outlined(found, mask, (note,) if filled else ())


class PointFile(Objects):
    """The object is what GrabCut finds around an image's points. points: image name → its points."""

    prompt = "points"

    def __init__(self, points: Mapping[str, Points]) -> None:
        self.points = points

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "refined": True}

    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        points = self.points.get(sample.name)
        if points is None or not points.object:
            raise Refused("unmasked", "no point of an object for it in the points file")
        inside = points.inside(frame.height, frame.width)
        if not inside.object:
            raise Refused("failed", f"every point of its object lies outside the image ({frame.width}×{frame.height})")
        outside, given = points.count - inside.count, points.count
        note = f"{outside} of {given} points lie outside the image"
        both = sorted(set(inside.object) & set(inside.background))
        if both:
            x, y = both[0]
            raise Refused("failed", f"point ({x:g}, {y:g}) is of its object and of its background; leave one out")
        everywhere = np.ones((frame.height, frame.width), bool)  # until the pixels say more
        notes = (*((note,) if outside else ()), *_turned(frame, "points"))
        return FoundObject(everywhere, {"points": points}, notes=notes)

    def lacks(self, sample: SampleFile) -> bool:
        points = self.points.get(sample.name)
        return points is None or not points.object

    def is_same(self, sample: SampleFile, entry: Entry) -> bool:
        return entry.points == self.points.get(sample.name)

    def outlined(self, found: FoundObject, samples_HWC: np.ndarray) -> FoundObject:
        if "points" not in found.facts:  # the whole image stands in for missing points
            return found
        mask = outline_around(samples_HWC, found.facts["points"])
        if mask is None:
            raise Refused("failed", "no outline was found around its points; give it more points, boxes or a mask")
        return _outlined(found, mask)


def _turned(frame: Frame, what: str) -> tuple[str, ...]:
    """Returns the note on an image that is seen turned: its boxes or points may have been drawn on it as stored."""
    if frame.orientation == 1:
        return ()
    return (f"EXIF turns it (orientation {frame.orientation}): its {what} are taken as upright",)


def _outlined(found: FoundObject, mask_HW: np.ndarray, notes: tuple[str, ...] = ()) -> FoundObject:
    facts = {**found.facts, "outline": counts_of_mask(mask_HW)}
    return FoundObject(mask_HW, facts, notes=(*found.notes, *notes))
