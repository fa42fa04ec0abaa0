"""The images of every condition of a study, each made once, and how far training images are from the clean ones.

Defences that change every image alone, and keep its size, are carried out here, for all tasks alike. From the first one
of another kind on, they are left to the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unseg.compute.progress import SILENT, Progress, Tick
from unseg.errors import UserError
from unseg.evaluation.condition_names import Condition, parse_condition
from unseg.evaluation.defences.defence_names import NO_PHOTOGRAPHS, Tools, parse_defence
from unseg.evaluation.defences.kinds import Defence, ImageDefence
from unseg.evaluation.quality import Meter, Quality
from unseg.evaluation.sets import (
    ChangedImages,
    DefendedImages,
    Images,
    MixedImages,
    PartOfImages,
    ProtectedImages,
    choose_share,
)
from unseg.evaluation.study import Study
from unseg.evaluation.tasks.label_arrays import forget


@dataclass(frozen=True)
class ConditionSet:
    """A condition's training and test images.

    left: the defences that the learner carries out. changed, stored: the training images before and after the other
    defences, each with the meter that measures them; None where there are none.
    """

    images: Images
    test: Images
    left: tuple[Defence, ...] = ()
    changed: tuple[Images, Meter] | None = None
    stored: tuple[Images, Meter] | None = None

    def quality(self, tick: Tick = lambda: None) -> tuple[Quality | None, Quality | None]:
        """Returns the quality before and after defences over the whole folder.

        Images that the training has not read are read now, so that the measured bound is that of all of them; `tick` is
        called for each.
        """
        for images, meter in self._parts():
            for index in meter.missing():
                images.pixels(index)
                tick()
        return _total(self.changed), _total(self.stored)

    def unread(self) -> int:
        """Returns how many images `quality` has to read."""
        return sum(len(meter.missing()) for _, meter in self._parts())

    def _parts(self) -> list[tuple[Images, Meter]]:
        return [part for part in (self.changed, self.stored) if part is not None]


def _total(part: tuple[Images, Meter] | None) -> Quality | None:
    return None if part is None else part[1].total()


class ConditionSets:
    """The images of a study's conditions.

    Each condition is made once, so that what was read and measured is not read again.
    """

    def __init__(self, study: Study, progress: Progress = SILENT) -> None:
        self.study, self.progress = study, progress
        self.tools = Tools(study.pairs, progress)
        self.made: dict[tuple[str, int], ConditionSet] = {}
        self.tests: dict[tuple[str, ...], Images] = {(): study.test}
        self.defences: dict[str, Defence] = {}  # one of each name, since some are trained

    def get(self, name: str, seed: int) -> ConditionSet:
        """Returns the images of a condition and seed. Those of other seeds are forgotten."""
        self.made = {key: made for key, made in self.made.items() if key[1] == seed}
        if (name, seed) not in self.made:
            self.made[name, seed] = self._make(parse_condition(name, self.study.bases), seed)
        return self.made[name, seed]

    def release(self, name: str, seed: int) -> None:
        """Frees the images of a condition that is not trained on again. Clean ones stay: the next seed needs them."""
        made = self.made.get((name, seed))
        if made is not None and made.images is not self.study.train:
            forget(made.images)

    def _make(self, kind: Condition, seed: int) -> ConditionSet:
        if kind.defences:
            return self._defended(kind, seed)
        if kind.share is not None:
            return self._shared(kind.base, kind.share, seed)
        if kind.base == "clean":
            return self._of(self.study.train)
        return self._changed(kind.base, seed)

    def _defended(self, kind: Condition, seed: int) -> ConditionSet:
        study = self.study
        inner = self.get(str(replace(kind, defences=())), seed)
        here, left = split_defences([self._defence(name) for name in kind.defences])
        if not here:
            return replace(inner, left=left)
        clean = inner.images if isinstance(inner.images, PartOfImages) else study.train
        meter = Meter(len(clean), study.perceptual)
        changes = [defence.change for defence in here]
        images = DefendedImages(inner.images, clean, changes, truth=study.truth, meter=meter)
        return ConditionSet(images, self._test_under(here), left, inner.changed, (images, meter))

    def _defence(self, name: str) -> Defence:
        if name not in self.defences:
            self.defences[name] = parse_defence(name, self.tools)
        return self.defences[name]

    def _test_under(self, defences: Sequence[ImageDefence]) -> Images:
        """Returns the test images after those defences that act on them; the same object for the same defences."""
        acting = [defence for defence in defences if defence.at_test]
        key = tuple(defence.name for defence in acting)
        if key not in self.tests:
            test = self.study.test
            self.tests[key] = DefendedImages(test, test, [defence.change for defence in acting])
        return self.tests[key]

    def _of(self, images: Images, changed: tuple[Images, Meter] | None = None) -> ConditionSet:
        """Returns a set without defences."""
        return ConditionSet(images, self.study.test, changed=changed)

    def _shared(self, base: str, share: int, seed: int) -> ConditionSet:
        clean = self.study.train
        chosen = choose_share(clean.names, share, seed)
        if base != "clean":
            whole = self.get(base, seed)
            return self._of(MixedImages(clean, whole.images, chosen), whole.changed)
        rest = sorted(set(range(len(clean))) - set(chosen))
        if not rest:
            raise UserError(f"--conditions clean@{share}: no image is left; there are only {len(clean)}")
        return self._of(PartOfImages(clean, rest))

    def _changed(self, base: str, seed: int) -> ConditionSet:
        study, source = self.study, self.study.sources[base]
        meter = Meter(len(study.train), study.perceptual)
        images: Images
        if source.files is not None:
            images = ProtectedImages(study.train, source.files, study.truth, meter)
        else:
            images = ChangedImages(study.train, source.change_of(seed, self.progress), study.truth, meter)
        return self._of(images, (images, meter))


def split_defences(defences: Sequence[Defence]) -> tuple[list[ImageDefence], tuple[Defence, ...]]:
    """Returns the defences at the front that change every image alone and keep its size, and all that follow."""
    here: list[ImageDefence] = []
    for defence in defences:
        if not isinstance(defence, ImageDefence) or defence.resizes:
            break
        here.append(defence)
    return here, tuple(defences[len(here) :])


def left_to_learners(name: str) -> list[str]:
    """Returns the names of the defences of a condition that only learners with views as in practice carry out."""
    defences = [parse_defence(defence, NO_PHOTOGRAPHS) for defence in name.split("+")[1:]]
    return [defence.name for defence in defences if not isinstance(defence, ImageDefence) or defence.resizes]
