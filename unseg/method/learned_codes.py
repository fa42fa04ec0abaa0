"""Noise of codes that a network has changed image by image, within the same bound."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from segment_anything_training.coded import CodedGenerator, joined
from unseg.method.coded_noise import code_signs
from unseg.method.config import Budget
from unseg.method.patterns import CodeBook
from unseg.method.pixels import GREY_LEVELS, VALUES_A_GREY_LEVEL, check_image, is_grey


def apply_learned_codes(
    network: CodedGenerator,
    image_HWC: np.ndarray,
    codes_HW: np.ndarray,
    book: CodeBook,
    key: bytes,
    budget: Budget,
) -> np.ndarray:
    """Returns the image with the network's noise, within `budget.object`; pixels without a code stay as they are.

    All but the network is as for `unseg.method.coded_noise.apply_codes`, whose noise a new network makes. The network
    sees an image larger than the book's `trained_side` shrunk to it, and what it changes is enlarged again. An image
    without colour stays without.
    """
    check_image(image_HWC)
    values, kind = VALUES_A_GREY_LEVEL[image_HWC.dtype], image_HWC.dtype
    level = int(budget.object * values)
    signs_HW3 = code_signs(image_HWC, codes_HW, book, key)
    colours_HW3 = np.broadcast_to(image_HWC, (*codes_HW.shape, 3)).astype(np.float32) / (GREY_LEVELS * values)
    noise_HW3 = _noise(network, colours_HW3, signs_HW3, book.trained_side)
    if is_grey(image_HWC):
        noise_HW3[:] = noise_HW3.mean(axis=2, keepdims=True)
    change = np.rint(noise_HW3[..., : image_HWC.shape[2]] * level).astype(np.int32)
    return np.clip(image_HWC.astype(np.int32) + change, 0, np.iinfo(kind).max).astype(kind)


@torch.inference_mode()
def _noise(network: CodedGenerator, colours_HW3: np.ndarray, signs_HW3: np.ndarray, trained_side: int) -> np.ndarray:
    height, width = signs_HW3.shape[:2]
    scale = min(1.0, trained_side / max(height, width))
    signs = _planes(signs_HW3.astype(np.float32))
    if scale == 1:
        return _pixels(network(_planes(colours_HW3), signs))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = _planes(cv2.resize(colours_HW3, size, interpolation=cv2.INTER_AREA))
    small = _planes(cv2.resize(signs_HW3.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT))
    changes = F.interpolate(network.changes(colours, small), (height, width), mode="bilinear", align_corners=False)
    return _pixels(joined(signs, changes))


def _pixels(noise_13HW: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(noise_13HW[0].permute(1, 2, 0).numpy())


def _planes(pixels_HW3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels_HW3)).permute(2, 0, 1)[None]
