"""What an edition may vary, read from the environment as the scripts document it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unseg.data.annotations import ObjectRule
from unseg.data.edition_catalog import EditionRow
from unseg.errors import UserError
from unseg.method.config import Budget

Names = Literal["keep", "png"]
Untouched = Literal["copy", "link", "none"]


@dataclass(frozen=True)
class EditionSettings:
    """One edition. root: the folder whose layout is copied; out: where to. sets: names of sets (of cities for Cityscapes),
    empty for all. kind: which annotations, None for the usual ones. untouched: what becomes of evaluation images.
    limit: only the first so many images, and no annotations. gpus: 0 for the CPU. processes: on the CPU.
    """

    row: EditionRow
    root: Path
    out: Path
    split: str
    rule: ObjectRule
    objects: str
    budget: Budget
    sets: tuple[str, ...] = ()
    kind: str | None = None
    generator: str = "compact"
    names: Names = "keep"
    format: Literal["png", "jpeg"] = "png"
    untouched: Untouched = "copy"
    limit: int | None = None
    dry_run: bool = False
    gpus: int | None = None
    processes: int = 1


def settings_from(row: EditionRow, environment: Mapping[str, str]) -> EditionSettings:
    """The settings of one edition; an unset or empty variable takes its default. UserError names the variable."""

    def given(name: str, default: str = "") -> str:
        return environment.get(name, "").strip() or default

    def choice(name: str, choices: tuple[str, ...]) -> str:
        value = given(name, choices[0])
        if value not in choices:
            raise UserError(f"{name}={value}: choose from {', '.join(choices)}")
        return value

    objects = given("OBJECTS", "all")
    kinds = tuple(dict.fromkeys(source.kind for set_row in row.sets for source in set_row.sources))
    return EditionSettings(
        row,
        root_from(environment),
        Path(given("OUT", f"runs/unlearnable/{row.name}")).expanduser(),
        choice("SPLIT", tuple(row.splits) or ("train",)),
        object_rule(row, objects),
        objects,
        Budget(
            _number("EPSILON", given("EPSILON"), row.budget.object),
            _number("BACKGROUND_EPSILON", given("BACKGROUND_EPSILON"), row.budget.background),
        ),
        tuple(part for part in given("SET").replace(" ", ",").split(",") if part),
        choice("ANNOTATIONS", kinds) if given("ANNOTATIONS") else None,
        given("GENERATOR", "compact"),
        choice("NAMES", ("keep", "png")),
        choice("FORMAT", ("png", "jpeg")),
        choice("VAL", ("copy", "link", "none")),
        _count("LIMIT", given("LIMIT"), 1),
        choice("DRY_RUN", ("0", "1")) == "1",
        _count("NGPU", given("NGPU"), 0),
        _count("NPROC", given("NPROC"), 1) or 1,
    )


def root_from(environment: Mapping[str, str]) -> Path:
    """DATA_ROOT, else DETECTRON2_DATASETS; UserError where there is no such folder."""
    for name in ("DATA_ROOT", "DETECTRON2_DATASETS"):
        value = environment.get(name, "").strip()
        if value:
            root = Path(value).expanduser()
            if not root.is_dir():
                raise UserError(f"{name}={value}: no such folder; name the one that holds the data set")
            return root
    raise UserError(
        "DATA_ROOT is not set (nor DETECTRON2_DATASETS); name the folder that holds the data set, as in"
        " DATA_ROOT=datasets"
    )


def object_rule(row: EditionRow, objects: str) -> ObjectRule:
    """OBJECTS for one data set: all, multi (as the paper's scripts call it), by-class, or class ids."""
    word = objects.lower()
    if word not in ("all", "multi", "things") and not row.classes:
        raise UserError(f"OBJECTS={objects}: the masks of {row.name} tell object from background only; leave it out")
    if word == "multi" and row.multi is None:
        raise UserError(f"OBJECTS=multi: {row.name} has one kind of object; leave it out")
    if word == "multi" and isinstance(row.multi, tuple):
        return ObjectRule(row.multi, False, row.ignore_label, row.background_label)
    background = None if word == "by-class" else row.background_label  # the background is a class then
    return ObjectRule.parse(objects, row.ignore_label, background, "OBJECTS")


def _number(name: str, value: str, default: float) -> float:
    try:
        number = float(value) if value else default
    except ValueError:
        raise UserError(f"{name}={value}: give a number of grey levels from 0 to 255") from None
    if not 0 <= number <= 255:
        raise UserError(f"{name}={value}: give a number of grey levels from 0 to 255")
    return number


def _count(name: str, value: str, least: int) -> int | None:
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and int(value) >= least):
        raise UserError(f"{name}={value}: give a whole number from {least}")
    return int(value)
