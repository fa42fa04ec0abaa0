"""Instance segmentation, detection and remote sensing: COCO's average precision of masks or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import nn

from unseg.evaluation.coco_metrics import Detections, RunLengths, TrueRegion, average_precision, decode, encode
from unseg.evaluation.learner import AnnotatedImages, LearnerOptions, Metrics
from unseg.evaluation.region_pictures import drawn_boxes, drawn_regions
from unseg.evaluation.region_views import View, restore, tight_boxes
from unseg.evaluation.tasks.region_learner import RegionLearner, check_name
from unseg.victims.detectors import DETECTION, INSTANCE, has_encoder
from unseg.victims.mask2former import SIZES, QueryAnswers, instances
from unseg.victims.targets import FoundObjects

SHOWN_SCORE = 0.3  # of detections in example pictures
INSTANCE_NETWORKS = (*SIZES, *INSTANCE)
DETECTION_NETWORKS = tuple(DETECTION)


class InstanceLearner(RegionLearner):
    """Instance segmentation, measured by COCO's AP of masks.

    Objects that their set marks as a crowd are not learnt and not counted.
    """

    metric = "ap"
    kind: Literal["segm", "bbox"] = "segm"

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns COCO's summaries and class_ap, by class name."""
        return self._measured([answer for _, _, answer in self.answers(model, device)])

    @cached_property
    def trivial(self) -> Metrics:  # type: ignore[override]  # measured when asked for; a cached property may be set, too
        """Returns the metrics of no detection at all."""
        return self._measured([Detections.none(self.kind == "segm")] * len(self.test.names))

    def _measured(self, answers: Sequence[Detections]) -> Metrics:
        numbers, per_class = average_precision(self.truths, answers, len(self.classes.ids), self.kind)
        return {**numbers, "class_ap": dict(zip(self.classes.names, per_class, strict=True))}

    def _answer(self, said: QueryAnswers | FoundObjects, view: View, image_size: tuple[int, int]) -> Detections:
        if isinstance(said, QueryAnswers):
            return _from_queries(said, view, image_size)
        boxes = on_image(said.boxes.cpu().numpy(), view, image_size)
        return Detections(
            said.scores.cpu().numpy(), said.labels.cpu().numpy(), boxes, _masks_of(said, view, image_size)
        )

    def _drawn(self, image: np.ndarray, answer: Detections) -> np.ndarray:
        shown = [
            (int(label), decode(mask))
            for score, label, mask in zip(answer.scores, answer.labels, answer.masks or (), strict=True)
            if score >= SHOWN_SCORE
        ]
        return drawn_regions(image, shown)


class DetectionLearner(InstanceLearner):
    """Detection, measured by COCO's AP of boxes, each the tight box of an annotated mask."""

    kind = "bbox"

    def _drawn(self, image: np.ndarray, answer: Detections) -> np.ndarray:
        shown = answer.scores >= SHOWN_SCORE
        return drawn_boxes(image, answer.labels[shown].tolist(), answer.boxes[shown])

    def _drawn_truth(self, image: np.ndarray, regions: Sequence[TrueRegion]) -> np.ndarray:
        own = [region for region in regions if not region.crowd]
        masks = np.stack([decode(region.mask) for region in own]) if own else np.zeros((0, *image.shape[:2]), bool)
        return drawn_boxes(image, [region.label for region in own], tight_boxes(masks))


def _from_queries(said: QueryAnswers, view: View, image_size: tuple[int, int]) -> Detections:
    probabilities = restore(said.mask_logits[0], view, image_size).sigmoid()
    scores, labels, masks = instances(said.class_logits[0], probabilities)
    found = masks.cpu().numpy()
    return Detections(scores.cpu().numpy(), labels.cpu().numpy(), tight_boxes(found), [encode(mask) for mask in found])


def _masks_of(said: FoundObjects, view: View, image_size: tuple[int, int]) -> list[RunLengths] | None:
    """Returns a detector's masks on the image; None for detectors of boxes."""
    if said.masks is None:
        return None
    if not len(said.masks):
        return []
    return [encode(mask) for mask in (restore(said.masks, view, image_size) > 0.5).cpu().numpy()]


def on_image(boxes_N4: np.ndarray, view: View, image_size: tuple[int, int]) -> np.ndarray:
    """Returns boxes of a view of the whole image in pixels of the image, cut at its border."""
    scale = np.array(image_size * 2) / np.array(view.content * 2)
    return (boxes_N4 * scale).clip(0, np.array(image_size * 2))


def make_instance(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> InstanceLearner:
    """Makes the learner of an instance network; it learns countable things."""
    _check_instance(network, "instance")
    return InstanceLearner(network, train, test, options)


def make_remote(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> InstanceLearner:
    """Makes the learner of an instance network on aerial images.

    Merged mask files hold no instances; there, every connected component of a class is one.
    """
    _check_instance(network, "remote")
    return InstanceLearner(network, train, test, options)


def make_detection(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> DetectionLearner:
    """Makes the learner of a detector; it learns countable things."""
    if not has_encoder(network, "fasterrcnn"):
        check_name(network, DETECTION_NETWORKS, "detection", "fasterrcnn_ENCODER")
    return DetectionLearner(network, train, test, options)


def _check_instance(network: str, task: str) -> None:
    if not has_encoder(network, "maskrcnn"):
        check_name(network, INSTANCE_NETWORKS, task, "maskrcnn_ENCODER")
