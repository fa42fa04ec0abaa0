"""Semantic segmentation: every pixel's class, cross entropy, IoU over all the test images together.

Shapes: N images, B batch, C classes, H×W the training size. Images and labels are resized to the training size whatever their
proportions, images by pixel area, labels to the nearest pixel; tests are at that size too. Arrays beyond IN_MEMORY lie in an
unnamed temporary file (in $TMPDIR).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from segment_anything_training.key_remaps import shapes_of
from unseg.compute.device import choose_device
from unseg.compute.distributed import World
from unseg.data.annotations import NO_CLASS, Annotated, ClassMap, ClassTable, ObjectRule
from unseg.data.annotations.core import Outlined
from unseg.data.annotations.label_files import voc_palette
from unseg.errors import UserError
from unseg.evaluation.augmentation import augment, draw_views, normalise
from unseg.evaluation.learner import AnnotatedImages, Example, Learner, LearnerOptions, Metrics
from unseg.evaluation.pairs import Task, shrink_image, shrink_label
from unseg.evaluation.trainer import Evaluation, Schedule, Trained, train
from unseg.method import metrics
from unseg.storage.state_files import compare
from unseg.victims.pretrained import load_strictly, read_weights
from unseg.victims.semantic_networks import AnySize, OutOf, build_network, check_network

EVAL_BATCH = 16
IN_MEMORY = 4 << 30  # bytes of a set's images
ON_DEVICE = 2 << 30  # bytes of a set's images that a GPU holds; more are copied batch by batch
BACKGROUND = "background"
CLASSIFIER = re.compile(r"(fc|classifier|head|last_linear)\.")
HEADS = r"segmentation_head|classifier\.4|aux_classifier"  # entries of networks whose size is the number of classes


# --- from annotations to labels --------------------------------------------------------------------------------------


class Labelling(Protocol):
    """How annotations become labels: first the class map of every image, then, once all training images are known, the labels."""

    def class_map(self, annotated: Annotated) -> np.ndarray:
        """H×W uint8; 255: not labelled."""

    def names(self, train_maps: np.ndarray) -> list[str]:
        """The name of every label, by the training images' class maps (N×H×W). UserError where they show no class."""

    def labels(self, maps: np.ndarray) -> np.ndarray:
        """The labels of class maps of any shape: uint8, 255 stays."""


