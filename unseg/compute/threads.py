"""Cores and threads: how many there are, and pools whose threads share none with torch's own.

Torch is limited where it is loaded; nothing here loads it. So a module whose threads call torch imports it before it
makes a pool.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from unseg.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_THREADS = 1024  # that anybody asks torch for
AHEAD = 256  # items that a pool is given before the first result is asked for


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Opens a pool of threads in each of which torch works alone.

    They do not compete for cores then, and frames and regions do not depend on the number of cores (how torch splits a
    resize among threads decides its last bit). On leaving, the caller's own number of torch's threads is as before.
    """
    with threads_kept(), worker_threads(workers) as pool:
        yield pool


def worker_threads(workers: int, each: int = 1) -> ThreadPoolExecutor:
    """Returns a pool of threads in each of which torch uses `each`; the caller's number stays.

    This is the only way to make a pool: threads that were told nothing would each take as many as there are cores.
    """
    if workers < 1:
        raise UserError(f"workers {workers}: give 1 or more")
    _own_number()  # so that the caller has a number of its own before a worker changes the global one
    return ThreadPoolExecutor(workers, initializer=use_threads, initargs=(each,))


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields what a function makes of each item, in their order, as `pool.map` does.

    But the pool is given only so many at a time: what it keeps of an item takes more memory than most items do. What
    has not begun is called off, should this end early.
    """
    waiting: deque[Future[Result]] = deque()
    left = iter(items)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(left, AHEAD))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(left, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def alone() -> Iterator[None]:
    """Lets torch work on one thread for the caller, who leaves the work of networks to threads of its own.

    OpenMP gives every thread that asks for more than one a team. With a second team there are more threads than cores,
    and libgomp then lets all of them sleep after every operation: some 10,000 times an image with ViT-B.
    """
    with threads_kept():
        use_threads(1)
        yield


@contextmanager
def threads_kept() -> Iterator[None]:
    """Restores the caller's number of torch's threads on leaving."""
    before = _own_number()
    try:
        yield
    finally:
        if before is not None:
            use_threads(before)


def use_threads(count: int) -> None:
    """Lets torch use `count` threads for what the calling thread asks of it."""
    if _own_number() is not None:
        sys.modules["torch"].set_num_threads(count)


def _own_number() -> int | None:
    """Returns the calling thread's number of torch's threads; None where torch is not loaded.

    A thread takes over the global number once, when it is first asked; only from then on can its own differ.
    """
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def check_threads(count: int, least: int = 0) -> None:
    """Raises UserError where torch cannot use so many threads. least: 0 where that leaves the number as it is."""
    if not least <= count <= MOST_THREADS:
        raise UserError(f"--threads {count}: give a whole number from {least} to {MOST_THREADS:,}")
