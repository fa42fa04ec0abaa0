"""Instance segmentation, detection, panoptic segmentation, remote sensing, and semantic segmentation by Mask2Former.

One `Learner` a task. Training sees random views (flip, zoom, shift, colours); tests see the whole image, scaled to fit into the
training size, and answers are measured at the image's own size.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import nn

from unseg.compute.threads import cores, worker_threads
from unseg.data.annotations import ClassMap
from unseg.errors import UserError
from unseg.evaluation.augmentation import augment, draw_colours, draw_views
from unseg.evaluation.coco_metrics import (
    NOTHING,
    Detections,
    PanopticQuality,
    TrueRegion,
    average_precision,
    decode,
    encode,
)
from unseg.evaluation.detectors import DETECTION, INSTANCE, Found, build_detector
from unseg.evaluation.learner import AnnotatedImages, Example, Learner, LearnerOptions, Metrics
from unseg.evaluation.mask2former import (
    SIZES,
    QueryAnswers,
    SemanticMask2Former,
    build_mask2former,
    instances,
    panoptic,
)
from unseg.evaluation.regions import (
    GEOMETRY_DRAWS,
    ClassList,
    Targets,
    View,
    What,
    all_regions,
    class_list,
    draw_view,
    painted,
    read_regions,
    reduced,
    restore,
    tight_boxes,
    view_pixels,
    view_targets,
    whole,
)
from unseg.evaluation.tasks.semantic import SemanticLearner, labelling_of, learn_labels
from unseg.method import metrics

EVAL_BATCH = 4
KEPT_BYTES = 2**30  # of training pixels in memory; what is beyond is read anew
MAJORITY_LOOKS = 500  # training images that tell the largest class of stuff
BACKBONE = re.compile(r"pixel_level_module\.encoder\.|(^|\.)backbone\.")
COMPONENTS_NOTE = "The annotations are masks without instances: every connected component of a class counts as one."
SHOWN_SCORE = 0.3  # of detections in example pictures

INSTANCE_NETWORKS = (*SIZES, *INSTANCE)
REMOTE_NETWORKS = INSTANCE_NETWORKS
DETECTION_NETWORKS = tuple(DETECTION)
PANOPTIC_NETWORKS = tuple(SIZES)
SEMANTIC_NETWORKS = tuple(SIZES)


class RegionLearner(Learner):
    """What the tasks share: classes, views, and the walk over the test images."""

    what: What = "instances"

    def __init__(self, network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions) -> None:
        options.extras()  # these networks have none
        self.network_name, self.train, self.test, self.options = network, train, test, options
        self.classes: ClassList = class_list(train, test, self.what, options.rule)
        self.truths = all_regions(test, self.classes, self.what)
        if all(region.crowd for regions in self.truths for region in regions):
            raise UserError(
                "--test-annotations: no test image has an object of the classes; there is nothing to measure"
            )
        self.train_count = len(train.names)
        self._from_maps = self.what == "instances" and isinstance(train.annotated(0), ClassMap)
        self._kept: dict[int, tuple[np.ndarray, list[TrueRegion], tuple[int, int]]] = {}
        self._kept_bytes = 0
        self._pool = worker_threads(min(8, cores())) if cores() > 1 else None

    def build(self) -> nn.Module:
        build = build_mask2former if self.network_name in SIZES else self._build_detector
        model = build(self.network_name, len(self.classes.ids), self.options.weights)
        self.notes = [COMPONENTS_NOTE, *model.notes] if self._from_maps else list(model.notes)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """A pretrained backbone learns at a tenth of the rate, as published for Mask2Former and for the DETR family."""
        if self.options.weights is None:
            return super().parameter_groups(model)
        slow, fast = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (slow if BACKBONE.search(name) else fast).append(parameter)
        return [{"params": parameters, "rate": rate} for parameters, rate in ((slow, 0.1), (fast, 1.0)) if parameters]

    def _build_detector(self, name: str, class_count: int, weights: Any) -> nn.Module:
        return build_detector(name, class_count, self.options.size, weights)

    # --- training

    def loss(
        self, model: nn.Module, indices: Sequence[int], draw: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        return self.part_loss(model, indices, draw, device, 0, 1)

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        draws = torch.rand(len(indices), GEOMETRY_DRAWS, generator=draw).tolist()
        colours = draw_colours(len(indices), draw).tolist() if self.options.colour_jitter else [None] * len(draws)
        mine = list(zip(indices, draws, colours, strict=True))[rank::size]
        views = list(self._pool.map(self._training_view, mine) if self._pool else map(self._training_view, mine))
        images, valid = (torch.stack([view[part] for view in views]).to(device) for part in (0, 1))
        return model(images, valid, [view[2].to(device) for view in views])

    def _training_view(self, drawn: tuple[int, Sequence[float], tuple[float, float, float, float] | None]) -> tuple:
        """Image 3×H×W, where it is filled H×W, and its regions."""
        index, draws, colour = drawn
        pixels, regions, image_size = self._training_image(index)
        view = draw_view(draws, image_size, self.options.size, colour)
        return view_pixels(pixels, view), filled(view), view_targets(regions, view)

    def _training_image(self, index: int) -> tuple[np.ndarray, list[TrueRegion], tuple[int, int]]:
        """Pixels and regions, no larger than views need them, and the image's own width and height."""
        if index in self._kept:
            return self._kept[index]
        pixels = self.train.pixels(index)
        regions = read_regions(self.train, index, self.classes, self.what)
        image = (*reduced(pixels, regions, self.options.size), pixels.shape[1::-1])
        if (
            self._kept_bytes + image[0].nbytes <= KEPT_BYTES
        ):  # two threads may read the same image: it is counted twice then
            self._kept[index], self._kept_bytes = image, self._kept_bytes + image[0].nbytes
        return image

    # --- testing

    def answers(
        self, model: nn.Module, device: torch.device, count: int | None = None
    ) -> Iterator[tuple[int, np.ndarray, Any]]:
        """Place, pixels and answer (see `_answer`) of each of the first `count` test images, in order."""
        model.eval()
        places = range(len(self.test.names) if count is None else min(count, len(self.test.names)))
        for first in range(0, len(places), EVAL_BATCH):
            batch = places[first : first + EVAL_BATCH]
            pixels = [self.test.pixels(place) for place in batch]
            views = [View(self.options.size, whole(self.options.size, image.shape[1::-1])) for image in pixels]
            images = torch.stack([view_pixels(image, view) for image, view in zip(pixels, views, strict=True)]).to(
                device
            )
            with torch.inference_mode():
                said = model(images, torch.stack([filled(view) for view in views]).to(device))
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):  # thresholds want all digits
                found = [
                    self._answer(one, view, image.shape[1::-1])
                    for image, view, one in zip(pixels, views, separate(said), strict=True)
                ]
            yield from zip(
                batch, pixels, found, strict=True
            )  # outside, since what is entered here would hold for the caller

    @abstractmethod
    def _answer(self, said: Any, view: View, image_size: tuple[int, int]) -> Any:
        """What the network says of one test image, at the image's own size (width, height)."""

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        return [
            Example(
                self.test.names[place], image, self._drawn_truth(image, self.truths[place]), self._drawn(image, answer)
            )
            for place, image, answer in self.answers(model, device, count)
        ]

    @abstractmethod
    def _drawn(self, image: np.ndarray, answer: Any) -> np.ndarray: ...

    def _drawn_truth(self, image: np.ndarray, regions: Sequence[TrueRegion]) -> np.ndarray:
        return drawn_regions(image, [(region.label, decode(region.mask)) for region in regions])


