"""Time to detect: how soon a network with ImageNet weights tells pixels with noise from pixels without.

Noise protects as a shortcut, so it must be found before the objects are learned. A fresh network is asked, at every
visit of a photograph, which of its parts carry noise: each part is noised or not at random, anew each time, so that
nothing but the noise tells. The network, the views, the optimizer and the constant rate are those of people who train;
150 steps are enough to tell noise that works from noise that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.compute.distributed import World
from unseg.compute.progress import SILENT, Progress
from unseg.evaluation.augmentation import normalise
from unseg.evaluation.learner import Learner, Metrics
from unseg.evaluation.practice_views import draw_practice_views, take_view
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.trainer import train
from unseg.method.metrics import IGNORE_LABEL
from unseg.victims.imagenet import load_imagenet
from unseg.victims.semantic_networks import build_network

NETWORK = "deeplabv3plus_timm-tf_efficientnet_lite0"
WINDOW = 50  # steps whose batches a score is the mean of
SMALLEST_PART = 64  # pixels: smaller ones are not asked about
# Shares of pixels told rightly in steps 51 to 100 and 101 to 150 on the segments of BSDS500, of the first code as it
# varies alone (one seed, benchmarks/detect_patterns.py). A flat tint, which is no shortcut, reaches 0.61 and 0.65.
STANDARD = (0.84, 0.87)
TAKEN, IN_PART = 0.85, 0.75  # of the last steps; learned tiles reached 0.82, and kept 0.30 of learning on Car Parts

# From a photograph's number and random numbers to its pixels, H×W×3 uint8, and what is asked of every pixel, H×W uint8:
# 0 no noise, 1 to K the noise of a code, 255 nothing.
Visit = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Question:
    """What a network is asked. visit: see `Visit`. photographs: how many there are. codes: K."""

    visit: Visit
    photographs: int
    codes: int = 1


@dataclass(frozen=True)
class Detecting:
    """How the network is trained. crop: side of a view, pixels."""

    steps: int = 150
    batch: int = 6
    crop: int = 160
    learning_rate: float = 1e-3
    seed: int = 0
    network: str = NETWORK
    imagenet: bool = True

    @property
    def schedule(self) -> Schedule:
        """Returns the schedule of the training."""
        return Schedule(
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            eval_every=WINDOW,
            decay="constant",
        )


@dataclass(frozen=True)
class Window:
    """Scores of WINDOW steps, the last of them `step`. accuracy: share of pixels whose code, or none, is named rightly.
    told: share of pixels that are rightly named as having some code, or none; the same where there is one code."""

    step: int
    accuracy: float
    told: float


class DetectionLearner(Learner):
    """Learns which pixels carry noise. windows: filled while it is trained, from the batches that it learns from."""

    metric = "accuracy"

    def __init__(self, question: Question, options: Detecting) -> None:
        self.question, self.options = question, options
        self.train_count = question.photographs
        self.trivial: Metrics = {"accuracy": 1 / (question.codes + 1)}
        self.windows: list[Window] = []
        self._scores: list[tuple[float, float]] = []
        self._steps = 0

    def build(self) -> nn.Module:
        """Returns the network with an output for no noise and one for each code."""
        network = build_network(self.options.network, self.question.codes + 1)
        if self.options.imagenet:
            load_imagenet(network)
        return network

    def loss(
        self, model: nn.Module, indices: Sequence[int], draw: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        """Returns the cross entropy of views of these photographs, noised anew."""
        views = draw_practice_views(len(indices), draw)
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=draw)))
        taken = [
            take_view(*self.question.visit(index, random), view, self.options.crop)
            for index, view in zip(indices, views, strict=True)
        ]
        images = normalise(torch.from_numpy(np.stack([image for image, _ in taken])).to(device))
        targets = torch.from_numpy(np.stack([label for _, label in taken])).to(device, torch.int64)
        logits = model(images).float()
        self._score(logits.detach().argmax(1), targets)
        total = F.cross_entropy(logits, targets, ignore_index=IGNORE_LABEL, reduction="sum")
        return total / (targets != IGNORE_LABEL).sum().clamp(min=1)

    def _score(self, answers: torch.Tensor, targets: torch.Tensor) -> None:
        self._steps += 1
        asked = targets != IGNORE_LABEL
        if asked.any():
            right, told = answers == targets, (answers > 0) == (targets > 0)
            self._scores.append((float(right[asked].float().mean()), float(told[asked].float().mean())))

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns the mean scores of the batches since the last evaluation; None where none showed a part."""
        scores, self._scores = self._scores, []
        if not scores:
            return {"accuracy": None}
        accuracy, told = np.mean(scores, axis=0).tolist()
        self.windows.append(Window(self._steps, accuracy, told))
        return {"accuracy": accuracy, "told": told}


