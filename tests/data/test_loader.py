"""The prefetching loader gives exactly what drawing in turn gives, names broken files, and leaves no process behind."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unseg.data import loader as loader_module
from unseg.data.loader import BatchLoader, default_workers
from unseg.data.training_data import TrainingSet, open_training_data
from unseg.data.views import draw_views
from unseg.errors import UserError
from unseg.training.recipes import recipe

CONFIG = dataclasses.replace(recipe("smoke"), batch_size=2, view_size=32, frame_size=48, surrogate_sizes=(32,))


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> TrainingSet:
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for number in range(9):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / f"images/{number}.png")
        mask = np.zeros((40, 50), np.uint8)
        mask[number : number + 12, 10:40] = 255
        Image.fromarray(mask).save(root / f"masks/{number}.png")
    return open_training_data(root).train


def assert_sequential(batches, samples, first: int, last: int, rank: int = 0, world_size: int = 1) -> None:
    assert [batch.step for batch in batches] == list(range(first, last))
    for batch in batches:
        expected = draw_views(samples, CONFIG, batch.step, rank, world_size)
        assert batch.names == expected.names and torch.equal(batch.pixels, expected.pixels)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(samples, workers):
    """Over a whole epoch and into the next ones; a later start skips; torch's random numbers are left alone."""
    random_state = torch.get_rng_state()
    with BatchLoader(samples, CONFIG, 0, 11, workers=workers) as loader:
        assert_sequential(list(loader), samples, 0, 11)
        assert loader.waited > 0
    with BatchLoader(samples, CONFIG, 7, 11, rank=1, world_size=2, workers=workers) as loader:
        assert_sequential(list(loader), samples, 7, 11, rank=1, world_size=2)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not multiprocessing.active_children()


def test_through_a_pipe_where_shared_memory_is_small(samples, monkeypatch):
    monkeypatch.setattr(loader_module, "_fits_shared_memory", lambda size: False)
    with BatchLoader(samples, CONFIG, 2, 6, workers=1) as loader:
        assert_sequential(list(loader), samples, 2, 6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shared memory is a file system on Linux only")
def test_shared_memory_is_asked_for_its_room(monkeypatch):
    assert loader_module._fits_shared_memory(0) and not loader_module._fits_shared_memory(1 << 60)
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", "/nowhere")
    assert not loader_module._fits_shared_memory(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_in_the_place_of_its_batch(samples, tmp_path, workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(samples.pairs[3].image).read_bytes()[:300])
    pairs = [pair._replace(image=str(broken)) if number == 3 else pair for number, pair in enumerate(samples.pairs)]
    order = [name for step in range(4) for name in draw_views(samples, CONFIG, step).names]
    place = order.index("3") // 2
    with BatchLoader(TrainingSet(pairs), CONFIG, 0, 8, workers=workers) as loader:
        before = [next(loader) for _ in range(place)]
        with pytest.raises(UserError) as error:
            next(loader)
        assert str(error.value).startswith(f"{broken}: ") and "\n" not in str(error.value)
    assert [batch.step for batch in before] == list(range(place))


def test_a_fault_of_the_program_is_no_users_error():
    with BatchLoader([None] * 4, CONFIG, 0, 2, workers=1) as loader, pytest.raises(AttributeError):
        next(loader)


def test_prefetching_is_bounded_and_hides_the_drawing(samples):
    """While the consumer works, workers get at most two batches ahead each; then it need not wait for those."""
    with BatchLoader(samples, CONFIG, 0, 400, workers=1) as loader:
        next(loader)
        time.sleep(1.0)
        waited = loader.waited
        next(loader)
        assert loader.waited - waited < 0.5
        assert len(loader._children) == 1


def test_closing_early_ends_the_workers(samples):
    loader = BatchLoader(samples, CONFIG, 0, 400, workers=2)
    next(loader)
    children = loader._children
    assert len(children) == 2 and all(child.is_alive() for child in children)
    begun = time.monotonic()
    loader.close()
    assert not any(child.is_alive() for child in children) and time.monotonic() - begun < 10
    with pytest.raises(StopIteration):
        next(loader)


def test_a_worker_that_dies_is_told_in_one_line(samples):
    with BatchLoader(samples, CONFIG, 0, 400, workers=1) as loader:
        next(loader)
        os.kill(next(iter(loader._children)).pid, signal.SIGKILL)
        with pytest.raises(UserError, match="ended unexpectedly.*--workers 1"):
            list(loader)


def test_signals_to_the_group_leave_the_workers_alone(samples):
    """Ctrl-C and a scheduler's SIGTERM reach every process; a worker that died of it would spoil the stop."""
    with BatchLoader(samples, CONFIG, 0, 30, workers=1) as loader:
        first = next(loader)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(next(iter(loader._children)).pid, number)
        assert_sequential([first, *loader], samples, 0, 30)


PROGRAM = """
import sys, time
from pathlib import Path
from test_loader import CONFIG, BatchLoader
from unseg.data.training_data import open_training_data

if __name__ == "__main__":
    samples = open_training_data(Path(sys.argv[1])).train
    loader = BatchLoader(samples, CONFIG, 0, 10**6, workers=2)
    next(loader)
    print(*(child.pid for child in loader._children), flush=True)
    time.sleep(600)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
def test_workers_die_with_a_killed_parent(samples, tmp_path):
    root = Path(samples.pairs[0].image).parents[1]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])]),
    }
    with subprocess.Popen(
        [sys.executable, str(program), str(root)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(map(running, workers))
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while any(map(running, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(running, workers))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_for_a_gpu_are_pinned(samples, workers):
    with BatchLoader(samples, CONFIG, 0, 5, workers=workers, pin=True) as loader:
        for batch in loader:
            assert batch.pixels.is_pinned()
            expected, there = draw_views(samples, CONFIG, batch.step), batch.to("cuda")
            assert torch.equal(there.pixels.cpu(), expected.pixels)
            for ours, theirs in ((there.images, expected.images), (there.labels, expected.labels)):
                # A GPU multiplies by 1/255 where a CPU divides: the last bit may differ.
                torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1.2e-7)


def test_numbers_that_make_no_sense(samples):
    with pytest.raises(UserError, match="--workers -1"):
        BatchLoader(samples, CONFIG, 0, 1, workers=-1)
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=f"rank {rank} of 2"):
            BatchLoader(samples, CONFIG, 0, 1, rank, 2)
    assert list(BatchLoader(samples, CONFIG, 5, 5, workers=2)) == []


def test_default_workers_leave_a_core_to_each_training_process(monkeypatch):
    for cores, processes, workers in ((1, 1, 0), (2, 1, 1), (2, 2, 0), (16, 1, 4), (16, 8, 1), (64, 8, 4), (1, 3, 0)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, count=cores: set(range(count)), raising=False)
        assert default_workers(processes) == workers
