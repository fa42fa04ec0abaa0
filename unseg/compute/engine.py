"""The engine: a cluster of Ray whose actors share work with the process that asks for it, the driver.

Work comes in parts, such as the shards of a run. An actor is one process: it starts once, with the generator and all
else that every part needs, and is given one part at a time, so that there are never more parts on their way than
actors. What a lost actor was doing is done again by another, so a part must be such that doing it twice changes
nothing. These are actors of Ray's core. Ray Data moves rows through an object store in blocks of its own choice; here
files are read and written where they lie, only names travel, and a part is whole or not there.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from os import environ
from typing import Any

from unseg import __version__
from unseg.compute.progress import Progress
from unseg.compute.ray_cluster import OPTION, cluster_at
from unseg.errors import UserError

ATTEMPTS = 5  # actors that are lost with the same part, or before they begin: then that is taken for the reason
PATIENCE = 30.0  # seconds without anybody at work, after which the user is told that there is no room
ENDS_WITHIN = 5.0  # seconds in which actors put away what they have on disk
KNOWN_FOR = 2.0  # seconds for which the cluster's size is taken as known
READY, REFUSED, DONE = "ready", "refused", "done"  # what an actor answers
Work = Callable[[bytes], Any]
Start = Callable[[bytes], AbstractContextManager[Work]]
"""What an actor begins with: from what all parts need, as bytes, to the work on each. A function of a module."""


@dataclass(frozen=True)
class Engine:
    """Which cluster shares the work, and how much of it.

    address: HOST:PORT of the cluster's head, for a driver on one of its machines; None for what the environment names
    (RAY_ADDRESS), else for one that is started on this machine. most: actors; None for as many as there is room for.
    """

    address: str | None = None
    most: int | None = None

    @staticmethod
    def named(name: Engine | str | None, address: str | None = None, most: int | None = None) -> Engine | None:
        """Returns the engine that options name, None where they name none; UserError where they contradict.

        An engine itself is returned as it is.
        """
        if isinstance(name, Engine):
            return name
        if name not in (None, "ray"):
            raise UserError(f"--engine {name}: give ray, or leave it out for processes of this machine")
        if name is None and address is not None:
            raise UserError(f"--ray-address {address}: is for {OPTION}; give both, or leave it out")
        return None if name is None else Engine(address, most)


@dataclass(frozen=True)
class Part:
    """A piece of the work. name: in messages. content: what the actor is told, as bytes."""

    name: str
    content: bytes


@contextmanager
def connected(engine: Engine, progress: Progress) -> Iterator[Crew]:
    """Joins the cluster of an engine, or starts one here, and returns those who work there."""
    with cluster_at(engine.address or environ.get("RAY_ADDRESS") or None) as ray:
        yield Crew(ray, engine, progress)


class Crew:
    """The actors of a cluster, as many as an engine may have."""

    def __init__(self, ray: Any, engine: Engine, progress: Progress) -> None:
        self.ray, self.progress = ray, progress
        self._most = engine.most
        self._room, self._since = 0, -KNOWN_FOR

    def size(self, cores: int, gpus: int = 0) -> int:
        """Returns how many actors there are to be, where each needs so many cores and GPUs; at least 1.

        Where the user named a number, actors without a place wait for one, by which Ray knows that machines are
        wanted.
        """
        if self._most is not None:
            return self._most
        now = time.monotonic()
        if now - self._since >= KNOWN_FOR:
            there, self._since = self.ray.cluster_resources(), now
            room = int(there.get("CPU", 0) // cores)
            self._room = min(room, int(there.get("GPU", 0) // gpus)) if gpus else room
        return max(1, self._room)

    def results(
        self, start: Start, common: bytes, parts: Iterator[Part], count: int, cores: int = 1, gpus: int = 0
    ) -> Generator[Any, None, None]:
        """Yields what becomes of each of `count` parts, in the order in which that is known.

        A part is taken from `parts` when an actor is free for it. common: what `start` is given. UserError where an
        actor raises one, and where actors are lost again and again with the same part. However this ends, no actor is
        left.
        """
        options = {"num_cpus": cores, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 2}
        remote, stored = self.ray.remote(Actor).options(**options), self.ray.put(common)
        shift = _Shift(
            self.ray, self.progress, lambda: remote.remote(start, stored), lambda: self.size(cores, gpus), parts, count
        )
        try:
            while shift.left:
                yield from shift.step()
        finally:
            shift.end()


@dataclass
class _Shift:
    """Parts on their way. left: how many are not done. starting, busy: by what Ray calls the answer that is awaited."""

    ray: Any
    progress: Progress
    hire: Callable[[], Any]
    size: Callable[[], int]
    parts: Iterator[Part]
    left: int
    starting: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, Part]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    again: deque[Part] = field(default_factory=deque)
    lost: Counter[str] = field(default_factory=Counter)
    told: bool = False

    def step(self) -> Iterator[Any]:
        """Hires, hands out what there is, and waits for the next answer; yields it where it is that of a part."""
        there = len(self.starting) + len(self.busy) + len(self.idle)
        for _ in range(min(self.size(), self.left) - there):
            actor = self.hire()
            self.starting[actor.ready.remote()] = actor
        while self.idle and (part := self._next()) is not None:
            actor = self.idle.pop()
            self.busy[actor.do.remote(part.content)] = actor, part
        answered, _ = self.ray.wait([*self.busy, *self.starting], num_returns=1, timeout=PATIENCE)
        if not answered and not self.busy and not self.told:
            self.told = True
            self.progress.say(f"{OPTION}: the cluster has no room for an actor now; this waits until it has")
        for reference in answered:
            if reference in self.starting:
                self._begun(reference)
            else:
                yield from self._answer(reference)

    def _next(self) -> Part | None:
        return self.again.popleft() if self.again else next(self.parts, None)

    def _begun(self, reference: Any) -> None:
        try:
            version = self._got(reference)
        except self.ray.exceptions.RayActorError as error:
            self.ray.kill(self.starting.pop(reference))
            self._count_lost("an actor is lost before it begins", error)
            return
        if version != __version__:
            raise UserError(f"{OPTION}: a machine of the cluster has unseg {version}, this one {__version__}")
        self.idle.append(self.starting.pop(reference))

    def _answer(self, reference: Any) -> Iterator[Any]:
        actor, part = self.busy[reference]
        try:
            result = self._got(reference)
        except self.ray.exceptions.RayActorError as error:
            del self.busy[reference]
            self.ray.kill(actor)  # it may be there still, and only out of reach
            self.again.append(part)
            self._count_lost(f"actors are lost with {part.name}", error)
            return
        del self.busy[reference]
        self.left -= 1
        self.idle.append(actor)
        yield result

    def _got(self, reference: Any) -> Any:
        """Returns an answer; UserError where that is one. What else an actor raises, and its loss, are Ray's errors."""
        kind, value = self.ray.get(reference)
        if kind == REFUSED:
            raise UserError(value)
        return value

    def _count_lost(self, what: str, error: Exception) -> None:
        self.lost[what] += 1
        if self.lost[what] >= ATTEMPTS:
            said = " ".join(str(error).split())[:160]
            raise UserError(
                f"{OPTION}: {what}, {ATTEMPTS} times ({said}); what is finished is kept: run the same command again to"
                " go on (if memory was too small, with more --workers, of which each actor then has as many cores)"
            ) from error

    def end(self) -> None:
        """Lets all actors go. Those that have begun may put away what they have on disk."""
        begun = [*self.idle, *(actor for actor, _ in self.busy.values())]
        with suppress(self.ray.exceptions.RayError):
            away = [actor.close.remote() for actor in begun]
            if away:
                self.ray.wait(away, num_returns=len(away), timeout=ENDS_WITHIN)
        for actor in (*begun, *self.starting.values()):
            self.ray.kill(actor)


class Actor:
    """One process of a cluster that does parts of a work, one at a time. Its answers say what kind they are."""

    def __init__(self, start: Start, common: bytes) -> None:
        self._start, self._common = start, common
        self._open = ExitStack()

    def ready(self) -> tuple[str, str]:
        """Starts, and answers with the version of unseg, or with why it cannot."""
        try:
            self._work = self._open.enter_context(self._start(self._common))
        except UserError as error:
            return REFUSED, str(error)
        return READY, __version__

    def do(self, part: bytes) -> tuple[str, Any]:
        """Answers with what became of a part, or with why the whole cannot go on."""
        try:
            return DONE, self._work(part)
        except UserError as error:
            return REFUSED, str(error)

    def close(self) -> None:
        """Puts away what lies on disk, also while a part is being worked on that nobody waits for any more."""
        self._open.close()