class InstanceLearner(RegionLearner):
    """Instance segmentation; COCO's AP of masks. Objects that their set marks as a crowd are not learnt and not counted."""

    metric = "ap"
    kind: Literal["segm", "bbox"] = "segm"

    def evaluate(self, model: nn.Module, device: torch.device, tick: Callable[[], None] = lambda: None) -> Metrics:
        answers = []
        for _, _, answer in self.answers(model, device):
            answers.append(answer)
            tick()
        return self._measured(answers)

    @cached_property
    def trivial(self) -> Metrics:
        """No detection at all."""
        return self._measured([Detections.none(self.kind == "segm")] * len(self.test.names))

    def _measured(self, answers: Sequence[Detections]) -> Metrics:
        numbers, per_class = average_precision(self.truths, answers, len(self.classes.ids), self.kind)
        return {**numbers, "class_ap": dict(zip(self.classes.names, per_class, strict=True))}

    def _answer(self, said: Any, view: View, image_size: tuple[int, int]) -> Detections:
        if isinstance(said, QueryAnswers):
            scores, labels, masks = instances(
                said.class_logits[0], restore(said.mask_logits[0], view, image_size).sigmoid()
            )
            found = masks.cpu().numpy()
            return Detections(
                scores.cpu().numpy(), labels.cpu().numpy(), tight_boxes(found), [encode(mask) for mask in found]
            )
        boxes = on_image(said.boxes.cpu().numpy(), view, image_size)
        masks = None
        if said.masks is not None:
            masks = (
                [encode(mask) for mask in (restore(said.masks, view, image_size) > 0.5).cpu().numpy()]
                if len(boxes)
                else []
            )
        return Detections(said.scores.cpu().numpy(), said.labels.cpu().numpy(), boxes, masks)

    def _drawn(self, image: np.ndarray, answer: Detections) -> np.ndarray:
        shown = [place for place in range(len(answer.scores)) if answer.scores[place] >= SHOWN_SCORE]
        return drawn_regions(image, [(int(answer.labels[place]), decode(answer.masks[place])) for place in shown])


