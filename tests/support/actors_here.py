"""An engine without a cluster: one actor in this process, which does every part, some of them more than once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from unseg.compute.engine import Engine, Part, Start
from unseg.compute.progress import Progress
from unseg.protecting import engine_findings, engine_runs


class Lost(Exception):
    """The end of an actor."""


class ActorsHere:
    """Stands for a `Crew`. lost: how often an actor was. started: how many began. sizes: bytes of what was sent."""

    def __init__(self) -> None:
        self.lost, self.started = 0, 0
        self.sizes: list[int] = []

    def size(self, cores: int, gpus: int = 0) -> int:
        """Returns 2, so that small sets have several parts."""
        return 2

    def results(
        self, start: Start, common: bytes, parts: Iterator[Part], count: int, cores: int = 1, gpus: int = 0
    ) -> Generator[Any, None, None]:
        """Does every part again after its actor was lost, and after it is done: as if the answer had been lost."""
        waiting = list(parts)
        assert len(waiting) == count
        self.sizes += [len(common), *(len(part.content) for part in waiting)]
        while waiting:
            self.started += 1
            try:
                with start(common) as work:
                    while waiting:
                        result = work(waiting[0].content)
                        work(waiting[0].content)
                        waiting.pop(0)
                        yield result
            except Lost:
                self.lost += 1


def use(actors: ActorsHere, patch: pytest.MonkeyPatch) -> None:
    """Lets runs and proofs take these actors; a shard is two images."""

    @contextmanager
    def connected(engine: Engine, progress: Progress) -> Iterator[ActorsHere]:
        yield actors

    patch.setattr(engine_runs, "connected", connected)
    patch.setattr(engine_findings, "connected", connected)
    patch.setattr(engine_runs, "LEAST", 2)
