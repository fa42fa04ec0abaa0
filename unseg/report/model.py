"""What a report is about: results.json (docs/evaluation.md has its schema), checked and in the order of the page.

Whatever is missing or of the wrong kind is one UserError that names its place. Nothing here knows HTML.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unseg.errors import UserError
from unseg.evaluation.condition_names import RESERVED, shown_name
from unseg.evaluation.results import Spread, grouped, read_results, spread
from unseg.method import metrics
from unseg.report.charts import Points
from unseg.storage.files import printable

RESULTS = "results.json"
# Settings that have a place of their own on the page.
LARGEST = 1e12  # of a number that can be shown
PLACED = {"task", "network", "condition", "seed", "images"}
# Facts of a task that stand among its settings, by the name that readers get.
FACTS = {
    "train_images": "training images",
    "test_images": "test images",
    "test_split": "test split",
    "num_classes": "classes",
}
MACHINE = ("device", "device_name", "machine", "processes", "threads", "torch")  # of a result


@dataclass(frozen=True)
class Quality:
    """How far a run's training images are from the clean ones. psnr: dB; max_change: grey levels of 255; None: not measured."""

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    max_change_object: float | None = None
    max_change_background: float | None = None


@dataclass(frozen=True)
class Picture:
    """A picture file that the JSON names, relative to its own folder."""

    folder: Path
    file: str


@dataclass(frozen=True)
class Example:
    """A clean test image, its truth, and what a run's network says of it."""

    name: str
    image: Picture
    truth: Picture
    prediction: Picture


@dataclass(frozen=True)
class Change:
    """A training image before and after."""

    name: str
    clean: Picture
    changed: Picture


@dataclass(frozen=True)
class Run:
    """One network trained on one condition's images with one seed. final, best, curve: of the task's metric.

    retained: against the clean run of the same seed, None where there is none. numbers: every metric that is one number, under
    its own name. by_class: name of a metric → class → number; None for what the test images do not show.
    """

    seed: int
    final: float
    best: float
    curve: Points
    retained: float | None
    numbers: Mapping[str, float | None]
    by_class: Mapping[str, Mapping[str, float | None]]
    quality: Quality
    stored: Quality | None
    seconds: float | None
    examples: Sequence[Example]
    changes: Sequence[Change]


@dataclass(frozen=True)
class Condition:
    """What the networks were trained on: BASE, BASE@SHARE or one of them +jpegQ, as `unseg.evaluation.condition_names` has it.

    runs: by seed, rising; at least one.
    """

    name: str
    runs: Sequence[Run]

    @property
    def shown(self) -> str:
        return shown_name(self.name)

    @property
    def base(self) -> str:
        return re.split("[@+]", self.name)[0]

    @property
    def share(self) -> int | None:
        """How many percent of the images are the base's (of clean@SHARE: are left out); None where it is no part of a sweep."""
        match = re.search(r"@([1-9]\d?)(?:\+|$)", self.name, re.ASCII)
        return int(match[1]) if match else None

    @property
    def protects(self) -> bool:
        """Whether these are protected images and nothing else: no control, no mixture, not re-encoded."""
        return self.base == self.name and self.name not in RESERVED

    def spread(self, pick: Callable[[Run], float | None]) -> Spread | None:
        """A number of the runs, over the seeds."""
        return spread(map(pick, self.runs))


@dataclass(frozen=True)
class Network:
    """All conditions of one network, in the order of tables. trivial: the metric of an answer that was not learnt from images."""

    name: str
    trivial: float
    conditions: Sequence[Condition]

    def main(self) -> list[Condition]:
        """The conditions that are compared with each other: all but the sweep over shares."""
        return [condition for condition in self.conditions if condition.share is None]

    def protected(self) -> list[Condition]:
        return [condition for condition in self.conditions if condition.protects]

    def find(self, name: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.name == name), None)


