"""One prepared check of a machine with a GPU, of at most eight minutes: tests, speed, and figures as JSON.

The parts run one after another, each in a process of its own with a time limit, so that one which fails or hangs leaves
the figures of the others:

- `rates`: matrix products, TFLOP/s in float32 and bfloat16.
- `tests`: those that need a GPU (tests/compute/test_gpu.py); none may be skipped.
- `compact` and `vit`: `unseg protect` beside the plain way at equal noise, each precision of the network, and the image
  encoder's TFLOP/s, as `benchmarks.generation` measures them.
- `training`: this project's step beside the plain one, as `benchmarks.training_step` measures them.

`achieved` holds the shares of the measured rate of matrix products that encoder and training step reach.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import sections, tables, training_step
from benchmarks.machine import machine, matrix_rate
from unseg.compute.device import choose_device
from unseg.errors import UserError

# Seconds for each part, start of its process included: under eight minutes together.
LIMITS = {"rates": 25, "tests": 120, "compact": 90, "vit": 130, "training": 105}
QUICK_SLACK = 3  # times as long for the quick check, which runs where a processor does everything
ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "compute" / "test_gpu.py"

SCALE = dataclasses.replace(
    sections.ON_GPU, compact=(100, 800), compact_plain=100, vit_images=(16, 64), vit_plain=8, rounds=1
)
QUICK = dataclasses.replace(sections.QUICK, precisions=True)


# --- the parts
# ---------------------------------------------------------------------------------------------------------


def rates(quick: bool, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns TFLOP/s of matrix products by precision."""
    seconds = 0.1 if quick else 2.0
    return {
        str(kind).removeprefix("torch."): matrix_rate(device, kind, seconds) for kind in (torch.float32, torch.bfloat16)
    }


def tests(quick: bool, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns how many tests passed, failed and were skipped; UserError unless all ran and passed.

    Without a GPU all are skipped, as they should be.
    """
    report = root / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(TESTS)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not report.exists():
        raise UserError(f"pytest: exit code {ran.returncode}: {(ran.stdout + ran.stderr).strip().splitlines()[-1:]}")
    figures, on_cpu = counted(report), device.type == "cpu"
    if figures["broken"] or bool(figures["skipped"]) != on_cpu or bool(figures["passed"]) == on_cpu:
        raise UserError(
            f"{figures['passed']} tests passed, {figures['skipped']} were skipped, these failed: {figures['broken']}"
        )
    return figures


def counted(report: Path) -> dict[str, Any]:
    """Returns the counts of a JUnit report: passed, skipped, and the names of those that failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "skipped": skipped,
        "broken": [case.get("name") for case in failed],
    }


