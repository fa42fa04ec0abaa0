"""Small objects: how large a part of a photograph must be before a network sees that it carries noise.

    python -m benchmarks.detect_small --data DATA/bsds500 --out runs/detect-small.json

A fresh network with ImageNet weights learns on the train and test photographs of BSDS500 to tell which of many small
shapes carry the noise of the first code: discs of 1 to 48 pixels across, and lines that are 32 pixels long and 1 to 6
wide, in any direction. Each carries noise or not at random. Then it is asked about 60 photographs of the validation
part. `accuracy` is the mean of two shares of pixels: of shapes with noise those that are named so, and of shapes
without noise those that are not. 0.5 is chance.

Needs BSDS500 and the package of EfficientNet-lite0's weights, and takes ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.detect_patterns import Segmented
from unseg.commands.console import Terminal
from unseg.compute.progress import Progress
from unseg.errors import UserError
from unseg.evaluation.augmentation import normalise
from unseg.evaluation.time_to_detect import Detecting, DetectionLearner, Question
from unseg.evaluation.trainer import train
from unseg.method.coded_noise import apply_codes
from unseg.method.codes import OBJECT
from unseg.method.config import Budget
from unseg.method.metrics import IGNORE_LABEL
from unseg.method.patterns import book_of
from unseg.storage.files import write_bytes
from unseg.storage.image_decoding import read_image

KEY = b"benchmarks.detect_small"
CELL = 64  # pixels: side of the squares with one shape each
LENGTH = 32  # of lines, pixels
TESTED = 60  # photographs


@dataclass(frozen=True)
class Shape:
    """A disc of `across` pixels, or a line that is so wide."""

    is_line: bool
    across: int

    @property
    def name(self) -> str:
        """Returns what figures call it."""
        return f"{'line' if self.is_line else 'disc'} {self.across}"

    def mask(self, side: int, angle: float) -> np.ndarray:
        """Returns the shape in the middle of a square, side×side bool. angle: of a line, radians."""
        at = np.arange(side) - side // 2 + (0.5 if self.across % 2 == 0 else 0.0)
        y, x = at[:, None], at[None, :]
        if not self.is_line:
            return np.hypot(y, x) <= self.across / 2
        along, beside = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        return (np.abs(along) <= LENGTH / 2) & (np.abs(beside) <= self.across / 2)


SHAPES = (
    *(Shape(False, across) for across in (1, 2, 3, 4, 6, 8, 11, 16, 24, 32, 48)),
    *(Shape(True, width) for width in (1, 2, 3, 4, 6)),
)


@dataclass(frozen=True)
class Placed:
    """A shape in a photograph. where: its square. mask: CELL×CELL bool. is_coded: whether it carries noise."""

    shape: Shape
    where: tuple[slice, slice]
    mask: np.ndarray
    is_coded: bool


def drawn(height: int, width: int, random: np.random.Generator) -> Iterator[Placed]:
    """Yields a shape for each whole square of a photograph."""
    for top in range(0, height - CELL + 1, CELL):
        for left in range(0, width - CELL + 1, CELL):
            shape = SHAPES[random.integers(len(SHAPES))]
            mask = shape.mask(CELL, random.uniform(0, math.pi))
            moved = np.roll(mask, random.integers(-7, 8, 2), (0, 1))
            yield Placed(shape, (slice(top, top + CELL), slice(left, left + CELL)), moved, bool(random.integers(2)))


class SmallShapes:
    """Photographs with shapes of which some carry noise."""

    def __init__(self, photographs: list[np.ndarray]) -> None:
        self.photographs = photographs
        book = book_of([OBJECT])
        self.book = replace(book, patterns=book.patterns[:1])

    def visit(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns a photograph with new shapes, and what is asked of every pixel."""
        noised, asked, _ = self.shown(index, random)
        return noised, asked

    def shown(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[Placed]]:
        """Returns a photograph with new shapes, H×W×3 uint8, what is asked of it, H×W uint8, and its shapes."""
        image = self.photographs[index]
        shapes = list(drawn(image.shape[0], image.shape[1], random))
        asked = np.full(image.shape[:2], IGNORE_LABEL, np.uint8)
        for placed in shapes:
            asked[placed.where][placed.mask] = placed.is_coded
        codes = (asked == OBJECT).astype(np.uint8)
        key = KEY + random.bytes(8)  # another at each visit, or stripes would lie alike in each
        return apply_codes(image, codes, self.book, key, Budget()), asked, shapes


