"""Speed and memory of a training step against a plain one, in one run, printed as a table and written as JSON.

Both take the same steps of bilevel training (`unseg.training.steps`) from the same weights on the same batches, in
the paper's proportion: a round is one step of the surrogate and three of the generator. "This" step is the one that
`unseg train` takes; the plain one is float32 with the networks of `benchmarks.plain_step`, channels first in memory,
and an unfused Adam. Neither computes gradients of frozen parts, nor did the published code.

- images/s: the images of a round by the median of its seconds; rounds of the two alternate, and change order.
- peak memory: of a process of its own each; the GPU's where there is one, else the largest resident set.
- waiting: the share of this step's time that passes before the data loader gives a batch, after the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import machine
from benchmarks.photographs import photographs
from benchmarks.plain_step import PlainGenerator, PlainSurrogate
from benchmarks.timed_runs import timed_process
from segment_anything_training.build import SAM_CONFIGS, SURROGATE_IMAGE_SIZE
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.sam import SamConfig
from segment_anything_training.surrogate import Surrogate
from unseg.compute.device import choose_device
from unseg.compute.distributed import World
from unseg.data.loader import BatchLoader, default_workers
from unseg.data.training_data import TrainingSet, open_training_data
from unseg.data.views import ViewBatch, draw_views
from unseg.errors import UserError
from unseg.method.config import TrainConfig
from unseg.training.players import Player
from unseg.training.recipes import paper
from unseg.training.steps import generator_step, prepare, surrogate_step

STEPS = ("this", "plain")


@dataclass(frozen=True)
class Scale:
    """Says what is measured.

    networks: the generator's sizes; the surrogate's are the same for `surrogate_side` pixels.
    """

    name: str
    networks: SamConfig
    surrogate_side: int
    batch_size: int
    rounds: int

    @property
    def config(self) -> TrainConfig:
        return dataclasses.replace(
            paper(),
            batch_size=self.batch_size,
            view_size=self.networks.image_size,
            frame_size=self.networks.image_size,
            surrogate_sizes=(self.surrogate_side,),
        )


FULL = Scale("ViT-B at 1024 and 512", SAM_CONFIGS["vit_b"], SURROGATE_IMAGE_SIZE, batch_size=4, rounds=7)
# Half of ViT-B's width, heads and depth, so that a step takes seconds; images, windows and the width of a head are as
# there.
REDUCED = Scale(
    "a reduced ViT (width 384, depth 6, 6 heads) at 1024 and 512",
    SamConfig(1024, embed_dim=384, depth=6, num_heads=6, global_blocks=(2, 5)),
    SURROGATE_IMAGE_SIZE,
    2,
    3,
)
QUICK = Scale("a tiny ViT, which measures nothing", SamConfig(128, 64, 2, 2, (1,), window=4), 64, 2, 1)


def write_samples(root: Path, count: int) -> TrainingSet:
    """Writes photographs with an ellipse each as mask to images/ and masks/ under `root`; returns them as a set."""
    photographs(root / "images", count)
    (root / "masks").mkdir()
    draw = np.random.default_rng(1)
    for path in sorted((root / "images").iterdir()):
        height, width = cv2.imread(str(path)).shape[:2]
        mask = np.zeros((height, width), np.uint8)
        centre, axes = draw.uniform(0.3, 0.7, 2) * (width, height), draw.uniform(0.1, 0.3, 2) * (width, height)
        cv2.ellipse(
            mask, centre.astype(int).tolist(), axes.astype(int).tolist(), float(draw.uniform(0, 180)), 0, 360, 255, -1
        )
        cv2.imwrite(str(root / "masks" / f"{path.stem}.png"), mask)
    return open_training_data(root).train


class Pair:
    """Holds a generator and a surrogate that take steps one way, "this" or "plain".

    Both ways start from the same weights.
    """

    def __init__(self, way: str, scale: Scale, device: torch.device) -> None:
        self.config, self.device = scale.config, device
        world = World(device=device)
        torch.manual_seed(0)
        networks = [
            NoiseGenerator(scale.networks),
            Surrogate(dataclasses.replace(scale.networks, image_size=scale.surrogate_side)),
        ]
        self.mask_sides = tuple(network.mask_size / network.image_size for network in networks)
        config = self.config
        if way == "plain":
            config = dataclasses.replace(config, precision="float32")
            networks = [PlainGenerator(networks[0]), PlainSurrogate(networks[1])]
        self.generator, self.surrogate = (
            Player.start(name, network, rate, config, world)
            for name, network, rate in zip(
                ("generator", "surrogate"),
                networks,
                (config.generator_learning_rate, config.surrogate_learning_rate),
                strict=True,
            )
        )
        if way == "plain":
            for player in (self.generator, self.surrogate):
                player.network.to(memory_format=torch.contiguous_format)  # as networks are made
                trained = [parameter for group in player.optimizer.param_groups for parameter in group["params"]]
                player.optimizer = torch.optim.Adam(trained, lr=1e-4)

    def step(self, player: str, views: ViewBatch) -> float:
        """Takes one step of a player and returns its loss."""
        batch = prepare(views.to(self.device), self.config, self.mask_sides)
        if player == "surrogate":
            return surrogate_step(self.generator.network, self.surrogate, batch, self.config, 1e-4)
        return generator_step(self.generator, self.surrogate.network, batch, self.config, 1e-4)

    def round(self, batches: Sequence[ViewBatch]) -> tuple[float, list[float]]:
        """Takes one step on each batch, players in the paper's order; returns seconds and losses."""
        self._wait()
        started = time.perf_counter()
        losses = [self.step(player, views) for player, views in zip(self.config.phases, batches, strict=True)]
        self._wait()
        return time.perf_counter() - started, losses

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def draw_round(samples: TrainingSet, scale: Scale) -> list[ViewBatch]:
    """Returns the batches of a round."""
    return [draw_views(samples, scale.config, step) for step in range(len(scale.config.phases))]


