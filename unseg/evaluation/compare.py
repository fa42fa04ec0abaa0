"""Clean against protected against random noise: every condition and network through one trainer, results in one JSON file.

OUT/results.json holds a run for each (task, network, condition, seed) and is rewritten after each run; a run that is there
with equal settings is not repeated; a folder with runs of the same task under another schedule, size or data is refused, since
they could not be compared. OUT/curves.jsonl gains a line for each evaluation, for watching a run.
"""
from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from unseg import metrics
from unseg.config import Budget
from unseg.device import choose_device
from unseg.errors import UserError
from unseg.evaluation.conditions import Change, TrainingImages, changed_images, unchanged
from unseg.evaluation.data import Pair, Task, check_disjoint, fingerprint, list_pairs, load_split
from unseg.evaluation.names import parse_condition
from unseg.evaluation.networks import check_network
from unseg.evaluation.results import Json, Results
from unseg.evaluation.trainer import Evaluation, Schedule, check_labels, train_and_test

SMALLEST_SIDE = 32
TEST_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Source:
    """How the training images of a condition are made.

    change_of: from a run's seed to the change of its images. identity: all else that they depend on; another one makes a run
    anew.
    """

    change_of: Callable[[int], Change]
    identity: Json = field(default_factory=dict)


CLEAN = Source(lambda seed: unchanged)


@dataclass(frozen=True)
class RunName:
    """Which run of a task this is."""

    network: str
    condition: str
    seed: int

    def __str__(self) -> str:
        return f"{self.network} on {self.condition}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """One comparison: which task, networks, conditions and seeds, on which data, at which size and schedule."""

    data: Path
    out: Path
    task: Task
    networks: tuple[str, ...]
    conditions: tuple[str, ...]
    width: int
    height: int
    schedule: Schedule
    budget: Budget
    seeds: tuple[int, ...] = (0,)
    test_split: str = "test"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in self.networks:
            check_network(name)
        for name in self.conditions:
            parse_condition(name)
        if self.test_split not in TEST_SPLITS:
            raise UserError(f"--test-split {self.test_split}: give {' or '.join(TEST_SPLITS)}")
        if min(self.width, self.height) < SMALLEST_SIDE:
            raise UserError(f"--size {self.width}x{self.height}: give at least {SMALLEST_SIDE}x{SMALLEST_SIDE}")
        choose_device(self.device)


class Watcher:
    """What a caller may hear of; this one is silent."""

    def begin(self, what: str, total: int) -> None:
        """A stretch of `total` ticks begins."""

    def tick(self) -> None:
        """One image made or one training step done."""

    def evaluated(self, run: RunName, evaluation: Evaluation) -> None:
        """A network was tested."""

    def reused(self, run: RunName) -> None:
        """A run was found in results.json."""


def compare(plan: Plan, sources: dict[str, Source], watcher: Watcher = Watcher()) -> Json:
    """Runs what results.json does not hold yet and returns its content. sources: for each base of the conditions but clean.

    Seed by seed, so that what is there after an interruption is as many whole comparisons as possible.
    """
    train, test = list_pairs(plan.data, "train"), list_pairs(plan.data, plan.test_split)
    check_disjoint(train, test)
    watcher.begin("reading", len(train) + len(test))
    images, train_classes = load_split(train, plan.width, plan.height, watcher.tick)
    test_images, test_classes = load_split(test, plan.width, plan.height, watcher.tick)
    num_classes = plan.task.num_classes(train_classes)
    train_labels, test_labels = plan.task.labels(train_classes), plan.task.labels(test_classes)
    check_labels(test_labels, num_classes, "--data: test labels")
    common = {**_common_settings(plan, train, test), "num_classes": num_classes}
    results = Results(plan.out, common, _facts(plan, len(train), train_labels, test_labels, num_classes))
    for seed, condition in itertools.product(plan.seeds, plan.conditions):
        kind = parse_condition(condition)
        source = CLEAN if kind.base == "clean" else sources[kind.base]
        made = TrainingImages(images) if condition == "clean" else None
        for run in (RunName(network, condition, seed) for network in plan.networks):
            settings = {**common, **asdict(run), "images": source.identity}
            if results.holds(settings):
                watcher.reused(run)
                continue
            if made is None:
                watcher.begin(f"{condition}: images", len(train))
                made = changed_images(train, plan.task, plan.width, plan.height, source.change_of(seed), kind.jpeg, watcher.tick)
            _run(plan, run, settings, made, (train_labels, test_images, test_labels), results, watcher)
    return results.content()


def _run(plan: Plan, run: RunName, settings: Json, made: TrainingImages, rest: tuple[np.ndarray, np.ndarray, np.ndarray],
         results: Results, watcher: Watcher) -> None:
    """Trains one network on one condition and records it. rest: training labels, test images, test labels."""
    schedule = plan.schedule

    def report(evaluation: Evaluation) -> None:
        results.log({"task": plan.task.name, **asdict(run), **asdict(evaluation)})
        watcher.evaluated(run, evaluation)

    watcher.begin(str(run), schedule.steps)
    started = time.perf_counter()
    result = train_and_test(made.images, *rest, settings["num_classes"], run.network, schedule.steps, run.seed,
                            batch=schedule.batch, eval_every=schedule.eval_every, device=plan.device, report=report,
                            tick=lambda step: watcher.tick())
    results.add(settings, {
        "final_miou": result.final_miou, "best_miou": result.best_miou, "train_loss": result.train_loss,
        "per_class_iou": result.per_class_iou, "curve": [asdict(point) for point in result.curve],
        **asdict(made.change), "stored": asdict(made.stored) if made.stored else None,
        "seconds": round(time.perf_counter() - started, 1), "device": str(choose_device(plan.device)),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    })


def _common_settings(plan: Plan, train: Sequence[Pair], test: Sequence[Pair]) -> Json:
    return {
        "task": plan.task.name, "object_classes": None if plan.task.objects is None else list(plan.task.objects),
        "size": [plan.width, plan.height], **asdict(plan.schedule), "test_split": plan.test_split,
        "train": fingerprint(path for pair in train for path in (pair.image, pair.label)),
        "test": fingerprint(path for pair in test for path in (pair.image, pair.label)),
    }


def _facts(plan: Plan, train_count: int, train_labels: np.ndarray, test_labels: np.ndarray, num_classes: int) -> Json:
    """What holds for every run of the task: the trivial answer and the classes that the test images lack."""
    trivial = metrics.trivial_iou(train_labels, test_labels, num_classes)
    return {"task": plan.task.name, "train_images": train_count, "test_images": len(test_labels),
            "test_split": plan.test_split, "num_classes": num_classes,
            "absent_classes": [i for i, iou in enumerate(trivial) if iou is None],
            "majority_class": metrics.majority_class(train_labels, num_classes),
            "trivial_miou": metrics.mean_iou(trivial)}
