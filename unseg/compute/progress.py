"""What long work tells while it runs: sentences and how far it is. Every room speaks through this one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")
Tick = Callable[[], None]
"""Called once for each unit of work that is done."""


class Progress(Protocol):
    """Who listens to long work: the terminal, a log file, a page, or nobody (`SILENT`)."""

    def say(self, text: str) -> None:
        """Tells one sentence."""

    def bar(self, what: str, total: int) -> AbstractContextManager[Tick]:
        """Opens a stretch of `total` units of work called `what`; the context's value is called once a unit."""
        ...


class Silent:
    """The progress that nobody listens to."""

    def say(self, text: str) -> None:
        """Drops the sentence."""

    def bar(self, what: str, total: int) -> AbstractContextManager[Tick]:
        """Returns a context whose tick does nothing."""
        return nullcontext(_nothing)


def _nothing() -> None:
    pass


SILENT: Progress = Silent()


def track(progress: Progress, items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields `items`, and tells `progress` of each one once its receiver has come back for the next."""
    with progress.bar(what, total) as tick:
        for item in items:
            yield item
            tick()
