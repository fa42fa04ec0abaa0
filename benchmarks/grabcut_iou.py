"""How well outlines from boxes and points fit objects drawn by hand: intersection over union, and processor seconds.

Objects are of images that no constant of `unseg.protecting.grabcut` was chosen on:

- CCP, validation images: the person, which is every class but the background.
- BSDS500, test images: the largest segment of the median annotation that does not touch the image's border and has 2 to
  50 % of its pixels. Images without one are left out.
- The quick start's four photographs, enlarged to 12 megapixels: what a person waits for in `unseg web`.

A box is the tightest one around the object, wider and taller by 3 % on each side. Points are placed as a careful person
may: the first where the object is deepest, each other one as far as possible from its border and from those before it.
An outline that is not found counts as 0. Needs the folders `ccp` and `bsds500` below the data root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

import unseg
from benchmarks.machine import machine
from unseg.data.masks import box_mask
from unseg.errors import UserError
from unseg.protecting.forecast import spread
from unseg.protecting.grabcut import outline_around, outline_of_boxes
from unseg.protecting.points import Points
from unseg.storage.image_decoding import read_image
from unseg.storage.image_limits import ImageError
from unseg.storage.label_decoding import read_label

LEAST, MOST = 0.02, 0.5  # of an image's pixels: segments of BSDS500 that count as objects
WIDER = 0.03  # of a box's sides, on each side
LONG_SIDES = (512, 1024, 2048, 4096)  # pixels, at which seconds are measured
TIMED = 3  # images
CAMERA = 12e6  # pixels


class Drawn(NamedTuple):
    """An image and its object: H×W×3 uint8, H×W bool."""

    pixels: np.ndarray
    mask: np.ndarray


Found = tuple[np.ndarray | None, bool]
"""An outline, H×W bool, and whether a box was filled for want of one."""


def people(root: Path, count: int) -> Iterator[Drawn]:
    """Yields `count` images of CCP's validation part, evenly over their names, with the person."""
    for path in spread(sorted((root / "ccp/images/val").glob("*.jpg")), count):
        label = read_label(root / "ccp/labels/val" / f"{path.stem}.png")
        yield Drawn(read_image(path).pixels, label != 0)


def segments(root: Path, count: int) -> Iterator[Drawn]:
    """Yields up to `count` of BSDS500's test images, evenly over their names, with a segment."""
    for path in spread(sorted((root / "bsds500/images/test").glob("*.jpg")), count):
        label = read_label(root / "bsds500/segments/test" / f"{path.stem}.b.png")
        border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
        ids, areas = np.unique(label, return_counts=True)
        good = ~np.isin(ids, border) & (areas >= LEAST * label.size) & (areas <= MOST * label.size)
        if good.any():
            yield Drawn(read_image(path).pixels, label == ids[good][areas[good].argmax()])


def shown() -> Iterator[Drawn]:
    """Yields the photographs of the quick start, enlarged to so many megapixels that a camera takes."""
    folder = Path(unseg.__file__).parent / "quickstart_data"
    for path in sorted((folder / "photographs").iterdir()):
        drawn = Drawn(read_image(path).pixels, read_label(folder / "masks" / f"{path.stem}.png") == 1)
        yield _resized(drawn, round(max(drawn.mask.shape) * (CAMERA / drawn.mask.size) ** 0.5))


