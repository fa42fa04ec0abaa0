"""The machine that figures were measured on, how fast it multiplies matrices, and how many operations networks need."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from segment_anything_training.sizes import PATCH_SIZE, SamConfig
from unseg.compute.threads import cores

PROMPT_DIM = 256  # channels of the encoder's result


def machine() -> dict[str, str | int | float]:
    """Returns what figures are measured on."""
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
    """Returns TFLOP/s of matrix products of the shapes of ViT-B's largest layer: the best of those within the seconds.

    The shapes are 4,096×768 by 768×3,072; on a GPU those of eight images.
    """
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
    """Returns the floating-point operations of SAM's image encoder for one image.

    They are two for every multiplication of its matrix products. Windows count without the tokens that fill the last
    ones, as much as has to be computed.
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
    """Returns matrix products a second of all cores together, each in a process of its own, at the same time."""
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
