"""Clean against protected against random noise: every condition and network through one trainer, results in one JSON file.

OUT/results.json holds a run for each (task, network, condition, seed) and is rewritten after each run; a run that is there
with equal settings is not repeated; a folder with runs of the same task under another schedule, size or data is refused, since
they could not be compared. OUT/curves.jsonl gains a line for each evaluation, for watching a run. OUT/checkpoints holds the state
of a run until it is done, OUT/examples pictures of the first seed's runs. The schema: docs/evaluation.md.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from unseg.compute.device import choose_device
from unseg.compute.distributed import World
from unseg.errors import UserError
from unseg.evaluation.condition_names import Condition, parse_condition
from unseg.evaluation.conditions import Change, unchanged
from unseg.evaluation.learner import AnnotatedImages, Learner, LearnerOptions, Metrics
from unseg.evaluation.pairs import Task, digest, fingerprint, list_pairs
from unseg.evaluation.quality import Meter, Quality, Similarity
from unseg.evaluation.results import Json, Results
from unseg.evaluation.sets import (
    ChangedImages,
    Images,
    MixedImages,
    PairImages,
    PartOfImages,
    ProtectedImages,
    ReencodedImages,
    Truth,
    check_apart,
    choose_share,
)
from unseg.evaluation.tasks.semantic import SemanticLearner, TaskLabelling, forget, learn_labels
from unseg.evaluation.trainer import Checkpoint, Evaluation, Schedule, Trained, train
from unseg.method.config import Budget
from unseg.storage.image_encoding import write_png
from unseg.victims.semantic_networks import check_network

SMALLEST_SIDE = 32
TEST_SPLITS = ("val", "test")
BY_CLASS = "By class: the generator is told every pixel's class; the object's budget holds on every labelled pixel."
EXAMPLES = 4  # clean test images with truth and prediction, of each run of the first seed
CHANGED_EXAMPLES = 2  # training images before and after, of each changed condition
EXAMPLE_WIDTH, EXAMPLE_HEIGHT = 640, 480  # the middle part of a larger training image

Make = Callable[[str, AnnotatedImages, AnnotatedImages], Learner]


@dataclass(frozen=True)
class Source:
    """How the training images of a condition are made.

    change_of: from a run's seed to the change of its images. identity: all else that they depend on; another one makes a run
    anew. files: in place of a change, the protected images, one for each clean image.
    """

    change_of: Callable[[int], Change] = lambda seed: unchanged
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
        """What its files are called."""
        return f"{task}-{self.network}-{self.condition}-{self.seed}"


class Watcher:
    """What a caller may hear of; this one is silent."""

    def begin(self, what: str, total: int) -> None:
        """A stretch of `total` ticks begins."""

    def tick(self) -> None:
        """One image made or one training step done."""

    def evaluated(self, run: RunName, evaluation: Evaluation, metric: str) -> None:
        """A network was tested."""

    def reused(self, run: RunName) -> None:
        """A run was found in results.json."""

    def resumed(self, run: RunName, step: int) -> None:
        """A run goes on from the checkpoint of an earlier process."""


@dataclass(frozen=True)
class Study:
    """One comparison on one task.

    make: from network, training images and clean test images to a learner. common: the settings that all runs of the task share,
    besides the schedule. weights: for each network the identity of its pretrained weights, if it has some. sources: for each base
    of the conditions but clean. facts: what results.json says of the task besides what learners tell.
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
    sources: dict[str, Source]
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    common: Json = field(default_factory=dict)
    facts: Json = field(default_factory=dict)
    weights: Json = field(default_factory=dict)
    checkpoint_every: float = 120.0
    perceptual: Similarity | None = None

    def __post_init__(self) -> None:
        for name in self.conditions:
            parse_condition(name, ["clean", *self.sources])
        choose_device(self.device)