def box_around(mask_HW: np.ndarray) -> list[float]:
    """Returns the box of an object, XYXY, with WIDER of its sides around it."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    down, across = (WIDER * (places[-1] - places[0] + 1) for places in (rows, columns))
    return [columns[0] - across, rows[0] - down, columns[-1] + across, rows[-1] + down]


def clicks(mask_HW: np.ndarray, count: int) -> Points:
    """Returns points on an object: each as far as possible from its border and from those before it."""
    inside = np.pad(mask_HW.astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.mgrid[: mask_HW.shape[0], : mask_HW.shape[1]]
    chosen = []
    for _ in range(count):
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        chosen.append((float(column), float(row)))
        depth = np.minimum(depth, np.hypot(rows - row, columns - column))
    return Points(tuple(chosen))


def filled_box(pixels_HW3: np.ndarray, box: list[float]) -> Found:
    return box_mask([box], *pixels_HW3.shape[:2]), False


def refined_box(pixels_HW3: np.ndarray, box: list[float]) -> Found:
    found, filled = outline_of_boxes(pixels_HW3, [box])
    return found, filled > 0


def pointed_at(pixels_HW3: np.ndarray, points: Points) -> Found:
    return outline_around(pixels_HW3, points), False


class Way(NamedTuple):
    """How an object is shown, from its mask, and how it is outlined, from the pixels and what shows it."""

    shown: Callable[[np.ndarray], Any]
    outlined: Callable[[np.ndarray, Any], Found]


WAYS = {
    "filled box": Way(box_around, filled_box),
    "refined box": Way(box_around, refined_box),
    "one point": Way(partial(clicks, count=1), pointed_at),
    "three points": Way(partial(clicks, count=3), pointed_at),
}


def overlap(found: np.ndarray | None, mask_HW: np.ndarray) -> float:
    """Returns intersection over union, 0 to 1."""
    if found is None:
        return 0.0
    return float((found & mask_HW).sum() / (found | mask_HW).sum())


def figures_of(objects: list[Drawn], way: Way) -> dict[str, Any]:
    """Returns mean and median overlap of one way, how many objects it did not find, how many boxes it filled, and the
    median processor seconds of an image."""
    found, seconds = [], []
    for drawn in objects:
        hint, started = way.shown(drawn.mask), time.process_time()
        found.append(way.outlined(drawn.pixels, hint))
        seconds.append(time.process_time() - started)
    overlaps = [overlap(mask, drawn.mask) for (mask, _), drawn in zip(found, objects, strict=True)]
    return {
        "mean_iou": round(statistics.mean(overlaps), 4),
        "median_iou": round(statistics.median(overlaps), 4),
        "not_found": sum(mask is None for mask, _ in found),
        "filled": sum(filled for _, filled in found),
        "median_seconds": round(statistics.median(seconds), 3),
        "iou": [round(value, 4) for value in overlaps],
    }


def seconds_by_size(objects: list[Drawn], way: Way) -> dict[str, float]:
    """Returns the median processor seconds an image, by the long side that images were resized to."""
    found = {}
    for side in LONG_SIDES:
        resized = [_resized(drawn, side) for drawn in objects[:TIMED]]
        found[str(side)] = round(statistics.median(_timed(way, drawn) for drawn in resized), 4)
    return found


def _resized(drawn: Drawn, side: int) -> Drawn:
    height, width = drawn.mask.shape
    scale = side / max(height, width)
    size = round(width * scale), round(height * scale)
    mask = cv2.resize(drawn.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return Drawn(cv2.resize(drawn.pixels, size, interpolation=cv2.INTER_CUBIC), mask)


def _timed(way: Way, drawn: Drawn) -> float:
    shown = way.shown(drawn.mask)
    started = time.process_time()
    way.outlined(drawn.pixels, shown)
    return time.process_time() - started


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grabcut_iou", description="Outlines beside masks.")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="the folder with ccp/ and bsds500/")
    parser.add_argument("--count", type=int, default=60, help="images a data set")
    parser.add_argument("--out", type=Path, default=Path("runs/grabcut-iou.json"), help="where the figures go, as JSON")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    figures: dict[str, Any] = {"machine": machine(), "opencv": cv2.__version__, "sets": {}, "seconds": {}}
    try:
        root, count = options.data_root, options.count
        sets = {"CCP": people(root, count), "BSDS500": segments(root, count), "quick start, 12 megapixels": shown()}
        for name, drawn in sets.items():
            objects = list(drawn)
            if not objects:
                raise UserError(f"--data-root {root}: holds no images of {name}")
            figures["sets"][name] = {"objects": len(objects)}
            for way, outline in WAYS.items():
                found = figures["sets"][name][way] = figures_of(objects, outline)
                print(f"{name}, {way}: mean IoU {found['mean_iou']:.3f}, median {found['median_iou']:.3f}", flush=True)
            if name == "CCP":
                figures["seconds"] = {way: seconds_by_size(objects, WAYS[way]) for way in ("refined box", "one point")}
    except (UserError, ImageError) as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
