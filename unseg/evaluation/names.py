"""Names of conditions, that is of what is done to the training images: BASE, or BASE+jpegQ where a JPEG of quality Q follows."""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from unseg.errors import UserError

# What a table and a picture call them; the order is theirs, too.
BASES = {"clean": "clean", "protected": "protected", "random": "random noise", "pattern": "class pattern"}
TRIVIAL = "trivial"  # no condition, but a row beside them: the answer "majority class" everywhere
SUFFIX = "+jpeg75"


@dataclass(frozen=True)
class Condition:
    """base: one of BASES. jpeg: the quality, 1 to 100, at which images are re-encoded after the change; None: they are not."""

    base: str
    jpeg: int | None = None


def parse_condition(name: str) -> Condition:
    """`protected+jpeg75` as Condition("protected", 75); UserError where there is no such condition."""
    match = re.fullmatch(rf"({'|'.join(BASES)})(?:\+jpeg([1-9]\d?|100))?", name, re.ASCII)
    if match is None:
        raise UserError(f"--conditions: unknown condition '{name}'; available: {', '.join(BASES)}, each also with a JPEG quality "
                        f"from 1 to 100 behind it, such as protected{SUFFIX}")
    return Condition(match[1], int(match[2]) if match[2] else None)


def shown_name(name: str) -> str:
    """The condition in words: `random noise, JPEG 75`. A name that this version does not know is shown as it is."""
    base, plus, suffix = name.partition("+")
    words = "trivial answer" if name == TRIVIAL else BASES.get(base, base)
    return f"{words}, {re.sub(r'^jpeg(?=[0-9]+$)', 'JPEG ', suffix)}" if plus else words


def in_order(names: Iterable[str]) -> list[str]:
    """Conditions in the order of tables: by base, each with its re-encoded forms behind it, best quality first."""
    bases = list(BASES)

    def place(name: str) -> tuple[int, str, int, str]:
        base, _, suffix = name.partition("+")
        quality = re.fullmatch(r"jpeg(\d+)", suffix, re.ASCII)
        return (bases.index(base) if base in BASES else len(bases), base,
                -int(quality[1]) if quality else -1000 if not suffix else 0, suffix)

    return sorted(set(names), key=place)
