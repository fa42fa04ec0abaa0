"""What of a results.json stands on the page as words: the subtitle, the settings, how images were made, the remarks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from unseg.counts import count_of
from unseg.evaluation.condition_names import clean_beside, clean_of, shown_name
from unseg.evaluation.results import spread
from unseg.report.json_node import Node, items, number
from unseg.report.model import Network

BASE = re.compile("[@+]")  # what begins a share or a defence in a condition's name
PLACED = {"task", "network", "condition", "seed", "images"}  # settings that have a place of their own on the page
# Facts of a task that stand among its settings, by the name that readers get.
FACTS = {
    "train_images": "training images",
    "test_images": "test images",
    "test_split": "test split",
    "num_classes": "classes",
}
MACHINE = ("device", "device_name", "machine", "processes", "threads", "torch")  # of a result


def subtitle_words(facts: Node, runs: Sequence[Node]) -> str:
    """Returns `367 training and 233 clean test images, 128×96 pixels, …, seed 0`, as far as the JSON knows."""
    settings = runs[0]["settings"]
    parts = []
    training, test = number(facts.get("train_images")), number(facts.get("test_images"))
    if training is not None and test is not None:
        parts.append(f"{training:,.0f} training and {test:,.0f} clean test images")
    size = settings.get("size")
    if size is not None:
        parts.append(f"{_in_words(size.value, between='×')} pixels")
    crop = number(settings.get("crop"))
    if crop is not None:
        parts.append(f"crops of {crop:,.0f} pixels")
    steps, batch = number(settings.get("steps")), number(settings.get("batch"))
    if steps is not None:
        parts.append(f"{steps:,.0f} steps" + ("" if batch is None else f" of {batch:,.0f} images"))
    seeds = sorted({run["settings"]["seed"].whole() for run in runs})
    parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
    return ", ".join(parts)


def settings_words(facts: Node, runs: Sequence[Node]) -> dict[str, list[str]]:
    """Returns every setting and what is known of the machine, by name, each different value once."""
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


def made_words(runs: Sequence[Node]) -> dict[str, str]:
    """Returns how the images of each condition were made: generator, budget, or the fingerprint of their files."""
    return {
        shown_name(run["settings"]["condition"].text()): _in_words(images.value)
        for run in runs
        if (images := run["settings"].get("images")) and images.value
    }


def remark_lines(
    facts: Node, runs: Sequence[Node], networks: Sequence[Network], left_out: int, *, strict: bool
) -> list[str]:
    """Returns what a reader of tables and charts must know besides.

    left_out: runs that the page does not show. strict: see `clean_beside`.
    """
    lines = [*_about_task(facts), *_about_seeds(runs), *_about_gaps(networks), *_about_retained(networks, strict)]
    lines += [*_about_images(runs), *_about_defences(networks)]
    if left_out:
        lines.append(
            f"Left out: {count_of(left_out, 'run')} that a later one of the same condition and seed, or of images that"
            " were made otherwise, took the place of."
        )
    for run in runs:
        network = run["settings"]["network"].text()
        lines += [f"{network}: {note.text()}" for note in items(run["result"].get("notes"))]
    return [*dict.fromkeys(lines), *(remark.text() for remark in items(facts.get("remarks")))]


def _about_task(facts: Node) -> Iterator[str]:
    majority = facts.get("majority_class")
    if majority is not None:
        name = _in_words(majority.value)
        yield f"The trivial answer is class {name}, the most frequent one of the training labels, at every pixel."
    absent = [item.value for item in items(facts.get("absent_classes"))]
    if absent:
        yield f"Left out of every mean, since no test image shows them: {', '.join(map(_in_words, absent))}."


def _about_seeds(runs: Sequence[Node]) -> Iterator[str]:
    if len({run["settings"]["seed"].whole() for run in runs}) == 1:
        yield "One seed: nothing is known of the spread between runs."


def _about_gaps(networks: Sequence[Network]) -> Iterator[str]:
    """Yields which networks have uneven numbers of seeds, and which conditions were not run on which networks."""
    every = dict.fromkeys(condition.name for network in networks for condition in network.conditions)
    lacking: dict[str, list[str]] = {}
    for network in networks:
        missing = ", ".join(shown_name(name) for name in every if network.find(name) is None)
        if missing:
            lacking.setdefault(missing, []).append(network.name)
        uneven = sorted({len(condition.runs) for condition in network.conditions})
        if len(uneven) > 1:
            yield f"The conditions of {network.name} have between {uneven[0]} and {uneven[-1]} seeds."
    for missing, names in lacking.items():
        yield f"Not run on {', '.join(names)}: {missing}."


def _about_retained(networks: Sequence[Network], strict: bool) -> Iterator[str]:
    """Yields why retained learning is blank where it is."""
    for network in networks:
        blank = [
            condition.name
            for condition in network.conditions
            if condition.base != "clean" and all(run.retained is None for run in condition.runs)
        ]
        there = {condition.name for condition in network.conditions}
        alone = [clean_of(name) for name in blank if clean_beside(name, there, strict=strict) is None]
        lacking = [shown_name(name) for name in dict.fromkeys(alone)]
        if lacking:
            yield f"{network.name}: retained learning is blank without a run on {' and on '.join(lacking)}."
        elif blank:
            yield (
                f"{network.name}: retained learning is blank where clean images taught it no more than the trivial"
                " answer, or were not run with the same seed."
            )


def _about_images(runs: Sequence[Node]) -> Iterator[str]:
    """Yields of which noise some conditions have images that were made otherwise than those of others."""
    made: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        settings, images = run["settings"], run["settings"].get("images")
        how = {} if images is None or not isinstance(images.value, dict) else dict(images.value)
        how.pop("denoise", None)  # what a defence depends on
        name, network = settings["condition"].text(), settings["network"].text()
        by_way = made.setdefault(BASE.split(name)[0], {})
        by_way.setdefault(json.dumps(how, sort_keys=True), []).append(f"{shown_name(name)} on {network}")
    for base, ways in made.items():
        if len(ways) > 1:
            groups = " and ".join(", ".join(dict.fromkeys(names)) for names in ways.values())
            yield f"Images of {shown_name(base)} were not all made alike, so do not compare {groups}."


def _about_defences(networks: Sequence[Network]) -> Iterator[str]:
    conditions = [condition for network in networks for condition in network.conditions]
    for name in dict.fromkeys(condition.name for condition in conditions):
        stored = [run.stored for condition in conditions if condition.name == name for run in condition.runs]
        again = spread(None if quality is None else quality.psnr for quality in stored)
        if again is not None:
            yield (
                f"{shown_name(name)}: PSNR and largest change are those of the change itself; after the defences, "
                f"the images have a PSNR of {again.mean:.1f} dB."
            )


def _in_words(value: Any, depth: int = 4, between: str = " ") -> str:
    """Returns a value of the JSON for readers, without brackets.

    depth: of objects and lists. between: items of a list.
    """
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
