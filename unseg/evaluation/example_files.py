"""Pictures of a run as files: clean test images with truth and prediction, training images before and after."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import torch

from unseg.evaluation.learner import Learner
from unseg.evaluation.results import Json
from unseg.evaluation.sets import Images
from unseg.evaluation.study import RunName, Study
from unseg.evaluation.trainer import Trained
from unseg.storage.image_encoding import write_png

EXAMPLES = 4  # clean test images with truth and prediction, of each run of the first seed
CHANGED_EXAMPLES = 2  # training images before and after, of each changed condition
EXAMPLE_WIDTH, EXAMPLE_HEIGHT = 640, 480  # the middle part of a larger training image
LONGEST_NAME = 120


def write_examples(
    study: Study, run: RunName, learner: Learner, trained: Trained, *, device: torch.device
) -> list[Json]:
    """Writes clean test images with truth and prediction and returns their names and paths, which are relative to
    OUT.
    """
    trained.network.eval()
    with torch.no_grad():
        shown = learner.examples(trained.network, device, EXAMPLES)
    entries = []
    for example in shown:
        start = f"examples/{slug(run.file(study.task))}/{slug(example.name)}"
        paths = {kind: f"{start}-{kind}.png" for kind in ("image", "truth", "prediction")}
        for kind, path in paths.items():
            write_png(study.out / path, getattr(example, kind))
        entries.append({"name": example.name, **paths})
    return entries


def write_changed(study: Study, run: RunName, changed_images: Images) -> list[Json]:
    """Writes the first training images that differ, before and after, and returns their names and paths.

    They have their own size, or are the middle part of a larger image.
    """
    entries: list[Json] = []
    for index, name in enumerate(changed_images.names):
        clean, changed = study.train.pixels(index), changed_images.pixels(index)
        if np.array_equal(clean, changed):
            continue
        folder = f"examples/{slug(f'training-{study.task}-{run.condition}-{run.seed}')}"
        paths = {kind: f"{folder}/{slug(name)}-{kind}.png" for kind in ("clean", "changed")}
        for path, pixels in zip(paths.values(), (clean, changed), strict=True):
            write_png(study.out / path, _middle(pixels))
        entries.append({"name": name, **paths})
        if len(entries) == CHANGED_EXAMPLES:
            break
    return entries


def _middle(pixels_HW3: np.ndarray) -> np.ndarray:
    height, width = pixels_HW3.shape[:2]
    top, left = max(0, height - EXAMPLE_HEIGHT) // 2, max(0, width - EXAMPLE_WIDTH) // 2
    return np.ascontiguousarray(pixels_HW3[top : top + EXAMPLE_HEIGHT, left : left + EXAMPLE_WIDTH])


def slug(text: str) -> str:
    """Returns a short and harmless file name of the text, which no other text of the run has."""
    clean = re.sub(r"[^A-Za-z0-9._+@-]+", "-", text).strip("-.")
    if clean == text and len(clean) <= LONGEST_NAME:
        return clean
    return f"{clean[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
