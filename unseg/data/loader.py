"""Batches of views, prepared ahead by worker processes while the networks work.

Four views of 1024 take 54 ms of a core, of which decoding and resizing, which other threads can run beside, are less
than half. Beside a consumer that does many small operations one thread and one process came out alike on two busy
cores (293 and 292 ms a step, medians of 25); processes are taken because several threads' Python code takes turns
with the one that feeds a GPU. They start from a fork server, that is from a clean process: a fork of a training
process would inherit locked thread pools (OpenMP, OpenCV) and CUDA's state.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unseg.compute.interrupts import kept_from_children
from unseg.compute.stopping import end_with_the_parent
from unseg.compute.threads import cores
from unseg.data.training_data import TrainingImage
from unseg.data.views import ViewBatch, draw_views
from unseg.errors import UserError
from unseg.method.config import TrainConfig

PREFETCH = 2  # batches that each worker holds ready
MOST_WORKERS = 4
SHARED_MEMORY = "/dev/shm"
DEAD_WORKER = "DataLoader worker (pid"  # how DataLoader's RuntimeError begins when a worker process has ended


def default_workers(processes: int = 1) -> int:
    """Returns the worker processes for each of `processes` training processes here: the other cores, at most four."""
    return min(MOST_WORKERS, max(0, cores() // processes - 1))


@dataclass(frozen=True)
class _Failed:
    """Carries a user's error from a worker: exceptions with arguments of their own do not survive pickling."""

    message: str


@dataclass(frozen=True)
class _ThroughPipe:
    """Carries a batch from a worker with its pixels as an array: tensors would go through shared memory."""

    step: int
    names: tuple[str, ...]
    pixels: np.ndarray

    @classmethod
    def of(cls, batch: ViewBatch) -> _ThroughPipe:
        return cls(batch.step, batch.names, batch.pixels.numpy())


@dataclass(frozen=True)
class _Steps(Dataset):
    """Makes the batches of a process from `start` on, as DataLoader asks for them."""

    samples: Sequence[TrainingImage]
    config: TrainConfig
    start: int
    stop: int
    rank: int
    world_size: int
    through_pipe: bool

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __getitem__(self, index: int) -> ViewBatch | _ThroughPipe | _Failed:
        try:
            batch = draw_views(self.samples, self.config, self.start + index, self.rank, self.world_size)
        except UserError as error:
            return _Failed(str(error))
        return _ThroughPipe.of(batch) if self.through_pipe else batch


class BatchLoader:
    """Iterates the `ViewBatch`es of the steps from `start_step` up to, not including, `stop_step`, in order.

    A batch is a function of seed, step and global slot alone: neither the number of workers nor the step that a run
    starts at changes it. workers: processes that prepare batches ahead, at most two batches each (0: prepared when
    asked for). pin: into page-locked memory, for copies to a GPU that do not wait. waited: seconds that the consumer
    has waited.

    A file that cannot be used is a UserError that names it, raised in the place of its batch. Use it as a context
    manager, or call `close`: workers end then, and also when the process that started them dies.
    """

    def __init__(
        self,
        samples: Sequence[TrainingImage],
        config: TrainConfig,
        start_step: int,
        stop_step: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} processes")
        if workers < 0:
            raise UserError(f"--workers {workers}: give a whole number from 0")
        self.waited = 0.0
        self._workers = min(workers, max(0, stop_step - start_step))
        batch_bytes = config.batch_size * config.view_size**2 * 4
        through_pipe = self._workers > 0 and not _fits_shared_memory(batch_bytes * (self._workers * PREFETCH + 2))
        self._children: set[Any] = set()
        self._batches = self._start(_Steps(samples, config, start_step, stop_step, rank, world_size, through_pipe), pin)

    def _start(self, steps: _Steps, pin: bool) -> Iterator[ViewBatch | _ThroughPipe | _Failed]:
        options: dict[str, Any] = {}
        if self._workers:
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
            if context.get_start_method() == "forkserver":
                context.set_forkserver_preload([__name__])  # imported once; each worker is a fork of that
            options = {
                "num_workers": self._workers,
                "prefetch_factor": PREFETCH,
                "multiprocessing_context": context,
                "worker_init_fn": _prepare_worker,
            }
        # A generator of its own: DataLoader would draw from torch's global one, which a resumed run must find unmoved.
        before = set(multiprocessing.active_children())
        with kept_from_children(), warnings.catch_warnings():  # the number of workers is the caller's to choose
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            batches = iter(
                DataLoader(
                    steps, batch_size=None, collate_fn=_as_it_is, pin_memory=pin, generator=torch.Generator(), **options
                )
            )
        self._children = set(multiprocessing.active_children()) - before
        return batches

    def __iter__(self) -> BatchLoader:
        return self

    def __next__(self) -> ViewBatch:
        begun = time.perf_counter()
        try:
            batch = next(self._batches)
        except (RuntimeError, EOFError, OSError) as error:  # the last two: it died while handing a batch over
            if not str(error).startswith(DEAD_WORKER) and not self._has_lost_a_worker():
                raise
            raise UserError(
                "a process that prepares training images has ended unexpectedly, perhaps for want of memory; "
                f"give a smaller number than --workers {self._workers}"
            ) from None
        finally:
            self.waited += time.perf_counter() - begun
        if isinstance(batch, _Failed):
            raise UserError(batch.message)
        if isinstance(batch, _ThroughPipe):
            return ViewBatch(batch.step, batch.names, torch.from_numpy(batch.pixels))
        return batch

    def _has_lost_a_worker(self) -> bool:
        sentinels = [child.sentinel for child in self._children]
        return bool(sentinels and multiprocessing.connection.wait(sentinels, timeout=1))

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers, at once where one does not listen."""
        self._batches = iter(())  # the iterator's end of life tells them to stop
        for child in self._children:
            child.join(timeout=1)
            if child.is_alive():  # stuck in a read that does not return
                child.kill()
        self._children = set()


def _fits_shared_memory(size: int) -> bool:
    """Returns whether batches fit where torch shares tensors between processes: containers often have 64 MB there.

    Writing beyond it kills the process. What does not fit goes through a pipe: slower, without a limit.
    """
    if not sys.platform.startswith("linux"):
        return True
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return size <= free.f_bavail * free.f_frsize


def _prepare_worker(number: int) -> None:
    """Gives a worker one thread, and leaves signals to the training process, which decides when to stop.

    Ctrl-C and a scheduler's signal go to all processes.

    DataLoader's workers look whether the process that forked them lives; a fork server lives as long as they do. So
    each waits for the training process itself.
    """
    end_with_the_parent()
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
