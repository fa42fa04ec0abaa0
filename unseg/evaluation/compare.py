"""Clean against protected against random noise: every condition and network through one trainer, results in one JSON file.

OUT/results.json holds a run for each (task, network, condition) and is rewritten after each run; a run that is there with
equal settings is not repeated; a folder with runs of the same task under another schedule, size or data is refused, since
they could not be compared. OUT/curves.jsonl gains a line for each evaluation, for watching a run.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseg import metrics
from unseg.config import Budget
from unseg.device import choose_device
from unseg.errors import UserError
from unseg.evaluation.conditions import CONDITIONS, Change, TrainingImages, changed_images
from unseg.evaluation.data import Pair, Task, check_disjoint, fingerprint, list_pairs, load_split
from unseg.evaluation.networks import check_network
from unseg.evaluation.trainer import Evaluation, Schedule, check_labels, train_and_test
from unseg.images import write_bytes

Json = dict[str, Any]
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Source:
    """How the training images of a condition are made. identity: all that it depends on; another one makes a run anew."""

    change: Change
    identity: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One comparison: which task, networks and conditions, on which data, at which size and schedule."""

    data: Path
    out: Path
    task: Task
    networks: tuple[str, ...]
    conditions: tuple[str, ...]
    width: int
    height: int
    schedule: Schedule
    budget: Budget
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in self.networks:
            check_network(name)
        for name in self.conditions:
            if name not in CONDITIONS:
                raise UserError(f"--conditions: unknown condition '{name}'; available: {', '.join(CONDITIONS)}")
        if min(self.width, self.height) < SMALLEST_SIDE:
            raise UserError(f"--size {self.width}x{self.height}: give at least {SMALLEST_SIDE}x{SMALLEST_SIDE}")
        choose_device(self.device)


class Watcher:
    """What a caller may hear of; this one is silent."""

    def begin(self, what: str, total: int) -> None:
        """A stretch of `total` ticks begins."""

    def tick(self) -> None:
        """One image made or one training step done."""

    def evaluated(self, condition: str, network: str, evaluation: Evaluation) -> None:
        """A network was tested."""

    def reused(self, condition: str, network: str) -> None:
        """A run was found in results.json."""


def compare(plan: Plan, sources: dict[str, Source], watcher: Watcher = Watcher()) -> Json:
    """Runs what results.json does not hold yet and returns its content. sources: for each condition but clean."""
    train, test = list_pairs(plan.data, "train"), list_pairs(plan.data, "test")
    check_disjoint(train, test)
    watcher.begin("reading", len(train) + len(test))
    images, train_classes = load_split(train, plan.width, plan.height, watcher.tick)
    test_images, test_classes = load_split(test, plan.width, plan.height, watcher.tick)
    num_classes = plan.task.num_classes(train_classes)
    train_labels, test_labels = plan.task.labels(train_classes), plan.task.labels(test_classes)
    check_labels(test_labels, num_classes, "--data: test labels")
    common = {**_common_settings(plan, train, test), "num_classes": num_classes}
    results = Results(plan.out, common, _facts(plan, len(train), train_labels, test_labels, num_classes))
    for condition in plan.conditions:
        source = sources.get(condition)
        settings = {network: {**common, "network": network, "condition": condition,
                              "images": source.identity if source else {}} for network in plan.networks}
        missing = [network for network in plan.networks if not results.holds(settings[network])]
        for network in plan.networks:
            if network not in missing:
                watcher.reused(condition, network)
        if not missing:
            continue
        made = TrainingImages(images)
        if source is not None:
            watcher.begin(f"{condition}: images", len(train))
            made = changed_images(train, plan.task, plan.width, plan.height, source.change, watcher.tick)
        for network in missing:
            _run(plan, settings[network], made, (train_labels, test_images, test_labels), results, watcher)
    return results.content


def _run(plan: Plan, settings: Json, made: TrainingImages, rest: tuple[np.ndarray, np.ndarray, np.ndarray],
         results: "Results", watcher: Watcher) -> None:
    """Trains one network on one condition and records it. rest: training labels, test images, test labels."""
    schedule, network, condition = plan.schedule, settings["network"], settings["condition"]

    def report(evaluation: Evaluation) -> None:
        results.log({"task": plan.task.name, "network": network, "condition": condition, **asdict(evaluation)})
        watcher.evaluated(condition, network, evaluation)

    watcher.begin(f"{condition}: {network}", schedule.steps)
    started = time.perf_counter()
    result = train_and_test(made.images, *rest, settings["num_classes"], network, schedule.steps, schedule.seed,
                            batch=schedule.batch, eval_every=schedule.eval_every, device=plan.device, report=report,
                            tick=lambda step: watcher.tick())
    results.add(settings, {
        "final_miou": result.final_miou, "best_miou": result.best_miou, "train_loss": result.train_loss,
        "per_class_iou": result.per_class_iou, "curve": [asdict(point) for point in result.curve],
        "psnr": made.psnr, "max_change_object": made.max_change_object,
        "max_change_background": made.max_change_background,
        "seconds": round(time.perf_counter() - started, 1), "device": str(choose_device(plan.device)),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    })


