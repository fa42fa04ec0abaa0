"""Time to detect of patterns: which of them a network with ImageNet weights sees at once, and how well it tells codes
apart.

    python -m benchmarks.detect_patterns --data DATA/bsds500 --out runs/detect.json code1 book tint stripes:45:11.3:+-+

A fresh network is trained on the train and test photographs of BSDS500, where each segment of the median annotation
(NAME.b.png) carries noise or not at random, anew at each visit; see `unseg.evaluation.time_to_detect`. The figures are
shares of pixels named rightly, by 50 steps: `accuracy` with the code, `told` as noised or not. `left_by_notch` is the
share of the noise's energy that the defence `notch` leaves where all segments of these photographs carry noise;
`left_by_local_notch` that which `localnotch` leaves in every tenth photograph. Names:

- code1 to code12: a code of the book in use; grey1 … its form that survives grey copies
- book: all codes of the book and absence, each segment one of them
- tint: one flat colour, green or magenta, on everything
- learned, learned-book: code1 and book as the network of --learned changes them
- SHAPE:DEGREES:PERIODS:AXIS: a pattern of your own, such as checkers:0:16:++- or stripes:45:11.3+45:+-+ (two waves)

With --grey the photographs are turned grey first; codes have their forms for grey images then, and `tint` is brighter.
With --period-spread and --direction-spread patterns vary by as much from image to image, not as several codes do; with
--drift-turns and --drift-cell their phase does within an image.

Needs BSDS500 and the package of EfficientNet-lite0's weights. A pattern takes three minutes of one core, the book
longer. What the file holds is not measured again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segment_anything_training.coded import CodedGenerator
from unseg.commands.console import Terminal
from unseg.compute.progress import Progress
from unseg.errors import UserError
from unseg.evaluation.defences.local_notch import without_local_peaks
from unseg.evaluation.defences.notch import find_peaks, mean_log_spectrum, without_peaks
from unseg.evaluation.time_to_detect import Detecting, Question, time_to_detect
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.learned_codes import apply_learned_codes
from unseg.method.patterns import BOOK, DRIFT_ROWS, GREY_AXIS, Axis, CodeBook, Grating, Pattern
from unseg.method.pixels import is_grey
from unseg.storage.coded_weights import LoadedCoded, load_coded
from unseg.storage.files import write_bytes
from unseg.storage.image_decoding import read_image
from unseg.storage.label_decoding import open_label

SPLITS = ("train", "test")
MOST_TURNS = 8  # of drift; more are noise
LOCAL_STEP = 10  # a local notch filter takes half a second a photograph
KEY = b"benchmarks.detect_patterns"
BOOK_STEPS = 200  # of many codes, which take longer
TINT = (1, -1, 1)  # in grey photographs (1, 1, 1)
LEARNED = {"learned": 1, "learned-book": BOOK.codes}  # how many codes
SIGNS = {"+": 1, "-": -1, "0": 0}
# From an image, H×W×3 uint8, and its map of codes, H×W uint8, to the noised image.
Noise = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """A pattern, or a book of several. codes: how many."""

    name: str
    noise: Noise
    codes: int = 1


def candidate(name: str, budget: Budget, learned: CodedGenerator | None = None, book: CodeBook = BOOK) -> Candidate:
    """Returns what a name stands for; UserError where it stands for nothing. learned: the network of learned codes."""
    numbered = re.fullmatch(r"(code|grey)([1-9]\d?)", name, re.ASCII)
    if numbered and int(numbered[2]) <= book.codes:
        one = replace(book, patterns=(book.patterns[int(numbered[2]) - 1],))
        return Candidate(name, _of_book(one, budget, survive_grey=numbered[1] == "grey"))
    if name == "book":
        return Candidate(name, _of_book(book, budget), book.codes)
    if name == "tint":
        return Candidate(name, _flat(budget))
    if name in LEARNED:
        if learned is None:
            raise UserError(f"{name}: needs --learned FILE, the weights of the network")
        return Candidate(name, _learned(learned, budget, book), LEARNED[name])
    if name.count(":") == 3:
        return Candidate(name, _of_book(replace(book, patterns=(_own(name),)), budget))
    raise UserError(f"{name}: give code1 to code{book.codes}, grey1, book, tint, learned or SHAPE:DEGREES:PERIODS:AXIS")


def _of_book(book: CodeBook, budget: Budget, survive_grey: bool = False) -> Noise:
    return lambda pixels, codes: apply_codes(pixels, codes, book, KEY, budget, survive_grey=survive_grey)


def _learned(network: CodedGenerator, budget: Budget, book: CodeBook) -> Noise:
    return lambda pixels, codes: apply_learned_codes(network, pixels, codes, book, KEY, budget)


def _flat(budget: Budget) -> Noise:
    def noised(pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
        tint = GREY_AXIS if is_grey(pixels) else TINT
        change = np.array(tint) * int(budget.object) * (codes > 0)[..., None]
        return np.clip(pixels + change, 0, 255).astype(np.uint8)

    return noised


def _own(name: str) -> Pattern:
    shape, degrees, periods, axis = name.split(":")
    try:
        form = Grating(shape, math.radians(float(degrees)), tuple(map(float, periods.split("+"))))  # type: ignore[arg-type]  # checked below
        red, green, blue = (SIGNS[sign] for sign in axis)
    except (ValueError, KeyError):
        raise UserError(f"{name}: give SHAPE:DEGREES:PERIODS:AXIS, such as stripes:45:11.3:+-+") from None
    if shape not in ("stripes", "checkers") or not 1 <= len(form.periods) <= 2 or min(form.periods) < 2:
        raise UserError(f"{name}: give stripes or checkers, and one or two periods of 2 pixels or more")
    own: Axis = (red, green, blue)
    return Pattern(own, form, form)


@dataclass(frozen=True)
class Segmented:
    """Photographs and the number of each pixel's segment, from 0."""

    images: Sequence[np.ndarray]
    segments: Sequence[np.ndarray]

    @classmethod
    def read(cls, root: Path, progress: Progress, grey: bool = False) -> Segmented:
        """Reads BSDS500; UserError where it is not there. grey: without colour, H×W×3 all the same."""
        paths = [path for split in SPLITS for path in sorted((root / "images" / split).glob("*.jpg"))]
        if not paths:
            raise UserError(f"--data {root}: no photographs in images/train or images/test; give BSDS500's folder")
        images, segments = [], []
        with progress.bar("reading BSDS500", len(paths)) as tick:
            for path in paths:
                labels = open_label(root / "segments" / path.parent.name / f"{path.stem}.b.png").values
                pixels = read_image(path).pixels
                images.append(np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2) if grey else pixels)
                segments.append(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
                tick()
        return cls(images, segments)

    def question(self, asked: Candidate) -> Question:
        """Returns the question which segments have which code, drawn anew at each visit."""

        def visit(index: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            segments = self.segments[index]
            drawn = random.integers(0, asked.codes + 1, int(segments.max()) + 1).astype(np.uint8)
            codes = drawn[segments]
            return asked.noise(self.images[index], codes), codes

        return Question(visit, len(self.images), asked.codes)


def left_by_notches(asked: Candidate, photographs: Segmented) -> dict[str, float]:
    """Returns the shares of the noise's energy that notch filters leave: one that is fitted to these photographs, and
    one that looks for peaks in each block of each.

    Every segment carries noise, so the filters have as much to find as there can be.
    """
    random = np.random.default_rng(0)
    noised = []
    for pixels, segments in zip(photographs.images, photographs.segments, strict=True):
        codes = random.integers(1, asked.codes + 1, int(segments.max()) + 1).astype(np.uint8)
        noised.append(asked.noise(pixels, codes[segments]))
    peaks = find_peaks(mean_log_spectrum(noised))
    pairs = list(zip(photographs.images, noised, strict=True))
    return {
        "left_by_notch": energy_left(pairs, lambda pixels: without_peaks(pixels, peaks)),
        "left_by_local_notch": energy_left(pairs[::LOCAL_STEP], without_local_peaks),
    }


def energy_left(pairs: Sequence[tuple[np.ndarray, np.ndarray]], change: Callable[[np.ndarray], np.ndarray]) -> float:
    """Returns the share of the noise's energy after a change of both images of each pair: clean and noised."""
    before = after = 0.0
    for pixels, noised in pairs:
        left = change(noised).astype(np.float64) - change(pixels)
        before += float(np.square(noised.astype(np.float64) - pixels).sum())
        after += float(np.square(left).sum())
    return round(after / before, 4)


def measured(asked: Candidate, photographs: Segmented, options: Detecting, progress: Progress) -> dict[str, Any]:
    """Returns the figures of a candidate."""
    steps = options.steps if asked.codes == 1 else max(options.steps, BOOK_STEPS)
    began = time.monotonic()
    windows = time_to_detect(
        photographs.question(asked), replace(options, steps=steps), progress=progress, what=asked.name
    )
    return {
        "codes": asked.codes,
        "windows": [asdict(window) for window in windows],
        **left_by_notches(asked, photographs),
        "seconds": round(time.monotonic() - began, 1),
    }


def settings_of(
    options: Detecting, budget: Budget, book: CodeBook, learned: LoadedCoded | None, grey: bool
) -> dict[str, Any]:
    """Returns what all figures of a file share."""
    spreads = {"period_spread": book.period_spread, "direction_spread": book.direction_spread}
    if (book.drift_turns, book.drift_cell) != (BOOK.drift_turns, BOOK.drift_cell):
        spreads |= {"drift_turns": book.drift_turns, "drift_cell": book.drift_cell}
    weights = {"learned": learned.sha256} if learned else {}
    photographs = {"photographs": "grey"} if grey else {}
    return {"book": book.version, **spreads, "budget": budget.object, **asdict(options), **weights, **photographs}


def earlier(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns what a file holds; UserError where it was made with other settings."""
    if not path.exists():
        return {"settings": settings, "patterns": {}}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("settings") != settings:
        raise UserError(f"--out {path}: was made with other settings ({content.get('settings')}); give another file")
    return content


def main(arguments: list[str] | None = None) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detect_patterns", description=__doc__.split("\n\n")[0])
    parser.add_argument("patterns", nargs="*", default=["code1", "book", "tint"], help="default: code1 book tint")
    parser.add_argument("--data", type=Path, default=Path("data/bsds500"), help="BSDS500: images/ and segments/")
    parser.add_argument("--out", type=Path, default=Path("runs/detect.json"), help="where the figures go, as JSON")
    parser.add_argument("--learned", type=Path, help="weights of a network that changes codes")
    parser.add_argument("--grey", action="store_true", help="turn the photographs grey before they are noised")
    parser.add_argument("--epsilon", type=float, default=8.0, help="budget, grey levels of 255")
    parser.add_argument("--steps", type=int, default=150, help="of one pattern; a book is given 200 or more")
    parser.add_argument("--seed", type=int, default=0, help="of the network's weights, views and noised segments")
    parser.add_argument("--period-spread", type=float, default=BOOK.period_spread, help="default: of several codes")
    parser.add_argument("--direction-spread", type=float, default=BOOK.direction_spread, help="radians; likewise")
    parser.add_argument("--drift-turns", type=float, default=BOOK.drift_turns, help="largest shift of the phase")
    parser.add_argument("--drift-cell", type=float, default=BOOK.drift_cell, help="pixels over which it changes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    terminal, budget = Terminal(), Budget(options.epsilon, 0)
    training = Detecting(steps=options.steps, seed=options.seed)
    varied = ("period_spread", "direction_spread", "drift_turns", "drift_cell")
    book = replace(BOOK, **{name: getattr(options, name) for name in varied})
    torch.set_num_threads(options.threads)
    try:
        if not 0 <= book.period_spread < 1:
            raise UserError(f"--period-spread {book.period_spread}: give 0 or more, and less than 1")
        if not 0 <= book.direction_spread <= math.pi:
            raise UserError(f"--direction-spread {book.direction_spread}: give radians from 0 to 3.14")
        if not 0 <= book.drift_turns <= MOST_TURNS:
            raise UserError(f"--drift-turns {book.drift_turns}: give turns from 0 to {MOST_TURNS}")
        if not DRIFT_ROWS <= book.drift_cell < math.inf:
            raise UserError(f"--drift-cell {book.drift_cell}: give {DRIFT_ROWS} pixels or more")
        learned = load_coded(options.learned) if options.learned else None
        asked = [candidate(name, budget, learned.network if learned else None, book) for name in options.patterns]
        figures = earlier(options.out, settings_of(training, budget, book, learned, options.grey))
        left = [one for one in asked if one.name not in figures["patterns"]]
        photographs = Segmented.read(options.data, terminal, options.grey) if left else None
        for one in left:
            assert photographs is not None
            figures["patterns"][one.name] = measured(one, photographs, training, terminal)
            write_bytes(options.out, (json.dumps(figures, indent=1) + "\n").encode())
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    Console().print(_table(figures["patterns"]))
    return 0


def _table(patterns: dict[str, Any]) -> Table:
    table = Table("pattern", "codes", "named rightly, by 50 steps", "told from none", "left by notch, local notch")
    for name, figures in patterns.items():
        shares = [" ".join(f"{window[key]:.2f}" for window in figures["windows"]) for key in ("accuracy", "told")]
        table.add_row(name, str(figures["codes"]), *shares, _notches(figures))
    return table


def _notches(figures: dict[str, Any]) -> str:
    """Returns the shares that notch filters left. Files of earlier versions have no local one."""
    names = ("left_by_notch", "left_by_local_notch")
    return " ".join("-" if figures.get(name) is None else f"{figures[name]:.2f}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
