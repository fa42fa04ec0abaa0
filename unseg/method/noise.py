"""All arithmetic on ε of generation: from noise in [−1, 1] to an image within its budget. Nothing here needs torch.

Shapes: N side of a square of noise, H×W the image's own size. `unseg.method.noised_batches` is the same for training.
"""

from __future__ import annotations

import cv2
import numpy as np

from unseg.method.config import Budget
from unseg.method.patterns import NO_CODE
from unseg.method.pixels import GREY_LEVELS, LUMINANCE, VALUES_A_GREY_LEVEL, bands, check_image
from unseg.method.resampling import resized_bands


def published_region(mask_prompt_MM: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the object as the published generation script sees it: the mask prompt resized back and rounded.

    mask_prompt: M×M of 0 or 255, covering the image padded right and below to a square. Returns H×W bool.
    """
    region = np.empty((height, width), bool)
    square = (mask_prompt_MM[..., None] / GREY_LEVELS).astype(np.float32)
    for rows, mask in resized_bands(square, height, width):
        region[rows] = np.rint(mask[..., 0]) > 0
    return region


def apply(image_HWC: np.ndarray, noise_3NN: np.ndarray, region_HW: np.ndarray, budget: Budget) -> np.ndarray:
    """Returns the unlearnable image: `image` plus noise, within `budget` at every pixel by construction.

    image: H×W×3 (RGB) or H×W×1 (grey), uint8 or uint16. noise: 3×N×N float32 in [−1, 1], for the image padded right and
    below to a square. region: H×W bool, true on the object. Returns an array like `image`.

    Sum, clamp and rounding follow the published generation. The change is then limited to whole values within the
    budget, which matters only for fractional budgets (rounding 2.5 up would break a bound of 2.5). A grey image takes
    the noise's luminance, which lies in [−1, 1] as its channels do. In 16 bits the budget is that of 8 bits times 257
    (65535 / 255), and so are the steps finer.
    """
    check_image(image_HWC)
    height, width = image_HWC.shape[:2]
    if region_HW.shape != (height, width):
        raise ValueError(f"region: expected {height}×{width}, got {region_HW.shape}")
    noised = np.empty_like(image_HWC)
    square_NNC = np.ascontiguousarray(noise_3NN.transpose(1, 2, 0), np.float32)
    for rows, noise in resized_bands(square_NNC, height, width):
        noised[rows] = _add_to_part(image_HWC[rows], noise, region_HW[rows], budget)
    return noised


def apply_tints(image_HWC: np.ndarray, codes_HW: np.ndarray, tints_K3: np.ndarray, budget: Budget) -> np.ndarray:
    """Returns the image with the tint of each pixel's code, within `budget.object`; pixels without a code stay.

    image: as for `apply`. codes: H×W uint8, below K, or `NO_CODE`. tints: K×3 float32 in [−1, 1]. Returns an array like
    `image`; rounding, bound, grey images and 16 bits are those of `apply`.
    """
    check_image(image_HWC)
    height, width = image_HWC.shape[:2]
    if codes_HW.shape != (height, width) or codes_HW.dtype != np.uint8:
        raise ValueError(f"codes: expected {height}×{width} uint8, got {codes_HW.shape} {codes_HW.dtype}")
    coded_HW = codes_HW != NO_CODE
    highest = int(codes_HW.max(initial=0, where=coded_HW))
    if highest >= len(tints_K3):
        raise ValueError(f"codes: {highest} is out of range; there are {len(tints_K3)} tints")
    tables = np.zeros((3, NO_CODE + 1, 1), np.float32)
    tables[:, : len(tints_K3), 0] = tints_K3.T
    noised = np.empty_like(image_HWC)
    for rows in bands(height, width):
        codes = np.ascontiguousarray(codes_HW[rows])
        noise = cv2.merge([cv2.LUT(codes, table) for table in tables])
        noised[rows] = _add_to_part(image_HWC[rows], noise, coded_HW[rows], budget)
    return noised


def _add_to_part(part_HWC: np.ndarray, noise_HW3: np.ndarray, region_HW: np.ndarray, budget: Budget) -> np.ndarray:
    """Does what `apply` does for a part of an image whose noise has its size; the noise is overwritten."""
    values, kind, channels = VALUES_A_GREY_LEVEL[part_HWC.dtype], part_HWC.dtype, part_HWC.shape[2]
    noise = noise_HW3 if channels == 3 else luminance(noise_HW3)
    levels = np.array([budget.background, budget.object], np.float32)
    region, part = np.ascontiguousarray(region_HW, dtype=bool).view(np.uint8), np.ascontiguousarray(part_HWC)
    bound = _lookup(region, levels / np.float32(GREY_LEVELS) * np.float32(GREY_LEVELS * values), channels)
    most = _lookup(region, np.array([budget.background * values, budget.object * values]).astype(kind), channels)
    np.multiply(noise, bound, out=noise)
    np.add(noise, part, out=noise)
    np.rint(np.clip(noise, 0, GREY_LEVELS * values, out=noise), out=noise)  # halves to even
    result = noise.astype(kind)
    # cv2 stops at the ends of the type, so that neither limit wraps around.
    cv2.max(result, cv2.subtract(part, most).reshape(part.shape), dst=result)
    return cv2.min(result, cv2.add(part, most).reshape(part.shape), dst=result)


def _lookup(region_HW: np.ndarray, pair: np.ndarray, channels: int) -> np.ndarray:
    """Returns H×W×channels values: `pair`'s second where `region` (uint8) is 1, the first where it is 0."""
    lowest, highest = cv2.minMaxLoc(region_HW)[:2]
    if lowest == highest:
        return np.full((*region_HW.shape, channels), pair[int(lowest)])
    table = np.zeros((256, 1), pair.dtype)
    table[:2, 0] = pair
    return cv2.merge([cv2.LUT(region_HW, table)] * channels).reshape(*region_HW.shape, channels)


def luminance(noise_HW3: np.ndarray) -> np.ndarray:
    """Returns noise for a grey image, H×W×1, mixed as RGB becomes grey (ITU-R BT.601)."""
    return cv2.transform(noise_HW3, np.array([LUMINANCE], np.float32)).reshape(*noise_HW3.shape[:2], 1)


def uniform(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the control: independent uniform noise in [−1, 1], 3×S×S, S the long side (so it is never resized)."""
    side = max(height, width)
    return generator.uniform(-1, 1, (3, side, side)).astype(np.float32)
