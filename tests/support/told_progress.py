"""A listener for tests: it remembers what long work told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unseg.compute.progress import Tick


class Told:
    """A progress that remembers what it was told.

    sentences: in their order. bars: (what, total, ticks) of every stretch that has ended.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.bars: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        """Keeps the sentence."""
        self.sentences.append(text)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        """Counts the ticks of a stretch."""
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1

        try:
            yield tick
        finally:
            self.bars.append((what, total, done))