class DetectionLearner(InstanceLearner):
    """Detection; COCO's AP of boxes, each the tight box of an annotated mask."""

    kind = "bbox"

    def _drawn(self, image: np.ndarray, answer: Detections) -> np.ndarray:
        shown = answer.scores >= SHOWN_SCORE
        return drawn_boxes(image, answer.labels[shown], answer.boxes[shown])

    def _drawn_truth(self, image: np.ndarray, regions: Sequence[TrueRegion]) -> np.ndarray:
        own = [region for region in regions if not region.crowd]
        masks = np.stack([decode(region.mask) for region in own]) if own else np.zeros((0, *image.shape[:2]), bool)
        return drawn_boxes(image, [region.label for region in own], tight_boxes(masks))


class PanopticLearner(RegionLearner):
    """Panoptic segmentation; PQ, and the mIoU of the same answer."""

    metric = "pq"
    what = "panoptic"

    def evaluate(self, model: nn.Module, device: torch.device, tick: Callable[[], None] = lambda: None) -> Metrics:
        quality = PanopticQuality(self.classes.things)
        for place, _, (segments, labels) in self.answers(model, device):
            self._add(quality, place, segments, labels)
            tick()
        return self._measured(quality)

    @cached_property
    def trivial(self) -> Metrics:
        """The largest class of stuff in the training images at every pixel; nothing where there is no stuff."""
        quality, label = PanopticQuality(self.classes.things), self._largest_stuff()
        for place, regions in enumerate(self.truths):
            if not regions:
                continue  # nothing but void: whatever is said there is not counted
            shape = regions[0].mask["size"]
            self._add(
                quality,
                place,
                np.full(shape, NOTHING if label is None else 0, np.int32),
                [] if label is None else [label],
            )
        return self._measured(quality)

    def _largest_stuff(self) -> int | None:
        """By the pixels of at most MAJORITY_LOOKS training images, spread evenly."""
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


class Mask2FormerSemantic(SemanticLearner):
    """Semantic segmentation by Mask2Former with its own loss: each class that a view shows is one mask."""

    def build(self) -> nn.Module:
        network = super().build()
        self.notes = list(network.notes)
        return network

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        images, labels = self._batch(indices[rank::size], device)
        views = draw_views(len(indices), draw, self.colour_jitter).part(rank, size)
        view, target = augment(images, labels, views)
        return model(view.contiguous(), [class_targets(one) for one in target])


