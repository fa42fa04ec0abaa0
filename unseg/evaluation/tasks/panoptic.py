"""Panoptic segmentation of things and stuff: panoptic quality."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from unseg.evaluation.coco_metrics import NOTHING, PanopticQuality, decode
from unseg.evaluation.learner import AnnotatedImages, LearnerOptions, Metrics
from unseg.evaluation.region_pictures import drawn_regions
from unseg.evaluation.region_views import View, restore
from unseg.evaluation.regions import What, painted, read_regions
from unseg.evaluation.tasks.region_learner import RegionLearner, check_name
from unseg.victims.mask2former import SIZES, QueryAnswers, panoptic

MAJORITY_LOOKS = 500  # training images that tell the largest class of stuff
PANOPTIC_NETWORKS = tuple(SIZES)


class PanopticLearner(RegionLearner):
    """Panoptic segmentation, measured by PQ, with the mIoU of the same answer beside it."""

    metric = "pq"
    what: What = "panoptic"

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns PanopticQuality's numbers, class_pq and class_iou, by class name."""
        quality = PanopticQuality(self.classes.things)
        for place, _, (segments, labels) in self.answers(model, device):
            self._add(quality, place, segments, labels)
        return self._measured(quality)

    @cached_property
    def trivial(self) -> Metrics:  # type: ignore[override]  # measured when asked for; a cached property may be set, too
        """Returns the metrics of one answer everywhere: the training images' largest class of stuff.

        Where there is no stuff, the answer is empty.
        """
        quality, label = PanopticQuality(self.classes.things), self._largest_stuff()
        owner, labels = (NOTHING, []) if label is None else (0, [label])
        for place, regions in enumerate(self.truths):
            if regions:  # where there is nothing but void, whatever is said is not counted
                self._add(quality, place, np.full(regions[0].mask["size"], owner, np.int32), labels)
        return self._measured(quality)

    def _largest_stuff(self) -> int | None:
        """Returns the class of stuff with most pixels in at most MAJORITY_LOOKS training images, spread evenly."""
        areas = np.zeros(len(self.classes.ids), np.int64)
        looked_at = min(self.train_count, MAJORITY_LOOKS)
        for place in np.linspace(0, self.train_count - 1, looked_at).round().astype(int).tolist():
            for region in read_regions(self.train, place, self.classes, self.what):
                areas[region.label] += 0 if self.classes.things[region.label] else int(decode(region.mask).sum())
        return int(areas.argmax()) if areas.any() else None

    def _add(self, quality: PanopticQuality, place: int, segments: np.ndarray, labels: Sequence[int]) -> None:
        regions = self.truths[place]
        quality.add(
            painted([region.mask for region in regions], *segments.shape),
            [region.label for region in regions],
            [region.crowd for region in regions],
            segments,
            labels,
        )

    def _measured(self, quality: PanopticQuality) -> Metrics:
        per_class = quality.class_pq()
        return {
            **quality.numbers(),
            "class_pq": dict(zip(self.classes.names, per_class, strict=True)),
            "class_iou": dict(zip(self.classes.names, quality.class_iou(), strict=True)),
        }

    def _answer(self, said: QueryAnswers, view: View, image_size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
        masks = restore(said.mask_logits[0], view, image_size).sigmoid()
        segments, labels = panoptic(said.class_logits[0], masks, self.classes.things)
        return segments.cpu().numpy(), labels

    def _drawn(self, image: np.ndarray, answer: tuple[np.ndarray, list[int]]) -> np.ndarray:
        segments, labels = answer
        return drawn_regions(image, [(label, segments == place) for place, label in enumerate(labels)])


def make_panoptic(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> PanopticLearner:
    """Makes the learner of a panoptic network."""
    check_name(network, PANOPTIC_NETWORKS, "panoptic")
    return PanopticLearner(network, train, test, options)
