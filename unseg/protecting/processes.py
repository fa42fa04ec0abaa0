"""A run on several processes: exact disjoint shards of its jobs, each image in one of them.

The parent plans, puts on record and tells; workers decode, generate, write and send back what became of each image.
They ask for their next few jobs when they have room, so that none waits for another. Workers are spawned: they share
nothing but a pipe each with their parent.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from unseg.compute.interrupts import kept_from_children
from unseg.compute.stopping import end_with_the_parent
from unseg.compute.threads import alone, cores, single_threaded_pool
from unseg.errors import UserError
from unseg.protecting.noise_source import NoiseSource, SourcePlan
from unseg.protecting.objects import Objects
from unseg.protecting.pipeline import Job, Pipeline, Result
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_limits
from unseg.storage.files import remove_temporaries
from unseg.storage.locks import Held
from unseg.storage.mounts import Mount, mounted, mounts

MORE, REFUSED, DONE = "more", "refused", "done"  # what a worker says, beside results
PART = 64  # jobs at most that a worker is given at a time
ENDS_WITHIN = 5.0  # seconds for a worker that was told to end, before it is killed


@dataclass(frozen=True)
class Blueprint:
    """Everything that a worker needs to build its pipeline.

    held: the output folder, which the parent has locked. rank: the worker's number.
    """

    settings: ProtectSettings
    source: SourcePlan
    out: Path
    objects: Objects
    workers: int
    held: Held | None
    rank: int = 0

    def build(self) -> Pipeline:
        """Returns the pipeline; loads the generator where there is one."""
        return self.around(self.source.build(self.rank))

    def around(self, source: NoiseSource) -> Pipeline:
        """Returns the pipeline with a source that is built already."""
        return Pipeline(self.settings, source, self.out, self.objects, self.workers, self.held)


def blueprint(pipeline: Pipeline, processes: int) -> Blueprint:
    """Returns the blueprint of a pipeline's copies in `processes` processes, which share the cores."""
    workers = pipeline.settings.workers or max(1, cores() // processes)
    source = pipeline.source.for_worker()
    return Blueprint(pipeline.settings, source, pipeline.out, pipeline.objects, workers, pipeline.held)


def results(plan: Blueprint, processes: int, jobs: Iterator[Job], count: int) -> Generator[Result, None, None]:
    """Yields what becomes of each of `count` jobs, in the order in which that is known.

    A job is taken from `jobs` when it is handed out. Raises UserError where a worker ends early. However this ends, no
    process and no temporary file is left.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    finished = False
    try:
        with kept_from_children():
            for rank in range(processes):
                ours, theirs = context.Pipe()
                workers[ours] = context.Process(target=_work, args=(theirs,), name=f"unseg-{rank}", daemon=True)
                workers[ours].start()
                theirs.close()
        for rank, connection in enumerate(workers):
            messages: list[Mount | Blueprint] = [*mounts(), replace(plan, rank=rank)]  # tables are opened as it arrives
            for message in messages:
                _send(connection, message)
        yield from _collect(dict(workers), _Parts(jobs, count, processes))
        finished = True
    finally:
        _end(workers, ENDS_WITHIN if finished else 0)
        if not finished:
            with suppress(OSError):  # a disk that has become read-only: the next run removes them
                remove_temporaries(plan.out if plan.held is None else plan.held.folder)


class _Parts:
    """The jobs in parts: large at first, small in the end, so that all workers end at about the same time."""

    def __init__(self, jobs: Iterator[Job], count: int, processes: int) -> None:
        self.jobs, self.left, self.processes = jobs, count, processes

    def next(self) -> list[Job]:
        """Returns the next part; an empty one where nothing is left."""
        part = list(islice(self.jobs, min(PART, -(-self.left // (2 * self.processes)))))
        self.left -= len(part)
        return part


def _collect(workers: dict[Connection, BaseProcess], parts: _Parts) -> Iterator[Result]:
    """Yields what the workers send until all are done; raises UserError as soon as one of them cannot go on."""
    while workers:
        for connection in cast("list[Connection]", wait(list(workers))):  # of sockets and handles it is given none
            message = _receive(connection)
            if isinstance(message, Result):
                yield message
            elif message == MORE:
                _send(connection, parts.next())
            elif message == DONE:
                del workers[connection]
            else:
                process = workers.pop(connection)
                yield from _sent_already(workers)
                raise UserError(message[1] if message else _how_it_ended(process))


def _sent_already(workers: Iterable[Connection]) -> Iterator[Result]:
    """Yields what the other workers have finished by now, so that it goes on record."""
    for connection in workers:
        while connection.poll() and (message := _receive(connection)):
            if isinstance(message, Result):
                yield message


def _receive(connection: Connection) -> Result | str | tuple[str, str] | None:
    """Returns what a worker says; None where it is gone."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _send(connection: Connection, message: Mount | Blueprint | list[Job]) -> None:
    try:
        connection.send(message)
    except OSError:
        return  # it is gone, as the next reading will tell


def _how_it_ended(process: BaseProcess) -> str:
    process.join(ENDS_WITHIN)
    code = process.exitcode
    how = (
        f"was killed by {signal.Signals(-code).name}"
        if code is not None and code < 0
        else f"ended with exit code {code}"
    )
    return (
        f"--processes: process {process.pid} {how} before its images were done; what is finished is kept, run the same"
        " command again to go on (if the system killed it for its memory, with fewer processes)"
    )


def _end(workers: Mapping[Connection, BaseProcess], by_itself: float) -> None:
    """Ends all workers and waits for them. by_itself: seconds in which they may end without being told to."""
    for process in workers.values():
        process.join(by_itself)
    for connection, process in workers.items():
        connection.close()
        process.terminate()
    for process in workers.values():
        process.join(ENDS_WITHIN)
        if process.is_alive():
            process.kill()
            process.join()


# --- in a worker


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all, and the parent answers
    end_with_the_parent()  # the folder is no longer locked for a worker whose parent was killed
    try:
        with ExitStack() as stores:
            message = connection.recv()
            while not isinstance(message, Blueprint):
                stores.enter_context(mounted(message))
                message = connection.recv()
            _work_on(connection, message)
        connection.send(DONE)
    except UserError as error:
        connection.send((REFUSED, str(error)))
    except (EOFError, ConnectionError):
        pass  # the parent was killed before this process was to end with it: there is nobody to tell


def _work_on(connection: Connection, plan: Blueprint) -> None:
    with (
        image_limits.own_size_limit(),
        image_limits.quiet_decoders(),
        alone(),
        single_threaded_pool(plan.workers) as pool,
        closing(plan.build().results(_asked_for(connection), pool)) as made,
    ):
        for result in made:
            connection.send(result)


def _asked_for(connection: Connection) -> Iterator[Job]:
    while True:
        connection.send(MORE)
        part = connection.recv()
        if not part:
            return
        yield from part
