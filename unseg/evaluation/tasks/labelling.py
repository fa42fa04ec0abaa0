"""How annotations become the labels of semantic networks: every class apart, or the object against the rest."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from unseg.data.annotations import NO_CLASS, Annotated, ClassMap, ClassTable, ObjectRule
from unseg.data.annotations.core import Outlined
from unseg.errors import UserError
from unseg.evaluation.learner import AnnotatedImages, LearnerOptions
from unseg.evaluation.regions import told_apart
from unseg.method.metrics import IGNORE_LABEL

BACKGROUND, OBJECT = "background", "object"


class Labelling(Protocol):
    """How annotations become labels."""

    def class_map(self, annotated: Annotated) -> np.ndarray:
        """Returns the labels of one image: H×W uint8; 255 where nothing is labelled."""

    def names(self, train_maps: np.ndarray) -> list[str]:
        """Returns the name of every label, by the training images' labels (an array of any shape).

        Raises UserError where they show nothing that could be learnt.
        """


class TableLabelling:
    """The classes that annotations tell of, in the order of their ids.

    Annotations that do not list them have the classes 0 to the highest that training shows. outlines: whether pixels
    without a class are the background, a class of its own, the first, as in formats of outlines and binary masks; in
    class maps and panoptic maps such pixels are not labelled. Crowds, void and `rule.ignore_label` are never labelled.
    """

    def __init__(self, classes: ClassTable, rule: ObjectRule, outlines: bool) -> None:
        self.rule = every_class(rule)
        self.table, self.outlines = classes, outlines
        listed = classes.ids or frozenset(classes.names)
        self.ids = sorted(listed - classes.void - {rule.ignore_label}) if listed else None
        first = int(outlines)
        self.place = None if self.ids is None else {number: place for place, number in enumerate(self.ids, first)}
        if self.ids is not None and len(self.ids) + first > IGNORE_LABEL:
            raise UserError(f"--annotations: {len(self.ids)} classes; at most {IGNORE_LABEL - first} can be told apart")

    def class_map(self, annotated: Annotated) -> np.ndarray:
        """Returns the labels of one image: H×W uint8; 255 where nothing is labelled."""
        codes = annotated.class_codes(self.rule)
        labels = np.zeros(codes.shape, np.uint8)
        labels[_not_labelled(annotated, codes, self.outlines)] = IGNORE_LABEL
        for number in np.unique(codes).tolist():
            if number != NO_CLASS:
                labels[codes == number] = self._label(number)
        return labels

    def _label(self, number: int) -> int:
        if self.place is not None:
            return self._listed(number, self.place)
        if number == IGNORE_LABEL:
            return IGNORE_LABEL
        label = number + int(self.outlines)
        if not 0 <= label < IGNORE_LABEL:
            raise UserError(
                f"class {number} is out of range; label maps hold classes from 0 to 254, and the ignored label "
                f"{self.rule.ignore_label} (--ignore-label)"
            )
        return label

    def _listed(self, number: int, place: dict[int, int]) -> int:
        if number not in place:
            raise UserError(
                f"class {number} is out of range; the annotations know the classes "
                f"{', '.join(map(str, self.ids or ()))}"
            )
        return place[number]

    def names(self, train_maps: np.ndarray) -> list[str]:
        """Returns the name of every label; UserError where the training images show no class."""
        present = np.unique(train_maps[train_maps != IGNORE_LABEL])
        if present.size == 0:
            raise UserError("--annotations: the training images show no class (no pixel is labelled)")
        if self.outlines and not present.any():
            raise UserError(
                "--annotations: no training image shows an object, all is background; there is nothing to learn"
            )
        ids = self.ids if self.ids is not None else range(int(present[-1]) + 1 - int(self.outlines))
        names = [self.table.names.get(number) or str(number) for number in ids]
        return [BACKGROUND] * self.outlines + told_apart(names, ids)


class BinaryLabelling:
    """The object against the rest: 1 where the rule takes a pixel, 0 elsewhere, 255 where nothing is labelled.

    outlines: whether pixels without a class are background.
    """

    def __init__(self, rule: ObjectRule, outlines: bool) -> None:
        self.rule, self.outlines = rule, outlines

    def class_map(self, annotated: Annotated) -> np.ndarray:
        """Returns the labels of one image: H×W uint8; 255 where nothing is labelled."""
        labels = annotated.object_mask(self.rule).astype(np.uint8)
        codes = annotated.class_codes(every_class(self.rule))
        labels[_not_labelled(annotated, codes, self.outlines) & (labels == 0)] = IGNORE_LABEL
        return labels

    def names(self, train_maps: np.ndarray) -> list[str]:
        """Returns the names of 0 and 1; UserError where the training images do not show both."""
        for label, name in enumerate((BACKGROUND, OBJECT)):
            if not (train_maps == label).any():
                raise UserError(
                    f"--binary: no training image shows {name}; --objects says which classes are the object"
                )
        return [BACKGROUND, OBJECT]


def every_class(rule: ObjectRule) -> ObjectRule:
    """Returns the rule that takes every class that `rule` does not ignore, background among them."""
    return ObjectRule("all", True, rule.ignore_label, None)


def _not_labelled(annotated: Annotated, codes_HW: np.ndarray, outlines: bool) -> np.ndarray:
    """Returns which pixels have no label, H×W bool. codes: the classes of all others, NO_CLASS where there is none."""
    without = codes_HW == NO_CLASS
    if not outlines:
        return without
    crowds = np.zeros_like(without)
    for segment in annotated.segments:
        if segment.crowd:
            crowds |= segment.mask
    return without & crowds


def labelling_of(train_set: AnnotatedImages, options: LearnerOptions) -> TableLabelling | BinaryLabelling:
    """Returns how the annotations of a set become labels. Outlines and binary masks leave the background without a
    class.
    """
    first = train_set.annotated(0)
    binary_masks = isinstance(first, ClassMap) and first.kind == "binary"
    outlines = binary_masks or isinstance(first, Outlined)
    if options.binary:
        return BinaryLabelling(options.rule, outlines)
    if binary_masks:
        return TableLabelling(ClassTable({1: OBJECT}), options.rule, outlines)
    return TableLabelling(train_set.classes, options.rule, outlines)