def answered(model: nn.Module, shapes: SmallShapes, progress: Progress) -> dict[str, dict[str, Any]]:
    """Returns the figures of each shape by its name."""
    random = np.random.default_rng(0)
    right: dict[tuple[str, bool], list[float]] = {}
    pixels: dict[str, list[int]] = {}
    model.eval()
    with progress.bar("asking the network", len(shapes.photographs)) as tick, torch.inference_mode():
        for index in range(len(shapes.photographs)):
            noised, _, there = shapes.shown(index, random)
            answers = model(normalise(torch.from_numpy(noised[None]))).float().argmax(1)[0].numpy()
            for placed in there:
                named = answers[placed.where][placed.mask] == placed.is_coded
                right.setdefault((placed.shape.name, placed.is_coded), []).append(float(named.mean()))
                pixels.setdefault(placed.shape.name, []).append(int(placed.mask.sum()))
            tick()
    return {
        shape.name: {
            "pixels": round(float(np.mean(pixels[shape.name])), 1),
            "shapes": len(pixels[shape.name]),
            **_shares(right[shape.name, True], right[shape.name, False]),
        }
        for shape in SHAPES
        if (shape.name, True) in right and (shape.name, False) in right
    }


def _shares(coded: list[float], clean: list[float]) -> dict[str, float]:
    found, passed = float(np.mean(coded)), float(np.mean(clean))
    return {"found": round(found, 3), "false": round(1 - passed, 3), "accuracy": round((found + passed) / 2, 3)}


def main(arguments: list[str] | None = None) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detect_small", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/bsds500"), help="BSDS500: images/ and segments/")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--steps", type=int, default=300, help="of training; default: 300")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    options = parser.parse_args(arguments)
    terminal, training = Terminal(), Detecting(steps=options.steps, seed=options.seed)
    torch.set_num_threads(options.threads)
    try:
        if options.out.exists():
            raise UserError(f"--out {options.out}: is there already; give another file")
        figures = measured(options.data, training, terminal)
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    write_bytes(options.out, (json.dumps(figures, indent=1) + "\n").encode())
    table = Table("shape", "pixels", "found", "false", "accuracy")
    for name, of in figures["shapes"].items():
        table.add_row(name, f"{of['pixels']:g}", *(f"{of[what]:.2f}" for what in ("found", "false", "accuracy")))
    Console().print(table)
    return 0


def measured(data: Path, training: Detecting, progress: Progress) -> dict[str, Any]:
    """Trains a network and returns the figures; UserError where the photographs are not there."""
    shapes = SmallShapes(list(Segmented.read(data, progress).images))
    paths = sorted((data / "images" / "val").glob("*.jpg"))[:TESTED]
    if not paths:
        raise UserError(f"--data {data}: no photographs in images/val; give BSDS500's folder")
    learner = DetectionLearner(Question(shapes.visit, len(shapes.photographs)), training)
    learned = train(learner, training.schedule, training.seed, progress=progress, what="small shapes")
    return {
        "settings": {"book": shapes.book.version, **asdict(training)},
        "windows": [asdict(window) for window in learner.windows],
        "shapes": answered(learned.network, SmallShapes([read_image(path).pixels for path in paths]), progress),
    }


if __name__ == "__main__":
    sys.exit(main())