@dataclass(frozen=True)
class Training:
    """A condition's training images. measure: their quality, of the images before JPEG and after it (None where there is
    none)."""

    images: Images
    changed: tuple[Images, Meter] | None = None
    stored: tuple[Images, Meter] | None = None

    def quality(self, tick: Callable[[], None] = lambda: None) -> tuple[Quality | None, Quality | None]:
        """Reads what the training has not read, so that the bound is that of the whole folder. tick: called for each such
        image."""
        for images, meter in self.parts():
            for index in meter.missing():
                images.pixels(index)
                tick()
        return tuple(part and part[1].total() for part in (self.changed, self.stored))

    def unread(self) -> int:
        """How many images `quality` has to read."""
        return sum(len(meter.missing()) for _, meter in self.parts())

    def parts(self) -> list[tuple[Images, Meter]]:
        return [part for part in (self.changed, self.stored) if part is not None]


class Conditions:
    """The training images of a study's conditions; each is made once, so that what was read and measured is not read again."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.made: dict[tuple[str, int], Training] = {}

    def get(self, name: str, seed: int) -> Training:
        """Those of the condition, of one seed at a time: another seed's are forgotten."""
        self.made = {key: made for key, made in self.made.items() if key[1] == seed}
        if (name, seed) not in self.made:
            self.made[name, seed] = self._make(parse_condition(name, ["clean", *self.study.sources]), seed)
        return self.made[name, seed]

    def release(self, name: str, seed: int) -> None:
        """The condition's images are not trained on again: they need not stay in memory. Clean ones are, by the next seed."""
        made = self.made.get((name, seed))
        if made is not None and made.images is not self.study.train:
            forget(made.images)

    def _make(self, kind: Condition, seed: int) -> Training:
        study = self.study
        if kind.jpeg is not None:
            inner = self.get(str_of(Condition(kind.base, None, kind.share)), seed)
            clean = study.train if not isinstance(inner.images, PartOfImages) else inner.images
            meter = Meter(len(clean), study.perceptual)
            images = ReencodedImages(inner.images, clean, kind.jpeg, study.truth, meter)
            return Training(images, inner.changed, (images, meter))
        if kind.share is not None:
            chosen = choose_share(study.train.names, kind.share, seed)
            if kind.base == "clean":
                rest = sorted(set(range(len(study.train))) - set(chosen))
                if not rest:
                    raise UserError(
                        f"--conditions clean@{kind.share}: no image is left; there are only {len(study.train)}"
                    )
                return Training(PartOfImages(study.train, rest))
            whole = self.get(kind.base, seed)
            return Training(MixedImages(study.train, whole.images, chosen), whole.changed)
        if kind.base == "clean":
            return Training(study.train)
        source, meter = study.sources[kind.base], Meter(len(study.train), study.perceptual)
        if source.files is not None:
            images: Images = ProtectedImages(study.train, source.files, study.truth, meter)
        else:
            images = ChangedImages(study.train, source.change_of(seed), study.truth, meter)
        return Training(images, (images, meter))


def str_of(condition: Condition) -> str:
    """`parse_condition` back."""
    share = "" if condition.share is None else f"@{condition.share}"
    return f"{condition.base}{share}{'' if condition.jpeg is None else f'+jpeg{condition.jpeg}'}"


def run_study(study: Study, world: World | None = None, watcher: Watcher = Watcher()) -> Json:
    """Runs what results.json does not hold yet and returns its content. watcher: of the first process.

    Seed by seed, so that what is there after an interruption is as many whole comparisons as possible.
    """
    world = world or World(device=choose_device(study.device))
    common = {"task": study.task, **asdict(study.schedule), **study.common}
    results = Results(
        study.out,
        common,
        {"task": study.task, "train_images": len(study.train), "test_images": len(study.test), **study.facts},
        study.weights,
    )
    conditions = Conditions(study)
    for seed, condition in itertools.product(study.seeds, study.conditions):
        kind = parse_condition(condition, ["clean", *study.sources])
        identity = {} if kind.base == "clean" else study.sources[kind.base].identity
        for run in (RunName(network, condition, seed) for network in study.networks):
            settings = {**common, **asdict(run), "images": identity}
            if run.network in study.weights:
                settings["weights"] = study.weights[run.network]
            path = study.out / "checkpoints" / f"{_slug(run.file(study.task))}.pt"
            checkpoint = Checkpoint(path, settings, study.checkpoint_every)
            if world.from_first("held" if world.leads and results.holds(settings) else ""):
                watcher.reused(run)
            else:
                _run(study, run, settings, conditions.get(condition, seed), results, checkpoint, world, watcher)
            if world.leads:
                checkpoint.remove()
        conditions.release(condition, seed)
    return results.content()


