"""Names of conditions, that is of what is done to the training images: BASE[@SHARE][+DEFENCE[+DEFENCE…]].

BASE is clean, a control or published noise (`BASES`), or what a protected folder is called (protected, if it has no
name of its own). BASE@40: 40 % of the images are BASE's, the rest is clean. clean@40: the clean part alone that is left
when 40 % are taken away. +jpeg75+grey: all images go through these defences afterwards, in this order; the names are
those of `unseg.evaluation.defences.defence_names`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass

from unseg.errors import UserError

# What a table and a picture call them; the order is theirs, too. Those of codes are `unseg.evaluation.coded_images`.
BASES = {
    "clean": "clean",
    "protected": "protected",
    "codes": "codes",
    "codes-one": "codes, one",
    "codes-by-class": "codes, by class",
    "codes-grey-safe": "codes, grey-safe",
    "codes-by-contrast": "codes, contrast",
    "codes-jpeg": "codes, as JPEG",
    "codes-learned": "codes, learned",
    "random": "random noise",
    "pattern": "class pattern",
    "tint": "tint a class",
    "lsp": "LSP",
    "ar": "AR",
    "em": "EM",
    "tap": "TAP",
}
TRIVIAL = "trivial"  # no condition, but a row beside them: the answer "majority class" everywhere
RESERVED = (*(base for base in BASES if base != "protected"), TRIVIAL)  # what a protected folder cannot be called
BASE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


@dataclass(frozen=True)
class Condition:
    """What is done to the training images.

    base: the change. defences: the names of what images go through after the change, in this order. share: to how many
    percent of the images, 1 to 99 (of clean: how many are taken away); None: to all.
    """

    base: str
    defences: tuple[str, ...] = ()
    share: int | None = None

    def __str__(self) -> str:
        """Returns the name, of which `parse_condition` makes the condition again."""
        share = "" if self.share is None else f"@{self.share}"
        return "+".join((f"{self.base}{share}", *self.defences))


def parse_condition(name: str, bases: Collection[str] = tuple(BASES)) -> Condition:
    """Returns `protected+jpeg75` as Condition("protected", ("jpeg75",)).

    bases: what a name may begin with. Raises UserError where there is no such condition.
    """
    from unseg.evaluation.defences.defence_names import NO_PHOTOGRAPHS, parse_chain  # needs torch, so it is put off

    match = re.fullmatch(rf"({BASE_NAME})(?:@([1-9]\d?))?(?:\+(?!none$)(.+))?", name, re.ASCII)
    if match is None or match[1] not in bases:
        raise UserError(
            f"--conditions: unknown condition '{name}'; available: {', '.join(bases)}, each also with defences behind "
            "it, such as protected+jpeg75"
        )
    share = int(match[2]) if match[2] else None
    if match[3] is None:
        return Condition(match[1], (), share)
    try:
        defences = parse_chain(match[3], NO_PHOTOGRAPHS)
    except UserError as error:
        raise UserError(f"--conditions {name}: {error}") from None
    return Condition(match[1], tuple(defence.name for defence in defences), share)


def clean_of(name: str) -> str:
    """Returns the condition of clean images under the same defences."""
    return "+".join(("clean", *name.split("+")[1:]))


def without_defence(name: str, defence: str) -> str:
    """Returns the condition without that defence, and with all others behind it."""
    front, *defences = name.split("+")
    return "+".join((front, *(each for each in defences if each != defence)))


def clean_beside(name: str, there: Container[str], *, strict: bool) -> str | None:
    """Returns the condition that retained learning divides by: clean images that went through the same defences.

    there: the conditions that were run. strict: whether nothing else will do, so that None is returned where it was not
    run. Otherwise clean images without a defence stand in for it, as in all comparisons with whole views that version
    0.1 made.
    """
    same = clean_of(name)
    if strict or same in there:
        return same if same in there else None
    return "clean" if "clean" in there else None


def shown_name(name: str) -> str:
    """Returns the condition in words: `random noise, JPEG 75`. A name that this version does not know is shown as it
    is.
    """
    if name == TRIVIAL:
        return "trivial answer"
    front, *defences = name.split("+")
    return ", ".join([_shown_front(front), *(re.sub(r"^jpeg(?=[0-9]+$)", "JPEG ", defence) for defence in defences)])


def _shown_front(front: str) -> str:
    base, at, share = front.partition("@")
    words = BASES.get(base, base)
    if not at:
        return words
    if base == "clean" and share.isdecimal():
        return f"clean part alone, {100 - int(share)} %"
    return f"{words}, {share} %"


def in_order(names: Iterable[str]) -> list[str]:
    """Returns conditions in the order of tables.

    They stand by base (protected folders with names of their own before the controls), each with its shares behind it,
    rising, and then its forms under defences: JPEG first, best quality first, then all others by name.
    """
    return sorted(set(names), key=_place)


def _place(name: str) -> tuple[float, str, int, int, str]:
    """Returns what a condition's name is sorted by."""
    front, _, suffix = name.partition("+")
    base, _, share = front.partition("@")
    bases = list(BASES)
    # A folder with a name of its own stands just before the first control.
    first = bases.index(base) if base in BASES else bases.index("random") - 0.5
    return first, base, int(share) if share.isdecimal() else 0, _place_of_suffix(suffix), suffix


def _place_of_suffix(suffix: str) -> int:
    if not suffix:
        return -1000
    quality = re.fullmatch(r"jpeg(\d+)", suffix, re.ASCII)
    return -int(quality[1]) if quality else 0


def sweep(bases: Iterable[str], shares: Iterable[int]) -> list[str]:
    """Returns the conditions of a share sweep: for each share the mixture of every base, and the clean part alone.

    0 % is clean, 100 % the base itself, whose clean part would be empty.
    """
    bases, shares = list(bases), list(shares)
    mixtures = [_mixture(base, share) for share in shares for base in bases]
    parts = [f"clean@{share}" for share in shares if 0 < share < 100]
    return list(dict.fromkeys([*mixtures, *parts]))


def _mixture(base: str, share: int) -> str:
    if share == 0:
        return "clean"
    return base if share == 100 else f"{base}@{share}"
