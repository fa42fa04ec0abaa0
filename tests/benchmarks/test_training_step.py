"""The benchmark of training steps: the plain step is the same step, and rates are of the median round."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention as SamAttention

from benchmarks import training_step
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import ChannelNorm, Convolution3, Doubling

ROOT = Path(__file__).resolve().parents[2]


def ways(scale: training_step.Scale = training_step.QUICK) -> list[training_step.Pair]:
    return [training_step.Pair(way, scale, torch.device("cpu")) for way in training_step.STEPS]


def test_the_plain_step_is_the_same_step(tmp_path: Path) -> None:
    """Both ways: the same losses and, after a round of both players, the same weights; only the time differs."""
    batches = training_step.draw_round(training_step.write_samples(tmp_path, 8), training_step.QUICK)
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
    calls: list[int] = []
    for player in ("generator", "surrogate"):
        ours, theirs = getattr(this, player), getattr(plain, player)
        assert all(isinstance(block.attn, SamAttention) for block in theirs.network.network.image_encoder.blocks)
        assert not any(isinstance(module, (ChannelNorm, Convolution3, Doubling)) for module in theirs.network.modules())
        assert all(parameter.is_contiguous() for parameter in theirs.network.parameters())
        assert not any(isinstance(block.attn, SamAttention) for block in ours.network.image_encoder.blocks)
        assert ours.optimizer.param_groups[0]["fused"] and not theirs.optimizer.param_groups[0]["fused"]
        calls.clear()
        transformer = theirs.network.network.mask_decoder.transformer
        transformer.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
        side = theirs.network.network.image_size
        theirs.network(torch.rand(3, 3, side, side), Prompts(boxes=torch.tensor([[4.0, 4, 30, 30]] * 3)))
        assert calls == [1, 1, 1]


def test_images_a_second_are_of_the_median_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 8 images; the first of each way is not counted, and the order changes."""
    seconds, order = {"this": iter([9.0, 2.0, 1.0, 4.0]), "plain": iter([9.0, 8.0, 8.0, 1.0])}, []

    class Timed:
        def __init__(self, way: str, scale: training_step.Scale, device: torch.device) -> None:
            self.way = way

        def round(self, batches: list) -> tuple[float, list[float]]:
            order.append(self.way)
            return next(seconds[self.way]), [1.0]

    monkeypatch.setattr(training_step, "Pair", Timed)
    scale = dataclasses.replace(training_step.QUICK, rounds=3)
    figures = training_step.compare(training_step.write_samples(tmp_path, 4), scale, torch.device("cpu"))
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
    assert figures["ratio"] == pytest.approx(
        figures["this"]["images_per_second"] / figures["plain"]["images_per_second"]
    )
    assert all(figures[f"{way}_peak_mib"] > 100 for way in training_step.STEPS)
    assert 0 <= figures["waiting_share"] < 1
    assert "images/s" in ran.stdout and "waiting for data" in ran.stdout
