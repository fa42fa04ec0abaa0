"""The training images of every condition of a study, each made once, and how far they are from the clean ones."""

from __future__ import annotations

from dataclasses import dataclass

from unseg.compute.progress import SILENT, Progress, Tick
from unseg.errors import UserError
from unseg.evaluation.condition_names import Condition, parse_condition
from unseg.evaluation.quality import Meter, Quality
from unseg.evaluation.sets import (
    ChangedImages,
    Images,
    MixedImages,
    PartOfImages,
    ProtectedImages,
    ReencodedImages,
    choose_share,
)
from unseg.evaluation.study import Study
from unseg.evaluation.tasks.label_arrays import forget


@dataclass(frozen=True)
class ConditionSet:
    """A condition's training images.

    changed, stored: the images before and after JPEG, each with the meter that measures them; None where there are
    none.
    """

    images: Images
    changed: tuple[Images, Meter] | None = None
    stored: tuple[Images, Meter] | None = None

    def quality(self, tick: Tick = lambda: None) -> tuple[Quality | None, Quality | None]:
        """Returns the quality before and after JPEG over the whole folder.

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
    """The training images of a study's conditions.

    Each condition is made once, so that what was read and measured is not read again.
    """

    def __init__(self, study: Study, progress: Progress = SILENT) -> None:
        self.study, self.progress = study, progress
        self.made: dict[tuple[str, int], ConditionSet] = {}

    def get(self, name: str, seed: int) -> ConditionSet:
        """Returns the training images of a condition and seed. Those of other seeds are forgotten."""
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
        if kind.jpeg is not None:
            return self._reencoded(kind, kind.jpeg, seed)
        if kind.share is not None:
            return self._shared(kind.base, kind.share, seed)
        if kind.base == "clean":
            return ConditionSet(self.study.train)
        return self._changed(kind.base, seed)

    def _reencoded(self, kind: Condition, quality: int, seed: int) -> ConditionSet:
        study = self.study
        inner = self.get(str_of(Condition(kind.base, None, kind.share)), seed)
        clean = inner.images if isinstance(inner.images, PartOfImages) else study.train
        meter = Meter(len(clean), study.perceptual)
        images = ReencodedImages(inner.images, clean, quality, study.truth, meter)
        return ConditionSet(images, inner.changed, (images, meter))

    def _shared(self, base: str, share: int, seed: int) -> ConditionSet:
        clean = self.study.train
        chosen = choose_share(clean.names, share, seed)
        if base != "clean":
            whole = self.get(base, seed)
            return ConditionSet(MixedImages(clean, whole.images, chosen), whole.changed)
        rest = sorted(set(range(len(clean))) - set(chosen))
        if not rest:
            raise UserError(f"--conditions clean@{share}: no image is left; there are only {len(clean)}")
        return ConditionSet(PartOfImages(clean, rest))

    def _changed(self, base: str, seed: int) -> ConditionSet:
        study, source = self.study, self.study.sources[base]
        meter = Meter(len(study.train), study.perceptual)
        images: Images
        if source.files is not None:
            images = ProtectedImages(study.train, source.files, study.truth, meter)
        else:
            images = ChangedImages(study.train, source.change_of(seed, self.progress), study.truth, meter)
        return ConditionSet(images, (images, meter))


def str_of(condition: Condition) -> str:
    """Returns the name of a condition, of which `parse_condition` makes it again."""
    share = "" if condition.share is None else f"@{condition.share}"
    jpeg = "" if condition.jpeg is None else f"+jpeg{condition.jpeg}"
    return f"{condition.base}{share}{jpeg}"
