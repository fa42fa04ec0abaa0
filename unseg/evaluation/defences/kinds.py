"""The four kinds of defences, and what each works on.

An image defence changes every image alone. A set defence looks at the whole training set first and then changes every
image. A batch defence acts in the training step. A score defence decides which score of a training counts. Images are
H×W×3 uint8, labels H×W uint8 with 255 where nothing is labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

# From an image's name and pixels to the pixels that are used instead. Random changes are seeded by the name.
ImageChange = Callable[[str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TrainingSet:
    """The training images in memory, with labels below `class_count`. Images may differ in size."""

    names: Sequence[str]
    images: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    class_count: int


@dataclass(frozen=True)
class Batch:
    """The views of one training step. images: B×3×H×W float32 in [0, 1]. targets: B×H×W int64, 255 is not counted.

    loss: returns the training loss of images like these and their targets, with a graph.
    """

    images: torch.Tensor
    targets: torch.Tensor
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ImageDefence:
    """Changes each training image. at_test: whether test images are changed, too. resizes: whether images change size,
    so that their labels must follow."""

    name: str
    change: ImageChange
    at_test: bool = False
    resizes: bool = False


@dataclass(frozen=True)
class SetDefence:
    """Learns a change from the training set and a seed, then changes each training image. at_test: whether test
    images, too."""

    name: str
    fit: Callable[[TrainingSet, int], ImageChange]
    at_test: bool = False


@dataclass(frozen=True)
class BatchDefence:
    """Changes the batch of a training step; test images stay. Random numbers come from the generator, in a fixed
    amount."""

    name: str
    change: Callable[[Batch, torch.Generator], Batch]
    at_test: bool = False


@dataclass(frozen=True)
class ScoreDefence:
    """Chooses the score that counts from those of all evaluations, in their order. It changes no image."""

    name: str
    choose: Callable[[Sequence[float]], float]
    at_test: bool = False


Defence = ImageDefence | SetDefence | BatchDefence | ScoreDefence
