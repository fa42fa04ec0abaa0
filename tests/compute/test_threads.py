"""Pools whose threads limit torch where it is loaded, and need none where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unseg.compute.threads import alone, cores, single_threaded_pool, worker_threads

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import sys
from unseg.compute.threads import alone, cores, single_threaded_pool
with alone(), single_threaded_pool(2) as pool:
    assert sorted(pool.map(abs, [-3, 2, -1])) == [1, 2, 3]
assert cores() >= 1 and "torch" not in sys.modules
"""


def own_threads(_: object) -> int:
    return torch.get_num_threads()


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("each", [1, 2])
def test_threads_of_a_pool_use_as_many_as_they_are_told(three_threads, each):
    with worker_threads(2, each) as pool:
        assert set(pool.map(own_threads, range(8))) == {each}
    assert torch.get_num_threads() == 3


def test_the_callers_number_is_as_before(three_threads):
    with single_threaded_pool(2) as pool:
        assert set(pool.map(own_threads, range(8))) == {1}
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), alone():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 3


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_a_pool_without_torch_does_not_load_it():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
