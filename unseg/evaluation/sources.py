"""How the training images of every condition are made: protected folders, generators, controls and published noises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unseg.compute.progress import Progress, track
from unseg.data.annotations import ObjectRule
from unseg.evaluation.baselines.baseline_names import BASELINES, baseline, baseline_identity
from unseg.evaluation.baselines.material import Material, Photograph
from unseg.evaluation.coded_images import (
    CODED,
    Allocation,
    CodedOptions,
    Labels,
    WithCodes,
    allocate,
    coded,
    coded_by_network,
    coded_identity,
    key_of,
)
from unseg.evaluation.conditions import Change, class_pattern, random_noise
from unseg.evaluation.on_the_way import OnTheWay, source_on_the_way
from unseg.evaluation.results import Json
from unseg.evaluation.sets import Images, Truth
from unseg.evaluation.study import ConditionSource
from unseg.method.config import Budget
from unseg.method.learned_codes import apply_learned_codes
from unseg.method.metrics import IGNORE_LABEL
from unseg.method.patterns import CodeBook
from unseg.storage.coded_weights import load_coded

MADE = "protected"  # the condition that a generator makes on the way
TINT = "tint"


def known_bases(protected: Sequence[str]) -> list[str]:
    """Returns what a condition's name may begin with. protected: names of folders, and of what a generator makes."""
    return ["clean", *protected, *CODED, "random", "pattern", *(name for name in BASELINES if name != "random")]


class Sources:
    """Makes the sources of a comparison's conditions from its training images.

    truth: the object and the classes of an image. rule: which pixels are ignored. binary: whether classes are the
    object and the rest. by_class: whether a generator is told every pixel's class. grey: whether images may be without
    colour.
    """

    def __init__(
        self,
        train: Images,
        truth: Truth,
        rule: ObjectRule,
        budget: Budget,
        *,
        binary: bool,
        by_class: bool,
        grey: bool = True,
    ) -> None:
        self.train, self.truth, self.rule, self.budget = train, truth, rule, budget
        self.binary, self.by_class, self.grey = binary, by_class, grey
        self.identity: Json = {"budget": {"object": budget.object, "background": budget.background}}
        if by_class and rule.which != "all":
            self.identity["object_budget_on"] = "every labelled pixel"

    def controls(self) -> dict[str, ConditionSource]:
        """Returns uniform noise and a pattern a class, the controls of every comparison."""
        budget = self.budget
        return {
            "random": ConditionSource(lambda seed, progress: random_noise(budget, seed), self.identity),
            "pattern": ConditionSource(lambda seed, progress: class_pattern(budget, seed), self.identity),
        }

    def coded(self, name: str) -> ConditionSource:
        """Returns the source of a condition of this project's own codes. The seed draws the key."""
        options, labels = CODED[name], Labels(self.rule.ignore_label, self.binary)
        allocated: list[Allocation] = []  # once for all seeds

        def change_of(seed: int, progress: Progress) -> Change:
            if not allocated:
                allocated.append(allocate(self.train, self.truth, labels, options.told_apart, progress))
            return coded(allocated[0], labels, self.budget, options, key_of("comparison", seed))

        return ConditionSource(change_of, {**self.identity, **coded_identity(options, self.grey)})

    def learned(self, path: Path) -> ConditionSource:
        """Returns the source of codes that a network changes image by image. path: of its weights; UserError where they
        are none."""
        loaded, budget = load_coded(path), self.budget

        def with_codes(pixels: np.ndarray, codes: np.ndarray, book: CodeBook, key: bytes) -> np.ndarray:
            return apply_learned_codes(loaded.network, pixels, codes, book, key, budget)

        return self._by_network(with_codes, {"learned": loaded.sha256})

    def generated(self, noise: OnTheWay) -> ConditionSource:
        """Returns the source of images that `noise` protects on the way."""
        if noise.with_codes is not None:
            return self._by_network(noise.with_codes, noise.identity)
        return self._on_the_way(noise, by_class=self.by_class)

    def _by_network(self, with_codes: WithCodes, identity: Json) -> ConditionSource:
        """Returns the source of images with what a network makes of codes, those that `codes` would give them."""
        options, labels = CodedOptions(), Labels(self.rule.ignore_label, self.binary)
        allocated: list[Allocation] = []  # once for all seeds

        def change_of(seed: int, progress: Progress) -> Change:
            if not allocated:
                allocated.append(allocate(self.train, self.truth, labels, options.told_apart, progress))
            return coded_by_network(allocated[0], labels, with_codes, key_of("comparison", seed))

        return ConditionSource(change_of, {**self.identity, **coded_identity(options, self.grey), **identity})

    def baseline(self, name: str, shipped: Callable[[], OnTheWay] | None) -> ConditionSource:
        """Returns the source of a published noise. shipped: loads this project's compact generator, for `tint`."""
        own = self._shipped(shipped()) if name == TINT and shipped is not None else None
        identity = {**self.identity, **baseline_identity(name), **({} if own is None else own.identity)}

        def change_of(seed: int, progress: Progress) -> Change:
            material = Material(
                self.budget,
                lambda: self._photographs(progress),
                shipped=None if own is None else lambda seed: own.change_of(seed, progress),
                progress=progress,
            )
            return self._unlabelled_apart(baseline(name, material)(seed))

        return ConditionSource(change_of, identity)

    def _shipped(self, noise: OnTheWay) -> ConditionSource:
        return self._on_the_way(noise, by_class=noise.codes > 0)

    def _on_the_way(self, noise: OnTheWay, *, by_class: bool) -> ConditionSource:
        return source_on_the_way(
            noise, self.train, self.truth, binary=self.binary, by_class=by_class, budget=self.identity
        )

    def _photographs(self, progress: Progress) -> list[Photograph]:
        count = len(self.train)
        photographs = []
        for index in track(progress, range(count), count, "reading training images for noise that is fitted to them"):
            mask, classes = self.truth(self.train.annotated(index))
            pixels = self.train.pixels(index)
            photographs.append(Photograph(self.train.stem(index), pixels, mask, self._marked(classes)))
        return photographs

    def _unlabelled_apart(self, change: Change) -> Change:
        """Returns the change that is told unlabelled pixels as baselines know them."""
        return lambda name, pixels, mask, classes: change(name, pixels, mask, self._marked(classes))

    def _marked(self, classes_HW: np.ndarray) -> np.ndarray:
        """Returns the classes with the ignored label as 255."""
        return np.where(classes_HW == self.rule.ignore_label, IGNORE_LABEL, classes_HW)


def file_sources(files: Mapping[str, Sequence[Path]], identities: Mapping[str, str]) -> dict[str, ConditionSource]:
    """Returns the sources of protected folders. files: name → one file for each training image. identities: name → hash
    of them."""
    return {
        name: ConditionSource(files=tuple(paths), identity={"files": identities[name]}) for name, paths in files.items()
    }