@dataclass(frozen=True)
class Section:
    """One task of one results.json.

    metric: its key. settings: name → values, more than one where runs differ.
    made: condition → how its images were made, in words.
    """

    source: str
    sha256: str
    task: str
    metric: str
    networks: Sequence[Network]
    subtitle: str
    settings: Mapping[str, Sequence[str]]
    made: Mapping[str, str]
    remarks: Sequence[str]

    def runs(self) -> Iterator[Run]:
        return (run for network in self.networks for condition in network.conditions for run in condition.runs)

    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs()})


def read_sections(path: Path) -> list[Section]:
    """The tasks of a results.json, or of that in a folder, in its own order. UserError where it is missing, or broken: it names
    the place."""
    file = path / RESULTS if path.is_dir() else path
    if not file.exists():
        what = f"no {RESULTS} in this folder" if path.is_dir() else "no such file or folder"
        raise UserError(f"{path}: {what}; give what unseg evaluate wrote with --out")
    content = read_results(file)
    root = Node(content, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    groups: dict[str, dict[str, dict[str, dict[int, Any]]]] = {}
    for (task, network), conditions in grouped(content).items():
        groups.setdefault(task, {})[network] = conditions
    label = file.parent.name if file.name == RESULTS else file.stem
    return [_section(root, task, networks, label, sha256) for task, networks in groups.items()]


# --- one place for every name of the JSON ------------------------------------------------------------------------------


class Node:
    """A value of the JSON that knows where it stands, so that what is wrong with it can be said."""

    def __init__(self, value: Any, file: Path, where: str = "") -> None:
        self.value, self.file, self.where = value, file, where

    def __getitem__(self, key: str) -> Node:
        """What stands under `key`; UserError where this is no object, or has no such key."""
        found = self.get(key)
        if found is None:
            raise self.error(f"has no '{key}'")
        return found

    def get(self, key: str) -> Node | None:
        """What stands under `key`, None where it is missing or null."""
        value = self.value.get(key) if key in self.fields() else None
        return None if value is None else Node(value, self.file, f"{self.where}.{key}".lstrip("."))

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.error("is no list")
        return [Node(value, self.file, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def fields(self) -> list[str]:
        """The names of an object."""
        if not isinstance(self.value, dict):
            raise self.error("is no object")
        return list(self.value)

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("is no text")
        return self.value

    def number(self) -> float:
        if type(self.value) not in (int, float) or abs(self.value) > LARGEST or math.isnan(self.value):
            raise self.error("is no number that can be shown")
        return float(self.value)

    def whole(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error("is no whole number")
        return self.value

    def error(self, problem: str) -> UserError:
        kinds = {dict: "an object", list: "a list"}
        shown = kinds.get(type(self.value)) or printable(json.dumps(self.value, ensure_ascii=False))
        return UserError(
            f"{self.file}: {printable(self.where) or 'the file'} {problem}: "
            f"{shown if len(shown) <= 40 else shown[:39] + '…'}; it is not as unseg evaluate wrote it"
        )


# --- what the places mean ----------------------------------------------------------------------------------------------


def _section(
    root: Node, task: str, networks: dict[str, dict[str, dict[int, Any]]], source: str, sha256: str
) -> Section:
    facts = root["tasks"][task]
    runs = {id(run["result"].value): run for run in root["runs"].items() if run["settings"]["task"].value == task}
    kept = {
        id(result) for conditions in networks.values() for seeds in conditions.values() for result in seeds.values()
    }
    left_out = len(runs) - len(kept)
    runs = {key: run for key, run in runs.items() if key in kept}
    metrics_named = {run["result"]["metric"].text() for run in runs.values()}
    if len(metrics_named) > 1:
        raise facts.error(f"has runs of several metrics ({', '.join(sorted(metrics_named))})")
    metric = metrics_named.pop()
    parts = []
    for network, conditions in networks.items():
        of_network = [runs[id(result)] for seeds in conditions.values() for result in seeds.values()]
        trivial = _trivial([run["result"] for run in of_network], facts, metric)
        clean = {
            seed: runs[id(result)]["result"]["final"].number() for seed, result in conditions.get("clean", {}).items()
        }
        parts.append(
            Network(
                network,
                trivial,
                [
                    Condition(name, [_run(runs[id(result)], clean, trivial) for result in seeds.values()])
                    for name, seeds in conditions.items()
                ],
            )
        )
    found = list(runs.values())
    return Section(
        source,
        sha256,
        task,
        metric,
        parts,
        _subtitle(facts, found),
        _settings(facts, found),
        _made(found),
        _remarks(facts, found, parts, left_out),
    )


def _trivial(results: Sequence[Node], facts: Node, metric: str) -> float:
    """What the network's own runs say, else the task's facts."""
    said = next((trivial for result in results if (trivial := result.get("trivial"))), None) or facts["trivial"]
    return _number(said.get(metric)) or 0.0


def _run(run: Node, clean: Mapping[int, float], trivial: float) -> Run:
    result, seed = run["result"], run["settings"]["seed"].whole()
    final = result["final"].number()
    curve = tuple((point["step"].number(), point["score"].number()) for point in result["curve"].items())
    if any(step < 0 for step, _ in curve) or any(first[0] >= second[0] for first, second in itertools.pairwise(curve)):
        raise result["curve"].error("has steps that do not rise")
    numbers, by_class = _metrics(result["metrics"])
    quality, stored = result.get("quality"), result.get("stored")
    retained = metrics.retained_learning(final, clean[seed], trivial) if seed in clean else None
    return Run(
        seed,
        final,
        result["best"].number(),
        curve,
        retained,
        numbers,
        by_class,
        Quality() if quality is None else _quality(quality),
        stored and _quality(stored),
        _number(result.get("seconds")),
        [_example(example) for example in _items(result.get("examples"))],
        [_change(change) for change in _items(result.get("training_examples"))],
    )


def _metrics(given: Node) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """The metrics that are one number, and those by class (or size, …). Texts and lists among them are no numbers to show."""
    numbers: dict[str, float | None] = {}
    by_class: dict[str, dict[str, float | None]] = {}
    for name in given.fields():
        node = given.get(name)
        if node is None:
            numbers[name] = None
        elif isinstance(node.value, dict):
            by_class[name] = {inner: _number(node.get(inner)) for inner in node.fields()}
        elif not isinstance(node.value, (str, list, bool)):
            numbers[name] = node.number()
    return numbers, by_class


def _quality(node: Node) -> Quality:
    return Quality(*(_number(node.get(field.name)) for field in fields(Quality)))


def _example(example: Node) -> Example:
    return Example(example["name"].text(), *(_picture(example[part]) for part in ("image", "truth", "prediction")))


def _change(change: Node) -> Change:
    return Change(change["name"].text(), _picture(change["clean"]), _picture(change["changed"]))


def _picture(file: Node) -> Picture:
    return Picture(file.file.parent, file.text())


def _number(node: Node | None) -> float | None:
    return None if node is None else node.number()


def _items(node: Node | None) -> list[Node]:
    return [] if node is None else node.items()


# --- in words ----------------------------------------------------------------------------------------------------------


def _subtitle(facts: Node, runs: Sequence[Node]) -> str:
    """`367 training and 233 test images, 128×96 pixels, 1,000 steps of 4 images, seed 0`, as far as the JSON says so."""
    settings = runs[0]["settings"]
    parts = []
    counts = [_number(facts.get(key)) for key in ("train_images", "test_images")]
    if None not in counts:
        parts.append(f"{counts[0]:,.0f} training and {counts[1]:,.0f} clean test images")
    size = settings.get("size")
    if size is not None:
        parts.append(f"{_in_words(size.value, between='×')} pixels")
    steps, batch = _number(settings.get("steps")), _number(settings.get("batch"))
    if steps is not None:
        parts.append(f"{steps:,.0f} steps" + ("" if batch is None else f" of {batch:,.0f} images"))
    seeds = sorted({run["settings"]["seed"].whole() for run in runs})
    parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
    return ", ".join(parts)


def _settings(facts: Node, runs: Sequence[Node]) -> dict[str, list[str]]:
    """Every setting and what is known of the machine, by name: each different value once."""
    found: dict[str, dict[str, None]] = {}
    for name in facts.fields():
        if name in FACTS:
            found.setdefault(FACTS[name], {})[_in_words(facts.value[name])] = None
    for run in runs:
        for name, value in run["settings"].value.items():
            if name not in PLACED:
                found.setdefault(name.replace("_", " "), {})[
                    _in_words(value, between="×" if name == "size" else " ")
                ] = None
        found.setdefault("seed", {})[str(run["settings"]["seed"].whole())] = None
        for name in MACHINE:
            if run["result"].get(name):
                found.setdefault(name.replace("_", " "), {})[_in_words(run["result"][name].value)] = None
    return {name: list(values) for name, values in found.items()}


def _made(runs: Sequence[Node]) -> dict[str, str]:
    """How the images of each condition were made: generator, budget, or the fingerprint of their files."""
    return {
        shown_name(run["settings"]["condition"].text()): _in_words(images.value)
        for run in runs
        if (images := run["settings"].get("images")) and images.value
    }


def _remarks(facts: Node, runs: Sequence[Node], networks: Sequence[Network], left_out: int) -> list[str]:
    """What a reader of tables and charts must know besides."""
    lines = []
    majority = facts.get("majority_class")
    if majority is not None:
        lines.append(
            f"The trivial answer is class {_in_words(majority.value)}, the most frequent one of the training labels, at "
            "every pixel."
        )
    absent = [item.value for item in _items(facts.get("absent_classes"))]
    if absent:
        lines.append(f"Left out of every mean, since no test image shows them: {', '.join(map(_in_words, absent))}.")
    if len({run["settings"]["seed"].whole() for run in runs}) == 1:
        lines.append("One seed: nothing is known of the spread between runs.")
    every = dict.fromkeys(condition.name for network in networks for condition in network.conditions)
    lacking: dict[str, list[str]] = {}
    for network in networks:
        missing = ", ".join(shown_name(name) for name in every if network.find(name) is None)
        if missing:
            lacking.setdefault(missing, []).append(network.name)
        uneven = sorted({len(condition.runs) for condition in network.conditions})
        if len(uneven) > 1:
            lines.append(f"The conditions of {network.name} have between {uneven[0]} and {uneven[-1]} seeds.")
    lines += [f"Not run on {', '.join(names)}: {missing}." for missing, names in lacking.items()]
    for name in every:
        again = spread(
            run.stored and run.stored.psnr
            for network in networks
            if (condition := network.find(name))
            for run in condition.runs
        )
        if again is not None:
            lines.append(
                f"{shown_name(name)}: PSNR and largest change are those of the change itself; once re-encoded, the "
                f"images have a PSNR of {again.mean:.1f} dB."
            )
    if left_out:
        lines.append(
            f"{left_out} runs of images that were made otherwise than the latest ones of their condition are left out."
        )
    lines += [
        f"{run['settings']['network'].text()}: {note.text()}"
        for run in runs
        for note in _items(run["result"].get("notes"))
    ]
    return [*dict.fromkeys(lines), *(remark.text() for remark in _items(facts.get("remarks")))]


def _in_words(value: Any, depth: int = 4, between: str = " ") -> str:
    """A value of the JSON for readers: objects and lists without brackets, down to `depth` of them. between: items of a list."""
    if isinstance(value, (dict, list)) and depth == 0:
        return "…"
    if isinstance(value, dict):
        return (
            ", ".join(f"{name.replace('_', ' ')} {_in_words(inner, depth - 1)}" for name, inner in value.items())
            or "none"
        )
    if isinstance(value, list):
        return between.join(_in_words(item, depth - 1) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
