"""The square frame that networks see: an image padded right and below with zeros, resized to the network's input side.

The published generation pads first and resizes without antialiasing; both are kept: published weights were trained so.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from segment_anything_training.prompt_batch import Prompts
from unseg.method.pixels import bands

MASK_ON = 255.0
WHOLE = 2**22  # pixels that are turned into floats at once (50 MB)


def image_frame(image_HW3: np.ndarray, size: int, antialias: bool = False) -> torch.Tensor:
    """Returns what a generator is fed: 1×3×size×size float32 in [0, 1].

    image: H×W×3 uint8. antialias: off as published; the compact generator, whose input is small, turns it on.

    Equal to padding the image to a square and resizing that (on one thread; how torch splits the work among several
    decides the last bit), without ever building the square: a 20,000×20 image would need 4.8 GB. Above `WHOLE` pixels
    the columns are resized before the rows, which moves unantialiased values by at most 2e-7, antialiased ones not.
    """
    side = max(image_HW3.shape[:2])
    reach = max(1.0, side / size)  # how far, in source pixels, an output pixel looks
    rows, source_rows = _extent(image_HW3.shape[0], side, size, reach)
    columns, source_columns = _extent(image_HW3.shape[1], side, size, reach)
    image_HW3, scale = np.ascontiguousarray(image_HW3), size / side
    padding = (0, 0, 0, source_columns - image_HW3.shape[1])
    if antialias or source_rows * source_columns > WHOLE:
        seen = min(source_rows, image_HW3.shape[0])
        narrow = torch.zeros(1, 3, source_rows, columns)
        for part in bands(seen, source_columns):
            band = F.pad(torch.from_numpy(image_HW3[part]), padding).permute(2, 0, 1)[None].float().div_(255.0)
            narrow[:, :, part] = resize_part(band, band.shape[2], columns, 1.0, scale, antialias)
        frame = resize_part(narrow, rows, columns, scale, 1.0, antialias)
    else:
        image = F.pad(torch.from_numpy(image_HW3), (*padding, 0, source_rows - image_HW3.shape[0]))
        frame = resize_part(image.permute(2, 0, 1)[None].float().div_(255.0), rows, columns, scale, scale)
    return F.pad(frame, (0, size - columns, 0, size - rows))


def _extent(length: int, side: int, size: int, reach: float) -> tuple[int, int]:
    """Returns how many of `size` outputs can see a source of `length` padded to `side`, and what length they see."""
    outputs = min(size, math.ceil((length + reach) * size / side) + 1)
    return outputs, min(side, math.ceil((outputs + 1) * side / size + reach) + 1)


def resize_part(
    image: torch.Tensor,
    rows: int,
    columns: int,
    row_scale: float,
    column_scale: float,
    antialias: bool = False,
    room: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the first `rows` × `columns` of a bilinearly resized image (1×C×H×W), by F.interpolate's kernels.

    They take size and scale apart. The scales are output over input. Where an output has its input's length the kernels
    copy and forget the scale, so one more row or column is asked for and dropped. room: flat memory that the result is
    put into, channels last; it has room for one more row and column.
    """
    resize = torch.ops.aten._upsample_bilinear2d_aa if antialias else torch.ops.aten.upsample_bilinear2d
    extra_row = int(rows == image.shape[2] and row_scale != 1)
    extra_column = int(columns == image.shape[3] and column_scale != 1)
    size = [rows + extra_row, columns + extra_column]
    if room is None:
        resized = resize(image, size, False, row_scale, column_scale)
    else:
        shape = (1, *size, image.shape[1])
        resized = room[: math.prod(shape)].view(shape).permute(0, 3, 1, 2)
        resize.out(image, size, False, row_scale, column_scale, out=resized)
    return resized[:, :, :rows, :columns]


def label_frame(mask_HW: np.ndarray, size: int) -> torch.Tensor:
    """Returns the object in the frame: 1×1×size×size float32 of 0 and 1, by nearest neighbour. mask: H×W bool."""
    height, width = mask_HW.shape
    # As torch's "nearest" does: the scale is rounded to float32 before it is multiplied.
    source = np.floor(np.arange(size, dtype=np.float32) * np.float32(max(height, width) / size)).astype(np.int64)
    rows, columns = source[source < height], source[source < width]
    label = np.zeros((size, size), np.float32)
    label[: rows.size, : columns.size] = mask_HW[np.ix_(rows, columns)]
    return torch.from_numpy(label)[None, None]


def mask_prompt(label_B1SS: torch.Tensor, mask_size: int) -> torch.Tensor:
    """Returns the mask prompt of a label in the frame: B×1×M×M float32 of 0 or 255. label: 0 to 1; a half becomes 0."""
    mask = F.interpolate(label_B1SS, (mask_size, mask_size), mode="bilinear", align_corners=False)
    return mask.round() * MASK_ON


def mask_prompts(mask_HW: np.ndarray, image_size: int, mask_size: int) -> Prompts:
    """Returns the prompt that generation uses: the object mask alone."""
    return Prompts(masks=mask_prompt(label_frame(mask_HW, image_size), mask_size))


def box_prompts(boxes_N4: np.ndarray, height: int, width: int, image_size: int) -> Prompts:
    """Returns one box around all of `boxes` (N×4 XYXY pixels of the H×W image), in pixels of the frame."""
    scale = image_size / max(height, width)
    boxes = torch.as_tensor(boxes_N4, dtype=torch.float32).reshape(-1, 4)
    enclosing = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])
    return Prompts(boxes=enclosing[None] * scale)
