"""One set of the matrix as a study: its images, the noises within the budget, networks trained as people train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from unseg import __version__
from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations import ObjectRule
from unseg.errors import UserError
from unseg.evaluation.baselines.baseline_names import BASELINES, OPTIONS
from unseg.evaluation.coded_images import CODED, LEARNED
from unseg.evaluation.condition_names import parse_condition
from unseg.evaluation.kept_images import kept, made_once
from unseg.evaluation.large_images import on_large
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.measuring_images import OpenedSet, open_photographs
from unseg.evaluation.noise_followed import Probe, followed
from unseg.evaluation.on_the_way import OnTheWay, object_rule
from unseg.evaluation.practice import Practice
from unseg.evaluation.results import PRACTICE, Json
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import truth_by
from unseg.evaluation.sources import MADE, Sources, known_bases
from unseg.evaluation.study import ConditionSource, RunName, Study
from unseg.evaluation.study_parts import Denoising, asks_for, code_of, denoising_of, maker_of, weights_of
from unseg.evaluation.tasks.registry import find_maker, takes_practice
from unseg.evaluation.weight_choice import choose_starts
from unseg.method.config import Budget

TASK = "semantic"
WITHOUT_CLASSES = "random"  # noise that has nothing to do with classes


@dataclass(frozen=True)
class BenchSetup:
    """How every cell is trained.

    out: holds a folder a set. shipped: loads this project's compact generator, for `tint`. generator: loads the one
    that makes the noise `protected`; None: there is no such noise. learned: the file of weights that make the noise
    `codes-learned`; None: likewise. weights: network → file, folder, `imagenet` or `none`; "" stands for all networks.
    """

    data_root: Path
    out: Path
    networks: tuple[str, ...]
    schedule: Schedule
    practice: Practice
    budget: Budget
    shipped: Callable[[], OnTheWay]
    generator: Callable[[], OnTheWay] | None = None
    learned: Path | None = None
    weights: Mapping[str, Path] | None = None
    device: str = "auto"
    checkpoint_every: float = 120.0


def study_of_set(
    opened: OpenedSet, setup: BenchSetup, conditions: tuple[str, ...], progress: Progress = SILENT
) -> Study:
    """Returns the study of a set, with results in a folder of the set's name.

    conditions: names as in results.json. Raises UserError for a network or weights that there are not, and for a
    noise whose generator is not named.
    """
    row = opened.row
    makers = {network: find_maker(TASK, network, practice=True) for network in setup.networks}
    for network in setup.networks:
        if not takes_practice(TASK, network):
            raise UserError(f"--networks {network}: cannot be trained on crops; give a semantic network")
    starts = choose_starts(setup.networks, setup.weights or {}, practice=True)
    options = LearnerOptions((setup.practice.crop,) * 2, rule=opened.rule, practice=setup.practice)
    out = setup.out / row.name
    for folder in (opened.train, opened.test):
        folder.check_beside(out)
    train_hash = opened.train.hash()
    others = {"train": train_hash, "version": __version__}
    made = {name: made_once(source) for name, source in _sources(opened, setup, conditions).items()}
    denoising = _denoising(setup, conditions, progress)
    return Study(
        task=TASK,
        out=out,
        train=opened.train,
        test=opened.test,
        make=maker_of(makers, starts, options),
        truth=truth_by(_rule(opened)),
        networks=setup.networks,
        conditions=conditions,
        schedule=setup.schedule,
        sources={name: kept(source, out / "images", name, others) for name, source in made.items()},
        device=setup.device,
        common=_common(opened, setup, train_hash),
        facts={"remarks": [f"{row.title}.", row.licence]},
        weights=weights_of(starts),
        code=code_of(setup.networks),
        checkpoint_every=setup.checkpoint_every,
        pairs=denoising.pairs,
        pairs_identity=denoising.identity,
        probe=_probe(opened, made, progress),
    )


def _rule(opened: OpenedSet) -> ObjectRule:
    return object_rule(opened.rule, binary=opened.row.binary, by_class=True)


def _sources(opened: OpenedSet, setup: BenchSetup, conditions: Sequence[str]) -> dict[str, ConditionSource]:
    """Returns how the images of each noise are made. A generator is loaded only where a condition asks for it."""
    makes = Sources(
        opened.train,
        truth_by(_rule(opened)),
        opened.rule,
        setup.budget,
        binary=opened.row.binary,
        by_class=True,
        grey=opened.row.grey,
    )
    bases = {parse_condition(name, known_bases([MADE, LEARNED])).base for name in conditions}
    sources = {name: source for name, source in makes.controls().items() if name in bases}
    if MADE in bases:
        if setup.generator is None:
            raise UserError(f"--noises {MADE}: name the generator that makes it with --generator")
        sources[MADE] = makes.generated(setup.generator())
    if LEARNED in bases:
        if setup.learned is None:
            raise UserError(f"--noises {LEARNED}: name the weights that make it with --learned")
        sources[LEARNED] = makes.learned(setup.learned)
    sources.update((name, makes.coded(name)) for name in CODED if name in bases)
    for name in BASELINES:
        if name in bases and name not in sources:
            sources[name] = makes.baseline(name, setup.shipped)
    if opened.row.enlarged is None:
        return sources
    for name in OPTIONS.keys() & bases:
        raise UserError(f"--noises {name}: fits noise with networks, which cannot see {opened.row.title}; leave it out")
    return {name: on_large(source, opened.train, makes.truth) for name, source in sources.items()}


def _probe(
    opened: OpenedSet, sources: Mapping[str, ConditionSource], progress: Progress
) -> Callable[[RunName, nn.Module, torch.device], Json]:
    """Returns what asks networks whether they follow the noise, those that were trained under no defence."""
    rest = 0 if opened.row.binary else None
    asked = Probe(opened.test, truth_by(_rule(opened)), len(opened.row.classes), opened.row.background, rest)

    def probe(run: RunName, network: nn.Module, device: torch.device) -> Json:
        if run.condition not in sources or run.condition == WITHOUT_CLASSES:
            return {}
        source = sources[run.condition]
        other_key = source.change_of(run.seed + 1, progress) if run.condition in CODED else None
        return followed(network, device, source.change_of(run.seed, progress), asked, other_key)

    return probe


def _common(opened: OpenedSet, setup: BenchSetup, train_hash: str) -> Json:
    """Returns the settings that all runs of a set share."""
    practice = setup.practice
    frozen = {"frozen": "encoder"} if practice.frozen_encoder else {}
    return {
        "views": PRACTICE,
        "crop": practice.crop,
        "distort": practice.distort,
        **frozen,
        "set": opened.row.name,
        "long_side": opened.row.long_side,
        **({} if opened.row.enlarged is None else {"enlarged": opened.row.enlarged}),
        "classes": len(opened.row.classes),
        "train": train_hash,
        "test": opened.test.hash(),
    }


def _denoising(setup: BenchSetup, conditions: Sequence[str], progress: Progress) -> Denoising:
    """Returns CCP's photographs that nothing is measured on with their protected versions, where a condition asks for
    `denoise`. They are made by the public code, whatever the noise is that it is used against."""
    if not asks_for("denoise", conditions):
        return Denoising()
    instead = "leave denoise, which learns from its first images, out of --defences"
    photographs = open_photographs(setup.data_root, instead)
    return denoising_of(
        photographs, photographs.hash(), setup.shipped(), setup.budget, by_class=True, progress=progress
    )
