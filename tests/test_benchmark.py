"""The benchmark: figures from processes of known length and size, photographs that can be decoded, one run of the real thing."""
from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention as SamAttention

from segment_anything_training.build import build_generator
from segment_anything_training.prompts import Prompts
from segment_anything_training.sam import ChannelNorm, Convolution3, Doubling
from unseg import benchmark, step_benchmark
from unseg.checkpoint import save_generator
from unseg.errors import UserError
from unseg.images import read_image

ROOT = Path(__file__).resolve().parents[1]


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


def ways(scale: step_benchmark.Scale = step_benchmark.QUICK) -> list[step_benchmark.Pair]:
    return [step_benchmark.Pair(way, scale, torch.device("cpu")) for way in step_benchmark.STEPS]


def test_the_plain_step_is_the_same_step(tmp_path: Path) -> None:
    """Both ways: the same losses and, after a round of both players, the same weights; only the time differs."""
    batches = step_benchmark.draw_round(step_benchmark.write_samples(tmp_path, 8), step_benchmark.QUICK)
    this, plain = ways()
    losses = [pair.round(batches)[1] for pair in (this, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) == 4
    for player in ("generator", "surrogate"):
        ours, theirs = (getattr(pair, player).network.state_dict() for pair in (this, plain))
        assert [name.removeprefix("network.") for name in theirs] == list(ours)
        start = getattr(ways()[0], player).network.state_dict()
        moved = [name for name in ours if not torch.equal(ours[name], start[name])]
        assert len(moved) > 20
        for name in ours:  # Adam's first steps are of the learning rate's size, whatever the gradient's
            torch.testing.assert_close(theirs[f"network.{name}"], ours[name], rtol=0, atol=3e-4, msg=name)


def test_the_plain_way_builds_all_logits_and_takes_images_one_by_one() -> None:
    this, plain = ways()
    for player in ("generator", "surrogate"):
        ours, theirs = getattr(this, player), getattr(plain, player)
        assert all(isinstance(block.attn, SamAttention) for block in theirs.network.network.image_encoder.blocks)
        assert not any(isinstance(module, (ChannelNorm, Convolution3, Doubling)) for module in theirs.network.modules())
        assert all(parameter.is_contiguous() for parameter in theirs.network.parameters())
        assert not any(isinstance(block.attn, SamAttention) for block in ours.network.image_encoder.blocks)
        assert ours.optimizer.param_groups[0]["fused"] and not theirs.optimizer.param_groups[0]["fused"]
        calls = []
        transformer = theirs.network.network.mask_decoder.transformer
        transformer.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
        side = theirs.network.network.image_size
        theirs.network(torch.rand(3, 3, side, side), Prompts(boxes=torch.tensor([[4.0, 4, 30, 30]] * 3)))
        assert calls == [1, 1, 1]


def test_images_a_second_are_of_the_median_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 8 images; the first of each way is not counted, and the order changes."""
    seconds, order = {"this": iter([9.0, 2.0, 1.0, 4.0]), "plain": iter([9.0, 8.0, 8.0, 1.0])}, []

    class Timed:
        def __init__(self, way: str, scale: step_benchmark.Scale, device: torch.device) -> None:
            self.way = way

        def round(self, batches: list) -> tuple[float, list[float]]:
            order.append(self.way)
            return next(seconds[self.way]), [1.0]

    monkeypatch.setattr(step_benchmark, "Pair", Timed)
    scale = dataclasses.replace(step_benchmark.QUICK, rounds=3)
    figures = step_benchmark.compare(step_benchmark.write_samples(tmp_path, 4), scale, torch.device("cpu"))
    assert figures["this"]["images_per_second"] == 8 / 2 and figures["plain"]["images_per_second"] == 8 / 8
    assert order == ["this", "plain", "plain", "this", "this", "plain", "plain", "this"]


@pytest.mark.slow
def test_quick_benchmark_of_training_steps(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = ["bash", str(ROOT / "scripts" / "benchmark.sh"), "train", "--quick", "--device", "cpu"]
    environment = os.environ | {"OUT": str(out), "UNSEG_SKIP_INSTALL": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(out.read_text())
    assert figures["device"] == "CPU" and figures["batch_size"] == 2 and len(figures["this"]["seconds"]) == 1
    assert figures["ratio"] == pytest.approx(figures["this"]["images_per_second"] / figures["plain"]["images_per_second"])
    assert all(figures[f"{way}_peak_mib"] > 100 for way in step_benchmark.STEPS)
    assert 0 <= figures["waiting_share"] < 1
    assert "images/s" in ran.stdout and "waiting for data" in ran.stdout


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
