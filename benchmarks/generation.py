"""Speed and memory of protecting images beside the plain way of the published code: a table, and the figures as JSON.

Figures are of images that were decoded from JPEG photographs and written to disk, after a first that is not counted:

- images/s of the real `unseg protect`, in a process of its own: the images that a longer run has beyond a shorter one ÷
  the seconds that it takes beyond it, so that start-up and warm-up, which both share, are not in it.
- peak memory: the largest resident set of those processes.
- the plain way (`benchmarks.plain_generation`): the median of its images, one after another in one process.
- the ratio of both: they are measured in turn, in rounds, since a virtual machine's speed moves by a third from one
  minute to the next. It is the median of the rounds' ratios; each of them is told, with the share of the cores' time
  that the host took away (Linux).
- achieved TFLOP/s: the operations of the image encoder (`encoder_operations`) ÷ its seconds, beside the rate of plain
  matrix products on the same machine.
- on a GPU also the network alone in each precision (`ways`), with batches as `unseg protect` has them, and pixels
  beside those of float32.

Sections: `compact` and `vit`, the two kinds of generator, each with its seconds a stage from inside a run
(`benchmarks.stage_clock`) and its ratio to the plain way at equal noise; `growth`, with the number of images, their
size and the number of processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.machine import machine, matrix_rate
from benchmarks.parts import run_part
from benchmarks.sections import FULL, ON_GPU, QUICK, Scale, compact_section, growth_section, vit_section
from benchmarks.tables import table
from unseg.compute.device import choose_device
from unseg.errors import UserError

SECTIONS = ("compact", "vit", "growth")


def benchmark(
    only: Sequence[str], scale: Scale, generator: str, device: torch.device, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Returns all figures of the sections named. keep: is called with what there is after each of them."""
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
