"""The object of an image in memory, from what a caller gives: a mask, boxes, or what outlines are found from."""

from __future__ import annotations

from typing import cast

import numpy as np

from unseg.data.masks import box_mask
from unseg.errors import UserError
from unseg.protecting.foreground_object import foreground_object, is_auto
from unseg.protecting.given_images import AnyMask, AnyPoints, Boxes, read_given_boxes, read_given_points, read_mask
from unseg.protecting.grabcut import outline_around, outline_of_boxes
from unseg.protecting.objects import FoundObject
from unseg.protecting.request import CANNOT


def given_object(
    samples_HWC: np.ndarray,
    mask: AnyMask | str | None,
    boxes: Boxes | None,
    *,
    refine_boxes: bool = False,
    points: AnyPoints | None = None,
    whole_image: bool = False,
    auto_model: str | None = None,
) -> FoundObject:
    """Returns the object of an image, from the one of mask, boxes, points and whole_image that is given.

    samples: H×W×3 RGB or H×W×1 grey, uint8 or uint16. mask: "auto" is the foreground that `auto_model` finds, see
    `unseg.protecting.foreground_object`. refine_boxes: the object is what GrabCut finds in the boxes. A
    network is prompted by boxes that are not refined, and by the mask of any other object. Raises UserError unless
    exactly one of them is given, for what cannot be read, and where no object is found.
    """
    height, width = samples_HWC.shape[:2]
    sayings = {"mask": mask, "boxes": boxes, "points": points, "whole_image": whole_image or None}
    given = [name for name, value in sayings.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: give one of them, each says what the object is")
    if refine_boxes and boxes is None:
        raise UserError("refine_boxes: needs boxes to refine")
    if not given:
        raise UserError(f"what is the object? Give mask, boxes or points; or whole_image=True, {CANNOT}")
    if points is not None:
        return FoundObject(_pointed_at(samples_HWC, points))
    if is_auto(mask):
        return FoundObject(foreground_object(samples_HWC, auto_model))
    if boxes is None:
        shown = None if mask is None else read_mask(cast(AnyMask, mask), height, width)
        return FoundObject(np.ones((height, width), bool) if shown is None else shown)
    read = read_given_boxes(boxes)
    inside_HW = outline_of_boxes(samples_HWC, read)[0] if refine_boxes else box_mask(read, height, width)
    if not inside_HW.any():
        raise UserError(f"boxes: every box lies outside the image ({width}×{height})")
    return FoundObject(inside_HW, boxes=None if refine_boxes else read)


def _pointed_at(samples_HWC: np.ndarray, points: AnyPoints) -> np.ndarray:
    height, width = samples_HWC.shape[:2]
    read = read_given_points(points)
    if not read.inside(height, width).object:
        raise UserError(f"points: every point of the object lies outside the image ({width}×{height})")
    found_HW = outline_around(samples_HWC, read)
    if found_HW is None:
        raise UserError("points: no outline was found around them; give more points, boxes or a mask")
    return found_HW
