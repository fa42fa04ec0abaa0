"""What all tests share: fast tests run first, the longest of the slow ones then, and signals arrive."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# Set before torch is imported, and inherited by the processes that tests start: on a machine with many more cores than
# a container may use, torch would otherwise start a thread for each of them. Processes that share the tests have one
# each; they inherit what the first one set.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a broken rule shows in seconds, not after the slow ones. Otherwise the order stays.

    Processes that share the tests (`--dist loadgroup`) take the fast or the slow tests of one file together. The slow
    tests that say their seconds come before the others, so that no process waits for a long one at the end.
    """
    longest: dict[Path, int] = {}
    for item in items:
        slow = item.get_closest_marker("slow")
        if slow is not None:
            longest[item.path] = max(longest.get(item.path, 0), slow.kwargs.get("seconds", 0))
        file = item.path.relative_to(item.config.rootpath).as_posix()
        item.add_marker(pytest.mark.xdist_group(file if slow is None else f"{file}, slow"))
    items.sort(key=lambda item: -longest[item.path] if item.get_closest_marker("slow") else -sys.maxsize)


@pytest.fixture(autouse=True)
def heard() -> None:
    """Ctrl-C and SIGTERM arrive, here and in the processes that a test starts.

    A job in the background ignores them, and so do all its processes. Libraries such as Ray change what a signal does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
