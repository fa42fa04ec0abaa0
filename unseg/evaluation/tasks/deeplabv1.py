"""DeepLabV1-ResNet38 as published for UnSeg's evaluation on Pascal VOC: random scales and crops of images, tests at
full size.

A batch has one scale; its crops are padded with the mean colour, whose pixels are not labelled (the published code
labels them background, which teaches a network that a plain margin is background). The logits are resized to the crop
before the loss. Shapes: B images of a batch, H×W the crop, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.compute.progress import track
from unseg.compute.threads import cores, worker_threads
from unseg.errors import UserError
from unseg.evaluation.augmentation import MEAN, draw_colours, recoloured, standardised
from unseg.evaluation.learner import AnnotatedImages, Example, LearnerOptions, Metrics, PartedLearner
from unseg.evaluation.tasks.label_arrays import check_labels
from unseg.evaluation.tasks.labelling import Labelling, labelling_of
from unseg.evaluation.tasks.semantic import coloured, confusion_metrics, constant_confusion
from unseg.method import metrics
from unseg.victims.resnet38 import HEAD, DeepLabV1, load_weights

NAME = "deeplabv1_resnet38"
SCALES = (0.7, 1.3)  # a batch's magnification, uniform
HEAD_RATE = 10  # times the backbone's learning rate
READ_AHEAD = 16  # test images


@dataclass(frozen=True)
class CropView:
    """How one image of a batch is seen: scaled, flipped or not, then cropped.

    place: which of all crops, down and across, 0 (top, left) to 1.
    """

    scale: float
    flip: bool
    place: tuple[float, float]

    def of(
        self, values: np.ndarray, size: tuple[int, int], interpolation: int, padding: Sequence[float] | float
    ) -> np.ndarray:
        """Returns the view of an image (H×W×3) or label map (H×W) as an array of `size` (width, height) and the same
        type.

        What lies outside the image is `padding`.
        """
        height, width = (max(1, int(side * self.scale)) for side in values.shape[:2])
        scaled = cv2.resize(values, (width, height), interpolation=interpolation)
        if self.flip:
            scaled = scaled[:, ::-1]
        top, left = (
            int(place * max(0, side - room))
            for place, side, room in zip(self.place, (height, width), reversed(size), strict=True)
        )
        part = scaled[top : top + size[1], left : left + size[0]]
        crop = np.empty((size[1], size[0], *values.shape[2:]), values.dtype)
        crop[:] = padding
        crop[: part.shape[0], : part.shape[1]] = part
        return crop


def draw_views(count: int, draw: torch.Generator) -> list[CropView]:
    """Returns `count` views of one scale. `draw` is on the CPU."""
    low, high = SCALES
    first, *rest = torch.rand(1 + 3 * count, generator=draw).tolist()
    scale = low + (high - low) * first
    return [
        CropView(scale, flip < 0.5, (top, left))
        for flip, top, left in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    ]


class DeepLabV1Learner(PartedLearner):
    """DeepLabV1-ResNet38 with the metrics of the semantic task, over the test images' own pixels."""

    metric = "miou"

    def __init__(
        self,
        train: AnnotatedImages,
        test: AnnotatedImages,
        options: LearnerOptions,
        labelling: Labelling,
        width: float = 1.0,
    ) -> None:
        self.options, self.width, self.labelling = options, width, labelling
        self.train_images, self.test_images = train, test
        self.train_count = len(train.names)
        self._pool = worker_threads(cores())
        train_counts = self._count(train, "reading training images")
        test_counts = self._count(test, "reading test images")
        self.class_names = labelling.names(np.flatnonzero(train_counts))
        classes = len(self.class_names)
        check_labels(np.flatnonzero(train_counts), classes, "training labels")
        check_labels(np.flatnonzero(test_counts), classes, "test labels")
        self.trivial = self.metrics_of(constant_confusion(test_counts[:classes], int(train_counts[:classes].argmax())))

    def build(self) -> nn.Module:
        """Returns the network.

        From random weights all of it learns: frozen batch norms that never saw an image would not normalise.
        """
        network = DeepLabV1(len(self.class_names), self.width, frozen=self.options.weights is not None)
        if self.options.weights is None:
            self.notes = ["It starts from random weights, so its first convolution and its batch norms learn, too."]
        elif not load_weights(network, self.options.weights):
            self.notes = [f"{self.options.weights.name} holds no head, which starts from random weights."]
        return network

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns two groups; the head learns at HEAD_RATE times the rate."""
        learnt = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        head = [parameter for name, parameter in learnt.items() if name.startswith(HEAD)]
        return [
            {"params": [parameter for name, parameter in learnt.items() if not name.startswith(HEAD)]},
            {"params": head, "rate": HEAD_RATE},
        ]

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        """Returns the loss of every `size`-th image from `rank` on; the views are those of the whole batch."""
        views = draw_views(len(indices), draw)[rank::size]
        colours = draw_colours(len(indices), draw)[rank::size] if self.options.colour_jitter else None
        crops, labels = zip(*self._pool.map(self._view, indices[rank::size], views), strict=True)
        images_B3HW = self._inputs(np.stack(crops), device, colours)
        target_BHW = torch.from_numpy(np.stack(labels)).to(device, torch.int64)
        logits = F.interpolate(model(images_B3HW).float(), target_BHW.shape[1:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, target_BHW, ignore_index=metrics.IGNORE_LABEL, reduction="sum")
        # At least 1: a batch of padding alone teaches nothing.
        return total / (target_BHW != metrics.IGNORE_LABEL).sum().clamp(min=1)

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns miou, pixel_accuracy and class_iou, as the semantic task has them: at full size, one scale, no
        flip.
        """
        classes = len(self.class_names)
        confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        for start in range(0, len(self.test_images.names), READ_AHEAD):
            places = range(start, min(start + READ_AHEAD, len(self.test_images.names)))
            for pixels, labels in self._pool.map(lambda place: self._read(self.test_images, place), places):
                answer = self._predict(model, pixels, device)
                confusion += metrics.confusion_matrix(torch.from_numpy(labels).to(device), answer, classes)
        return self.metrics_of(confusion.cpu())

    def metrics_of(self, confusion: torch.Tensor) -> Metrics:
        """Returns all metrics of a confusion matrix; see `confusion_metrics`."""
        return confusion_metrics(confusion, self.class_names)

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        """Returns the first `count` test images with their truth and the network's answer in colours."""
        shown = []
        for place, name in enumerate(self.test_images.names[:count]):
            pixels, labels = self._read(self.test_images, place)
            answer = self._predict(model, pixels, device).cpu().numpy()
            shown.append(Example(name, pixels, coloured(labels), coloured(answer)))
        return shown

    def _predict(self, model: nn.Module, pixels_HW3: np.ndarray, device: torch.device) -> torch.Tensor:
        """Returns the class of every pixel of an image, H×W int64."""
        logits = model(self._inputs(pixels_HW3[None].astype(np.float32), device)).float()
        height, width = pixels_HW3.shape[:2]
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0].argmax(0)

    def _inputs(
        self, pixels_BHW3: np.ndarray, device: torch.device, colours: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns pixels of 0 to 255, float32, as the network takes them."""
        images = torch.from_numpy(pixels_BHW3).to(device) / 255
        if colours is not None:
            images = recoloured(images.permute(0, 3, 1, 2), colours).permute(0, 2, 3, 1)
        return standardised(images)

    def _view(self, index: int, view: CropView) -> tuple[np.ndarray, np.ndarray]:
        """Returns the crop of a training image, H×W×3 float32, and of its labels, H×W uint8."""
        pixels, labels = self._read(self.train_images, index)
        size, mean = self.options.size, [255 * value for value in MEAN]
        return (
            view.of(pixels.astype(np.float32), size, cv2.INTER_LINEAR, mean),
            view.of(labels, size, cv2.INTER_NEAREST_EXACT, metrics.IGNORE_LABEL),
        )

    def _read(self, images: AnnotatedImages, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels H×W×3 uint8 and labels H×W uint8 at full size."""
        pixels = images.pixels(index)
        try:
            return pixels, self.labelling.class_map(images.annotated(index))
        except UserError as error:
            name = images.names[index]
            raise error if name in str(error) else UserError(f"{name}: {error}") from None

    def _count(self, images: AnnotatedImages, what: str) -> np.ndarray:
        """Returns how many pixels have each label, 255 among them: 256 counts.

        It reads every image, so that what is broken shows now.
        """
        count = len(images.names)
        counts = self._pool.map(
            lambda index: np.bincount(self._read(images, index)[1].ravel(), minlength=256), range(count)
        )
        return np.sum(list(track(self.options.progress, counts, count, what)), axis=0)


def make_deeplabv1(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> DeepLabV1Learner:
    """Makes the learner of DeepLabV1-ResNet38.

    Its option is width, a factor on all its channels; options.size is the crop.
    """
    if network != NAME:
        raise UserError(f"--networks: unknown network '{network}'; this family has {NAME}")
    return DeepLabV1Learner(train, test, options, labelling_of(train, options), **options.extras(width=1.0))
