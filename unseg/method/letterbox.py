"""The square frame that networks see: an image padded right and below with zeros, resized to the network's input side.

The published generation pads first and resizes without antialiasing; both are kept: published weights were trained so.
Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unseg.method.pixels import GREY_LEVELS
from unseg.method.resampling import shrunk

MASK_ON = 255.0


@dataclass(frozen=True)
class Framed:
    """Holds what a network is given for one image; one of mask and box is there.

    image: 3×S×S float32 in [0, 1]. mask: the mask prompt, 1×M×M float32 of 0 or 255. box: the box prompt, 4 float32
    (XYXY in pixels of the frame, corners inclusive). codes: what a generator that takes codes is given besides, see
    `unseg.method.code_prompts`.
    """

    image_3SS: np.ndarray
    mask_1MM: np.ndarray | None = None
    box_4: np.ndarray | None = None
    codes_3MM: np.ndarray | None = None


def image_frame(image_HW3: np.ndarray, size: int, antialias: bool = False) -> np.ndarray:
    """Returns what a generator is fed: 3×size×size float32 in [0, 1].

    image: H×W×3 uint8. antialias: off as published; the compact generator, whose input is small, turns it on.

    Equal, to 2e-6, to padding the image to a square and resizing that, without ever building the square: a 20,000×20
    image would need 4.8 GB.
    """
    frame_SS3 = shrunk(image_HW3, size, antialias)
    frame_SS3 /= np.float32(GREY_LEVELS)
    return np.ascontiguousarray(frame_SS3.transpose(2, 0, 1))


def label_frame(mask_HW: np.ndarray, size: int) -> np.ndarray:
    """Returns the object in the frame: size×size float32 of 0 and 1, by nearest neighbour. mask: H×W bool."""
    height, width = mask_HW.shape
    # As torch's "nearest" does: the scale is rounded to float32 before it is multiplied.
    source = np.floor(np.arange(size, dtype=np.float32) * np.float32(max(height, width) / size)).astype(np.int64)
    rows, columns = source[source < height], source[source < width]
    label = np.zeros((size, size), np.float32)
    label[: rows.size, : columns.size] = mask_HW[np.ix_(rows, columns)]
    return label


def mask_prompt(mask_HW: np.ndarray, image_size: int, mask_size: int) -> np.ndarray:
    """Returns the prompt that generation uses, the object mask alone: 1×M×M float32 of 0 or 255; a half becomes 0."""
    label_SS = label_frame(mask_HW, image_size)
    return np.rint(shrunk(label_SS[..., None], mask_size, antialias=False)).transpose(2, 0, 1) * np.float32(MASK_ON)


def box_prompt(boxes_N4: np.ndarray, height: int, width: int, image_size: int) -> np.ndarray:
    """Returns one box around all of `boxes` (N×4 XYXY pixels of the H×W image), in pixels of the frame: 4 float32."""
    boxes = np.asarray(boxes_N4, np.float32).reshape(-1, 4)
    enclosing = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return enclosing * np.float32(image_size / max(height, width))
