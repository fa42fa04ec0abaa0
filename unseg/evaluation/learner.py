"""What the one trainer asks of a task: a network, its loss on a batch, its metrics on clean test images.

Every evaluator is a `Learner`: semantic networks, Mask2Former, Mask R-CNN, detectors, promptable SAM. The trainer
(`unseg.evaluation.trainer`) owns the schedule, the seeds, precision, processes, checkpoints and the learning curve, so
that clean and protected runs differ in their training images alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations import Annotated, ClassTable, ObjectRule
from unseg.errors import UserError
from unseg.evaluation.defences.kinds import Defence
from unseg.evaluation.practice import Practice

# JSON-able. Numbers in [0, 1]; None where a class or size is absent from the test set, which leaves it out of every
# mean.
Metrics = dict[str, Any]


class AnnotatedImages(Protocol):
    """Images with their true annotations, read on demand; may be called from any thread.

    names: sorted, relative to the images' folder. classes: what the annotations say of their classes.
    """

    names: Sequence[str]
    classes: ClassTable

    def pixels(self, index: int) -> np.ndarray:
        """Returns H×W×3 uint8 at the image's own size, upright: clean, or as the run's condition has them."""
        ...

    def annotated(self, index: int) -> Annotated:
        """Returns the true annotations, whatever the pixels are."""
        ...


@dataclass(frozen=True)
class LearnerOptions:
    """What every task may be told.

    size: (width, height) of training and testing, pixels. weights: a local file or folder of pretrained weights for the
    network (or its backbone); None: random weights. extra: options of one family of networks, as `--set NAME=VALUE`
    gives them. colour_jitter: whether views change in brightness, contrast, saturation and hue. rule: which segments
    are the object, where a task has one; its ignore_label is never learnt. binary: whether semantic networks tell the
    object from the rest in place of class from class. practice: how the network is trained where views are those of
    practice; colour_jitter and weights mean nothing then, and size is the crop's. defences: what the learner carries
    out itself. notes: sentences that it passes on. progress: who hears of the reading of images.
    """

    size: tuple[int, int]
    weights: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    colour_jitter: bool = True
    rule: ObjectRule = ObjectRule()
    binary: bool = False
    practice: Practice | None = None
    defences: tuple[Defence, ...] = ()
    notes: tuple[str, ...] = ()
    progress: Progress = SILENT

    def extras(self, **defaults: Any) -> dict[str, Any]:
        """Returns `extra` over `defaults`.

        Raises UserError for an option that is not among them or has a value of another type.
        """
        for name, value in self.extra.items():
            if name not in defaults:
                known = f"; there are {', '.join(defaults)}" if defaults else "; this network has no options"
                raise UserError(f"--set {name}: no such option of this network{known}")
            expected = defaults[name]
            fits = isinstance(value, type(expected)) or (type(expected) is float and type(value) is int)
            if expected is not None and (not fits or isinstance(value, bool) != isinstance(expected, bool)):
                raise UserError(f"--set {name}={value}: give a {type(expected).__name__}, such as {expected}")
        return {**defaults, **self.extra}


@dataclass(frozen=True)
class Example:
    """A clean test image with truth and prediction as pictures, H×W×3 uint8 each, for the report."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class Learner(ABC):
    """One network on one task, with its training images (of one condition) and its clean test images.

    metric: the number of `evaluate` that curves, tables and retained learning are about; higher is better, 0 to 1.
    train_count: how many training images there are. trivial: the same metrics of an answer that was not learnt from
    images, such as the majority class everywhere or no detection at all. majority: the name of that class, if there is
    one. notes: sentences for the person, complete once the network has been trained.
    """

    metric: str
    train_count: int
    trivial: Metrics
    majority: str | None = None
    notes: Sequence[str] = ()

    @abstractmethod
    def build(self) -> nn.Module:
        """Returns the network, in float32 on the CPU.

        Random weights come from torch's global generator, which the trainer has seeded; weights of a file are loaded
        strictly. Raises UserError where a file or package is missing.
        """

    @abstractmethod
    def loss(
        self, model: nn.Module, indices: Sequence[int], draw: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        """Returns the mean loss of augmented views of these training images: a scalar with a graph.

        All augmentation is drawn from `draw`, on the CPU, in an amount that does not depend on pixel values, so that
        clean and protected runs see the same views. The network is called through `model(…)` alone, which may be
        wrapped for several processes; the trainer has set autocast.
        """

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        """Returns the `loss` of the part of a batch that process `rank` of `size` works on: indices[rank::size].

        Every process calls it with the same batch and the same state of `draw`, and leaves `draw` in the same state. A
        task that can draw the views of the whole batch and then take its part gives several processes the views of one.
        """
        seeds = torch.randint(2**62, (size,), generator=draw)
        return self.loss(model, indices[rank::size], torch.Generator().manual_seed(int(seeds[rank])), device)

    @abstractmethod
    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns all metrics of the network on all clean test images, among them `metric`."""

    def counted(self, scores: Sequence[float]) -> float:
        """Returns the score that counts as the run's: the last one. scores: of all evaluations, in their order."""
        return scores[-1]

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        """Returns the first `count` clean test images with their truth and what the network says; for the report."""
        return []

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns groups for the optimizer; `rate` is a factor on the learning rate (default 1)."""
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]


class PartedLearner(Learner):
    """A learner that draws the views of a whole batch and then takes its part: several processes see the views of one.

    A task defines `part_loss`; the whole batch is the part of one process.
    """

    def loss(
        self, model: nn.Module, indices: Sequence[int], draw: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        """Returns the mean loss of augmented views of these training images: a scalar with a graph."""
        return self.part_loss(model, indices, draw, device, 0, 1)

    @abstractmethod
    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        """Returns the `loss` of one process's part of a batch; see `Learner.part_loss`."""


# network name, training images, test images, options → Learner. One entry a task in
# `unseg.evaluation.tasks.registry.TASKS`.
MakeLearner = Callable[[str, AnnotatedImages, AnnotatedImages, LearnerOptions], Learner]