def class_targets(labels_HW: torch.Tensor) -> Targets:
    """The classes of a label map (255: none) as masks. Their boxes are not needed, and are zero."""
    present = labels_HW.unique()
    present = present[present != metrics.IGNORE_LABEL]
    return Targets(
        present, labels_HW[None] == present[:, None, None], torch.zeros(len(present), 4, device=labels_HW.device)
    )


def filled(view: View) -> torch.Tensor:
    """Where a view shows its image, H×W bool."""
    columns, rows = view.filled
    shown = torch.zeros(view.size[1], view.size[0], dtype=torch.bool)
    shown[:rows, :columns] = True
    return shown


def separate(said: QueryAnswers | list[Found]) -> list[Any]:
    """What a network says of a batch as a list, one an image."""
    if isinstance(said, QueryAnswers):
        return [
            QueryAnswers(classes[None], masks[None])
            for classes, masks in zip(said.class_logits, said.mask_logits, strict=True)
        ]
    return said


def on_image(boxes_N4: np.ndarray, view: View, image_size: tuple[int, int]) -> np.ndarray:
    """Boxes of a view of the whole image in pixels of the image, cut at its border."""
    scale = np.array(image_size * 2) / np.array(view.content * 2)
    return (boxes_N4 * scale).clip(0, np.array(image_size * 2))


# --- pictures --------------------------------------------------------------------------------------------------------


def colour_of(label: int) -> np.ndarray:
    """A class's colour, 3 float: hues a golden section apart."""
    hue = int(180 * (label * 0.618034 % 1))
    return cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def drawn_regions(image: np.ndarray, regions: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """The image in grey, each region half covered in its class's colour, outlined: H×W×3 uint8. regions: labels, masks."""
    drawn = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    for label, mask in sorted(regions, key=lambda region: -int(region[1].sum())):
        colour = colour_of(label)
        drawn[mask] = (0.5 * drawn[mask] + 0.5 * colour).astype(np.uint8)
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, edges, -1, colour.tolist(), 1)
    return drawn


def drawn_boxes(image: np.ndarray, labels: Sequence[int], boxes_N4: np.ndarray) -> np.ndarray:
    """The image in grey with boxes in their classes' colours: H×W×3 uint8."""
    drawn = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    thickness = max(1, round(max(image.shape) / 300))
    for label, box in zip(labels, boxes_N4, strict=True):
        left, top, right, bottom = (int(edge) for edge in np.round(box))
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour_of(int(label)).tolist(), thickness)
    return drawn


# --- by task ---------------------------------------------------------------------------------------------------------


def make_semantic(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> SemanticLearner:
    """Semantic segmentation by Mask2Former; labels, views and metrics are those of the other semantic networks."""
    _check_name(network, SEMANTIC_NETWORKS, "semantic")
    options.extras()
    return learn_labels(
        network,
        train,
        test,
        options,
        labelling_of(train, options),
        Mask2FormerSemantic,
        lambda classes: SemanticMask2Former(network, classes, options.weights),
    )


def _check_name(network: str, available: Sequence[str], task: str) -> None:
    if network not in available:
        raise UserError(f"--networks: unknown network '{network}' for --task {task}; available: {', '.join(available)}")


def make_instance(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> InstanceLearner:
    """Instance segmentation of things."""
    _check_name(network, INSTANCE_NETWORKS, "instance")
    return InstanceLearner(network, train, test, options)


def make_remote(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> InstanceLearner:
    """Instance segmentation of aerial images, as of any other. Merged mask files hold no instances: there, every connected
    component of a class is one."""
    _check_name(network, REMOTE_NETWORKS, "remote")
    return InstanceLearner(network, train, test, options)


def make_detection(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> DetectionLearner:
    """Detection of things."""
    _check_name(network, DETECTION_NETWORKS, "detection")
    return DetectionLearner(network, train, test, options)


def make_panoptic(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> PanopticLearner:
    """Panoptic segmentation of things and stuff."""
    _check_name(network, PANOPTIC_NETWORKS, "panoptic")
    return PanopticLearner(network, train, test, options)
