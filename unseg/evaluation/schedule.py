"""How long a network is trained and at which rate, apart from data and seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unseg.errors import UserError

OPTIMIZERS, DECAYS = ("adamw", "sgd"), ("cosine", "poly", "onecycle", "constant")
# Of the one-cycle schedule, as torch's OneCycleLR has them by default.
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 25e4  # shares of the peak rate
ONECYCLE_MOMENTA = (0.85, 0.95)  # at the peak rate, and at the ends
POLY_POWER = 0.9
MOST_IMAGES = 16_384  # of a batch


@dataclass(frozen=True)
class Schedule:
    """A training run, apart from data and seed.

    The rate climbs linearly to `learning_rate` over a share `warm_up` of the steps, then falls to 0: as a half cosine,
    or as (1 − step / steps)^0.9 of all the steps (poly). onecycle: torch's `OneCycleLR` with its defaults and `warm_up`
    as the share of rising steps; rate and momentum (AdamW's first beta) go along half cosines. constant: the rate is
    `learning_rate` all the time. clip: the norm beyond which gradients are scaled down; None: never. momentum: of sgd.
    """

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    eval_every: int = 250
    optimizer: str = "adamw"
    momentum: float = 0.9
    decay: str = "cosine"
    warm_up: float = 0.1
    clip: float | None = None

    def __post_init__(self) -> None:
        # A batch of one image has no statistics where a network normalises over the batch at a single place.
        for name, least in (("steps", 1), ("batch", 2), ("eval_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {least}")
        if self.batch > MOST_IMAGES:
            raise UserError(f"--batch {self.batch}: give at most {MOST_IMAGES:,}")
        for name, known in (("optimizer", OPTIMIZERS), ("decay", DECAYS)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name} {getattr(self, name)}: give {' or '.join(known)}")
        for name, low, high in (("learning_rate", 0, math.inf), ("clip", 0, math.inf)):
            value = getattr(self, name)
            if value is not None and not low < value < high:
                raise UserError(f"--{name.replace('_', '-')} {value}: give a number above {low}")
        for name, low, high in (("weight_decay", 0, math.inf), ("momentum", 0, 1), ("warm_up", 0, 1)):
            if not low <= getattr(self, name) < high:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {low}"
                    + (f" and below {high}" if high < math.inf else "")
                )

    def rate_factor(self, step: int) -> float:
        """Returns the learning rate after `step` steps, as a share of its peak."""
        if self.decay == "constant":
            return 1.0
        if self.decay == "onecycle":
            return self._on_cycle(step, (ONECYCLE_START, 1.0, ONECYCLE_END))
        climb = max(1, round(self.warm_up * self.steps)) if self.warm_up > 0 else 0
        if step < climb:
            return (step + 1) / climb
        if self.decay == "poly":
            return (1 - step / self.steps) ** POLY_POWER
        return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, self.steps - climb)))

    def momentum_at(self, step: int) -> float | None:
        """Returns the momentum (AdamW's first beta) after `step` steps; None where it does not change on the way."""
        if self.decay != "onecycle":
            return None
        low, high = ONECYCLE_MOMENTA
        return self._on_cycle(step, (high, low, high))

    def _on_cycle(self, step: int, values: tuple[float, float, float]) -> float:
        """Returns the value after `step` steps: by half cosines from the first value to the second and to the third."""
        peak, last = self.warm_up * self.steps - 1, self.steps - 1
        if step <= peak:
            return _half_cosine(values[0], values[1], step / peak if peak > 0 else 1.0)
        return _half_cosine(values[1], values[2], (step - max(peak, 0)) / max(last - max(peak, 0), 1e-9))


def _half_cosine(start: float, end: float, share: float) -> float:
    """Returns the value at a share (0 to 1) of the way from start to end."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
