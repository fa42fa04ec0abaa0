"""Speed and memory of protecting images, printed as a table and written as JSON, beside the plain way of the published code.

Figures are of images that were decoded from JPEG photographs and written to disk, after a first that is not counted:

- images/s of the real `unseg protect`, in a process of its own: the images that a longer run has beyond a shorter one ÷ the
  seconds that it takes beyond it, so that start-up and warm-up, which both share, are not in it.
- peak memory: the largest resident set of those processes.
- the plain way (`benchmarks.plain_generation`): the median of its images, one after another in one process.
- the ratio of both: they are measured in turn, in rounds, since a virtual machine's speed moves by a third from one minute to the
  next; the median of the rounds' ratios, beside each of them and the share of the cores' time that the host took away (Linux).
- achieved TFLOP/s: the operations of the image encoder (`encoder_operations`) ÷ its seconds, beside the rate of plain matrix
  products on the same machine.
- on a GPU also the ways of computing (`ways`): each form of attention, half precision, compiled, as a graph; with batches as
  `unseg protect` has them, pixels beside those of the plainest way.

Sections: `compact` and `vit`, the two kinds of generator, each with its seconds a stage from inside a run
(`benchmarks.stage_clock`) and its ratio to the plain way at equal noise; `growth`, with the number of images, their size and the
number of processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.plain_generation import clock_encoder, protect_plainly
from benchmarks.stage_clock import stage_figures
from segment_anything_training.build import SAM_CONFIGS, build_generator, is_sam_derived
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.sam import PATCH_SIZE, PROMPT_DIM, SamConfig
from unseg.compute.device import choose_device
from unseg.compute.gpu import first_line
from unseg.compute.threads import cores
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.method.noise import apply
from unseg.protecting.pipeline import default_batch_size
from unseg.protecting.protector import Framed, Protector, reproducible
from unseg.protecting.settings import ProtectSettings
from unseg.storage.image_decoding import read_image
from unseg.storage.weights import load_generator, save_generator

SIDE = 512
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")  # in scikit-image's own package: nothing is fetched
SECTIONS = ("compact", "vit", "growth")
EQUAL_NOISE = 1e-4


@dataclass(frozen=True)
class Scale:
    """How much is measured. Pairs are the images of a shorter and a longer run. plain: images of the plain way. growing: the
    numbers of small images, of `small` pixels a side. megapixels: size → pair. single: megapixels of one photograph alone.
    vit: None for ViT-B. rounds: of two things that are compared, in turn.
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


FULL = Scale(
    (100, 1000),
    200,
    96,
    (1, 3),
    2,
    (10, 100, 1000, 10000),
    96,
    {0.25: (50, 200), 1: (20, 80), 4: (8, 32), 12: (3, 12), 24: (2, 8)},
    24,
    (50, 250),
)
ON_GPU = dataclasses.replace(FULL, compact=(100, 2000), compact_plain=500, vit_images=(64, 512), vit_plain=16)
QUICK = Scale(
    (2, 6),
    2,
    4,
    (1, 2),
    1,
    (1, 2, 4),
    64,
    {0.01: (1, 2), 0.04: (1, 2)},
    0.1,
    (2, 6),
    SamConfig(128, 64, 2, 2, (1,), window=4),
    rounds=1,
)


# --- what is measured with --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One `unseg protect`, start-up included. peak_mib: largest resident set."""

    images: int
    seconds: float
    peak_mib: float


