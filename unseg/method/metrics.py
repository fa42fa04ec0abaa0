"""Measures: confusion matrix, intersection over union, how much a network still learns from protected images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from unseg.method.pixels import VALUES_A_GREY_LEVEL

if TYPE_CHECKING:
    import torch  # tensors come with their own arithmetic, so that whoever only reads results needs no torch

IGNORE_LABEL = 255
BOUNDARY_SHARE = 0.02  # of the image's diagonal: Cheng et al.'s choice, and the paper's


def confusion_matrix(
    labels: torch.Tensor, predictions: torch.Tensor, num_classes: int, ignore_label: int = IGNORE_LABEL
) -> torch.Tensor:
    """Returns pixel counts, num_classes×num_classes int64: row = true class, column = predicted class.

    labels, predictions: integer tensors of one shape. Pixels whose label is `ignore_label` are not counted; every other
    label and prediction lies in 0 … num_classes − 1.
    """
    counted = labels != ignore_label
    pairs = labels[counted].long() * num_classes + predictions[counted].long()
    return pairs.bincount(minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def class_iou(confusion: torch.Tensor) -> list[float | None]:
    """Returns every class's intersection over union; None for a class that no label shows, which a mean leaves out."""
    confusion = confusion.double()
    intersection, labelled, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return [
        float(i / (t + p - i)) if t > 0 else None for i, t, p in zip(intersection, labelled, predicted, strict=True)
    ]


def mean_iou(iou: Sequence[float | None]) -> float:
    """Returns the mean over the classes that the labels show (not None); ValueError if they show none."""
    present = [value for value in iou if value is not None]
    if not present:
        raise ValueError("mean_iou: no class has a labelled pixel")
    return sum(present) / len(present)


def mask_iou(label_HW: np.ndarray, answer_HW: np.ndarray) -> float:
    """Returns the intersection over union of two H×W bool masks; 1 where both are empty."""
    union = np.count_nonzero(label_HW | answer_HW)
    return np.count_nonzero(label_HW & answer_HW) / union if union else 1.0


def boundary(mask_HW: np.ndarray, share: float = BOUNDARY_SHARE) -> np.ndarray:
    """Returns the pixels of a mask (H×W bool) that lie within a band along its outline, inside it: H×W bool.

    The band is `share` of the image's diagonal wide, rounded to whole pixels, at least one; distances count king's
    moves, and what lies outside the image is not object (Cheng et al., "Boundary IoU", CVPR 2021, and its published
    code).
    """
    height, width = mask_HW.shape
    reach = max(1, round(share * math.hypot(height, width)))
    inner = cv2.erode(
        mask_HW.astype(np.uint8),
        np.ones((3, 3), np.uint8),
        iterations=reach,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return mask_HW & (inner == 0)


def boundary_iou(label_HW: np.ndarray, answer_HW: np.ndarray, share: float = BOUNDARY_SHARE) -> float:
    """Returns the boundary IoU (Cheng et al., CVPR 2021) of two H×W bool masks: the IoU of their `boundary` bands.

    It is 1 where both are empty.
    """
    return mask_iou(boundary(label_HW, share), boundary(answer_HW, share))


def retained_learning(protected: float, clean: float, trivial: float) -> float | None:
    """Returns (protected − trivial) / (clean − trivial): 1 = protection changed nothing, 0 = nothing was learnt.

    All three are mIoU on the clean test images; `trivial` answers the majority class everywhere. None where the clean
    network is no better than trivial: then there was nothing to retain.
    """
    return (protected - trivial) / (clean - trivial) if clean > trivial else None


def majority_class(labels: np.ndarray, num_classes: int, ignore_label: int = IGNORE_LABEL) -> int:
    """Returns the class with most pixels in `labels` (integers of any shape); the lowest where several tie."""
    return int(np.bincount(labels[labels != ignore_label].ravel(), minlength=num_classes).argmax())


def mean_change(original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray) -> float | None:
    """Returns the mean absolute change of a region's values, in grey levels of 255; None where it has no pixel.

    original, changed: H×W×C of one kind, uint8 or uint16. region: H×W bool.
    """
    region = np.ascontiguousarray(region_HW, dtype=bool).view(np.uint8)
    values = cv2.countNonZero(region) * (original_HWC.size // region.size)
    if not values:
        return None
    total = cv2.norm(np.ascontiguousarray(changed_HWC), np.ascontiguousarray(original_HWC), cv2.NORM_L1, region)
    return total / values / VALUES_A_GREY_LEVEL[original_HWC.dtype]  # whole-number sums: exact


def psnr(original: np.ndarray, changed: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in dB over all values of two images of one shape; infinite where equal.

    uint8 or uint16; the peak is the type's highest value.
    """
    if (
        original.shape != changed.shape
        or original.dtype != changed.dtype
        or original.dtype not in (np.uint8, np.uint16)
    ):
        raise ValueError(f"psnr: {original.shape} {original.dtype} against {changed.shape} {changed.dtype}")
    error = cv2.norm(original, changed, cv2.NORM_L2SQR) / original.size  # whole-number sums: exact, and needs no copies
    return 10 * math.log10(float(np.iinfo(original.dtype).max) ** 2 / error) if error > 0 else math.inf
