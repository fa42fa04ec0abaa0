"""Reads results.json into the sections of a page: checked, and in the order of the page.

docs/reference/formats.md has the schema. Whatever is missing or of the wrong kind raises one UserError that names its
place.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from unseg.errors import UserError
from unseg.evaluation.condition_names import clean_beside
from unseg.evaluation.results import as_people_train, grouped, read_results
from unseg.method import metrics
from unseg.report.json_node import Node, items, number
from unseg.report.model import Change, Condition, Example, Network, Picture, Quality, Run, Section
from unseg.report.wording import made_words, remark_lines, settings_words, subtitle_words
from unseg.storage.files import sha256_or_refuse

RESULTS = "results.json"


def results_file(path: Path) -> Path:
    """Returns a results.json that is named itself, or by its folder."""
    return path / RESULTS if path.is_dir() else path


def read_sections(path: Path) -> list[Section]:
    """Returns the tasks of a results.json, in the file's order. path: the file, or its folder.

    Raises a UserError that names the place if the file is missing or broken.
    """
    file = results_file(path)
    if not file.exists():
        what = f"no {RESULTS} in this folder" if path.is_dir() else "no such file or folder"
        raise UserError(f"{path}: {what}; give what unseg evaluate wrote with --out")
    content = read_results(file)
    root = Node(content, file)
    sha256 = sha256_or_refuse(file)
    groups: dict[str, dict[str, dict[str, dict[int, Any]]]] = {}
    for (task, network), conditions in grouped(content).items():
        groups.setdefault(task, {})[network] = conditions
    label = file.parent.name if file.name == RESULTS else file.stem
    return [_section(root, task, networks, label, sha256) for task, networks in groups.items()]


def _section(
    root: Node, task: str, networks: dict[str, dict[str, dict[int, Any]]], source: str, sha256: str
) -> Section:
    """Returns the section of one task. networks: network → condition → seed → result, as `grouped` returns them."""
    facts = root["tasks"][task]
    runs = {id(run["result"].value): run for run in root["runs"].items() if run["settings"]["task"].value == task}
    by_network = {
        network: {name: [runs[id(result)] for result in seeds.values()] for name, seeds in conditions.items()}
        for network, conditions in networks.items()
    }
    kept = {id(run) for conditions in by_network.values() for members in conditions.values() for run in members}
    in_order = [run for run in runs.values() if id(run) in kept]
    metric = _metric(facts, in_order)
    strict = as_people_train(root.value, task)
    drawn = [_network(name, conditions, facts, metric, strict=strict) for name, conditions in by_network.items()]
    return Section(
        source=source,
        sha256=sha256,
        task=task,
        metric=metric,
        networks=drawn,
        subtitle=subtitle_words(facts, in_order),
        settings=settings_words(facts, in_order),
        made=made_words(in_order),
        remarks=remark_lines(facts, in_order, drawn, left_out=len(runs) - len(in_order), strict=strict),
    )


def _metric(facts: Node, runs: Sequence[Node]) -> str:
    """Returns the metric that all runs share."""
    named = sorted({run["result"]["metric"].text() for run in runs})
    if len(named) > 1:
        raise facts.error(f"has runs of several metrics ({', '.join(named)})")
    return named[0]


def _network(name: str, conditions: Mapping[str, Sequence[Node]], facts: Node, metric: str, *, strict: bool) -> Network:
    """Returns one network's conditions. conditions: name → the runs of it. strict: see `clean_beside`."""
    trivial = _trivial([run["result"] for runs in conditions.values() for run in runs], facts, metric)
    drawn = []
    for condition, runs in conditions.items():
        clean = _finals(conditions.get(clean_beside(condition, conditions, strict=strict) or "", ()))
        drawn.append(Condition(condition, [_run(run, clean, trivial) for run in runs]))
    return Network(name, trivial, drawn)


def _finals(runs: Sequence[Node]) -> dict[int, float]:
    """Returns the final metric of each run by its seed."""
    return {run["settings"]["seed"].whole(): run["result"]["final"].number() for run in runs}


def _trivial(results: Sequence[Node], facts: Node, metric: str) -> float:
    """Returns the trivial answer's metric: what the network's own runs say, else the task's facts."""
    said = next((trivial for result in results if (trivial := result.get("trivial"))), None) or facts["trivial"]
    return number(said.get(metric)) or 0.0


def _run(run: Node, clean: Mapping[int, float], trivial: float) -> Run:
    """Returns one run. clean: seed → final metric of the clean run that it is compared with."""
    result, seed = run["result"], run["settings"]["seed"].whole()
    final = result["final"].number()
    curve = tuple((point["step"].number(), point["score"].number()) for point in result["curve"].items())
    if any(step < 0 for step, _ in curve) or any(first[0] >= second[0] for first, second in itertools.pairwise(curve)):
        raise result["curve"].error("has steps that do not rise")
    numbers, by_class = _metrics(result["metrics"])
    quality, stored = result.get("quality"), result.get("stored")
    said = result.get("trivial")  # on the run's own test images, which some defences change
    own = None if said is None else number(said.get(result["metric"].text()))
    level = trivial if own is None else own
    retained = metrics.retained_learning(final, clean[seed], level) if seed in clean else None
    return Run(
        seed=seed,
        final=final,
        best=result["best"].number(),
        curve=curve,
        retained=retained,
        numbers=numbers,
        by_class=by_class,
        quality=Quality() if quality is None else _quality(quality),
        stored=None if stored is None else _quality(stored),
        seconds=number(result.get("seconds")),
        examples=[_example(example) for example in items(result.get("examples"))],
        changes=[_change(change) for change in items(result.get("training_examples"))],
    )


def _metrics(given: Node) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Returns the metrics that are one number, and those by class (or size, …).

    Texts and lists are no numbers to show.
    """
    numbers: dict[str, float | None] = {}
    by_class: dict[str, dict[str, float | None]] = {}
    for name in given.fields():
        node = given.get(name)
        if node is None:
            numbers[name] = None
        elif isinstance(node.value, dict):
            by_class[name] = {inner: number(node.get(inner)) for inner in node.fields()}
        elif not isinstance(node.value, (str, list, bool)):
            numbers[name] = node.number()
    return numbers, by_class


def _quality(node: Node) -> Quality:
    return Quality(*(number(node.get(field.name)) for field in fields(Quality)))


def _example(example: Node) -> Example:
    return Example(example["name"].text(), *(_picture(example[part]) for part in ("image", "truth", "prediction")))


def _change(change: Node) -> Change:
    return Change(change["name"].text(), _picture(change["clean"]), _picture(change["changed"]))


def _picture(file: Node) -> Picture:
    return Picture(file.file.parent, file.text())