def photographs(folder: Path, count: int, seed: int = 0, height: int = SIDE, width: int = SIDE) -> None:
    """Writes `count` different JPEG photographs: random squares of scikit-image's, resized."""
    try:
        import skimage.data
    except ImportError:
        raise UserError("scikit-image is not installed; run: pip install 'unseg[quickstart]'") from None
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    sources = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    for i in range(count):
        source = sources[i % len(sources)]
        side = int(draw.integers(min(source.shape[:2]) // 2, min(source.shape[:2]) + 1))
        top, left = (int(draw.integers(0, length - side + 1)) for length in source.shape[:2])
        square = cv2.resize(
            source[top : top + side, left : left + side], (width, height), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(
            str(folder / f"{i:05d}.jpg"), cv2.cvtColor(square, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]
        )


# A process's peak on Linux is never below that of the one that started it, hence a small one in between.
LAUNCHER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
json.dump([time.perf_counter() - started, usage.ru_maxrss, os.waitstatus_to_exitcode(status)], open(sys.argv[1], "w"))
"""


def timed_process(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident set (MiB) of a Python process; UserError with its last words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        launched = subprocess.run(
            [sys.executable, "-c", LAUNCHER, str(figures), sys.executable, *arguments],
            check=True,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        seconds, peak, code = json.loads(figures.read_text())
    if code != 0:
        words = launched.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"{' '.join(arguments)}: exit code {code}: {words[-1]}")
    return seconds, peak / (2**20 if sys.platform == "darwin" else 2**10)


def protect_run(
    images: Path,
    count: int,
    out: Path,
    generator: str,
    device: str = "auto",
    processes: int = 1,
    on_cores: Sequence[int] | None = None,
    extra: Sequence[str] = (),
) -> Run:
    """`unseg protect` on the photographs of a folder, as a user runs it. on_cores: on these alone. extra: more options."""
    pin = "" if on_cores is None else f"import os; os.sched_setaffinity(0, {list(on_cores)}); "
    command = f"{pin}import sys; from unseg.cli import main; sys.exit(main())"
    options = ["--generator", generator, "--device", device, "--processes", str(processes), *extra]
    return Run(count, *timed_process(["-c", command, "protect", str(images), "--out", str(out), *options]))


def images_per_second(short: Run, long: Run) -> float | None:
    """The rate of the images that the longer run has beyond the shorter one; None where the clock cannot tell."""
    seconds = long.seconds - short.seconds
    return (long.images - short.images) / seconds if seconds > 0 else None


def runs_of(
    root: Path,
    counts: Sequence[int],
    generator: str,
    device: str,
    height: int = SIDE,
    width: int = SIDE,
    **options: Any,
) -> dict[str, Any]:
    """Runs of rising length, each on photographs of its own that do not stay: what each took, and the last one's rate."""
    runs = []
    for count in counts:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            photographs(Path(folder) / "in", count, seed=count, height=height, width=width)
            runs.append(protect_run(Path(folder) / "in", count, Path(folder) / "out", generator, device, **options))
    return {
        "runs": [asdict(run) for run in runs],
        "images_per_second": images_per_second(*runs[-2:]) if len(runs) > 1 else None,
        "peak_mib": max(run.peak_mib for run in runs),
    }


def median(figures: Iterable[float | None]) -> float | None:
    """Of those that there are; None without any."""
    found = [figure for figure in figures if figure is not None]
    return statistics.median(found) if found else None


def stolen_seconds() -> float | None:
    """Seconds of all cores together that the host of a virtual machine gave to others since it started (Linux; else None)."""
    try:
        return int(Path("/proc/stat").read_text(encoding="ascii").split(None, 9)[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def stolen_share(started: float, stolen: float | None) -> float | None:
    """The share of the cores' time that the host took since then; started and stolen: `perf_counter` and `stolen_seconds` then."""
    took, now = time.perf_counter() - started, stolen_seconds()
    return None if stolen is None or now is None else (now - stolen) / took / (os.cpu_count() or 1)


def beside_plain(
    scale: Scale,
    plain_images: Path,
    counts: Sequence[int],
    generator: str,
    device: torch.device,
    root: Path,
    **shape: int,
) -> dict[str, Any]:
    """`unseg protect` and the plain way in turn, `scale.rounds` times: the median rates, and the median of the ratios."""
    ours, plain, rounds = [], [], []
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


def shape_of(megapixels: float) -> dict[str, int]:
    """Height and width of a photograph of that size, 3:2."""
    width = round((megapixels * 1.5e6) ** 0.5)
    return {"height": round(width / 1.5), "width": width}


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """TFLOP/s of products of the shapes of ViT-B's largest layer (4,096×768 by 768×3,072; eight images on a GPU): the best."""
    rows = 4096 * (8 if device.type == "cuda" else 1)
    left, right = torch.randn(rows, 768, device=device, dtype=dtype), torch.randn(768, 3072, device=device, dtype=dtype)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * rows * 768 * 3072 / best / 1e12


def encoder_operations(config: SamConfig) -> int:
    """Floating-point operations of SAM's image encoder for one image: two for every multiplication of its matrix products.

    Windows count without the tokens that fill the last ones, as much as has to be computed.
    """
    tokens, dim = config.grid**2, config.embed_dim
    layers = tokens * 12 * dim * dim  # queries, keys, values: 3; projection: 1; the two layers of the MLP: 8
    attended = sum(tokens if index in config.global_blocks else config.window**2 for index in range(config.depth))
    relative = sum(
        2 * (config.grid if index in config.global_blocks else config.window) for index in range(config.depth)
    )
    attention = tokens * dim * (2 * attended + relative)
    patches = tokens * dim * 3 * PATCH_SIZE**2
    neck = tokens * PROMPT_DIM * (dim + 9 * PROMPT_DIM)
    return 2 * (config.depth * layers + attention + patches + neck)


# --- parts that run in a process of their own ------------------------------------------------------------------------


def run_part(part: str, images: Path, weights: str, device: torch.device, noise: Path) -> dict[str, Any]:
    """What a process of `in_process` does; leaves the first image's noise in the file `noise`.

    "stages": a run whose stages are timed. "plain": the images the plain way. "encoder": this project's network, and the
    seconds of its image encoder; the first image is not counted in either. "ways": see `ways`.
    """
    if part == "ways":
        return {"ways": ways(load_generator(weights, device).network, sorted(images.iterdir()), device)}
    if part == "stages":
        return stage_figures(images, noise.parent / "stages", ProtectSettings(generator=weights, device=str(device)))
    network, paths = load_generator(weights, device).network, sorted(images.iterdir())
    if part == "plain":
        run = protect_plainly(paths, noise.parent / "plain", network, Budget(), device)
        torch.save(run.noise, noise)
        seconds, encoder_seconds = run.seconds[1:], run.encoder_seconds[1:]
        figures = {"seconds": seconds, "images_per_second": 1 / statistics.median(seconds)}
    else:
        protector = Protector(network, Budget(), device=device)
        encoder_seconds = clock_encoder(network, device)
        for path in paths:
            image = read_image(path).pixels
            noises = protector.noise([protector.frame(image, np.ones(image.shape[:2], bool))])
            if path == paths[0]:
                torch.save(noises[0], noise)
        encoder_seconds, figures = encoder_seconds[1:], {}
    if encoder_seconds:
        figures["encoder_tflops"] = encoder_operations(network.config) / statistics.median(encoder_seconds) / 1e12
    if device.type == "cuda":
        figures["gpu_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return figures


# What a network can be set to, by what the table calls it. The first is what the others' pixels are compared with.
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, graph": {"graph": True},
    "float32, compiled": {"compiled": True},
    "float32, compiled, graph": {"compiled": True, "graph": True},
}
SAM_WAYS: dict[str, dict[str, Any]] = WAYS | {
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    **{
        f"float16, attention {form}": {"precision": "float16", "attention": form}
        for form in ("flex", "bias", "fastest")
    },
    "float16, graph": {"precision": "float16", "graph": True},
    "float16, compiled": {"precision": "float16", "compiled": True},
    "float16, compiled, graph": {"precision": "float16", "compiled": True, "graph": True},
    "float16, fastest attention, compiled, graph": {
        "precision": "float16",
        "attention": "fastest",
        "compiled": True,
        "graph": True,
    },
}
TIMED_BATCHES = 5
FAST = ("--precision", "float16", "--compile", "--graph")  # of `unseg protect` on a GPU, beside its defaults


def ways(network: nn.Module, paths: Sequence[Path], device: torch.device) -> dict[str, dict[str, Any]]:
    """Every way in which the network can compute, on one batch of different photographs, transfers and framing left out.

    images_per_second of the network; encoder_tflops, where it has an image encoder, called by itself (so not as a graph; in
    bfloat16 it is left out); same and most: the share of unlearnable values that equal the first way's, with everything the
    object, and the largest difference; notes: what did not work, so that the figures are of something else. attention: of
    "fastest", each form's seconds or why it was dropped.
    """
    size, photos, first, found = default_batch_size(device, network.image_size), [], [], {}
    while len(photos) < size:
        photos += [read_image(path).pixels for path in paths[: size - len(photos)]]
    masks, has_encoder = [np.ones(image.shape[:2], bool) for image in photos], is_sam_derived(network)
    for name, settings in (SAM_WAYS if has_encoder else WAYS).items():
        if settings.get("graph") and device.type != "cuda":
            continue
        torch.compiler.reset()  # what one way compiled is no part of the next
        protector, notes = Protector(network, Budget(), device=device, batch_size=size, **settings), []
        framed = [protector.frame(image, mask) for image, mask in zip(photos, masks)]
        try:
            noises = protector.noise(framed, notes)
            seconds = [_timed(lambda: protector.noise(framed, notes)) for _ in range(TIMED_BATCHES)]
            encoder = (
                _encoder_seconds(protector, framed)
                if has_encoder and settings.get("precision") != "bfloat16" and not settings.get("graph")
                else None
            )
        except RuntimeError as error:  # of memory, kernels and compilers: the other ways can still be measured
            found[name] = {"failed": first_line(error)}
            continue
        made = [apply(image, one, mask, Budget()) for image, one, mask in zip(photos, noises, masks)]
        first = first or made
        change = np.concatenate([np.abs(one.astype(int) - other).ravel() for one, other in zip(made, first)])
        found[name] = {
            "images_per_second": size / statistics.median(seconds),
            "batch": size,
            "same": float((change == 0).mean()),
            "most": int(change.max()),
            "notes": sorted(set(notes)),
        }
        if encoder is not None:
            found[name]["encoder_tflops"] = size * encoder_operations(network.config) / encoder / 1e12
        if settings.get("attention") == "fastest":
            from segment_anything_training.image_encoder import (
                choices,  # it takes seconds that the compact one does not need
            )

            found[name]["attention"] = {
                kind: [asdict(form) for form in forms] for kind, forms in choices.measured.items()
            }
    return found


def _encoder_seconds(protector: Protector, framed: Sequence[Framed]) -> float:
    """The median call of a network's image encoder on the batch, as the protector has set it."""
    network, device = protector.network, protector.device
    batch = torch.cat([item.image for item in framed]).to(device)

    def ask() -> None:
        with reproducible():
            network.image_encoder(network.normalise(batch))
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    ask()
    return statistics.median(_timed(ask) for _ in range(TIMED_BATCHES))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_process(part: str, images: Path, weights: str, device: torch.device, root: Path) -> dict[str, Any]:
    """`run_part` in a process of its own; its peak memory is among the figures."""
    out = root / f"{part}.json"
    _, peak = timed_process(
        [
            "-m",
            "benchmarks.generation",
            "--part",
            part,
            "--images",
            str(images),
            "--generator",
            weights,
            "--device",
            str(device),
            "--noise",
            str(root / f"{part}.pt"),
            "--out",
            str(out),
        ]
    )
    return json.loads(out.read_text(encoding="utf-8")) | {"peak_mib": peak}


def noise_difference(root: Path, parts: Sequence[str]) -> float:
    """The largest difference between the noises that two parts left; UserError where they are not equal."""
    one, other = (torch.load(root / f"{part}.pt", weights_only=True) for part in parts)
    difference = float((one - other).abs().max())
    if not difference <= EQUAL_NOISE:
        raise UserError(
            f"the noise of {parts[0]} and of {parts[1]} differ by {difference:.2g}: their times cannot be compared"
        )
    return difference


# --- the sections ----------------------------------------------------------------------------------------------------


def compact_section(scale: Scale, generator: str, device: torch.device, root: Path) -> dict[str, Any]:
    """The generator that ships, on photographs of 512×512."""
    photographs(root / "some", scale.stages)
    photographs(root / "plainly", 1 + scale.compact_plain)
    figures = beside_plain(scale, root / "plainly", scale.compact, generator, device, root)
    figures["where"] = in_process("stages", root / "some", generator, device, root)
    photographs(root / "one", 1)
    in_process("encoder", root / "one", generator, device, root)
    if device.type == "cuda":
        figures["ways"] = in_process("ways", root / "some", generator, device, root)["ways"]
    return figures | {"noise_difference": noise_difference(root, ("encoder", "plain"))}


def vit_section(scale: Scale, device: torch.device, root: Path) -> dict[str, Any]:
    """ViT-B with random weights, on photographs of 1024×768."""
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
    if device.type == "cuda":
        figures["where"] = in_process("stages", root / "vit-images", str(weights), device, root)
        figures["ways"] = in_process("ways", root / "vit-images", str(weights), device, root)["ways"]
        fast = runs_of(root, scale.vit_images, str(weights), str(device), height=768, width=1024, extra=FAST)
        rate = fast["images_per_second"]
        figures["fast"] = fast | {"ratio": None if rate is None else rate / figures["plain"]["images_per_second"]}
    return figures | {"noise_difference": noise_difference(root, ("encoder", "plain"))}


def alone(scale: Scale, generator: str, device: torch.device, root: Path) -> dict[str, Any]:
    """One large photograph, and beside it a tiny one that takes nothing but start-up, in turn: medians of the rounds."""
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
    """Two processes on two cores to one on one, in rounds, and beside it what two cores do at all of plain products: those of a
    virtual machine may be two threads of one.
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


# Of a core: products of matrices in a thread, from the word to begin on.
PRODUCTS = """
import os, sys, time
core, seconds = int(sys.argv[1]), float(sys.argv[2])
os.sched_setaffinity(0, {core})
import torch
torch.set_num_threads(1)
left, right = torch.randn(1024, 768), torch.randn(768, 768)
left @ right
print("ready", flush=True)
sys.stdin.readline()
started, count = time.perf_counter(), 0
while time.perf_counter() - started < seconds:
    left @ right
    count += 1
print(count / (time.perf_counter() - started), flush=True)
"""


def product_rate(on_cores: Sequence[int], seconds: float = 2.0) -> float:
    """Products of matrices a second of all cores together, each in a process of its own, at the same time."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PRODUCTS, str(core), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for core in on_cores
    ]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


def growth_section(scale: Scale, generator: str, device: torch.device, root: Path) -> dict[str, Any]:
    """More images, larger ones, and more processes."""
    figures: dict[str, Any] = {"small_side": scale.small}
    few = runs_of(root, scale.growing, generator, str(device), scale.small, scale.small)["runs"]
    runs = [Run(**run) for run in few]
    figures["images"] = [
        asdict(run) | {"images_per_second": images_per_second(before, run)} for before, run in zip(runs, runs[1:])
    ]
    figures["megapixels"] = {
        size: shape_of(size) | runs_of(root, counts, generator, str(device), **shape_of(size))
        for size, counts in scale.megapixels.items()
    }
    figures["single"] = alone(scale, generator, device, root)
    if device.type == "cpu" and hasattr(os, "sched_setaffinity") and cores() > 1:
        figures["scaling"] = scaling(scale, generator, device, root, sorted(os.sched_getaffinity(0))[:2])
    return figures


def benchmark(
    only: Sequence[str], scale: Scale, generator: str, device: torch.device, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All figures of the sections named. keep: is given what there is after each of them."""
    figures: dict[str, Any] = {
        "machine": machine(),
        "generator": generator,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }
    figures["matrix_tflops"] = {"float32": matrix_rate(device)}
    if device.type == "cuda":
        figures["matrix_tflops"]["bfloat16"] = matrix_rate(device, torch.bfloat16)
    sections = {
        "compact": lambda root: compact_section(scale, generator, device, root),
        "vit": lambda root: vit_section(scale, device, root),
        "growth": lambda root: growth_section(scale, generator, device, root),
    }
    for section in only:
        print(f"measuring: {section}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="unseg-benchmark-") as folder:
            figures[section] = sections[section](Path(folder))
        figures[section]["took"] = time.perf_counter() - started
        keep(figures)
    return figures


# --- for people ------------------------------------------------------------------------------------------------------


def table(figures: dict[str, Any]) -> Table:
    """The figures for people."""
    where = figures["machine"]
    computer = figures["device"] if figures["device"] != "CPU" else f"{where['processor']}, {where['cores']} cores"
    result = Table(title=f"{computer}, {where['threads']} threads, torch {where['torch']}")
    result.add_column("what")
    result.add_column("figure", justify="right")
    for kind, rate in figures["matrix_tflops"].items():
        result.add_row(f"matrix products, {kind}", f"{rate:.3g} TFLOP/s")
    for section, rows in (("compact", _generator_rows), ("vit", _generator_rows), ("growth", _growth_rows)):
        if section in figures:
            result.add_section()
            for row in rows(section, figures[section], figures["matrix_tflops"]):
                result.add_row(*row)
    return result


def _rate(figure: float | None) -> str:
    return "not measurable" if figure is None else f"{figure:.3g}"


def _generator_rows(section: str, figures: dict[str, Any], matrix: dict[str, float]) -> list[tuple[str, str]]:
    rows = [
        (f"{section}: images/s, JPEG to PNG on disk", _rate(figures["images_per_second"])),
        ("  the plain way, JPEG to JPEG", _rate(figures["plain"]["images_per_second"])),
        ("  ratio to the plain way, median round", _rate(figures["ratio"])),
        *(
            (
                f"    round {number}: here, plain, ratio",
                ", ".join(_rate(found[what]) for what in ("images_per_second", "plain_images_per_second", "ratio"))
                + _taken(found),
            )
            for number, found in enumerate(figures["rounds"], start=1)
        ),
        ("  largest difference of the noise", f"{figures['noise_difference']:.1g}"),
    ]
    for run in figures["runs"]:
        rows.append(
            (
                f"  {run['images']} images: seconds with start-up; peak memory",
                f"{run['seconds']:.1f}; {run['peak_mib']:.0f} MiB",
            )
        )
    rows.append(("  the plain way: peak memory", f"{figures['plain']['peak_mib']:.0f} MiB"))
    for way in ("encoder", "plain"):
        if "encoder_tflops" in figures.get(way, {}):
            rows.append(
                (
                    f"  image encoder, {'this' if way == 'encoder' else 'plain'}",
                    f"{figures[way]['encoder_tflops']:.3g} TFLOP/s",
                )
            )
    if "fast" in figures:
        rows += [
            (f"  with {' '.join(FAST)}: images/s", _rate(figures["fast"]["images_per_second"])),
            ("    ratio to the plain way (goal: 15)", _rate(figures["fast"]["ratio"])),
        ]
    rows += _way_rows(figures.get("ways", {}), matrix)
    where = figures.get("where")
    if where:
        rows += [
            (f"  {name}: ms an image (of processor time)", f"{stage['milliseconds']:.1f} ({stage['processor_ms']:.1f})")
            for name, stage in where["stages"].items()
        ]
        rows.append((f"  device idle; most time beside the network: {where['beside']}", f"{where['idle_share']:.0%}"))
    return rows


def _way_rows(found: dict[str, dict[str, Any]], matrix: dict[str, float]) -> list[tuple[str, str]]:
    """The network alone, in every way. matrix: measured rates of matrix products."""
    rows = []
    for name, way in found.items():
        if "failed" in way:
            rows.append((f"  network, {name}", f"failed: {way['failed']}"))
            continue
        rows.append(
            (
                f"  network, {name}: images/s (same values; largest difference)",
                f"{_rate(way['images_per_second'])} ({way['same']:.3%}; {way['most']})",
            )
        )
        rows += [("    ", note) for note in way["notes"]]
        if "encoder_tflops" in way:
            rate = way["encoder_tflops"]
            share = f", {rate / matrix['bfloat16']:.0%} of bfloat16's rate (goal: 35 %)" if "bfloat16" in matrix else ""
            rows.append(("    image encoder", f"{rate:.3g} TFLOP/s{share}"))
        for kind, forms in way.get("attention", {}).items():
            rows += [
                (f"    attention on {kind}: {form['form']}", form["dropped"] or f"{1e3 * form['seconds']:.3g} ms")
                for form in forms
            ]
    return rows


def _growth_rows(section: str, figures: dict[str, Any], matrix: dict[str, float]) -> list[tuple[str, str]]:
    side, alone = figures["small_side"], figures["single"]
    rows = [(f"{found['images']} images of {side}×{side}: images/s; peak memory", found) for found in figures["images"]]
    rows += [
        (f"{found['width']}×{found['height']}: images/s; peak memory", found)
        for found in figures["megapixels"].values()
    ]
    shown = [(what, f"{_rate(found['images_per_second'])}; {found['peak_mib']:.0f} MiB") for what, found in rows]
    if "scaling" in figures:
        found = figures["scaling"]
        shown += [
            (
                "1 process, 2 processes, one core each: images/s; peak memory",
                f"{_rate(found['one'])}, {_rate(found['two'])}; {found['peak_mib']:.0f} MiB",
            ),
            ("  two to one, median round (plain products)", f"{_rate(found['ratio'])} ({found['products']:.3g})"),
        ]
        shown += [
            (
                f"    round {number}: two to one (plain products)",
                f"{_rate(one['ratio'])} ({one['products']:.3g})" + _taken(one),
            )
            for number, one in enumerate(found["rounds"], start=1)
        ]
    each = ", ".join(f"{one['seconds']:.2f}" for one in alone["rounds"])
    return [
        *shown,
        (
            f"one photograph of {alone['width']}×{alone['height']}: seconds without start-up; peak memory",
            f"{alone['seconds']:.2f} ({each}); {alone['peak_mib']:.0f} MiB",
        ),
        ("  start-up: seconds", f"{alone['start_up']:.2f}"),
    ]


def _taken(found: dict[str, Any]) -> str:
    """What the host took in a round."""
    return "" if found["stolen_share"] is None else f"; {found['stolen_share']:.1%} taken by the host"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation", description="Speed and memory of unseg protect."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark.json"), help="where the figures go, as JSON")
    parser.add_argument(
        "--generator", default="compact", help="as for unseg protect; of the sections compact and growth"
    )
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help=f"sections, separated by commas: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--quick", action="store_true", help="a few images and a tiny ViT: tests the benchmark, measures nothing"
    )
    for hidden in ("--part", "--images", "--noise"):  # what `in_process` starts
        parser.add_argument(hidden, type=str if hidden == "--part" else Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    def write(figures: dict[str, Any]) -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures | {"quick": options.quick}, indent=1) + "\n", encoding="utf-8")

    try:
        device = choose_device(options.device)
        if options.part:
            write(run_part(options.part, options.images, options.generator, device, options.noise))
            return 0
        only = options.only.split(",")
        if not set(only) <= set(SECTIONS):
            raise UserError(f"--only {options.only}: choose from {', '.join(SECTIONS)}")
        scale = QUICK if options.quick else ON_GPU if device.type == "cuda" else FULL
        figures = benchmark(only, scale, options.generator, device, write)
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    console = Console()
    console.print(table(figures))
    console.print(f"Written: {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
