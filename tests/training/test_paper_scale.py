"""The paper's recipe with its full-size networks: starts, steps, is killed, goes on. Random weights, one image."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segment_anything_training.generator import is_noise_part

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 450  # seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(
        root / "images/one.jpg"
    )
    mask = np.zeros((480, 640), np.uint8)
    mask[100:300, 200:500] = 255
    Image.fromarray(mask).save(root / "masks/one.png")
    return root


def states(path):
    """The networks of a checkpoint, not read before they are compared, and the losses so far."""
    state = torch.load(path, weights_only=True, mmap=True)
    return state["generator"]["network"], state["surrogates"][0]["network"], state["recent"]


def run_until(checkpoint, command):
    """Starts the command and kills it when that checkpoint is whole; returns what it said."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun = time.monotonic()
    while not checkpoint.with_suffix(".json").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    return process.communicate()[0]


@pytest.mark.slow(seconds=80)
def test_the_papers_recipe_starts_steps_checkpoints_and_resumes(data, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--recipe",
        "paper",
        "--data-root",
        str(data),
        "--output",
        str(tmp_path),
        "--device",
        "cpu",
        "--quiet",
        "--no-tensorboard",
        "--workers",
        "0",
        "--keep",
        "2",
        *(
            word
            for setting in ("generator_start=random", "batch_size=1", "steps_per_phase=1", "checkpoint_every=1")
            for word in ("--set", setting)
        ),
    ]
    first, second = (tmp_path / f"checkpoints/step_0000000{step}.pt" for step in (1, 2))
    begun = time.monotonic()
    assert "goes on" not in run_until(first, command)
    assert "1 of 27 steps are done; goes on from there" in run_until(second, command)

    (generator_1, surrogate_1, _), (generator_2, surrogate_2, losses) = states(first), states(second)
    assert all(torch.equal(surrogate_1[name], surrogate_2[name]) for name in surrogate_1)  # frozen in the second step
    moved = {name for name in generator_1 if not torch.equal(generator_1[name], generator_2[name])}
    assert moved and all(map(is_noise_part, moved))
    assert {player: len(own) for player, own in losses.items()} == {"surrogate": 1, "generator": 1}
    assert np.isfinite([loss for own in losses.values() for loss in own]).all()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest child, in GiB
    print(
        f"peak memory {peak:.1f} GiB, {time.monotonic() - begun:.0f} s, checkpoint {second.stat().st_size / 1e9:.2f} GB"
    )
    assert peak < 8
    for path in (first, second, tmp_path / "generator.safetensors"):  # gigabytes that pytest would keep
        path.unlink()
