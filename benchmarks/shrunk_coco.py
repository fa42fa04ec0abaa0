"""Shrinks a folder of images and the outlines of its COCO file: for tasks that train at the images' own size.

    python -m benchmarks.shrunk_coco DATA/carparts/testset/JPEGImages DATA/carparts/testset/annotations.json OUT

Writes OUT/images/NAME.png, whose longer side has at most 320 pixels (--long-side), and OUT/annotations.json. Images
are shrunk by the mean over areas, as `unseg bench` does; outlines keep their fractions. OUT must be new.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from unseg.commands.console import Terminal
from unseg.compute.progress import SILENT, Progress, track
from unseg.errors import UserError
from unseg.evaluation.measuring_images import shrunk
from unseg.storage.image_decoding import read_image


def main(arguments: Sequence[str] | None = None) -> int:
    """Shrinks a set; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("annotations", type=Path, help="COCO file with polygons")
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    parser.add_argument("--long-side", type=int, default=320, metavar="PIXELS", help="of images that are larger (320)")
    given = parser.parse_args(arguments)
    try:
        if given.long_side < 1:
            raise UserError(f"--long-side: {given.long_side} is no number of pixels; give 1 or more")
        count = shrink_set(given.images, given.annotations, given.out, given.long_side, Terminal())
    except UserError as error:
        print(f"shrunk_coco: {error}", file=sys.stderr)
        return 2
    print(f"{count} images and their outlines in {given.out}")
    return 0


def shrink_set(images: Path, annotations: Path, out: Path, long_side: int, progress: Progress = SILENT) -> int:
    """Writes every image of the COCO file and the file itself at the new sizes; returns how many images there are.

    Raises UserError where `out` exists, an image is not as large as the file says, or an outline is not of polygons.
    """
    try:
        coco = json.loads(annotations.read_text(encoding="utf-8"))
        if not isinstance(coco, dict) or not {"images", "annotations"} <= coco.keys():
            raise ValueError("no images or no annotations in it")
        out.mkdir(parents=True)
        (out / "images").mkdir()
    except FileExistsError:
        raise UserError(f"{out} exists; give another folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{annotations}: cannot be read ({error}); give a COCO file") from None
    scales: dict[int, tuple[float, float]] = {}
    for entry in track(progress, coco["images"], len(coco["images"]), "shrinking"):
        path = images / entry["file_name"]
        pixels = read_image(path).pixels
        height, width = pixels.shape[:2]
        if (width, height) != (entry["width"], entry["height"]):
            size = f"{entry['width']}×{entry['height']}"
            raise UserError(f"{path} has {width}×{height} pixels, {annotations} says {size}; correct the file")
        small = shrunk(pixels, long_side, cv2.INTER_AREA)
        entry.update(file_name=Path(entry["file_name"]).with_suffix(".png").name, height=small.shape[0])
        entry["width"] = small.shape[1]
        scales[entry["id"]] = small.shape[1] / width, small.shape[0] / height
        Image.fromarray(small).save(out / "images" / entry["file_name"])
    for outline in coco["annotations"]:
        _shrink(outline, *scales[outline["image_id"]], annotations)
    (out / "annotations.json").write_text(json.dumps(coco), encoding="utf-8")
    return len(coco["images"])


def _shrink(outline: dict[str, Any], across: float, down: float, annotations: Path) -> None:
    """Scales an annotation's polygons, box and area in place. across, down: new size / old, along x and y."""
    if not isinstance(outline["segmentation"], list):
        raise UserError(f"{annotations}: annotation {outline['id']} is no polygon; give a file of polygons")
    for polygon in outline["segmentation"]:
        polygon[::2] = [x * across for x in polygon[::2]]
        polygon[1::2] = [y * down for y in polygon[1::2]]
    x, y, width, height = outline["bbox"]
    outline["bbox"] = [x * across, y * down, width * across, height * down]
    outline["area"] = outline["area"] * across * down


if __name__ == "__main__":
    sys.exit(main())