class TaskLabelling:
    """The classes of a `Task`: binary, or every class of index maps from 0 to the highest that training shows."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def class_map(self, annotated: Annotated) -> np.ndarray:
        assert isinstance(annotated, ClassMap)
        return annotated.values

    def names(self, train_maps: np.ndarray) -> list[str]:
        return [str(label) for label in range(self.task.num_classes(train_maps))]

    def labels(self, maps: np.ndarray) -> np.ndarray:
        return self.task.labels(maps)


class TableLabelling:
    """The classes that annotations tell of, in the order of their ids; without a list of them 0 to the highest of training.

    Formats of outlines and binary masks leave pixels without a class: they are the background, a class of its own, the first.
    In class maps and panoptic maps such pixels are not labelled. Crowds, void and `rule.ignore_label` are never labelled.
    """

    def __init__(self, classes: ClassTable, rule: ObjectRule, outlines: bool) -> None:
        """outlines: whether pixels without a class are background."""
        self.rule = ObjectRule("all", True, rule.ignore_label, None)
        self.table, self.outlines = classes, outlines
        listed = classes.ids or frozenset(classes.names)
        ids = sorted(listed - classes.void - {rule.ignore_label}) if listed else None
        self.ids = ids
        first = int(outlines)
        self.place = None if ids is None else {number: place for place, number in enumerate(ids, first)}
        if ids is not None and len(ids) + first > metrics.IGNORE_LABEL:
            raise UserError(
                f"--annotations: {len(ids)} classes; at most {metrics.IGNORE_LABEL - first} can be told apart"
            )

    def class_map(self, annotated: Annotated) -> np.ndarray:
        codes = annotated.class_codes(self.rule)
        labels = np.full(codes.shape, 0 if self.outlines else metrics.IGNORE_LABEL, np.uint8)
        for number in np.unique(codes).tolist():
            if number != NO_CLASS:
                labels[codes == number] = self._label(number)
        if self.outlines:
            for segment in annotated.segments:
                if segment.crowd:
                    labels[segment.mask & (codes == NO_CLASS)] = metrics.IGNORE_LABEL
        return labels

    def _label(self, number: int) -> int:
        if self.place is None:
            label = number + int(self.outlines)
            if number == metrics.IGNORE_LABEL:
                return metrics.IGNORE_LABEL
            if not 0 <= label < metrics.IGNORE_LABEL:
                raise UserError(
                    f"class {number} is out of range; label maps hold classes from 0 to 254, and the ignored label "
                    f"{self.rule.ignore_label} (--ignore-label)"
                )
            return label
        if number not in self.place:
            raise UserError(
                f"class {number} is out of range; the annotations know the classes "
                f"{', '.join(map(str, self.ids or ()))}"
            )
        return self.place[number]

    def names(self, train_maps: np.ndarray) -> list[str]:
        present = np.unique(train_maps[train_maps != metrics.IGNORE_LABEL])
        if present.size == 0:
            raise UserError("--annotations: the training images show no class (no pixel is labelled)")
        ids = self.ids if self.ids is not None else range(int(present[-1]) + 1 - int(self.outlines))
        names = [self.table.names.get(number) or str(number) for number in ids]
        names = [
            name if names.count(name) == 1 else f"{name} ({number})" for name, number in zip(names, ids, strict=True)
        ]
        return [BACKGROUND] * self.outlines + names

    def labels(self, maps: np.ndarray) -> np.ndarray:
        return maps


@dataclass(frozen=True, eq=False)
class Arrays:
    """A set at the training size. images: N×H×W×3 uint8; maps: N×H×W uint8 class maps, or labels; 255 is not counted."""

    images: np.ndarray
    maps: np.ndarray

    def __post_init__(self) -> None:
        if (
            self.images.dtype != np.uint8
            or self.images.ndim != 4
            or self.images.shape[-1] != 3
            or self.images.shape[:3] != self.maps.shape
        ):
            raise ValueError(
                f"expected images N×H×W×3 uint8 and labels N×H×W, got {self.images.shape} {self.images.dtype}, "
                f"{self.maps.shape}"
            )


# What was read of a set, as long as the set itself lives: by size and kind of labelling.
_READ: WeakKeyDictionary[AnnotatedImages, dict[Any, Arrays]] = WeakKeyDictionary()


def read_arrays(images: AnnotatedImages, size: tuple[int, int], labelling: Labelling) -> Arrays:
    """All images and class maps at `size` (width, height); read once for all networks that train on them."""
    key = size, type(labelling)
    known = _READ.setdefault(images, {})
    if key not in known:
        width, height = size
        count = len(images.names)
        pixels, maps = _room((count, height, width, 3)), _room((count, height, width))
        for index, name in enumerate(images.names):
            pixels[index] = shrink_image(images.pixels(index), width, height)
            try:
                maps[index] = shrink_label(labelling.class_map(images.annotated(index)), width, height)
            except UserError as error:
                raise error if name in str(error) else UserError(f"{name}: {error}") from None
        known[key] = Arrays(pixels, maps)
    return known[key]


def forget(images: AnnotatedImages) -> None:
    """Frees what was read of a set."""
    _READ.pop(images, None)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    if np.prod(shape) <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    return np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape)  # gone with the last reference


def check_labels(labels: np.ndarray, num_classes: int, what: str, names: Sequence[str] = ()) -> None:
    """Raises UserError unless every label is a class below `num_classes` or 255, and some pixel is labelled.

    names: of the images along the labels' first axis, to name the one that is wrong.
    """
    labelled = labels[labels != metrics.IGNORE_LABEL]
    if labelled.size == 0:
        raise UserError(f"{what}: no pixel has a class (all are {metrics.IGNORE_LABEL}, which is ignored)")
    if labelled.min() < 0 or labelled.max() >= num_classes:
        worst = int(labelled.max() if labelled.max() >= num_classes else labelled.min())
        if len(names) == len(labels):
            what += f" of {names[int(np.argmax((labels == worst).reshape(len(labels), -1).any(1)))]}"
        raise UserError(
            f"{what}: class {worst} is out of range; with {num_classes} classes, "
            f"labels are 0 to {num_classes - 1} or {metrics.IGNORE_LABEL}"
        )


# --- the learner -----------------------------------------------------------------------------------------------------


class SemanticLearner(Learner):
    """build: from the number of classes to a network, B×3×H×W to logits B×C×H×W. train, test: with labels in place of class maps.
    names: of the test images."""

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
        self._build, self.class_names, self.colour_jitter, self.weights = (
            build,
            list(class_names),
            colour_jitter,
            weights,
        )
        self.test_names, self.notes = list(names), []
        self.train_count = len(train.images)
        self._train, self._test = train, test
        self._held: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        majority = metrics.majority_class(train.maps, len(class_names))
        self.majority = self.class_names[majority]
        counts = np.bincount(test.maps[test.maps != metrics.IGNORE_LABEL].ravel(), minlength=len(class_names))
        self.trivial = self.metrics_of(constant_confusion(counts, majority))

    def build(self) -> nn.Module:
        network = self._build(len(self.class_names))
        if self.weights is not None:
            self.notes = load_pretrained(network, self.weights)
        return network

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
        views = draw_views(len(indices), draw, self.colour_jitter).part(rank, size)
        images, labels = self._batch(indices[rank::size], device)
        view, target = augment(images, labels, views)
        return self.criterion(model(view).float(), target)

    def criterion(self, logits_BCHW: torch.Tensor, target_BHW: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar. target: int64, 255 is not counted."""
        return F.cross_entropy(logits_BCHW, target_BHW, ignore_index=metrics.IGNORE_LABEL)

    def _batch(self, indices: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self._train.images, self._train.maps
        if device.type != "cpu" and images.nbytes > ON_DEVICE:
            return torch.from_numpy(images[indices]).to(device), torch.from_numpy(labels[indices]).to(device)
        if device not in self._held:
            self._held[device] = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        index = torch.tensor(indices).to(device)
        return self._held[device][0][index], self._held[device][1][index]

    def evaluate(self, model: nn.Module, device: torch.device, tick: Callable[[], None] = lambda: None) -> Metrics:
        """miou, pixel_accuracy (share of the labelled pixels that are right) and class_iou, by class name."""
        return self.metrics_of(measure(model, self._test, len(self.class_names), device, tick))

    def metrics_of(self, confusion: torch.Tensor) -> Metrics:
        """All metrics of a confusion matrix; see `confusion_metrics`."""
        return confusion_metrics(confusion, self.class_names)

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        images, maps = self._test.images[:count], self._test.maps[:count]
        answers = predict(model, torch.from_numpy(np.ascontiguousarray(images)).to(device)).cpu().numpy()
        names = self.test_names or [str(index) for index in range(len(images))]
        return [
            Example(name, image, coloured(truth), coloured(answer))
            for name, image, truth, answer in zip(names, images, maps, answers)
        ]


def confusion_metrics(confusion: torch.Tensor, class_names: Sequence[str]) -> Metrics:
    """miou, pixel_accuracy and class_iou of a confusion matrix (C×C, rows are true classes); None for a class without pixels."""
    iou = metrics.class_iou(confusion)
    return {
        "miou": metrics.mean_iou(iou),
        "pixel_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
        "class_iou": dict(zip(class_names, iou, strict=True)),
    }


def constant_confusion(counts: np.ndarray, answer: int) -> torch.Tensor:
    """The confusion matrix of the same answer everywhere. counts: pixels of every true class, C."""
    confusion = torch.zeros(len(counts), len(counts), dtype=torch.int64)
    confusion[:, answer] = torch.from_numpy(np.asarray(counts, np.int64))
    return confusion


def coloured(labels_HW: np.ndarray) -> np.ndarray:
    """Labels as a picture, H×W×3 uint8: VOC's colours; white where nothing is labelled."""
    colours = np.array(voc_palette(), np.uint8).reshape(-1, 3).copy()
    colours[metrics.IGNORE_LABEL] = 255
    return colours[labels_HW]


def load_pretrained(network: nn.Module, path: Path) -> list[str]:
    """Loads a whole network's weights, or its encoder's alone (an ImageNet classifier: its last layer is left out). Returns
    sentences on what starts from random weights. UserError where the file fits neither."""
    inner = network.network if isinstance(network, AnySize) else network
    inner = inner.network if isinstance(inner, OutOf) else inner
    state = read_weights(path)
    part = next((name for name in ("encoder", "backbone") if isinstance(getattr(inner, name, None), nn.Module)), None)
    if part is not None and not any(name.startswith(f"{part}.") for name in state):
        encoder, given = (
            getattr(inner, part),
            {name: tensor for name, tensor in state.items() if not CLASSIFIER.match(name)},
        )
        misfit = compare(shapes_of(given), shapes_of(encoder.state_dict()))
        if misfit:
            raise UserError(f"--weights {path}: fits neither the network nor its {part}: {misfit}")
        nn.Module.load_state_dict(encoder, given)  # the encoders' own methods take no `strict`
        return [f"--weights {path.name}: the {part}'s; all else starts from random weights"]
    return load_strictly(inner, state, HEADS, path)


def predict(model: nn.Module, images_BHW3: torch.Tensor) -> torch.Tensor:
    """The class of every pixel, B×H×W int64. images: uint8, on the network's device."""
    return model(normalise(images_BHW3)).argmax(1)


def measure(
    model: nn.Module, test: Arrays, num_classes: int, device: torch.device, tick: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """The confusion matrix over all the images together, C×C int64 on the CPU."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for start in range(0, len(test.images), EVAL_BATCH):
        part = slice(start, start + EVAL_BATCH)
        answers = predict(model, torch.from_numpy(test.images[part]).to(device))
        confusion += metrics.confusion_matrix(torch.from_numpy(test.maps[part]).to(device), answers, num_classes)
        tick()
    return confusion.cpu()


def learn_labels(
    network: str,
    train_set: AnnotatedImages,
    test_set: AnnotatedImages,
    options: LearnerOptions,
    labelling: Labelling,
    kind: type[SemanticLearner] = SemanticLearner,
    build: Callable[[int], nn.Module] | None = None,
) -> SemanticLearner:
    """The learner of an smp or torchvision network on labels that `labelling` makes.

    build: in place of `network`, from the number of classes to a network, which then loads its weights and reads its options
    itself.
    """
    if build is None:
        check_network(network)
        options.extras()
    train_arrays, test_arrays = (read_arrays(images, options.size, labelling) for images in (train_set, test_set))
    class_names = labelling.names(train_arrays.maps)
    return kind(
        build or (lambda classes: build_network(network, classes)),
        Arrays(train_arrays.images, labelling.labels(train_arrays.maps)),
        Arrays(test_arrays.images, labelling.labels(test_arrays.maps)),
        class_names,
        colour_jitter=options.colour_jitter,
        weights=None if build else options.weights,
        names=test_set.names,
    )


def make_semantic(
    network: str, train_set: AnnotatedImages, test_set: AnnotatedImages, options: LearnerOptions
) -> SemanticLearner:
    """A `MakeLearner`: the classes that the training annotations tell of."""
    return learn_labels(network, train_set, test_set, options, labelling_of(train_set, options))


def labelling_of(train_set: AnnotatedImages, options: LearnerOptions) -> TableLabelling:
    """How the annotations of a set become labels. Outlines and binary masks leave the background without a class."""
    first = train_set.annotated(0)
    if isinstance(first, ClassMap) and first.kind == "binary":
        return TableLabelling(ClassTable({1: "object"}), options.rule, True)
    return TableLabelling(train_set.classes, options.rule, isinstance(first, Outlined))


def train_and_test(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    network: str = "unet_resnet18",
    steps: int = 3000,
    seed: int = 0,
    *,
    batch: int = 8,
    eval_every: int = 250,
    device: str = "auto",
    report: Callable[[Evaluation], None] = lambda evaluation: None,
    tick: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains `network` from random weights and tests it every `eval_every` steps and at the end.

    images: N×H×W×3 uint8; labels: N×H×W uint8, class or 255 (not counted). device: cpu, cuda, or auto (cuda where there is
    one). report is called after each evaluation, tick after each step. On one machine and one number
    of threads, the same arguments give the same weights on the CPU.
    """
    schedule = Schedule(steps=steps, batch=batch, eval_every=eval_every)
    learner = SemanticLearner(
        lambda classes: build_network(network, classes),
        Arrays(train_images, train_labels),
        Arrays(test_images, test_labels),
        [str(label) for label in range(num_classes)],
    )
    return train(learner, schedule, seed, World(device=choose_device(device)), report=report, tick=tick)
