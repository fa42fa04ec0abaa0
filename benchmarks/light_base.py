"""How the light base starts and what images cost in it, beside the path of torch and the plain way: one table, one run.

    python -m benchmarks.light_base [--rounds 3] [--quick] [--out FILE]

A row each: noise of codes; the compact generator in onnxruntime; the same in torch; and the plain way of the published
code, one image after another (`benchmarks.plain_generation`). A round measures every row in turn; figures are medians
of the rounds. Every process is a real one, from start to end:

- help: seconds of `unseg --help`.
- photograph: seconds and peak memory of `unseg protect` with one photograph of 12 megapixels and its mask.
- images/s: 512×512 photographs with masks, those that a longer run has beyond a shorter one ÷ its seconds beyond it.
- on 2 cores: the same from processor time, as if two cores did nothing else: others on the machine move it little.
- growth: peak memory of the light base with 100, 1,000 and 10,000 images of 96×96.

It prints the table as the documentation has it, and which goals are met. A machine of two cores that does nothing else
takes about six minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.photographs import SIDE, photographs, shape_of
from benchmarks.timed_runs import Usage, usage_of
from unseg.errors import UserError

CORES = 2
# How the rows differ: what is not to be found, and the options of `unseg protect`.
ROWS = {
    "codes": ("torch", ()),
    "compact, onnxruntime": ("torch", ("--noise", "compact")),
    "compact, torch": ("onnxruntime", ("--noise", "compact", "--device", "cpu")),
}
PLAIN = "compact, the plain way"
GROWING = ("codes", "compact, onnxruntime")
# Of rows, at most or at least. flat: peak memory of the most images ÷ that of the fewest.
AT_MOST = {"help_seconds": 0.3, "photograph_seconds": 1.5, "photograph_mib": 350}
LEAST_RATES = {"codes": 120, "compact, onnxruntime": 60}
FLAT = 1.1
PLAIN_RUN = """
import sys
from pathlib import Path
import torch
from benchmarks.plain_generation import protect_plainly
from unseg.method.config import Budget
from unseg.storage.weights import load_generator
paths, network = sorted(Path(sys.argv[1]).iterdir()), load_generator("compact").network
protect_plainly(paths, Path(sys.argv[2]), network, Budget(), torch.device("cpu"))
"""


@dataclass(frozen=True)
class Size:
    """Says how much is measured. short, long: images of the two runs whose difference is taken. growth: images."""

    short: int = 40
    long: int = 340
    megapixels: float = 12
    growth: tuple[int, ...] = (100, 1_000, 10_000)


QUICK = Size(short=2, long=5, megapixels=0.2, growth=(3, 6))


def masked_photographs(folder: Path, count: int, height: int = SIDE, width: int = SIDE) -> None:
    """Writes photographs into FOLDER/in and a mask of an ellipse for each of them into FOLDER/masks."""
    photographs(folder / "in", count, seed=count, height=height, width=width)
    (folder / "masks").mkdir()
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height * 5 // 9), (width // 3, height // 4), 20, 0, 360, 255, -1)
    for path in (folder / "in").iterdir():
        cv2.imwrite(str(folder / "masks" / f"{path.stem}.png"), mask)


def command(row: str, arguments: Iterable[str]) -> Usage:
    """Returns what one `unseg` takes in the row's environment."""
    absent, options = ROWS[row]
    start = f"import sys; sys.modules[{absent!r}] = None; from unseg.cli import main; sys.exit(main())"
    arguments = list(arguments)
    return usage_of(["-c", start, *arguments, *(options if arguments[0] == "protect" else ())])


def protected(row: str, folder: Path) -> Usage:
    """Returns what protecting the photographs of a folder takes."""
    with tempfile.TemporaryDirectory() as out:
        if row == PLAIN:
            return usage_of(["-c", PLAIN_RUN, str(folder / "in"), out])
        inside = Path(out)
        return command(
            row,
            ["protect", str(folder / "in"), "--masks", str(folder / "masks"), "--out", str(inside / "out"), "--quiet"],
        )


