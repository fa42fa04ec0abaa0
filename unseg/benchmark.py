"""Speed and memory of protecting images, printed as a table and written as JSON.

- images/s: the real `unseg protect` on 512×512 JPEG photographs, in a process of its own, decoding to written PNG. The rate is
  that of the images beyond the first hundred (extra images ÷ extra seconds of the longer run), so start-up and warm-up,
  which both runs share, are not in it.
- peak memory: the largest resident set of those processes. It must not grow with the number of images.
- seconds an image of the ViT-B generator, with random weights: the median of runs after one that is not counted.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segment_anything_training.build import build_generator
from unseg.config import Budget
from unseg.errors import UserError
from unseg.protector import Protector

SIDE = 512
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")  # in scikit-image's own package: nothing is fetched
COUNTS, QUICK_COUNTS = (100, 1000), (2, 6)
WARM_UP_IMAGES = 2
VIT_RUNS = 3


@dataclass(frozen=True)
class Run:
    """One `unseg protect`, start-up included. peak_mib: largest resident set."""

    images: int
    seconds: float
    peak_mib: float


def photographs(folder: Path, count: int, seed: int = 0) -> None:
    """Writes `count` different 512×512 JPEG photographs: random squares of scikit-image's, resized."""
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
        square = cv2.resize(source[top:top + side, left:left + side], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), cv2.cvtColor(square, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])


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
        launched = subprocess.run([sys.executable, "-c", LAUNCHER, str(figures), sys.executable, *arguments], check=True,
                                  stderr=subprocess.PIPE, text=True, errors="replace")
        seconds, peak, code = json.loads(figures.read_text())
    if code != 0:
        words = launched.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"{' '.join(arguments)}: exit code {code}: {words[-1]}")
    return seconds, peak / (2 ** 20 if sys.platform == "darwin" else 2 ** 10)


def protect_run(images: Path, count: int, out: Path, generator: str) -> Run:
    """`unseg protect` on the photographs of a folder, as a user runs it."""
    command = "import sys; from unseg.cli import main; sys.exit(main())"
    return Run(count, *timed_process(["-c", command, "protect", str(images), "--out", str(out), "--generator", generator]))


def images_per_second(short: Run, long: Run) -> float | None:
    """The rate of the images that the longer run has beyond the shorter one; None where the clock cannot tell."""
    seconds = long.seconds - short.seconds
    return (long.images - short.images) / seconds if seconds > 0 else None


def seconds_per_image(name: str, runs: int) -> float:
    """Median seconds that the generator `name` (random weights) takes for a 512×512 image with a mask, one run not counted."""
    torch.manual_seed(0)
    protector = Protector(build_generator(name).eval(), Budget())
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[SIDE // 4:-SIDE // 4, SIDE // 4:-SIDE // 4] = True
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        protector(pixels, mask)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on."""
    return {"processor": _processor(), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(), "load_before": round(os.getloadavg()[0], 2), "torch": torch.__version__,
            "python": platform.python_version(), "system": platform.system(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def benchmark(counts: tuple[int, int], generator: str, vit_runs: int) -> dict:
    """All figures. counts: images of the shorter and the longer run; vit_runs 0 leaves ViT-B out."""
    figures = {"machine": machine(), "generator": generator}
    with tempfile.TemporaryDirectory(prefix="unseg-benchmark-") as folder:
        root = Path(folder)
        for name, count in (("warm-up", WARM_UP_IMAGES), ("short", counts[0]), ("long", counts[1])):
            photographs(root / name, count)
        protect_run(root / "warm-up", WARM_UP_IMAGES, root / "out", generator)
        short = protect_run(root / "short", counts[0], root / "out-short", generator)
        long = protect_run(root / "long", counts[1], root / "out-long", generator)
    figures["runs"] = [asdict(short), asdict(long)]
    figures["images_per_second"] = images_per_second(short, long)
    if vit_runs:
        figures["vit_b_seconds_per_image"] = seconds_per_image("vit_b", vit_runs)
    return figures


def table(figures: dict) -> Table:
    """The figures for people."""
    where = figures["machine"]
    result = Table(title=f"{where['processor']}, {where['cores']} cores, {where['threads']} threads, torch {where['torch']}")
    result.add_column("what")
    result.add_column("figure", justify="right")
    rate = figures["images_per_second"]
    result.add_row(f"{figures['generator']}: images/s, {SIDE}×{SIDE} JPEG to PNG", "not measurable" if rate is None else f"{rate:.1f}")
    for run in figures["runs"]:
        result.add_row(f"  {run['images']} images: seconds, start-up included", f"{run['seconds']:.1f}")
        result.add_row(f"  {run['images']} images: peak memory", f"{run['peak_mib']:.0f} MiB")
    if "vit_b_seconds_per_image" in figures:
        result.add_row("vit_b: seconds an image", f"{figures['vit_b_seconds_per_image']:.1f}")
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m unseg.benchmark", description="Speed and memory of unseg protect.")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark.json"), help="where the figures go, as JSON")
    parser.add_argument("--generator", default="compact", help="as for unseg protect")
    parser.add_argument("--quick", action="store_true", help="a few images and no ViT-B: tests the benchmark, measures nothing")
    options = parser.parse_args(arguments)
    try:
        figures = benchmark(QUICK_COUNTS if options.quick else COUNTS, options.generator, 0 if options.quick else VIT_RUNS)
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    figures["quick"] = options.quick
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    console = Console()
    console.print(table(figures))
    console.print(f"Written: {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
