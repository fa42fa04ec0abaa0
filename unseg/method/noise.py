"""All arithmetic on ε, for training and generation alike: from noise in [−1, 1] to an image within its budget.

Shapes: B batch, S side of a square frame, H×W the image's own size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from unseg.method.config import Budget
from unseg.method.letterbox import WHOLE, resize_part
from unseg.method.patterns import NO_CODE
from unseg.method.pixels import GREY_LEVELS, LUMINANCE, VALUES_A_GREY_LEVEL, bands, check_image

# Each thread's memory for resized noise, kept between images: taking it anew costs as much as the resize
# (90 ms for 4 megapixels).
_rooms = threading.local()


def epsilon_map(region: torch.Tensor, budget: Budget) -> torch.Tensor:
    """Returns every pixel's bound as a fraction of the range: object/255 where `region` is 1, else background/255.

    region: any shape, bool or float of 0 and 1. Returns float32 of the same shape.
    """
    region = region.to(torch.float32)
    return (budget.background + (budget.object - budget.background) * region) / GREY_LEVELS


def add_noise(
    images_B3HW: torch.Tensor,
    noise_B3NN: torch.Tensor,
    region_B1HW: torch.Tensor,
    budget: Budget,
    antialias: bool = False,
) -> torch.Tensor:
    """Returns the noised images in [0, 1], differentiable in the noise: what the surrogate sees.

    images: float in [0, 1]; noise: in [−1, 1], resized bilinearly to the images' size; region: 1 on the object, else 0.
    antialias: whether that resizing averages over the area of a pixel, as a reader that shrinks images well does.
    """
    noise = F.interpolate(noise_B3NN, images_B3HW.shape[-2:], mode="bilinear", align_corners=False, antialias=antialias)
    return (images_B3HW + epsilon_map(region_B1HW, budget) * noise).clamp(0, 1)


def published_region(mask_prompt_MM: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Returns the object as the published generation script sees it: the mask prompt resized back and rounded.

    mask_prompt: M×M of 0 or 255, covering the image padded right and below to a square. Returns H×W bool.
    """
    region = torch.empty((height, width), dtype=torch.bool)
    for rows, mask in _resized_bands(mask_prompt_MM[None] / 255.0, height, width):
        region[rows] = mask[0].round() > 0
    return region


