"""Semantic segmentation: every pixel's class, cross entropy, IoU over all the test images together.

Shapes: N images, B batch, C classes, H×W the training size. Tests are at that size, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.data.annotations.label_files import voc_palette
from unseg.evaluation.augmentation import augment, draw_views, normalise
from unseg.evaluation.learner import AnnotatedImages, Example, LearnerOptions, Metrics, PartedLearner
from unseg.evaluation.tasks.label_arrays import Arrays, check_labels, read_arrays
from unseg.evaluation.tasks.labelling import Labelling, labelling_of
from unseg.method import metrics
from unseg.victims.semantic_networks import build_network, check_network, load_pretrained

EVAL_BATCH = 16
ON_DEVICE = 2 << 30  # bytes of a set's images that a GPU holds; more are copied batch by batch


class SemanticLearner(PartedLearner):
    """A network that tells the class of every pixel.

    build: from the number of classes to a network, B×3×H×W to logits B×C×H×W. train, test: images with their labels.
    names: of the test images.
    """

    metric = "miou"

    def __init__(
        self,
        build: Callable[[int], nn.Module],
        train: Arrays,
        test: Arrays,
        class_names: Sequence[str],
        *,
        colour_jitter: bool = False,
        weights: Path | None = None,
        names: Sequence[str] = (),
    ) -> None:
        check_labels(train.maps, len(class_names), "training labels")
        check_labels(test.maps, len(class_names), "test labels", names)
        self._build, self.class_names = build, list(class_names)
        self.colour_jitter, self.weights = colour_jitter, weights
        self.test_names, self.notes = list(names), []
        self.train_count = len(train.images)
        self._train, self._test = train, test
        self._held: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        majority = metrics.majority_class(train.maps, len(class_names))
        self.majority = self.class_names[majority]
        counts = np.bincount(test.maps[test.maps != metrics.IGNORE_LABEL].ravel(), minlength=len(class_names))
        self.trivial = self.metrics_of(constant_confusion(counts, majority))

    def build(self) -> nn.Module:
        """Returns the network, with pretrained weights where there are some."""
        network = self._build(len(self.class_names))
        if self.weights is not None:
            self.notes = load_pretrained(network, self.weights)
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
        """Returns the loss of every `size`-th image from `rank` on; the views are those of the whole batch."""
        views = draw_views(len(indices), draw, self.colour_jitter).part(rank, size)
        images, labels = self._batch(indices[rank::size], device)
        view, target = augment(images, labels, views)
        return self.criterion(model(view).float(), target)

    def criterion(self, logits_BCHW: torch.Tensor, target_BHW: torch.Tensor) -> torch.Tensor:
        """Returns the loss of a batch, a scalar. target: int64; 255 is not counted."""
        return labelled_cross_entropy(logits_BCHW, target_BHW)

    def _batch(self, indices: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self._train.images, self._train.maps
        if device.type != "cpu" and images.nbytes > ON_DEVICE:
            return torch.from_numpy(images[indices]).to(device), torch.from_numpy(labels[indices]).to(device)
        if device not in self._held:
            self._held[device] = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        index = torch.tensor(indices).to(device)
        return self._held[device][0][index], self._held[device][1][index]

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns miou, pixel_accuracy (share of the labelled pixels that are right) and class_iou, by class name."""
        return self.metrics_of(measure(model, self._test, len(self.class_names), device))

    def metrics_of(self, confusion: torch.Tensor) -> Metrics:
        """Returns all metrics of a confusion matrix; see `confusion_metrics`."""
        return confusion_metrics(confusion, self.class_names)

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        """Returns the first `count` test images with their truth and the network's answer in colours."""
        images, maps = self._test.images[:count], self._test.maps[:count]
        answers = predict(model, torch.from_numpy(np.ascontiguousarray(images)).to(device)).cpu().numpy()
        names = self.test_names or [str(index) for index in range(len(images))]
        return [
            Example(name, image, coloured(truth), coloured(answer))
            for name, image, truth, answer in zip(names, images, maps, answers, strict=False)
        ]


def labelled_cross_entropy(logits_BCHW: torch.Tensor, target_BHW: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross entropy of the labelled pixels, a scalar; 0, with a graph, where a batch has none."""
    if not bool((target_BHW != metrics.IGNORE_LABEL).any()):
        return logits_BCHW.sum() * 0
    return F.cross_entropy(logits_BCHW, target_BHW, ignore_index=metrics.IGNORE_LABEL)


def confusion_metrics(confusion: torch.Tensor, class_names: Sequence[str]) -> Metrics:
    """Returns miou, pixel_accuracy and class_iou of a confusion matrix (C×C, rows are true classes).

    A class without pixels has None.
    """
    iou = metrics.class_iou(confusion)
    return {
        "miou": metrics.mean_iou(iou),
        "pixel_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
        "class_iou": dict(zip(class_names, iou, strict=True)),
    }


def constant_confusion(counts: np.ndarray, answer: int) -> torch.Tensor:
    """Returns the confusion matrix of the same answer everywhere. counts: pixels of every true class, C."""
    confusion = torch.zeros(len(counts), len(counts), dtype=torch.int64)
    confusion[:, answer] = torch.from_numpy(np.asarray(counts, np.int64))
    return confusion


def coloured(labels_HW: np.ndarray) -> np.ndarray:
    """Returns labels as a picture, H×W×3 uint8: VOC's colours; white where nothing is labelled."""
    colours = np.array(voc_palette(), np.uint8).reshape(-1, 3).copy()
    colours[metrics.IGNORE_LABEL] = 255
    return colours[labels_HW]


def predict(model: nn.Module, images_BHW3: torch.Tensor) -> torch.Tensor:
    """Returns the class of every pixel, B×H×W int64. images: uint8, on the network's device."""
    return model(normalise(images_BHW3)).argmax(1)


def measure(model: nn.Module, test: Arrays, num_classes: int, device: torch.device) -> torch.Tensor:
    """Returns the confusion matrix over all the images together, C×C int64 on the CPU."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for start in range(0, len(test.images), EVAL_BATCH):
        part = slice(start, start + EVAL_BATCH)
        answers = predict(model, torch.from_numpy(test.images[part]).to(device))
        confusion += metrics.confusion_matrix(torch.from_numpy(test.maps[part]).to(device), answers, num_classes)
    return confusion.cpu()


L = TypeVar("L", bound=SemanticLearner)


def learn_labels(
    network: str,
    train_set: AnnotatedImages,
    test_set: AnnotatedImages,
    options: LearnerOptions,
    *,
    labelling: Labelling,
    kind: type[L],
    build: Callable[[int], nn.Module] | None = None,
) -> L:
    """Returns the learner of a semantic network on the labels that `labelling` makes.

    build: in place of `network`, from the number of classes to a network, which then loads its weights and reads its
    options itself.
    """
    if build is None:
        check_network(network)
        options.extras()
    train = read_arrays(train_set, options.size, labelling, options.progress, "reading training images")
    test = read_arrays(test_set, options.size, labelling, options.progress, "reading test images")
    return kind(
        build or (lambda classes: build_network(network, classes)),
        train,
        test,
        labelling.names(train.maps),
        colour_jitter=options.colour_jitter,
        weights=None if build else options.weights,
        names=test_set.names,
    )


def make_semantic(
    network: str, train_set: AnnotatedImages, test_set: AnnotatedImages, options: LearnerOptions
) -> SemanticLearner:
    """Makes the learner of a network that tells the classes of the training annotations, or the object, apart."""
    labelling = labelling_of(train_set, options)
    return learn_labels(network, train_set, test_set, options, labelling=labelling, kind=SemanticLearner)
