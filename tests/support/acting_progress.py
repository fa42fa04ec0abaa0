"""A listener for tests that does something in the middle of a run, such as stopping it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.told_progress import Told
from unseg.compute.progress import Tick


class Acting(Told):
    """A progress that calls `act` once `count` images are told, before the next one is.

    of: the bar that is counted, where it is another.
    """

    def __init__(self, count: int, act: Callable[[], object], of: str = "images") -> None:
        super().__init__()
        self.count, self.act, self.of = count, act, of

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        """Counts the ticks of the images."""
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            if what == self.of and done == self.count:
                self.act()

        if what == self.of and self.count == 0:
            self.act()
        yield tick
