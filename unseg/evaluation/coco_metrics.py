"""Average precision as COCO's own tools count it, and panoptic quality as Kirillov et al. define it.

Masks are compressed run lengths, pycocotools' {"size": [H, W], "counts": bytes}; boxes are XYXY in pixels, the first
pixel's corner being (0, 0), so that the box of one pixel has an area of 1. Labels are places in the task's list of
classes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from unseg.method import metrics

RunLengths = dict[str, Any]
Numbers = dict[str, float | None]

# COCO's six summaries, in the order of COCOeval.stats. Sizes are of the truth's masks, in pixels of the image's own
# size.
AP_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NOTHING = -1  # in maps of segments: the pixel belongs to none (void in a truth)


@dataclass(frozen=True)
class TrueRegion:
    """One annotated region of an image.

    crowd: several objects under one mask, where detections are neither right nor wrong.
    """

    label: int
    crowd: bool
    mask: RunLengths


@dataclass(frozen=True)
class Detections:
    """What a network says of one image.

    scores: N, 0 to 1. labels: N. boxes: N×4, pixels. masks: N; None for boxes alone.
    """

    scores: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    masks: Sequence[RunLengths] | None

    @staticmethod
    def none(masks: bool) -> Detections:
        """Returns an answer without any detection."""
        return Detections(np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 4)), [] if masks else None)


def encode(mask_HW: np.ndarray) -> RunLengths:
    """Returns the run lengths of an H×W bool mask."""
    return coco_mask.encode(np.asfortranarray(mask_HW, np.uint8))


def decode(mask: RunLengths) -> np.ndarray:
    """Returns the mask of run lengths, H×W bool."""
    return coco_mask.decode(mask).astype(bool)


def average_precision(
    truths: Sequence[Sequence[TrueRegion]],
    answers: Sequence[Detections],
    class_count: int,
    kind: Literal["segm", "bbox"],
) -> tuple[Numbers, list[float | None]]:
    """Returns COCO's AP over all images together, and each class's AP at IoU 0.50 to 0.95.

    truths, answers: one entry an image. Returns AP_NAMES → number in [0, 1], None where the truth shows no region of
    that size; and one number a class, None for classes that the truth does not show, which the mean leaves out.
    """
    truth = _coco(
        [_entry(image, region) for image, regions in enumerate(truths) for region in regions],
        len(truths),
        class_count,
    )
    found = _coco(
        [entry for image, answer in enumerate(answers) for entry in _results(image, answer)],
        len(truths),
        class_count,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
        judge = COCOeval(truth, found, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # IoU thresholds × recalls × classes × sizes × detections an image; −1: nothing to find.
    precision = judge.eval["precision"][:, :, :, 0, -1]
    per_class = [_number(_mean_of_known(precision[:, :, place])) for place in range(class_count)]
    return {name: _number(value) for name, value in zip(AP_NAMES, judge.stats[:6], strict=True)}, per_class


def _coco(annotations: list[dict[str, Any]], image_count: int, class_count: int) -> COCO:
    """Returns an index over annotations in memory; ids count from 1, since COCOeval takes id 0 for "not matched"."""
    api = COCO()
    # Sizes of images matter for polygons alone, which there are none of.
    api.dataset = {
        "images": [{"id": place, "height": 0, "width": 0} for place in range(image_count)],
        "categories": [{"id": place} for place in range(class_count)],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def _entry(image: int, region: TrueRegion) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": region.label,
        "iscrowd": int(region.crowd),
        "segmentation": region.mask,
        "area": float(coco_mask.area(region.mask)),
        "bbox": coco_mask.toBbox(region.mask).tolist(),
    }


def _results(image: int, answer: Detections) -> list[dict[str, Any]]:
    entries = []
    listed = zip(answer.scores, answer.labels, answer.boxes, strict=True)
    for place, (score, label, (left, top, right, bottom)) in enumerate(listed):
        width, height = float(right - left), float(bottom - top)
        entry: dict[str, Any] = {
            "image_id": image,
            "category_id": int(label),
            "score": float(score),
            "iscrowd": 0,
            "bbox": [float(left), float(top), width, height],
        }
        if answer.masks is None:
            entry["area"] = width * height
        else:
            entry["segmentation"] = answer.masks[place]
            entry["area"] = float(coco_mask.area(answer.masks[place]))
        entries.append(entry)
    return entries


def _mean_of_known(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _number(value: float) -> float | None:
    return None if value < 0 else float(value)


class PanopticQuality:
    """PQ, SQ and RQ (Kirillov et al., "Panoptic Segmentation", CVPR 2019) and the mIoU of the panoptic answer.

    things: for every class whether it is countable. A segment of the truth and one of the answer match where they have
    the same class and an IoU above 0.5; void pixels of the truth count for neither, and an unmatched segment more than
    half of which lies on void pixels or on a crowd of its class is not wrong. Means are over the classes of which the
    truth shows a segment that is no crowd.
    """

    def __init__(self, things: Sequence[bool]) -> None:
        self.things = np.array(things, bool)
        count = len(self.things)
        self._matched, self._false, self._missed = (np.zeros(count, np.int64) for _ in range(3))
        self._iou = np.zeros(count)
        self._confusion = torch.zeros(count + 1, count + 1, dtype=torch.int64)

    def add(
        self,
        truth_HW: np.ndarray,
        truth_labels: Sequence[int],
        crowds: Sequence[bool],
        answer_HW: np.ndarray,
        answer_labels: Sequence[int],
    ) -> None:
        """Counts one image.

        truth, answer: H×W integers, the place of the pixel's segment in the lists beside it, or NOTHING.
        """
        rows, columns = len(truth_labels) + 1, len(answer_labels) + 1  # the last stands for NOTHING
        places = np.where(truth_HW == NOTHING, rows - 1, truth_HW).astype(np.int64) * columns
        places += np.where(answer_HW == NOTHING, columns - 1, answer_HW)
        shared = np.bincount(places.ravel(), minlength=rows * columns).reshape(rows, columns)
        true_class, answer_class = (
            np.array([*labels, len(self.things)], np.int64) for labels in (truth_labels, answer_labels)
        )
        crowd = np.array([*crowds, False])
        self._count_matches(shared, true_class, answer_class, crowd)
        pairs = torch.from_numpy(true_class[:, None] * (len(self.things) + 1) + answer_class[None])
        self._confusion += (
            torch.bincount(
                pairs.ravel(), torch.from_numpy(shared).ravel().to(torch.float64), minlength=self._confusion.numel()
            )
            .reshape(self._confusion.shape)
            .to(torch.int64)
        )

    def _count_matches(
        self, shared: np.ndarray, true_class: np.ndarray, answer_class: np.ndarray, crowd: np.ndarray
    ) -> None:
        areas = shared.sum(0)
        union = shared.sum(1, keepdims=True) + areas[None] - shared - shared[-1:]  # the answer's void pixels left out
        iou = shared / np.maximum(union, 1)
        wanted = (true_class[:, None] == answer_class[None]) & ~crowd[:, None]
        wanted[-1], wanted[:, -1] = False, False
        hits = wanted & (iou > 0.5)  # at most one a row and a column
        excused = shared[-1] + (shared * (crowd[:, None] & (true_class[:, None] == answer_class[None]))).sum(0)
        for true, answer in zip(*np.nonzero(hits), strict=True):
            self._matched[true_class[true]] += 1
            self._iou[true_class[true]] += iou[true, answer]
        sizes = shared.sum(1)
        for true in np.flatnonzero(~hits.any(1)[:-1] & ~crowd[:-1] & (sizes[:-1] > 0)):
            self._missed[true_class[true]] += 1
        for answer in np.flatnonzero(~hits.any(0)[:-1] & (areas[:-1] > 0)):
            if excused[answer] <= 0.5 * areas[answer]:
                self._false[answer_class[answer]] += 1

    def numbers(self) -> Numbers:
        """Returns pq, sq, rq of all classes, of things (`…_things`) and of stuff (`…_stuff`), and miou.

        A number is None where there is no class that it could be a mean over.
        """
        shown = self._matched + self._missed > 0
        found: Numbers = {}
        for suffix, chosen in (("", shown), ("_things", shown & self.things), ("_stuff", shown & ~self.things)):
            for name, values in zip(("pq", "sq", "rq"), self._per_class(), strict=True):
                found[name + suffix] = float(values[chosen].mean()) if chosen.any() else None
        iou = self.class_iou()
        found["miou"] = metrics.mean_iou(iou) if any(value is not None for value in iou) else None
        return found

    def class_pq(self) -> list[float | None]:
        """Returns every class's PQ; None for classes of which the truth shows no segment."""
        return [
            float(value) if shown else None
            for value, shown in zip(self._per_class()[0], self._matched + self._missed > 0, strict=True)
        ]

    def class_iou(self) -> list[float | None]:
        """Returns every class's IoU over the pixels of all images; a pixel of which the answer says nothing is
        wrong.
        """
        confusion = self._confusion.clone()
        confusion[-1] = 0  # void pixels are not counted
        return metrics.class_iou(confusion)[:-1]

    def _per_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sq = self._iou / np.maximum(self._matched, 1)
        rq = self._matched / np.maximum(self._matched + 0.5 * self._false + 0.5 * self._missed, 0.5)
        return sq * rq, sq, rq
