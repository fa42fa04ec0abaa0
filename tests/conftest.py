"""What all tests share: fast tests run first, and torch works on two threads."""

from __future__ import annotations

import os

import pytest

# Set before torch is imported, and inherited by the processes that tests start: on a machine with many more cores than
# a container may use, torch would otherwise start a thread for each of them.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a broken rule shows in seconds, not after the slow ones. Otherwise the order stays."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
