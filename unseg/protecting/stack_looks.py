"""How varied classes look in a file of planes: one of its planes, in the grey levels that budgets are counted in."""

from __future__ import annotations

import numpy as np

from unseg.data.samples import SampleFile
from unseg.method.pixels import GREY_LEVELS
from unseg.protecting.objects import Objects
from unseg.protecting.plane_objects import plane_objects
from unseg.protecting.settings import ProtectSettings
from unseg.storage.stacks.stack import Part, Stack
from unseg.storage.stacks.stack_kinds import StackKind

SIDE = 1024  # pixels of a plane that are looked at, from its middle


def stack_look(
    kind: StackKind, sample: SampleFile, objects: Objects, settings: ProtectSettings
) -> tuple[np.ndarray, np.ndarray | None, int | None]:
    """Returns H×W×3 uint8, the classes there, H×W, and the class that is none. Raises Refused or ImageError where the
    file cannot be protected."""
    stack = kind.open(sample.image, settings.max_pixels, settings.bands)
    try:
        part = _middle(stack)
        there = plane_objects(objects, sample, stack, settings).found(part)
        values, ranges = stack.read(part).values_HWC, stack.layout.ranges
    finally:
        stack.close()
    low = np.array([found.low for found in ranges])
    level = np.array([found.grey_level for found in ranges])
    levels = np.clip(np.nan_to_num((values - low) / level), 0, GREY_LEVELS).astype(np.uint8)
    channels = levels if levels.shape[2] == 3 else np.repeat(levels[..., :1], 3, axis=2)
    return channels, there.classes_HW, there.no_class


def _middle(stack: Stack) -> Part:
    layout = stack.layout
    rows, columns = (
        slice(max(0, (side - SIDE) // 2), min(side, (side + SIDE) // 2)) for side in (layout.height, layout.width)
    )
    return Part(layout.planes // 2, rows, columns)
