"""Fewer bits a value in the training images (Xu et al., "Feature squeezing", NDSS 2018, section II-B)."""

from __future__ import annotations

import numpy as np

from unseg.errors import UserError
from unseg.evaluation.defences.kinds import ImageDefence


def bits(depth: int) -> ImageDefence:
    """Returns the defence that rounds values to 2^depth equal steps from 0 to 255. UserError unless depth is 1 to 7."""
    if not 1 <= depth <= 7:
        raise UserError(f"bits{depth}: give 1 to 7 bits")
    steps = 2**depth - 1
    table = np.round(np.round(np.arange(256) / 255 * steps) / steps * 255).astype(np.uint8)
    return ImageDefence(f"bits{depth}", lambda name, pixels: table[pixels])