def _common_settings(plan: Plan, train: Sequence[Pair], test: Sequence[Pair]) -> Json:
    return {
        "task": plan.task.name, "object_classes": None if plan.task.objects is None else list(plan.task.objects),
        "size": [plan.width, plan.height], **asdict(plan.schedule),
        "train": fingerprint(path for pair in train for path in (pair.image, pair.label)),
        "test": fingerprint(path for pair in test for path in (pair.image, pair.label)),
    }


def _facts(plan: Plan, train_count: int, train_labels: np.ndarray, test_labels: np.ndarray, num_classes: int) -> Json:
    """What holds for every run of the task: the trivial answer and the classes that the test images lack."""
    trivial = metrics.trivial_iou(train_labels, test_labels, num_classes)
    return {"task": plan.task.name, "train_images": train_count, "test_images": len(test_labels),
            "num_classes": num_classes, "absent_classes": [i for i, iou in enumerate(trivial) if iou is None],
            "majority_class": metrics.majority_class(train_labels, num_classes),
            "trivial_miou": metrics.mean_iou(trivial)}


class Results:
    """OUT/results.json: {"tasks": {task: facts}, "runs": [{"settings": …, "result": …}]}."""

    def __init__(self, out: Path, common: Json, facts: Json) -> None:
        """common: the settings that every run of the task shares; facts: what every table of the task needs."""
        self.path, self.curves = out / "results.json", out / "curves.jsonl"
        self.content = read_results(self.path) if self.path.exists() else {"tasks": {}, "runs": []}
        self._check_same(common)
        self.content["tasks"][facts["task"]] = facts

    def _check_same(self, common: Json) -> None:
        for settings in (run["settings"] for run in self.content["runs"]):
            other = [key for key in common if settings.get(key) != common[key]]
            if settings["task"] == common["task"] and other:
                raise UserError(f"--out {self.path.parent}: its runs of task {common['task']} were made with "
                                f"{other[0]} {settings.get(other[0])}, now it is {common[other[0]]}; give another --out")

    def holds(self, settings: Json) -> bool:
        return any(run["settings"] == settings for run in self.content["runs"])

    def add(self, settings: Json, result: Json) -> None:
        """Adds a run in place of one of the same task, network and condition, and writes the file."""
        self.content["runs"] = [run for run in self.content["runs"] if _key(run["settings"]) != _key(settings)]
        self.content["runs"].append({"settings": settings, "result": result})
        write_bytes(self.path, (json.dumps(self.content, indent=1, ensure_ascii=False) + "\n").encode())

    def log(self, line: Json) -> None:
        self.curves.parent.mkdir(parents=True, exist_ok=True)
        with open(self.curves, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _key(settings: Json) -> tuple[str, str, str]:
    return settings["task"], settings["network"], settings["condition"]


def read_results(path: Path) -> Json:
    """The content of a results.json; UserError where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable results.json ({error}); remove it or give another --out") from None
    if not isinstance(content, dict) or not {"tasks", "runs"} <= content.keys():
        raise UserError(f"{path}: not the results of unseg evaluate; remove it or give another --out")
    return content


@dataclass(frozen=True)
class Row:
    """A line of the closing table. retained: share of what is learnt from clean images; None where it has no meaning."""

    task: str
    network: str
    condition: str
    final_miou: float
    best_miou: float
    psnr: float | None
    train_loss: float | None
    retained: float | None


def rows(results: Json) -> list[Row]:
    """For each task and network: trivial, clean, protected, random, as far as they were run."""
    runs = {_key(run["settings"]): run["result"] for run in results["runs"]}
    table = []
    for task, network in dict.fromkeys(key[:2] for key in runs):
        trivial = results["tasks"][task]["trivial_miou"]
        clean = runs.get((task, network, "clean"))
        table.append(Row(task, network, "trivial", trivial, trivial, None, None, None))
        for condition in CONDITIONS:
            run = runs.get((task, network, condition))
            if run is not None:
                retained = None if clean is None else metrics.retained_learning(run["final_miou"], clean["final_miou"], trivial)
                table.append(Row(task, network, condition, run["final_miou"], run["best_miou"], run["psnr"],
                                 run["train_loss"], retained))
    return table