def compact(quick: bool, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns the figures of the generator that ships."""
    return sections.compact_section(QUICK if quick else SCALE, "compact", device, root)


def vit(quick: bool, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns the figures of ViT-B with random weights."""
    return sections.vit_section(QUICK if quick else SCALE, device, root)


def training(quick: bool, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns both steps' rates, their ratio, and the TFLOP/s that this project's step comes to.

    Its operations are those of the plain step: what has to be computed, whatever form it takes here.
    """
    scale = training_step.QUICK if quick else dataclasses.replace(training_step.FULL, rounds=3)
    samples = training_step.write_samples(root, 4 * scale.batch_size)
    figures = training_step.compare(samples, scale, device)
    this, plain = (figures[way]["images_per_second"] for way in training_step.STEPS)
    images = scale.batch_size * len(scale.config.phases)
    work = training_step.operations(samples, scale, device)
    return figures | {"networks": scale.name, "ratio": this / plain, "step_tflops": work / images * this / 1e12}


PARTS: dict[str, Callable[[bool, torch.device, Path], dict[str, Any]]] = {
    "rates": rates,
    "tests": tests,
    "compact": compact,
    "vit": vit,
    "training": training,
}


# --- all of them
# -------------------------------------------------------------------------------------------------------


def limited(arguments: Sequence[str], seconds: float) -> str | None:
    """Runs a Python process, and ends it and all that it started after so many seconds.

    Returns None where it succeeded, else why it did not, in one line.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"was not done within {seconds:g} seconds"
    lines = said.strip().splitlines() or ["no output"]
    return f"exit code {process.returncode}: {lines[-1]}" if process.returncode else None


def measured(part: str, quick: bool, device: torch.device, limit: float) -> dict[str, Any]:
    """Returns the figures of a part and the seconds that it took; under "failed" why there are none."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="unseg-gpu-check-") as folder:
        out = Path(folder) / "figures.json"
        arguments = ["-m", "benchmarks.gpu_check", "--part", part, "--device", str(device), "--out", str(out)]
        why = limited([*arguments, *(["--quick"] if quick else [])], limit)
        figures = {"failed": why} if why else json.loads(out.read_text(encoding="utf-8"))
    return {**figures, "took": time.perf_counter() - started}


def achieved(figures: Mapping[str, Any]) -> dict[str, float]:
    """Returns the shares of the measured rates of matrix products that encoder and training step reach."""
    matrix, shares = figures["rates"], {}
    for precision, way in figures["vit"].get("ways", {}).items():
        if precision in matrix and "encoder_tflops" in way:
            shares[f"image encoder, {precision}"] = way["encoder_tflops"] / matrix[precision]
    if "bfloat16" in matrix and "step_tflops" in figures["training"]:
        shares["training step, bfloat16"] = figures["training"]["step_tflops"] / matrix["bfloat16"]
    return shares


def check(quick: bool, device: torch.device, limits: Mapping[str, float]) -> dict[str, Any]:
    """Returns the figures of all parts."""
    started = time.perf_counter()
    figures: dict[str, Any] = {
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "quick": quick,
    }
    for part, limit in limits.items():
        print(f"checking: {part} (at most {limit:g} s)", file=sys.stderr, flush=True)
        figures[part] = measured(part, quick, device, limit)
    figures["achieved"] = achieved(figures)
    figures["seconds"] = time.perf_counter() - started
    return figures


def show(figures: Mapping[str, Any]) -> None:
    """Prints the figures for people, and last what failed."""
    console = Console()
    done = {name: figures[name] for name in ("compact", "vit") if "failed" not in figures[name]}
    matrix = {} if "failed" in figures["rates"] else {k: figures["rates"][k] for k in ("float32", "bfloat16")}
    console.print(
        tables.table({name: figures[name] for name in ("machine", "device")} | {"matrix_tflops": matrix} | done)
    )
    if "failed" not in figures["tests"]:
        print(f"tests: {figures['tests']['passed']} passed, {figures['tests']['skipped']} skipped")
    if "failed" not in figures["training"]:
        step = figures["training"]
        print(
            f"training step: {step['this']['images_per_second']:.3g} images/s, {step['ratio']:.2f} times the plain one"
        )
    for what, share in figures["achieved"].items():
        print(f"{what}: {share:.0%} of the measured rate of matrix products")
    for part in LIMITS:
        if "failed" in figures[part]:
            print(f"failed: {part}: {figures[part]['failed']}")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 where everything was measured and passed, 1 where a part failed, 2 where it could not start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description="Check a machine with a GPU.")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check.json"), help="where the figures go, as JSON")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny networks: tests the check, measures nothing")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what `measured` starts
    options = parser.parse_args(arguments)
    try:
        if options.device == "cpu" and not options.quick:
            raise UserError("--device cpu: measures nothing worth keeping; add --quick, which tests the check itself")
        device = choose_device(options.device)
        if options.part:
            with tempfile.TemporaryDirectory(prefix="unseg-gpu-check-") as folder:
                figures = PARTS[options.part](options.quick, device, Path(folder))
        else:
            slack = QUICK_SLACK if options.quick else 1
            figures = check(options.quick, device, {part: slack * limit for part, limit in LIMITS.items()})
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.part:
        return 0
    show(figures)
    print(f"Written: {options.out}")
    return int(any("failed" in figures[part] for part in LIMITS))


if __name__ == "__main__":
    sys.exit(main())
