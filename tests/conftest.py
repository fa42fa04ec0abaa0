"""What all tests share: fast tests run first, torch works on two threads, and signals arrive."""

from __future__ import annotations

import os
import signal

import pytest

# Set before torch is imported, and inherited by the processes that tests start: on a machine with many more cores than
# a container may use, torch would otherwise start a thread for each of them. Processes that share the tests have one
# each; they inherit what the first one set.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a broken rule shows in seconds, not after the slow ones. Otherwise the order stays."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def heard() -> None:
    """Ctrl-C and SIGTERM arrive, here and in the processes that a test starts.

    A job in the background ignores them, and so do all its processes. Libraries such as Ray change what a signal does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
