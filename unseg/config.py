"""Configurations: frozen, complete, checked when made."""
from __future__ import annotations

import math
from dataclasses import dataclass

from unseg.errors import UserError


@dataclass(frozen=True)
class Budget:
    """The most that a value of an image may change, in grey levels of 255.

    object: bound on the pixels of the object; background: bound on all others. The paper generates with 8 and 2 and
    trains with 1 and 0.25 ("epsilon generalisation").
    """

    object: float = 8.0
    background: float = 2.0

    def __post_init__(self) -> None:
        for option, value in (("--epsilon", self.object), ("--background-epsilon", self.background)):
            if not (math.isfinite(value) and 0 <= value <= 255):
                raise UserError(f"{option} {value}: give a number of grey levels from 0 to 255 (the paper uses 8 and 2)")
