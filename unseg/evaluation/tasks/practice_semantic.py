"""Semantic segmentation as people practise it: views at native scale, networks from ImageNet weights, tests at native
size.

All images are in memory as uint8, at their own sizes. A training step sees random crops
(`unseg.evaluation.practice_views`); a test image is seen whole, padded to a multiple of 32. Defences change images
before training and batches in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.compute.progress import SILENT, Progress, track
from unseg.errors import UserError
from unseg.evaluation.augmentation import normalise, standardised
from unseg.evaluation.defences.chain import FittedChain, fit_chain
from unseg.evaluation.defences.early import NOTE
from unseg.evaluation.defences.kinds import Batch, Defence, TrainingSet
from unseg.evaluation.learner import AnnotatedImages, Example, LearnerOptions, Metrics, PartedLearner
from unseg.evaluation.practice import Practice
from unseg.evaluation.practice_start import load_file, start_network
from unseg.evaluation.practice_views import draw_practice_views, take_view
from unseg.evaluation.tasks.label_arrays import check_labels, kept_with
from unseg.evaluation.tasks.labelling import Labelling, labelling_of
from unseg.evaluation.tasks.semantic import coloured, confusion_metrics, constant_confusion
from unseg.method import metrics
from unseg.victims.semantic_networks import build_network

STRIDE = 32  # pixels: tests are padded to a multiple of it
P = TypeVar("P", bound="PracticeSemanticLearner")


@dataclass(frozen=True)
class NativeSet:
    """Images (H×W×3 uint8) and labels (H×W uint8, 255 is not counted) at their own sizes."""

    names: Sequence[str]
    images: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]

    def check(self, class_count: int, what: str) -> None:
        """Raises UserError unless every label is a class below `class_count` or 255, and ValueError for sizes that
        differ."""
        for name, image, label in zip(self.names, self.images, self.labels, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (*label.shape, 3):
                raise ValueError(f"{name}: expected H×W×3 uint8 and H×W labels, got {image.shape} and {label.shape}")
            counted = label[label != metrics.IGNORE_LABEL]
            if counted.size:
                check_labels(counted[None], class_count, f"{what} of {name}")
        if all((label == metrics.IGNORE_LABEL).all() for label in self.labels):
            raise UserError(f"{what}: no pixel has a class (all are {metrics.IGNORE_LABEL}, which is ignored)")


def read_native(
    images: AnnotatedImages, labelling: Labelling, progress: Progress = SILENT, what: str = "reading images"
) -> NativeSet:
    """Returns all images of a set with their labels; a second call does not read them again. UserError names the image
    whose annotations cannot be used."""
    return kept_with(images, ("native", type(labelling)), lambda: _read_native(images, labelling, progress, what))


def _read_native(images: AnnotatedImages, labelling: Labelling, progress: Progress, what: str) -> NativeSet:
    pixels, maps = [], []
    for index, name in enumerate(track(progress, images.names, len(images.names), what)):
        pixels.append(images.pixels(index))
        try:
            maps.append(labelling.class_map(images.annotated(index)))
        except UserError as error:
            raise error if name in str(error) else UserError(f"{name}: {error}") from None
    return NativeSet(list(images.names), pixels, maps)


class PracticeSemanticLearner(PartedLearner):
    """A semantic network trained as people train. build: from the number of classes to a network, B×3×H×W to logits
    B×C×H×W.

    defences: applied in their order; the training set is changed when the learner is made, test images where a
    defence says so. chain: what of the defences acts later (on batches and scores). notes: sentences on the weights
    that the caller chose.
    """

    metric = "miou"

    def __init__(
        self,
        build: Callable[[int], nn.Module],
        train: NativeSet,
        test: NativeSet,
        class_names: Sequence[str],
        *,
        practice: Practice,
        defences: Sequence[Defence] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.class_names, self.practice, self._build = list(class_names), practice, build
        train.check(len(class_names), "training labels")
        test.check(len(class_names), "test labels")
        given = TrainingSet(train.names, train.images, train.labels, len(class_names))
        changed, self.chain = fit_chain(defences, given, practice.seed)
        self._images, self._labels = changed.images, changed.labels
        self._test = _changed_test(test, self.chain)
        self.notes = [*notes, *([NOTE] if self.chain.score_defence is not None else [])]
        self.train_count = len(self._images)
        counts = _class_counts(self._labels, len(class_names))
        self.majority = self.class_names[int(counts.argmax())]
        test_counts = _class_counts(self._test.labels, len(class_names))
        self.trivial = confusion_metrics(constant_confusion(test_counts, int(counts.argmax())), self.class_names)

    def build(self) -> nn.Module:
        """Returns the network with the weights that `practice` names; its encoder is frozen where that is asked for."""
        network = self._build(len(self.class_names))
        said = self._load_file(network)
        started, found = start_network(network, self.practice)
        self.notes = list(dict.fromkeys([*self.notes, *said, *found]))
        return started

    def _load_file(self, network: nn.Module) -> list[str]:
        """Loads the file of weights that is named, if one is, and returns sentences for the person."""
        return load_file(network, self.practice)

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        """Returns the loss of one process's part of a batch; the views are those that one process alone would see."""
        views = draw_practice_views(len(indices), draw, self.practice.distort)[rank::size]
        seed = int(torch.randint(2**62, (1,), generator=draw))
        taken = [
            take_view(self._images[index], self._labels[index], view, self.practice.crop)
            for index, view in zip(indices[rank::size], views, strict=True)
        ]
        images_BHW3 = torch.from_numpy(np.stack([image for image, _ in taken])).to(device)
        targets = torch.from_numpy(np.stack([label for _, label in taken])).to(device, torch.int64)
        images = images_BHW3.permute(0, 3, 1, 2).to(torch.float32) / 255
        batch = Batch(images, targets, lambda images, targets: self.criterion(model, images, targets))
        batch = self.chain.change_batch(batch, torch.Generator().manual_seed(seed + rank))
        return batch.loss(batch.images, batch.targets)

    def criterion(self, model: nn.Module, images_B3HW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
        """Returns the loss of images in [0, 1]: cross-entropy, the mean over the labelled pixels.

        It is 0, with a graph, where a batch has none.
        """
        logits = model(network_input(images_B3HW)).float()
        total = F.cross_entropy(logits, targets_BHW, ignore_index=metrics.IGNORE_LABEL, reduction="sum")
        return total / (targets_BHW != metrics.IGNORE_LABEL).sum().clamp(min=1)

    def counted(self, scores: Sequence[float]) -> float:
        """Returns the score that counts; see `FittedChain.score`."""
        return self.chain.score(scores)

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns miou, pixel_accuracy and class_iou (by class name) over all test images together, at their own
        size."""
        confusion = torch.zeros(len(self.class_names), len(self.class_names), dtype=torch.int64)
        for pixels, label in zip(self._test.images, self._test.labels, strict=True):
            answer = torch.from_numpy(answer_of(model, pixels, device))
            confusion += metrics.confusion_matrix(torch.from_numpy(label), answer, len(self.class_names))
        return confusion_metrics(confusion, self.class_names)

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        """Returns the first `count` test images with their truth and what the network says."""
        shown = zip(self._test.names, self._test.images, self._test.labels, strict=True)
        return [
            Example(name, pixels, coloured(label), coloured(answer_of(model, pixels, device)))
            for name, pixels, label in list(shown)[:count]
        ]

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns one group with all parameters that learn; UserError where none does."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise UserError("the network has no parameter that learns; leave --freeze away")
        return [{"params": parameters}]


@torch.no_grad()
def answer_of(model: nn.Module, pixels_HW3: np.ndarray, device: torch.device) -> np.ndarray:
    """Returns the class of every pixel of one image, H×W int64. The image is padded with ImageNet's mean colour."""
    height, width = pixels_HW3.shape[:2]
    image = normalise(torch.from_numpy(np.ascontiguousarray(pixels_HW3))[None].to(device))
    padded = F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE))
    return model(padded)[0, :, :height, :width].argmax(0).cpu().numpy()


