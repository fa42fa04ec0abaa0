"""Reads the settings of an edition from the environment, as the scripts document them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from unseg.compute.engine import Engine
from unseg.data.annotations import ObjectRule
from unseg.data.edition_layout import EditionRow
from unseg.errors import UserError
from unseg.method.config import Budget, strength
from unseg.protecting.settings import Noise
from unseg.protecting.shards import Shard
from unseg.storage.mirror import is_url

if TYPE_CHECKING:  # torch is imported only when an edition is made
    from unseg.protecting.protector import Region

Names = Literal["keep", "png"]
ImageFormat = Literal["png", "jpeg"]
Untouched = Literal["copy", "link", "none"]
NAMES: tuple[Names, ...] = ("keep", "png")  # the first of each is the default
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("png", "jpeg")
UNTOUCHED: tuple[Untouched, ...] = ("copy", "link", "none")
REGIONS: tuple[Region, ...] = ("mask", "published")
ENGINES = ("ray",)
MERGE = "merge"  # SHARD=merge: the last step of an edition in shards
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class EditionSettings:
    """The settings of one edition.

    root: the folder whose layout is copied; out: where to, a folder or a place in a store. sets: names of sets (of
    cities for Cityscapes), empty for all. linked_roots: folders outside the root that links in it may lead to. kind:
    which annotations, None for the usual ones. noise, generator, key, codes: as for `unseg protect`. region: where the
    object's budget holds. untouched: what becomes of evaluation images. limit: only the first so many images, and no
    annotations. gpus: 0 for the CPU, None for all. processes: on the CPU. shard: only that part of the images, and no
    annotations. merge: the images are there, in shards, and become whole. engine: whose actors share the work.
    """

    row: EditionRow
    root: Path
    out: Path
    split: str
    rule: ObjectRule
    objects: str
    budget: Budget
    sets: tuple[str, ...] = ()
    linked_roots: tuple[Path, ...] = ()
    kind: str | None = None
    region: Region = "mask"
    noise: Noise | None = None
    generator: str | None = None
    key: Path | None = None
    codes: Path | None = None
    names: Names = "keep"
    format: ImageFormat = "png"
    untouched: Untouched = "copy"
    limit: int | None = None
    dry_run: bool = False
    gpus: int | None = None
    processes: int = 1
    shard: Shard | None = None
    merge: bool = False
    engine: Engine | None = None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Returns the folders that hold the data set: everything that comes into the edition lies in one of them."""
        return self.root, *self.linked_roots


def settings_from(row: EditionRow, environment: Mapping[str, str]) -> EditionSettings:
    """Returns the settings of one edition; an unset or empty variable takes its default. Errors name the variable."""

    def given(name: str, default: str = "") -> str:
        return environment.get(name, "").strip() or default

    def choice(name: str, choices: tuple[Choice, ...]) -> Choice:
        value = given(name, choices[0])
        for known in choices:
            if known == value:
                return known
        raise UserError(f"{name}={value}: choose from {', '.join(choices)}")

    objects, shard = given("OBJECTS", "auto"), given("SHARD")
    words, out = given("STRENGTH"), given("OUT", f"runs/unlearnable/{row.name}")
    for name in ("KEY", "CODES", "LINKED_ROOTS"):
        _on_this_machine(name, given(name))
    usual = strength(words, "STRENGTH") if words else row.budget.object
    kinds = tuple(dict.fromkeys(source.kind for set_row in row.sets for source in set_row.sources))
    return EditionSettings(
        row=row,
        root=root_from(environment),
        out=Path(out).expanduser(),
        split=choice("SPLIT", tuple(row.splits) or ("train",)),
        rule=object_rule(row, objects),
        objects=objects,
        budget=Budget(
            _number("EPSILON", given("EPSILON"), usual),
            _number("BACKGROUND_EPSILON", given("BACKGROUND_EPSILON"), row.budget.background),
        ),
        sets=tuple(part for part in given("SET").replace(" ", ",").split(",") if part),
        linked_roots=tuple(_folder("LINKED_ROOTS", part) for part in given("LINKED_ROOTS").split(os.pathsep) if part),
        kind=choice("ANNOTATIONS", kinds) if given("ANNOTATIONS") else None,
        region=choice("REGION", REGIONS),
        noise=choice("NOISE", get_args(Noise)) if given("NOISE") else None,
        generator=given("GENERATOR") or None,
        key=_path(given("KEY")),
        codes=_path(given("CODES")),
        names=choice("NAMES", NAMES),
        format=choice("FORMAT", IMAGE_FORMATS),
        untouched=choice("VAL", UNTOUCHED),
        limit=_count("LIMIT", given("LIMIT"), 1),
        dry_run=choice("DRY_RUN", ("0", "1")) == "1",
        gpus=_count("NGPU", given("NGPU"), 0),
        processes=_count("NPROC", given("NPROC"), 1) or 1,
        shard=Shard.parse(shard, "SHARD=") if shard not in ("", MERGE) else None,
        merge=shard == MERGE,
        engine=Engine() if given("ENGINE") and choice("ENGINE", ENGINES) else None,
    )


def root_from(environment: Mapping[str, str]) -> Path:
    """Returns DATA_ROOT, else DETECTRON2_DATASETS; UserError where there is no such folder."""
    for name in ("DATA_ROOT", "DETECTRON2_DATASETS"):
        value = environment.get(name, "").strip()
        if value:
            return _folder(name, value)
    raise UserError(
        "DATA_ROOT is not set (nor DETECTRON2_DATASETS); name the folder that holds the data set, as in"
        " DATA_ROOT=datasets"
    )


def _on_this_machine(name: str, value: str) -> None:
    """Raises UserError for a place in a store: only OUT may lie in one."""
    if is_url(value):
        raise UserError(
            f"{name}={value}: editions read folders of this machine, and only OUT may be in a store; fetch the data set"
            " first, or protect it where it lies with `unseg protect`"
        )


def _folder(name: str, value: str) -> Path:
    _on_this_machine(name, value)
    folder = Path(value).expanduser()
    if not os.path.isdir(folder):
        raise UserError(f"{name}={value}: no such folder, or it cannot be read; name the one that holds the data set")
    return folder


def object_rule(row: EditionRow, objects: str) -> ObjectRule:
    """Returns what OBJECTS means for a data set: auto, all, multi (as in the paper's scripts), by-class, class ids."""
    word = objects.lower()
    if word == "auto":
        return ObjectRule("all", False, row.ignore_label, row.background_label)
    if word not in ("all", "multi", "things") and not row.classes:
        raise UserError(f"OBJECTS={objects}: the masks of {row.name} tell object from background only; leave it out")
    if word == "multi" and row.multi is None:
        raise UserError(f"OBJECTS=multi: {row.name} has one kind of object; leave it out")
    if word == "multi" and isinstance(row.multi, tuple):
        return ObjectRule(row.multi, False, row.ignore_label, row.background_label)
    return ObjectRule.parse(objects, row.ignore_label, row.background_label, "OBJECTS")


def _path(value: str) -> Path | None:
    return Path(value).expanduser() if value else None


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
