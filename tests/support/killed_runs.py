"""A progress that ends a run at a tick, as a signal would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.told_progress import Told
from unseg.compute.progress import Tick


class Killed(BaseException):
    """Not an error: what a signal would do."""


class KillingAt(Told):
    """Raises Killed at the given tick of a bar."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        """Opens a bar that ends the run."""
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            if done == self.at:
                raise Killed

        yield tick