def learn_native(
    network: str,
    train_set: AnnotatedImages,
    test_set: AnnotatedImages,
    options: LearnerOptions,
    *,
    labelling: Labelling,
    kind: type[P],
    build: Callable[[int], nn.Module] | None = None,
) -> P:
    """Returns the learner of a semantic network on the labels that `labelling` makes; `options.practice` says how it is
    trained.

    build: in place of `network`, from the number of classes to a network.
    """
    assert options.practice is not None
    options.extras()
    train = read_native(train_set, labelling, options.progress, "reading training images")
    test = read_native(test_set, labelling, options.progress, "reading test images")
    return kind(
        build or (lambda classes: build_network(network, classes)),
        train,
        test,
        labelling.names(np.concatenate([label.ravel() for label in train.labels])),
        practice=options.practice,
        defences=options.defences,
        notes=options.notes,
    )


def make_practice_semantic(
    network: str, train_set: AnnotatedImages, test_set: AnnotatedImages, options: LearnerOptions
) -> PracticeSemanticLearner:
    """Makes the learner of a network that tells the classes of the training annotations, or the object, apart."""
    labelling = labelling_of(train_set, options)
    return learn_native(network, train_set, test_set, options, labelling=labelling, kind=PracticeSemanticLearner)


def _changed_test(test: NativeSet, chain: FittedChain) -> NativeSet:
    changed = [chain.change_test(*item) for item in zip(test.names, test.images, test.labels, strict=True)]
    return NativeSet(test.names, [image for image, _ in changed], [label for _, label in changed])


def _class_counts(labels: Sequence[np.ndarray], class_count: int) -> np.ndarray:
    """Returns how many pixels each class has, C int64."""
    total = np.zeros(class_count, np.int64)
    for label in labels:
        total += np.bincount(label[label != metrics.IGNORE_LABEL].ravel(), minlength=class_count)
    return total


def network_input(images_B3HW: torch.Tensor) -> torch.Tensor:
    """Returns images in [0, 1] as networks take them: less ImageNet's mean, by its deviation, channels last in
    memory."""
    return standardised(images_B3HW.permute(0, 2, 3, 1)).contiguous(memory_format=torch.channels_last)
