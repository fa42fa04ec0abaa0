"""Training images that are protected when they are read, by noise that a caller hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unseg.compute.progress import Progress, track
from unseg.data.annotations import NO_CLASS, ObjectRule
from unseg.errors import UserError
from unseg.evaluation.coded_images import WithCodes
from unseg.evaluation.conditions import Change
from unseg.evaluation.results import Json
from unseg.evaluation.sets import Images, Truth
from unseg.evaluation.study import ConditionSource
from unseg.method.codes import class_areas, class_codes, code_map

Protect = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class OnTheWay:
    """A generator's noise, within the budget of the comparison.

    name: what the user calls the generator. by_mask: from an image (H×W×3 uint8) and its object (H×W bool) to the
    protected image. by_codes: the same from a map of codes (H×W uint8, 255: none). codes: how many codes the generator
    tells apart. identity: what the noise depends on besides the budget. with_codes: from an image, a map of codes as
    `unseg.method.patterns` has them, their book and a key to the protected image, where the generator takes codes; it
    is then used in place of the other two.
    """

    name: str
    by_mask: Protect
    by_codes: Protect
    codes: int
    identity: Json
    with_codes: WithCodes | None = None


def object_rule(rule: ObjectRule, *, binary: bool, by_class: bool) -> ObjectRule:
    """Returns the rule of the pixels that have the object's budget.

    By class, these are the pixels of every class: all but the ignored and the background label, and in the binary task,
    which has two classes, every labelled pixel.
    """
    if not by_class:
        return rule
    return ObjectRule("all", True, rule.ignore_label, None if binary else rule.background_label)


def source_on_the_way(
    noise: OnTheWay, train: Images, truth: Truth, *, binary: bool, by_class: bool, budget: Json
) -> ConditionSource:
    """Returns the source of images that `noise` protects.

    by_class: the generator is told every pixel's class. budget: what the noise depends on besides the generator. Raises
    UserError where the generator tells no classes apart but should.
    """
    identity = {**noise.identity, **budget}
    if not by_class:
        return ConditionSource(lambda seed, progress: _masked(noise), identity)
    if noise.codes == 0:
        raise UserError(
            f"--by-class: generator {noise.name} does not tell classes apart; name one that was trained with codes, "
            "or leave out --by-class"
        )

    made: list[Change] = []  # once for all seeds

    def change_of(seed: int, progress: Progress) -> Change:
        if not made:
            made.append(_coded(noise, {0: 0, 1: 1} if binary else codes_by_area(train, truth, noise.codes, progress)))
        return made[0]

    return ConditionSource(change_of, {**identity, "by_class": True})


def _masked(noise: OnTheWay) -> Change:
    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return noise.by_mask(pixels, mask)

    return change


def _coded(noise: OnTheWay, codes: dict[int, int]) -> Change:
    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return noise.by_codes(pixels, code_map(_of_object(mask, classes), codes, NO_CLASS))

    return change


def codes_by_area(train: Images, truth: Truth, available: int, progress: Progress) -> dict[int, int]:
    """Returns the code of every class, by the classes' areas over the training images: see `class_codes`."""
    places = track(progress, range(len(train)), len(train), "counting the classes' pixels")
    areas = class_areas((_of_object(*truth(train.annotated(place))) for place in places), NO_CLASS)
    return class_codes(areas, available)


def _of_object(mask_HW: np.ndarray, classes_HW: np.ndarray) -> np.ndarray:
    """Returns the classes of the object's pixels, NO_CLASS elsewhere: H×W int32."""
    return np.where(mask_HW, classes_HW.astype(np.int32), np.int32(NO_CLASS))