def compare(samples: TrainingSet, scale: Scale, device: torch.device) -> dict:
    """Returns seconds of every round both ways, after one that is not counted, and the first round's losses."""
    batches = draw_round(samples, scale)
    pairs = {way: Pair(way, scale, device) for way in STEPS}
    figures = {way: {"losses": pair.round(batches)[1], "seconds": []} for way, pair in pairs.items()}
    for number in range(scale.rounds):
        for way in STEPS if number % 2 else reversed(STEPS):
            figures[way]["seconds"].append(pairs[way].round(batches)[0])
    images = len(batches) * scale.batch_size
    for figure in figures.values():
        figure["images_per_second"] = images / statistics.median(figure["seconds"])
    return figures


def peak_memory(way: str, scale: Scale, device: torch.device, root: Path) -> float:
    """Returns the MiB of a process that takes a round of steps one way, the surrogate's twice, and nothing else."""
    figures = root / f"peak-{way}.json"
    _, resident = timed_process(
        [
            "-m",
            "benchmarks.training_step",
            "--peak-of",
            way,
            "--samples",
            str(root),
            "--device",
            str(device),
            "--out",
            str(figures),
            *(["--quick"] if scale is QUICK else []),
        ]
    )
    return json.loads(figures.read_text(encoding="utf-8"))["gpu_mib"] or resident


def take_rounds(way: str, scale: Scale, device: torch.device, samples: TrainingSet) -> dict:
    """Takes the steps of a process of `peak_memory`; returns gpu_mib: the peak on the GPU, None without one."""
    batches, pair = draw_round(samples, scale), Pair(way, scale, device)
    pair.round(batches)
    pair.step("surrogate", batches[0])  # once more, now that its optimizer holds its state
    return {"gpu_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None}


def waiting_share(samples: TrainingSet, scale: Scale, device: torch.device, workers: int) -> float:
    """Returns the share of the time that this step waits for the data loader, over a round after a first step."""
    pair, steps = Pair("this", scale, device), 1 + len(scale.config.phases)
    with BatchLoader(samples, scale.config, 0, steps, workers=workers, pin=device.type == "cuda") as loader:
        pair.step("surrogate", next(loader))
        started, waited = time.perf_counter(), loader.waited
        for number, views in enumerate(loader):
            pair.step(scale.config.phases[number], views)
        return (loader.waited - waited) / (time.perf_counter() - started)


def operations(samples: TrainingSet, scale: Scale, device: torch.device) -> float:
    """Returns the floating-point operations of a round of plain steps, two for every multiplication."""
    batches, pair = draw_round(samples, scale), Pair("plain", scale, device)
    with FlopCounterMode(display=False) as counter:
        pair.round(batches)
    return float(counter.get_total_flops())


def benchmark(scale: Scale, device: torch.device) -> dict:
    """Returns all figures."""
    workers = max(1, default_workers())
    figures = {
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "networks": scale.name,
        "batch_size": scale.batch_size,
        "rounds": scale.rounds,
        "workers": workers,
    }
    with tempfile.TemporaryDirectory(prefix="unseg-benchmark-") as folder:
        samples = write_samples(Path(folder), 4 * scale.batch_size)
        for way in STEPS:
            figures[f"{way}_peak_mib"] = peak_memory(way, scale, device, Path(folder))
        figures |= compare(samples, scale, device)
        figures["waiting_share"] = waiting_share(samples, scale, device, workers)
    figures["ratio"] = figures["this"]["images_per_second"] / figures["plain"]["images_per_second"]
    return figures


def table(figures: dict) -> Table:
    """Returns the figures for people."""
    where = figures["machine"]
    computer = figures["device"] if figures["device"] != "CPU" else f"{where['processor']}, {where['threads']} threads"
    result = Table(
        title=f"{figures['networks']}, {figures['batch_size']} images a step\n{computer}, torch {where['torch']}"
    )
    for heading in ("", *(f"{way} step" for way in STEPS)):
        result.add_column(heading, justify="right" if heading else "left")
    result.add_row("images/s", *(f"{figures[way]['images_per_second']:.3g}" for way in STEPS))
    result.add_row("ratio", f"{figures['ratio']:.2f}", "1")
    result.add_row("peak memory", *(f"{figures[f'{way}_peak_mib']:.0f} MiB" for way in STEPS))
    result.add_row("waiting for data", f"{figures['waiting_share']:.1%}", "")
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step", description="Speed and memory of a training step."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmark-train.json"), help="where the figures go, as JSON"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; ViT-B on a GPU, a reduced ViT on a CPU")
    parser.add_argument(
        "--quick", action="store_true", help="tiny networks, one round: tests the benchmark, measures nothing"
    )
    parser.add_argument("--peak-of", choices=STEPS, help=argparse.SUPPRESS)  # what `peak_memory` starts
    parser.add_argument("--samples", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
        scale = QUICK if options.quick else FULL if device.type == "cuda" else REDUCED
        if options.peak_of:
            samples = open_training_data(options.samples).train
            figures = take_rounds(options.peak_of, scale, device, samples)
        else:
            figures = benchmark(scale, device)
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if not options.peak_of:
        console = Console()
        console.print(table(figures))
        console.print(f"Written: {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
