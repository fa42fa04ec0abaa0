"""The sections of the benchmark of generation: the compact generator, ViT-B, and growth with what is asked for."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import encoder_operations, product_rate
from benchmarks.parts import FAST, in_process, noise_difference
from benchmarks.photographs import photographs, shape_of
from benchmarks.timed_runs import Run, images_per_second, median, runs_of, stolen_seconds, stolen_share
from segment_anything_training.build import SAM_CONFIGS, build_generator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.sizes import SamConfig
from unseg.compute.threads import cores
from unseg.storage.weights import save_generator


@dataclass(frozen=True)
class Scale:
    """Says how much is measured.

    Pairs are the images of a shorter and a longer run. compact_plain, vit_plain: images of the plain way. stages:
    images of a run whose stages are timed. growing: the numbers of small images, of `small` pixels a side. megapixels:
    size → pair. single: megapixels of one photograph alone. vit: None for ViT-B. rounds: of two things that are
    compared, in turn. precisions: whether the network is measured in each precision, too.
    """

    compact: tuple[int, int]
    compact_plain: int
    stages: int
    vit_images: tuple[int, int]
    vit_plain: int
    growing: tuple[int, ...]
    small: int
    megapixels: dict[float, tuple[int, int]]
    single: float
    processes: tuple[int, int]
    vit: SamConfig | None = None
    rounds: int = 3
    precisions: bool = False


FULL = Scale(
    compact=(100, 1000),
    compact_plain=200,
    stages=96,
    vit_images=(1, 3),
    vit_plain=2,
    growing=(10, 100, 1000, 10000),
    small=96,
    megapixels={0.25: (50, 200), 1: (20, 80), 4: (8, 32), 12: (3, 12), 24: (2, 8)},
    single=24,
    processes=(50, 250),
)
ON_GPU = dataclasses.replace(
    FULL, compact=(100, 2000), compact_plain=500, vit_images=(64, 512), vit_plain=16, precisions=True
)
QUICK = Scale(
    compact=(2, 6),
    compact_plain=2,
    stages=4,
    vit_images=(1, 2),
    vit_plain=1,
    growing=(1, 2, 4),
    small=64,
    megapixels={0.01: (1, 2), 0.04: (1, 2)},
    single=0.1,
    processes=(2, 6),
    vit=SamConfig(128, 64, 2, 2, (1,), window=4),
    rounds=1,
)


def beside_plain(
    scale: Scale,
    plain_images: Path,
    counts: Sequence[int],
    generator: str,
    device: torch.device,
    root: Path,
    **shape: int,
) -> dict[str, Any]:
    """Measures `unseg protect` and the plain way in turn, `scale.rounds` times.

    Returns the median rates, the median of the ratios, and every round.
    """
    ours: list[dict[str, Any]] = []
    plain: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    for _ in range(scale.rounds):
        started, stolen = time.perf_counter(), stolen_seconds()
        ours.append(runs_of(root, counts, generator, str(device), **shape))
        plain.append(in_process("plain", plain_images, generator, device, root))
        rates = [found["images_per_second"] for found in (ours[-1], plain[-1])]
        rounds.append(
            {
                "images_per_second": rates[0],
                "plain_images_per_second": rates[1],
                "ratio": None if rates[0] is None else rates[0] / rates[1],
                "stolen_share": stolen_share(started, stolen),
            }
        )
    return {
        "rounds": rounds,
        "runs": [run for found in ours for run in found["runs"]],
        "images_per_second": median(found["images_per_second"] for found in rounds),
        "ratio": median(found["ratio"] for found in rounds),
        "peak_mib": max(found["peak_mib"] for found in ours),
        "plain": plain[-1]
        | {
            "images_per_second": median(found["plain_images_per_second"] for found in rounds),
            "seconds": [seconds for found in plain for seconds in found["seconds"]],
            "peak_mib": max(found["peak_mib"] for found in plain),
        },
    }


def compact_section(scale: Scale, generator: str, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns the figures of the generator that ships, on photographs of 512×512."""
    photographs(root / "some", scale.stages)
    photographs(root / "plainly", 1 + scale.compact_plain)
    figures = beside_plain(scale, root / "plainly", scale.compact, generator, device, root)
    figures["where"] = in_process("stages", root / "some", generator, device, root)
    photographs(root / "one", 1)
    in_process("encoder", root / "one", generator, device, root)
    if scale.precisions:
        figures["ways"] = in_process("ways", root / "some", generator, device, root)["ways"]
    return figures | {"noise_difference": noise_difference(root, ("encoder", "plain"), device)}


