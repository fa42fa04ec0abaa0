"""Names of conditions, that is of what is done to the training images: BASE[@SHARE][+jpegQ].

BASE is clean, random, pattern, or what a protected folder is called (protected, if it has no name of its own). BASE@40:
40 % of the images are BASE's, the rest is clean. clean@40: the clean part alone that is left when 40 % are taken away.
+jpeg75: all are re-encoded as JPEG of that quality afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from unseg.errors import UserError

# What a table and a picture call them; the order is theirs, too.
BASES = {"clean": "clean", "protected": "protected", "random": "random noise", "pattern": "class pattern"}
TRIVIAL = "trivial"  # no condition, but a row beside them: the answer "majority class" everywhere
RESERVED = ("clean", "random", "pattern", TRIVIAL)  # what a protected folder cannot be called
BASE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
SUFFIX = "+jpeg75"


@dataclass(frozen=True)
class Condition:
    """What is done to the training images.

    base: the change. share: to how many percent of the images, 1 to 99 (of clean: how many are taken away); None: to
    all. jpeg: the quality, 1 to 100, at which images are re-encoded after the change; None: they are not.
    """

    base: str
    jpeg: int | None = None
    share: int | None = None


def parse_condition(name: str, bases: Collection[str] = tuple(BASES)) -> Condition:
    """Returns `protected+jpeg75` as Condition("protected", 75); raises UserError where there is no such condition.

    bases: what a name may begin with.
    """
    match = re.fullmatch(rf"({BASE_NAME})(?:@([1-9]\d?))?(?:\+jpeg([1-9]\d?|100))?", name, re.ASCII)
    if match is None or match[1] not in bases:
        raise UserError(
            f"--conditions: unknown condition '{name}'; available: {', '.join(bases)}, each also with a JPEG quality "
            f"from 1 to 100 behind it, such as protected{SUFFIX}"
        )
    return Condition(match[1], int(match[3]) if match[3] else None, int(match[2]) if match[2] else None)


def shown_name(name: str) -> str:
    """Returns the condition in words: `random noise, JPEG 75`. A name that this version does not know is shown as it
    is.
    """
    if name == TRIVIAL:
        return "trivial answer"
    front, plus, suffix = name.partition("+")
    words = _shown_front(front)
    return f"{words}, {re.sub(r'^jpeg(?=[0-9]+$)', 'JPEG ', suffix)}" if plus else words


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
    rising, and then its re-encoded forms, best quality first.
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
