"""The benchmark: figures from processes of known length and size, photographs that can be decoded, one run of the real thing."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segment_anything_training.build import build_generator
from unseg import benchmark
from unseg.checkpoint import save_generator
from unseg.errors import UserError
from unseg.images import read_image


def test_photographs_are_different_squares(tmp_path: Path) -> None:
    benchmark.photographs(tmp_path / "a", 5)
    pixels = [read_image(path).pixels for path in sorted((tmp_path / "a").iterdir())]
    assert [image.shape for image in pixels] == [(512, 512, 3)] * 5
    assert not np.array_equal(pixels[0], pixels[4])  # of the same source
    assert min(image.std() for image in pixels) > 10


def test_a_process_is_timed_and_weighed() -> None:
    seconds, small = benchmark.timed_process(["-c", "import time; time.sleep(0.5)"])
    assert 0.5 <= seconds < 20
    _, large = benchmark.timed_process(["-c", "data = bytearray(200 * 2**20)"])
    assert 190 < large - small < 210


def test_a_failing_process_is_reported_with_its_last_words() -> None:
    with pytest.raises(UserError, match="exit code 3: no such generator"):
        benchmark.timed_process(["-c", "import sys; print('no such generator'); sys.exit(3)"])


def test_rate_leaves_start_up_out() -> None:
    # 5 s of start-up and 0.1 s an image
    assert benchmark.images_per_second(benchmark.Run(100, 15.0, 1), benchmark.Run(1000, 105.0, 1)) == pytest.approx(10)
    assert benchmark.images_per_second(benchmark.Run(2, 5.0, 1), benchmark.Run(6, 4.9, 1)) is None


def test_generator_time_is_a_median_without_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 100, 100, 101, 101, 104, 104, 106])  # runs of 100, 1, 3 and 2 seconds
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    assert benchmark.seconds_per_image("compact", 3) == 2


@pytest.mark.slow
def test_quick_benchmark_of_the_real_command(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights, out = tmp_path / "generator.safetensors", tmp_path / "figures.json"
    save_generator(build_generator("compact"), "compact", weights, {})
    command = [sys.executable, "-m", "unseg.benchmark", "--quick", "--out", str(out), "--generator", str(weights)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(out.read_text())
    assert [run["images"] for run in figures["runs"]] == list(benchmark.QUICK_COUNTS)
    assert all(run["seconds"] > 0 and run["peak_mib"] > 100 for run in figures["runs"])
    assert figures["machine"]["torch"] == torch.__version__ and figures["quick"] is True
    assert "6 images: peak memory" in printed
