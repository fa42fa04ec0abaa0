"""The settings of `protect` by the names of the command's options: for the command and for Python calls alike."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, get_type_hints

from unseg.data.object_rule import ObjectRule
from unseg.method.config import Budget, strength
from unseg.protecting.option_kinds import of_kinds
from unseg.protecting.settings import DEFAULTS, ProtectSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

AUTO = "auto"


class ImageOptions(TypedDict, total=False):
    """Options of `unseg protect` that say how images are protected; `unseg protect --help` explains each."""

    noise: str | None
    survive_grey: bool
    mask_by_contrast: bool
    strength: str | None
    epsilon: float | None
    background_epsilon: float | None
    objects: str
    ignore_label: int
    background_label: int
    mask_type: str
    mask_frame: str
    fit_masks: bool
    auto_model: str | None
    unmasked: str
    max_megapixels: float
    format: str
    names: str
    png_level: int
    metadata: str
    keep_times: bool
    quality: bool
    device: str
    precision: str
    batch_size: int | None
    workers: int | None


class RunOptions(ImageOptions, total=False):
    """The same for many images."""

    region: str
    bands: tuple[int, ...] | None


class NamedOptions(RunOptions, total=False):
    """All options that settings are made of."""

    generator: str | Path | None


def named_settings(base: ProtectSettings = DEFAULTS, /, **options: Unpack[NamedOptions]) -> ProtectSettings:
    """Returns `base` with these options; UserError for a value that cannot be, TypeError for a name that is none.

    strength: "subtle", "standard" or "strong"; epsilon, in grey levels, overrides it. objects, ignore_label,
    background_label: as on the command line, where a label below 0 is none. names: "png" or "keep".
    """
    given: dict[str, Any] = dict(options)
    unknown = given.keys() - NamedOptions.__annotations__.keys() - {field.name for field in fields(ProtectSettings)}
    if unknown:
        raise TypeError(f"unexpected option {sorted(unknown)[0]!r}; `unseg protect --help` lists what there is")
    given = of_kinds(given, _kinds())
    taken = {name: given.pop(name) for name in NOT_FIELDS if name in given}
    if given.get("names") == "png":
        given["names"] = "suffix"
    if taken.keys() & set(BUDGET):
        given["budget"] = named_budget(
            base.budget, *(taken.get(name) for name in ("strength", "epsilon", "background_epsilon"))
        )
    if taken.keys() - set(BUDGET):
        given["rule"], given["auto_objects"] = _rule(base, taken)
    return replace(base, **given)


@cache
def _kinds() -> dict[str, Any]:
    """Returns the kind of each option."""
    return get_type_hints(NamedOptions)


BUDGET = ("strength", "epsilon", "background_epsilon")
NOT_FIELDS = (*BUDGET, "objects", "ignore_label", "background_label")


def named_budget(
    base: Budget, word: str | None = None, epsilon: float | None = None, background: float | None = None
) -> Budget:
    """Returns the budget of --strength, --epsilon, which overrides it, and --background-epsilon; what is None is as in
    `base`."""
    of_word = None if word is None else strength(word)
    epsilon = of_word if epsilon is None else epsilon
    return Budget(base.object if epsilon is None else epsilon, base.background if background is None else background)


def _rule(base: ProtectSettings, taken: dict[str, Any]) -> tuple[ObjectRule, bool]:
    """Returns which part of masks is the object, and whether the run itself may decide if classes are told apart."""
    ignored, background = base.rule.ignore_label, base.rule.background_label
    if "ignore_label" in taken:
        ignored = _label(taken["ignore_label"])
    if "background_label" in taken:
        background = _label(taken["background_label"])
    if "objects" not in taken:
        return replace(base.rule, ignore_label=ignored, background_label=background), base.auto_objects
    words = taken["objects"]
    is_auto = words.strip().lower() == AUTO
    return ObjectRule.parse("all" if is_auto else words, ignored, background), is_auto


def _label(value: int) -> int | None:
    return None if value < 0 else value