def _run(
    study: Study,
    run: RunName,
    settings: Json,
    made: Training,
    results: Results,
    checkpoint: Checkpoint,
    world: World,
    watcher: Watcher,
) -> None:
    """Trains one network on one condition and records it."""
    learner = _learner(study, run, made, watcher)

    def report(evaluation: Evaluation) -> None:
        results.log({"task": study.task, **asdict(run), **asdict(evaluation)})
        watcher.evaluated(run, evaluation, learner.metric)

    def resumed(step: int) -> None:
        watcher.resumed(run, step)
        for _ in range(step):
            watcher.tick()

    watcher.begin(str(run), study.schedule.steps)
    trained = train(
        learner,
        study.schedule,
        run.seed,
        world,
        checkpoint=checkpoint,
        report=report,
        resumed=resumed,
        tick=lambda step: watcher.tick(),
    )
    if world.leads:
        results.add_facts(
            {
                "metric": learner.metric,
                "trivial": learner.trivial,
                "absent_classes": absent_classes(learner.trivial),
                **({"majority_class": learner.majority} if isinstance(learner, SemanticLearner) else {}),
            }
        )
        if made.unread():
            watcher.begin(f"measuring the images of {run.condition}", made.unread())
        results.add(settings, _recorded(study, run, made, learner, trained, world, watcher))
    world.barrier()


def _learner(study: Study, run: RunName, made: Training, watcher: Watcher) -> Learner:
    """The run's learner; the images that it reads are told to the watcher."""
    watcher.begin(f"{run.condition}: reading", len(made.images) + len(study.test))
    made.images.heard = study.test.heard = watcher.tick
    try:
        return study.make(run.network, made.images, study.test)
    finally:
        made.images.heard = study.test.heard = lambda: None