def measured(size: Size, rounds: int, root: Path, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Returns the figures of all rows, medians of the rounds, and the peaks of growth.

    keep: is called with what there is after each round and each run of growth.
    """
    for name, count in (("short", size.short), ("long", size.long)):
        masked_photographs(root / name, count)
    masked_photographs(root / "one", 1, **shape_of(size.megapixels))
    found: dict[str, dict[str, list[float]]] = {}
    figures: dict[str, Any] = {}
    for _ in range(rounds):
        for row in (*ROWS, PLAIN):
            for figure, value in _round(row, size, root).items():
                found.setdefault(row, {}).setdefault(figure, []).append(value)
        rows = {row: {name: statistics.median(values) for name, values in each.items()} for row, each in found.items()}
        figures = {"rows": rows, "rounds": found, "growth": {}}
        keep(figures)
    for count in size.growth:
        with tempfile.TemporaryDirectory() as folder:
            masked_photographs(Path(folder), count, height=96, width=96)
            for row in GROWING:
                figures["growth"].setdefault(row, {})[str(count)] = asdict(protected(row, Path(folder)))
        keep(figures)
    return figures


def _round(row: str, size: Size, root: Path) -> dict[str, float]:
    one, short, long = (protected(row, root / name) for name in ("one", "short", "long"))
    images = size.long - size.short
    figures = {
        "photograph_seconds": one.seconds,
        "photograph_processor": one.processor,
        "photograph_mib": one.peak_mib,
        "images_per_second": images / max(long.seconds - short.seconds, 1e-9),
        "on_two_cores": CORES * images / max(long.processor - short.processor, 1e-9),
        "mib": long.peak_mib,
    }
    if row == PLAIN:
        return figures
    helped = command(row, ["--help"])
    return {"help_seconds": helped.seconds, "help_processor": helped.processor, **figures}


def goals(figures: dict[str, Any]) -> list[str]:
    """Returns a line for each goal of the light base: what was measured, and whether that is good enough."""
    lines = []
    for row, least in LEAST_RATES.items():
        found = figures["rows"][row]
        lines += [_goal(row, name, found[name], found[name] <= most, f"≤ {most}") for name, most in AT_MOST.items()]
        rate = found["images_per_second"]
        lines.append(_goal(row, "images_per_second", rate, rate >= least, f"≥ {least}"))
        peaks = [usage["peak_mib"] for usage in figures["growth"][row].values()]
        lines.append(_goal(row, "growth", peaks[-1] / peaks[0], peaks[-1] <= FLAT * peaks[0], f"≤ {FLAT}"))
    return lines


def _goal(row: str, name: str, value: float, is_met: bool, goal: str) -> str:
    return f"{'met' if is_met else 'MISSED'}: {row}: {name} {value:.2f} (goal {goal})"


def table(figures: dict[str, Any]) -> Table:
    """Returns the table that is printed, in Markdown, as the documentation has it."""
    columns = ("", "`--help`", "12 megapixels", "peak", "512×512", "on 2 cores", "peak")
    shown = Table(*columns, box=box.MARKDOWN)
    for row, values in figures["rows"].items():
        helped = f"{values['help_seconds']:.2f} s ({values['help_processor']:.2f})" if "help_seconds" in values else "-"
        shown.add_row(
            row,
            helped,
            f"{values['photograph_seconds']:.2f} s ({values['photograph_processor']:.2f})",
            f"{values['photograph_mib']:.0f} MiB",
            f"{values['images_per_second']:.1f}/s",
            f"{values['on_two_cores']:.0f}/s",
            f"{values['mib']:.0f} MiB",
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.light_base", description=about)
    default = Path("runs/benchmark-light.json")
    parser.add_argument("--out", type=Path, default=default, help="where the figures go, as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few small images: tests it, measures nothing")
    options = parser.parse_args(arguments)
    about_it = {"machine": machine(), "quick": options.quick}

    def write(figures: dict[str, Any]) -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures | about_it, indent=1) + "\n", encoding="utf-8")

    try:
        with tempfile.TemporaryDirectory(prefix="unseg-benchmark-") as folder:
            figures = measured(QUICK if options.quick else Size(), options.rounds, Path(folder), write)
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    console = Console(width=160)
    console.print(table(figures))
    for row, usages in figures["growth"].items():
        for count, usage in usages.items():
            took = f"{usage['peak_mib']:.0f} MiB, {usage['seconds']:.0f} s"
            console.print(f"{row}, {int(count):,} images of 96×96: {took}")
    for line in goals(figures):
        console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
