"""Processes that are timed and weighed, and the rates that follow from a shorter and a longer run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.photographs import SIDE, photographs
from unseg.errors import UserError


@dataclass(frozen=True)
class Run:
    """Holds what one `unseg protect` took, start-up included. peak_mib: largest resident set."""

    images: int
    seconds: float
    peak_mib: float


# A process's peak on Linux is never below that of the one that started it, hence a small one in between.
LAUNCHER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
figures = [time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]
json.dump([*figures, os.waitstatus_to_exitcode(status)], open(sys.argv[1], "w"))
"""


@dataclass(frozen=True)
class Usage:
    """Holds what a process took. processor: seconds of all cores together. peak_mib: largest resident set."""

    seconds: float
    processor: float
    peak_mib: float


def timed_process(arguments: list[str], good: Sequence[int] = (0,)) -> tuple[float, float]:
    """Returns wall seconds and peak resident set (MiB) of a Python process, as `usage_of` has them."""
    usage = usage_of(arguments, good)
    return usage.seconds, usage.peak_mib


def usage_of(arguments: list[str], good: Sequence[int] = (0,)) -> Usage:
    """Returns what a Python process takes; UserError tells its last words. good: exit codes where it did its work."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        launched = subprocess.run(
            [sys.executable, "-c", LAUNCHER, str(figures), sys.executable, *arguments],
            check=True,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        seconds, processor, peak, code = json.loads(figures.read_text())
    if code not in good:
        words = launched.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"{' '.join(arguments)}: exit code {code}: {words[-1]}")
    return Usage(seconds, processor, peak / (2**20 if sys.platform == "darwin" else 2**10))


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
    """Runs `unseg protect` on the photographs of a folder, as a user runs it.

    on_cores: on these alone. extra: more options.
    """
    pin = "" if on_cores is None else f"import os; os.sched_setaffinity(0, {list(on_cores)}); "
    command = f"{pin}import sys; from unseg.cli import main; sys.exit(main())"
    options = ["--generator", generator, "--device", device, "--processes", str(processes), *extra]
    arguments = ["-c", command, "protect", "--whole-image", str(images), "--out", str(out), *options]
    return Run(count, *timed_process(arguments, good=(0, 1)))  # 1: noise of networks that nobody trained is weak


def images_per_second(short: Run, long: Run) -> float | None:
    """Returns the rate of the images that the longer run has beyond the shorter; None where the clock cannot tell."""
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
    """Measures runs of rising length, each on photographs of its own that do not stay.

    Returns what each run took, the rate of the last two, and the highest peak memory.
    """
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
    """Returns the median of the figures that are not None; None without any."""
    found = [figure for figure in figures if figure is not None]
    return statistics.median(found) if found else None


def stolen_seconds() -> float | None:
    """Returns the seconds of all cores together that the host of a virtual machine gave to others since it started.

    Only Linux tells it; None elsewhere.
    """
    try:
        return int(Path("/proc/stat").read_text(encoding="ascii").split(None, 9)[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def stolen_share(started: float, stolen: float | None) -> float | None:
    """Returns the share of the cores' time that the host took since a moment; None where that cannot be told.

    started and stolen: what `perf_counter` and `stolen_seconds` gave at that moment.
    """
    took, now = time.perf_counter() - started, stolen_seconds()
    return None if stolen is None or now is None else (now - stolen) / took / (os.cpu_count() or 1)
