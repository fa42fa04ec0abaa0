"""The defences by name, with their parameter in the name (`jpeg75`), and chains of them (`jpeg75+grey`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from unseg.compute.progress import SILENT, Progress
from unseg.errors import UserError
from unseg.evaluation.defences.adversarial import adversarial_training
from unseg.evaluation.defences.bits import bits
from unseg.evaluation.defences.cutmix import cutmix
from unseg.evaluation.defences.denoise import Pairs, denoise
from unseg.evaluation.defences.early import early
from unseg.evaluation.defences.equalizing import equalize
from unseg.evaluation.defences.gaussian import gaussian
from unseg.evaluation.defences.grey import grey
from unseg.evaluation.defences.jpeg import jpeg
from unseg.evaluation.defences.kinds import Defence
from unseg.evaluation.defences.local_notch import local_notch
from unseg.evaluation.defences.notch import notch
from unseg.evaluation.defences.projection import project
from unseg.evaluation.defences.resizing import down_and_up, resize
from unseg.evaluation.defences.smoothing import blur, median
from unseg.evaluation.defences.whitening import whiten

NO_DEFENCE = "none"


@dataclass(frozen=True)
class Tools:
    """What defences need from outside. pairs: makes clean and protected versions of photographs that are not in the
    set.

    progress: is told of trainings.
    """

    pairs: Callable[[], Pairs] | None = None
    progress: Progress = SILENT


NO_PHOTOGRAPHS = Tools(tuple)  # for a defence of which only the name or the kind matters


@dataclass(frozen=True)
class Row:
    """One family of defences. example: a name. least, most: of the number in the name; None: the name has no number."""

    example: str
    make: Callable[[int, Tools], Defence]
    least: int | None = None
    most: int | None = None


def _denoise(number: int, tools: Tools) -> Defence:
    if tools.pairs is None:
        raise UserError("denoise: needs other photographs with their masks; give --denoise-photographs DIR")
    return denoise(tools.pairs, progress=tools.progress)


# The name without its number → how it is made.
DEFENCES: dict[str, Row] = {
    "jpeg": Row("jpeg75", lambda number, tools: jpeg(number), 1, 100),
    "grey": Row("grey", lambda number, tools: grey()),
    "blur": Row("blur1", lambda number, tools: blur(number), 1, 9),
    "bits": Row("bits4", lambda number, tools: bits(number), 1, 7),
    "half": Row("half", lambda number, tools: down_and_up("half", 2)),
    "quarter": Row("quarter", lambda number, tools: down_and_up("quarter", 4)),
    "resize": Row("resize640", lambda number, tools: resize(number), 64, 9999),
    "whiten": Row("whiten", lambda number, tools: whiten()),
    "equalize": Row("equalize", lambda number, tools: equalize()),
    "noise": Row("noise4", lambda number, tools: gaussian(number), 1, 64),
    "median": Row("median3", lambda number, tools: median(number), 3, 15),
    "cutmix": Row("cutmix", lambda number, tools: cutmix()),
    "at": Row("at4", lambda number, tools: adversarial_training(number), 1, 32),
    "project": Row("project", lambda number, tools: project()),
    "notch": Row("notch", lambda number, tools: notch()),
    "localnotch": Row("localnotch", lambda number, tools: local_notch()),
    "denoise": Row("denoise", _denoise),
    "early": Row("early", lambda number, tools: early()),
}


def parse_defence(name: str, tools: Tools = Tools()) -> Defence:
    """Returns the defence of that name. UserError where there is none, or its number is out of range."""
    match = re.fullmatch(r"([a-z]+?)(0|[1-9]\d{0,3})?", name, re.ASCII)
    row = DEFENCES.get(match[1]) if match else None
    if match is None or row is None or (match[2] is None) != (row.least is None):
        known = ", ".join(row.example for row in DEFENCES.values())
        raise UserError(f"unknown defence '{name}'; available: {known}, and several of them joined by +")
    number = int(match[2] or 0)
    if row.least is not None and row.most is not None and not row.least <= number <= row.most:
        raise UserError(f"{name}: give a number from {row.least} to {row.most}, such as {row.example}")
    return row.make(number, tools)


def parse_chain(text: str, tools: Tools = Tools()) -> tuple[Defence, ...]:
    """Returns the defences of a chain such as `jpeg75+grey`, in its order; none for `none`. UserError where one is
    unknown or stands twice."""
    if text == NO_DEFENCE:
        return ()
    names = text.split("+")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{text}: {twice[0]} stands twice; name each defence once")
    return tuple(parse_defence(name, tools) for name in names)
