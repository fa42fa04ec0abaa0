"""The processes and threads of a process by Linux's own book, for tests that fork and that nothing outlives a run."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that work: not multiprocessing's own tracker of resources."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z" and "spawn_main" in (status.parent / "cmdline").read_text():
                found.append(int(status.parent.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for_threads() -> None:
    """Waits, a second at most, until all other threads of this process are gone.

    One that is ending may hold a lock of OpenCV, and a fork would keep that lock for ever.
    """
    threads, latest = Path("/proc/self/task"), time.monotonic() + 1
    while threads.is_dir() and len(list(threads.iterdir())) > 1 and time.monotonic() < latest:
        time.sleep(0.001)