def _recorded(
    study: Study, run: RunName, made: Training, learner: Learner, trained: Trained, world: World, watcher: Watcher
) -> Json:
    quality, stored = made.quality(watcher.tick)
    result: Json = {
        "metric": learner.metric,
        "final": trained.final,
        "best": trained.best,
        "train_loss": trained.train_loss,
        "trivial": learner.trivial,
        "metrics": trained.metrics,
        "curve": [asdict(point) for point in trained.curve],
        "train_images": learner.train_count,
        "notes": list(learner.notes),
        "quality": asdict(quality) if quality else None,
        "stored": asdict(stored) if stored else None,
        "seconds": round(trained.seconds, 1),
        "device": str(world.device),
        "device_name": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if run.seed == study.seeds[0]:
        result["examples"] = _write_examples(study, run, learner, trained, world)
        if made.changed is not None:
            result["training_examples"] = _write_changed(study, run, made)
    return result


def _write_examples(study: Study, run: RunName, learner: Learner, trained: Trained, world: World) -> list[Json]:
    """Clean test images with truth and prediction, as files; their paths are relative to OUT."""
    trained.network.eval()
    with torch.no_grad():
        shown = learner.examples(trained.network, world.device, EXAMPLES)
    entries = []
    for example in shown:
        paths = {
            kind: f"examples/{_slug(run.file(study.task))}/{_slug(example.name)}-{kind}.png"
            for kind in ("image", "truth", "prediction")
        }
        for kind, path in paths.items():
            write_png(study.out / path, getattr(example, kind))
        entries.append({"name": example.name, **paths})
    return entries


def _write_changed(study: Study, run: RunName, made: Training) -> list[Json]:
    """The first training images that differ, before and after, at their own size or its middle part."""
    entries: list[Json] = []
    for index, name in enumerate(made.images.names):
        clean, changed = study.train.pixels(index), made.images.pixels(index)
        if np.array_equal(clean, changed):
            continue
        folder = f"examples/training-{run.condition}-{run.seed}"
        paths = {kind: f"{folder}/{_slug(name)}-{kind}.png" for kind in ("clean", "changed")}
        for path, pixels in zip(paths.values(), (clean, changed), strict=True):
            write_png(study.out / path, _middle(pixels))
        entries.append({"name": name, **paths})
        if len(entries) == CHANGED_EXAMPLES:
            break
    return entries


def _middle(pixels_HW3: np.ndarray) -> np.ndarray:
    height, width = pixels_HW3.shape[:2]
    top, left = max(0, height - EXAMPLE_HEIGHT) // 2, max(0, width - EXAMPLE_WIDTH) // 2
    return np.ascontiguousarray(pixels_HW3[top : top + EXAMPLE_HEIGHT, left : left + EXAMPLE_WIDTH])


def _slug(text: str) -> str:
    """A file name of the text, short and harmless, that no other text of the run has."""
    clean = re.sub(r"[^A-Za-z0-9._+@-]+", "-", text).strip("-.")
    if clean == text and len(clean) <= 120:
        return clean
    return f"{clean[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def absent_classes(trivial: Metrics) -> list[str]:
    """The names that the test set does not show: None in a dictionary of a metric by class, of whatever answer."""
    return list(
        dict.fromkeys(
            name
            for key, values in trivial.items()
            if key.startswith("class_") and isinstance(values, dict)
            for name, value in values.items()
            if value is None
        )
    )


# --- images/SPLIT and labels/SPLIT -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One comparison on ROOT/images/SPLIT: which task, networks, conditions and seeds, at which size and schedule."""

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
    checkpoint_every: float = 120.0

    def __post_init__(self) -> None:
        for name in self.networks:
            check_network(name)
        if self.test_split not in TEST_SPLITS:
            raise UserError(f"--test-split {self.test_split}: give {' or '.join(TEST_SPLITS)}")
        check_size(self.width, self.height)
        choose_device(self.device)


def check_size(width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(f"--size {width}x{height}: give at least {SMALLEST_SIDE}x{SMALLEST_SIDE}")


def study_of(plan: Plan, sources: dict[str, Source], perceptual: Similarity | None = None) -> Study:
    """The plan with its images opened and checked. sources: for each base of the conditions but clean."""
    for name in plan.conditions:
        parse_condition(name, ["clean", *sources])
    train_pairs, test_pairs = list_pairs(plan.data, "train"), list_pairs(plan.data, plan.test_split)
    protected = [path for source in sources.values() for path in source.files or ()]
    check_apart([pair.image for pair in train_pairs] + protected, [pair.image for pair in test_pairs])
    task, labelling = plan.task, TaskLabelling(plan.task)
    options = LearnerOptions((plan.width, plan.height), colour_jitter=False)
    common = {
        "object_classes": None if task.objects is None else list(task.objects),
        "size": [plan.width, plan.height],
        "test_split": plan.test_split,
        "train": fingerprint(path for pair in train_pairs for path in (pair.image, pair.label)),
        "test": fingerprint(path for pair in test_pairs for path in (pair.image, pair.label)),
    }
    return Study(
        task.name,
        plan.out,
        PairImages(train_pairs),
        PairImages(test_pairs),
        lambda network, train_set, test_set: learn_labels(network, train_set, test_set, options, labelling),
        lambda annotated: (task.object_mask(annotated.values), task.labels(annotated.values)),
        plan.networks,
        plan.conditions,
        plan.schedule,
        sources,
        plan.seeds,
        plan.device,
        common,
        {"test_split": plan.test_split, "remarks": [BY_CLASS] if task.by_class else []},
        {},
        plan.checkpoint_every,
        perceptual,
    )


def compare(plan: Plan, sources: dict[str, Source], watcher: Watcher = Watcher()) -> Json:
    """Runs what OUT/results.json does not hold yet and returns its content. sources: for each base of the conditions but
    clean."""
    return run_study(study_of(plan, sources), watcher=watcher)


def file_identity(paths: Sequence[Path]) -> Json:
    """Of a protected folder: the files' names and contents."""
    return {"files": fingerprint(paths)}


def weights_identity(path: Path) -> Json:
    """Of pretrained weights: the name and a hash of the file, or of all files of the folder."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return {"name": path.name, "sha256": digest(path)[:16] if path.is_file() else fingerprint(files)}