def time_to_detect(
    question: Question,
    options: Detecting = Detecting(),
    *,
    device: torch.device | None = None,
    progress: Progress = SILENT,
    what: str = "time to detect",
) -> list[Window]:
    """Returns the scores of every WINDOW steps of a fresh network. device: None: the CPU.

    Raises UserError where its weights are not there.
    """
    learner = DetectionLearner(question, options)
    train(
        learner,
        options.schedule,
        options.seed,
        World(device=device or torch.device("cpu")),
        progress=progress,
        what=what,
    )
    return learner.windows


# --- a folder's own noise --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodedPhotograph:
    """A photograph with and without its noise: H×W×3 uint8 each. parts: H×W uint16, from 1 on; 0 is not asked about."""

    clean: np.ndarray
    coded: np.ndarray
    parts: np.ndarray

    def visited(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns the photograph with noise on some of its parts, each with probability 0.5, and what is asked."""
        noised = random.random(int(self.parts.max(initial=0)) + 1) < 0.5
        here = noised[self.parts]
        asked = np.where(self.parts > 0, here, IGNORE_LABEL).astype(np.uint8)
        return np.where((here | (self.parts == 0))[..., None], self.coded, self.clean), asked


def coded_photograph(
    clean_HW3: np.ndarray, coded_HW3: np.ndarray, objects_HW: np.ndarray, long_side: int
) -> CodedPhotograph:
    """Returns a photograph as a trainer has it, shrunk to a long side of `long_side` pixels; smaller ones stay.

    objects: H×W integers, pixels of one class of object have one number; negative: no object. A part is a connected
    region of one number; one that is small, or in which nothing changed, is not asked about.
    """
    height, width = objects_HW.shape
    scale = min(1.0, long_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        clean_HW3, coded_HW3 = (
            cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (clean_HW3, coded_HW3)
        )
        objects_HW = cv2.resize(objects_HW.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    changed = (clean_HW3 != coded_HW3).any(axis=2)
    return CodedPhotograph(clean_HW3, coded_HW3, _parts_of(objects_HW, changed))


def _parts_of(objects_HW: np.ndarray, changed_HW: np.ndarray) -> np.ndarray:
    parts, count = np.zeros(objects_HW.shape, np.uint16), 0
    for number in np.unique(objects_HW[objects_HW >= 0]).tolist():
        found, labels = cv2.connectedComponents((objects_HW == number).astype(np.uint8), connectivity=4)
        sizes, touched = np.bincount(labels.ravel()), np.bincount(labels[changed_HW], minlength=found)
        for part in range(1, found):
            if sizes[part] >= SMALLEST_PART and touched[part] > 0:
                count += 1
                parts[labels == part] = count
    return parts


@dataclass(frozen=True)
class Verdict:
    """What was found. accuracies: of steps 51 to 100 and 101 to 150; chance is 0.5, the standard is STANDARD."""

    answer: Literal["yes", "in part", "no"]
    accuracies: tuple[float, float]

    def sentence(self) -> str:
        """Returns the verdict in words."""
        first, last = self.accuracies
        return (
            f"A fresh network told {first:.0%} of pixels rightly in steps 51 to 100, and {last:.0%} in steps 101 to "
            f"150, whether they carry noise (guessing: 50%; this project's patterns on BSDS500: {STANDARD[0]:.0%} and "
            f"{STANDARD[1]:.0%}). {MEANING[self.answer]}"
        )


MEANING = {
    "yes": "A trainer's network would take the bait: it sees the noise before it learns the objects.",
    "in part": "A trainer's network would take the bait in part: it finds the noise while it learns the objects.",
    "no": "A trainer's network would hardly take the bait: it learns the objects before it finds the noise.",
}


def verdict(windows: Sequence[Window]) -> Verdict:
    """Returns what the scores of three windows mean for someone who trains on the images."""
    accuracies = windows[1].told, windows[2].told
    if accuracies[1] >= TAKEN:
        return Verdict("yes", accuracies)
    return Verdict("in part" if accuracies[1] >= IN_PART else "no", accuracies)
