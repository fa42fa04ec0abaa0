"""Small pictures with known labels, a network that learns them in a few steps, and studies of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations import ObjectRule
from unseg.evaluation.conditions import unchanged
from unseg.evaluation.folders import Folders, Setup, study_of_folders
from unseg.evaluation.presets import Choices
from unseg.evaluation.sets import CleanImages, open_clean
from unseg.evaluation.study import ConditionSource, Study
from unseg.evaluation.study_runs import run_study
from unseg.method.config import Budget
from unseg.storage.image_encoding import write_png

WIDTH, HEIGHT = 64, 48
ROAD = ObjectRule((1,))  # the object of the binary task
EVERY_CLASS = ObjectRule("all", background_label=None)


def scene(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark picture with a bright rectangle of class 1 over class 0; class 2 is a blue strip; the last row is
    unlabelled.
    """
    pixels = draw.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = draw.integers(0, HEIGHT // 2), draw.integers(0, WIDTH // 2)
    pixels[top : top + 20, left : left + 28] += 150
    classes[top : top + 20, left : left + 28] = 1
    pixels[-8:-1, :, 2] += 190
    classes[-8:-1] = 2
    classes[-1] = 255
    return pixels, classes


def tiny(classes: int) -> torch.nn.Module:
    """A network for tests: sees colours in a small neighbourhood, and has batch norm and dropout as the real ones
    do.
    """
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(8, classes, 1)
    )


def write_splits(root: Path) -> Path:
    """images/ and labels/ with six pictures in train and three in test; returns `root`."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for i in range(count):
            pixels, classes = scene(draw)
            write_png(root / "images" / split / f"{split}{i}.png", pixels)
            write_png(root / "labels" / split / f"{split}{i}.png", classes)
    return root


def split_options(root: Path) -> dict[str, Path]:
    """The options of `unseg evaluate` that name the splits."""
    return {
        "clean": root / "images" / "train",
        "annotations": root / "labels" / "train",
        "test": root / "images" / "test",
        "test_annotations": root / "labels" / "test",
    }


def opened(root: Path, split: str = "train") -> CleanImages:
    """The annotated images of a split."""
    return open_clean(root / "images" / split, root / "labels" / split, "index", "--clean")[0]


def same(files: str) -> dict[str, ConditionSource]:
    """A source of protected images that are the clean ones."""
    return {"protected": ConditionSource(lambda seed, progress: unchanged, {"files": files})}


def study_of(root: Path, out: Path, sources: Mapping[str, ConditionSource] | None = None, **changes: Any) -> Study:
    """The study of the splits: the binary task on the network tiny_one, two steps of two images.

    changes: fields of `Study`; binary and rule say what is learnt.
    """
    binary, rule = changes.pop("binary", True), changes.pop("rule", ROAD)
    folders = Folders(protected={}, annotations_format="index", rule=rule, **split_options(root))
    setup = Setup(
        "semantic",
        out,
        ("tiny_one",),
        Choices(f"{WIDTH}x{HEIGHT}", None, {"steps": 2, "batch": 2, "eval_every": 1}),
        (WIDTH, HEIGHT),
        Budget(),
        binary=binary,
        conditions=("clean",),
        device="cpu",
        colour_jitter=False,
    )
    study = study_of_folders(folders, setup)
    known = {"conditions": ("clean", *(sources or {})), "sources": {**study.sources, **(sources or {})}}
    return replace(study, **{**known, **changes})


def run(
    root: Path,
    out: Path,
    sources: Mapping[str, ConditionSource] | None = None,
    progress: Progress = SILENT,
    **changes: Any,
) -> dict[str, Any]:
    """The results of `study_of`."""
    return run_study(study_of(root, out, sources, **changes), progress=progress)
