"""Room for work on large things: threads wait for it, so that their memory does not grow with their number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIXELS_IN_FLIGHT = 48_000_000  # about 1 GB with everything that an image needs on its way


class InFlight:
    """How much is being worked on at a time, by all threads together; at most `limit`, or one thing that is larger."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._amount = 0
        self._changed = threading.Condition()

    @contextmanager
    def room_for(self, amount: int) -> Iterator[None]:
        """Waits until there is room for `amount`, and gives it back at the end. Whoever holds room asks for no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._amount == 0 or self._amount + amount <= self.limit)
            self._amount += amount
        try:
            yield
        finally:
            with self._changed:
                self._amount -= amount
                self._changed.notify_all()


PIXELS = InFlight(PIXELS_IN_FLIGHT)  # of images and masks that are decoded beside a run's own images
