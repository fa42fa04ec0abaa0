"""Which processes a process started, by Linux's own book, for tests that nothing outlives a run."""

from __future__ import annotations

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