def _resized_bands(square_CNN: torch.Tensor, height: int, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields the crop at the top left of `square` resized bilinearly to the long side: rows, and their C×rows×W values.

    The values may be overwritten, and are when the next band comes. The square itself is never built (a 20,000×20
    image would need 4.8 GB for its noise). An image of up to `WHOLE` pixels has exactly the values of F.interpolate;
    of a larger one the columns are resized before the rows, which moves values by at most 2e-7.
    """
    if height * width <= WHOLE:
        return _bands_of_a_whole(square_CNN, height, width)
    return _bands_one_by_one(square_CNN, height, width)


def _bands_of_a_whole(square_CNN: torch.Tensor, height: int, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields the bands of a crop that is resized at once, into memory that this thread keeps."""
    scale = max(height, width) / square_CNN.shape[-1]
    # Colours side by side, as in the image. The values do not depend on it, but on how many channels there are.
    square = square_CNN[None].contiguous(memory_format=torch.channels_last)
    room = vars(_rooms).pop("room", None)  # none for a second iteration within this one
    if room is None or len(room) < len(square_CNN) * (height + 1) * (width + 1):
        room = square.new_empty(len(square_CNN) * (height + 1) * (width + 1))
    whole = resize_part(square, height, width, scale, scale, room=room)[0]
    for rows in bands(height, width):
        yield rows, whole[:, rows]
    _rooms.room = room


def _bands_one_by_one(square_CNN: torch.Tensor, height: int, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields the bands of a crop whose columns are resized first, and whose rows are resized band by band."""
    scale = max(height, width) / square_CNN.shape[-1]
    wide = resize_part(square_CNN[None], square_CNN.shape[1], width, 1.0, scale)[0].contiguous()
    weights = _row_weights(height, wide.shape[1], scale)
    room = None
    for rows in bands(height, width):
        columns = weights[rows].any(dim=0).nonzero()[:, 0]
        seen = slice(int(columns[0]), int(columns[-1]) + 1)
        part = weights[rows, seen].contiguous()
        room = wide.new_empty(len(wide), len(part), width) if room is None else room[:, : len(part)]
        for source, band in zip(wide, room, strict=True):
            torch.mm(part, source[seen], out=band)
        yield rows, room


def _row_weights(outputs: int, inputs: int, scale: float) -> torch.Tensor:
    """Returns how much of each input row is in each output row of a bilinear resize: outputs×inputs float32.

    Places and weights are rounded as in F.interpolate's kernel (one rounding for multiplying and subtracting).
    """
    step = float(torch.tensor(1 / scale, dtype=torch.float32))
    place = ((torch.arange(outputs, dtype=torch.float64) + 0.5) * step - 0.5).float().clamp_(min=0)
    upper = place.long().clamp_(max=inputs - 1)
    share = (place - upper).clamp_(max=1)[:, None]
    weights = torch.zeros(outputs, inputs)
    weights.scatter_add_(1, (upper + 1).clamp_(max=inputs - 1)[:, None], share)
    return weights.scatter_add_(1, upper[:, None], 1 - share)


def apply(image_HWC: np.ndarray, noise_3NN: torch.Tensor, region_HW: np.ndarray, budget: Budget) -> np.ndarray:
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
    for rows, noise in _resized_bands(noise_3NN, height, width):
        noised[rows] = _add_to_part(image_HWC[rows], noise, region_HW[rows], budget)
    return noised


def apply_tints(image_HWC: np.ndarray, codes_HW: np.ndarray, tints_K3: torch.Tensor, budget: Budget) -> np.ndarray:
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
        noise = np.stack([cv2.LUT(codes, table) for table in tables])
        noised[rows] = _add_to_part(image_HWC[rows], torch.from_numpy(noise), coded_HW[rows], budget)
    return noised


def _add_to_part(part_HWC: np.ndarray, noise_3HW: torch.Tensor, region_HW: np.ndarray, budget: Budget) -> np.ndarray:
    """Does what `apply` does for a part of an image whose noise has its size; the noise is overwritten."""
    values, kind = VALUES_A_GREY_LEVEL[part_HWC.dtype], part_HWC.dtype
    noise_CHW = noise_3HW if part_HWC.shape[2] == 3 else luminance(noise_3HW)
    regions = torch.tensor([False, True])
    region, part_HWC = np.ascontiguousarray(region_HW, dtype=bool).view(np.uint8), np.ascontiguousarray(part_HWC)
    bound = _lookup(region, (epsilon_map(regions, budget) * (GREY_LEVELS * values)).numpy())
    most = _lookup(region, np.array([budget.background * values, budget.object * values]).astype(kind))

    def noised(part: np.ndarray, noise: torch.Tensor, bound: np.ndarray, most: np.ndarray) -> np.ndarray:
        total = noise.mul_(torch.from_numpy(bound)).add_(torch.from_numpy(part))
        result = total.clamp_(0, GREY_LEVELS * values).round_().numpy().astype(kind)
        # cv2 stops at the ends of the type, so that neither limit wraps around.
        cv2.max(result, cv2.subtract(part, most), dst=result)
        return cv2.min(result, cv2.add(part, most), dst=result)

    noise_HWC = noise_CHW.permute(1, 2, 0)
    if noise_HWC.shape[2] == 3 and noise_HWC.is_contiguous():
        return noised(part_HWC, noise_HWC, cv2.merge([bound] * 3), cv2.merge([most] * 3))
    planes = [noised(plane, noise, bound, most) for plane, noise in zip(cv2.split(part_HWC), noise_CHW, strict=True)]
    return cv2.merge(planes).reshape(part_HWC.shape)


def _lookup(region_HW: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Returns H×W values: `pair`'s second where `region` (uint8) is 1, the first where it is 0."""
    lowest, highest = cv2.minMaxLoc(region_HW)[:2]
    if lowest == highest:
        return np.full(region_HW.shape, pair[int(lowest)])
    table = np.zeros((256, 1), pair.dtype)
    table[:2, 0] = pair
    return cv2.LUT(region_HW, table)


def luminance(noise_3HW: torch.Tensor) -> torch.Tensor:
    """Returns noise for a grey image, 1×H×W, mixed as RGB becomes grey (ITU-R BT.601)."""
    return (noise_3HW * torch.tensor(LUMINANCE)[:, None, None]).sum(dim=0, keepdim=True)


def uniform(height: int, width: int, generator: np.random.Generator) -> torch.Tensor:
    """Returns the control: independent uniform noise in [−1, 1], 3×S×S, S the long side (so it is never resized)."""
    side = max(height, width)
    return torch.from_numpy(generator.uniform(-1, 1, (3, side, side)).astype(np.float32))