def vit_section(scale: Scale, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns the figures of ViT-B with random weights, on photographs of 1024×768."""
    torch.manual_seed(0)
    weights = root / "vit.safetensors"
    network = NoiseGenerator(scale.vit) if scale.vit else build_generator("vit_b")
    save_generator(network, "custom" if scale.vit else "vit_b", weights, {})
    photographs(root / "vit-images", 1 + scale.vit_plain, height=768, width=1024)
    figures = beside_plain(
        scale, root / "vit-images", scale.vit_images, str(weights), device, root, height=768, width=1024
    )
    figures |= {"encoder": in_process("encoder", root / "vit-images", str(weights), device, root)}
    figures["encoder_gflop"] = encoder_operations(scale.vit or SAM_CONFIGS["vit_b"]) / 1e9
    if scale.precisions:
        figures["where"] = in_process("stages", root / "vit-images", str(weights), device, root)
        figures["ways"] = in_process("ways", root / "vit-images", str(weights), device, root)["ways"]
        fast = runs_of(root, scale.vit_images, str(weights), str(device), height=768, width=1024, extra=FAST)
        rate = fast["images_per_second"]
        figures["fast"] = fast | {"ratio": None if rate is None else rate / figures["plain"]["images_per_second"]}
    return figures | {"noise_difference": noise_difference(root, ("encoder", "plain"), device)}


def alone(scale: Scale, generator: str, device: torch.device, root: Path) -> dict[str, Any]:
    """Measures one large photograph, and beside it a tiny one that takes nothing but start-up, in turn.

    Returns the medians of the rounds, and every round.
    """
    shape, rounds = shape_of(scale.single), []
    for _ in range(scale.rounds):
        small, large = (
            runs_of(root, (1,), generator, str(device), **one) for one in ({"height": 64, "width": 64}, shape)
        )
        start_up, seconds = (found["runs"][0]["seconds"] for found in (small, large))
        rounds.append({"start_up": start_up, "seconds": seconds - start_up, "peak_mib": large["peak_mib"]})
    return shape | {
        "megapixels": scale.single,
        "rounds": rounds,
        "peak_mib": max(found["peak_mib"] for found in rounds),
        **{what: median(found[what] for found in rounds) for what in ("start_up", "seconds")},
    }


def scaling(scale: Scale, generator: str, device: torch.device, root: Path, two_cores: Sequence[int]) -> dict[str, Any]:
    """Measures two processes on two cores and one on one, in rounds; returns their rates and the ratios.

    Beside it stands what two cores do at all of plain products: those of a virtual machine may be two threads of one.
    """
    rounds = []
    for _ in range(scale.rounds):
        started, stolen = time.perf_counter(), stolen_seconds()
        one, two = (
            runs_of(root, scale.processes, generator, str(device), processes=len(on_cores), on_cores=on_cores)
            for on_cores in (two_cores[:1], two_cores)
        )
        rates, products = (
            [found["images_per_second"] for found in (one, two)],
            [product_rate(two_cores[:n]) for n in (1, 2)],
        )
        rounds.append(
            {
                "one": rates[0],
                "two": rates[1],
                "ratio": rates[1] / rates[0] if all(rates) else None,
                "products": products[1] / products[0],
                "stolen_share": stolen_share(started, stolen),
                "peak_mib": max(one["peak_mib"], two["peak_mib"]),
            }
        )
    return {
        "rounds": rounds,
        "peak_mib": max(found["peak_mib"] for found in rounds),
        **{what: median(found[what] for found in rounds) for what in ("one", "two", "ratio", "products")},
    }


def growth_section(scale: Scale, generator: str, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns figures of more images, larger ones, and more processes."""
    figures: dict[str, Any] = {"small_side": scale.small}
    few = runs_of(root, scale.growing, generator, str(device), scale.small, scale.small)["runs"]
    runs = [Run(**run) for run in few]
    figures["images"] = [
        asdict(run) | {"images_per_second": images_per_second(before, run)}
        for before, run in zip(runs, runs[1:], strict=False)
    ]
    figures["megapixels"] = {
        size: shape_of(size) | runs_of(root, counts, generator, str(device), **shape_of(size))
        for size, counts in scale.megapixels.items()
    }
    figures["single"] = alone(scale, generator, device, root)
    if device.type == "cpu" and hasattr(os, "sched_setaffinity") and cores() > 1:
        figures["scaling"] = scaling(scale, generator, device, root, sorted(os.sched_getaffinity(0))[:2])
    return figures
