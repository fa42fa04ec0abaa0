"""What a comparison consists of: one task, networks, conditions of the training images, seeds, one schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from unseg.compute.device import choose_device
from unseg.compute.progress import Progress
from unseg.errors import UserError
from unseg.evaluation.condition_names import parse_condition
from unseg.evaluation.conditions import Change, unchanged
from unseg.evaluation.defences.denoise import Pairs
from unseg.evaluation.defences.kinds import Defence
from unseg.evaluation.learner import AnnotatedImages, Learner
from unseg.evaluation.quality import Similarity
from unseg.evaluation.results import Json
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import Images, Truth


@dataclass(frozen=True)
class RunOptions:
    """What a learner is told of its run. defences: those that it carries out itself. progress: hears of the reading."""

    seed: int
    defences: tuple[Defence, ...]
    progress: Progress


# From a network's name, training images, test images and the run to a learner.
Make = Callable[[str, AnnotatedImages, AnnotatedImages, RunOptions], Learner]


@dataclass(frozen=True)
class ConditionSource:
    """How the training images of a condition are made.

    change_of: from a run's seed and who hears of the work to the change of its images. identity: all else that they
    depend on; another one makes a run anew. files: in place of a change, the protected images, one for each clean
    image.
    """

    change_of: Callable[[int, Progress], Change] = lambda seed, progress: unchanged
    identity: Json = field(default_factory=dict)
    files: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class RunName:
    """Which run of a task this is."""

    network: str
    condition: str
    seed: int

    def __str__(self) -> str:
        return f"{self.network} on {self.condition}, seed {self.seed}"

    def file(self, task: str) -> str:
        """Returns the name that the run's files begin with."""
        return f"{task}-{self.network}-{self.condition}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """One comparison on one task.

    make: builds the learner of a run. common: the settings that all runs of the task share, besides the schedule.
    weights, code: for each network the identity of its pretrained weights, and of the user's own module that builds it,
    if it has one. sources: for each base of the conditions but clean. facts: what results.json says of the task besides
    what learners tell. pairs: makes what the defence `denoise` learns from, and pairs_identity says what it depends on;
    None: there is no such defence. probe: what else trained networks are asked; its answer joins the metrics.
    """

    task: str
    out: Path
    train: Images
    test: Images
    make: Make
    truth: Truth
    networks: tuple[str, ...]
    conditions: tuple[str, ...]
    schedule: Schedule
    sources: dict[str, ConditionSource]
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    common: Json = field(default_factory=dict)
    facts: Json = field(default_factory=dict)
    weights: Json = field(default_factory=dict)
    code: Json = field(default_factory=dict)
    checkpoint_every: float = 120.0
    perceptual: Similarity | None = None
    pairs: Callable[[], Pairs] | None = None
    pairs_identity: Json = field(default_factory=dict)
    probe: Callable[[RunName, nn.Module, torch.device], Json] | None = None

    def __post_init__(self) -> None:
        for name in self.conditions:
            parse_condition(name, self.bases)
        choose_device(self.device)
        if not 0 < self.checkpoint_every < math.inf:
            raise UserError(f"--checkpoint-every {self.checkpoint_every}: give a number of seconds above 0")

    @property
    def bases(self) -> list[str]:
        """Returns what a condition's name may begin with."""
        return ["clean", *self.sources]

    @property
    def shared(self) -> Json:
        """Returns the settings that all runs of the task share, the schedule among them."""
        return {"task": self.task, **asdict(self.schedule), **self.common}

    def of_network(self, network: str) -> Json:
        """Returns the settings that all runs of a network share; None where it has no such thing."""
        return {"weights": self.weights.get(network), "code": self.code.get(network)}

    def settings_of(self, run: RunName) -> Json:
        """Returns a run's settings, as results.json holds them: a run of equal ones is not repeated."""
        own = {name: value for name, value in self.of_network(run.network).items() if value is not None}
        return {**self.shared, **asdict(run), "images": self.images_identity(run.condition), **own}

    def images_identity(self, condition: str) -> Json:
        """Returns what the images of a condition depend on besides the seed; {} for clean ones without a defence."""
        kind = parse_condition(condition, self.bases)
        identity = {} if kind.base == "clean" else self.sources[kind.base].identity
        return {**identity, "denoise": self.pairs_identity} if "denoise" in kind.defences else identity
