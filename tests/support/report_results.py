"""A results.json with everything in it, and the pictures that it names, in the schema of docs/reference/formats.md."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from skimage import data as photographs

from unseg.storage.image_encoding import write_png

Json = dict[str, Any]
CONDITIONS = (
    "clean",
    "random",
    "protected",
    "other",
    "protected+jpeg75",
    "protected@20",
    "protected@60",
    "clean@20",
    "clean@60",
)
NETWORKS = ("unet_resnet18", "segformer_b0")
LEVELS = {
    "clean": 0.9,
    "random": 0.88,
    "protected": 0.36,
    "other": 0.6,
    "protected+jpeg75": 0.5,
    "protected@20": 0.87,
    "protected@60": 0.8,
    "clean@20": 0.88,
    "clean@60": 0.79,
}
TRIVIAL = 0.3


def run(
    network: str = "net",
    condition: str = "clean",
    seed: int = 0,
    final: float = 0.9,
    task: str = "semantic",
    metric: str = "miou",
    **more: Any,
) -> Json:
    """One run whose curve is level."""
    changed = condition.split("@")[0].split("+")[0] != "clean"
    return {
        "settings": {
            "task": task,
            "size": [128, 96],
            "steps": 10,
            "batch": 4,
            "train": "0a1b2c",
            "test": "3d4e5f",
            "network": network,
            "condition": condition,
            "seed": seed,
            "images": {"budget": {"object": 8, "background": 2}} if changed else {},
        },
        "result": {
            "metric": metric,
            "final": final,
            "best": final,
            "trivial": {metric: TRIVIAL},
            "metrics": {metric: final},
            "curve": [{"step": 5, "score": final, "train_loss": 1.0}, {"step": 10, "score": final, "train_loss": 0.5}],
            "quality": {
                "psnr": 34.25,
                "ssim": 0.913,
                "lpips": None,
                "max_change_object": 8,
                "max_change_background": 2,
                "images": 4,
                "differing": 4,
            }
            if changed
            else None,
            "stored": None,
            "seconds": 150.0,
            "device": "cpu",
            "threads": 1,
            "torch": "2.11.0",
            **more,
        },
    }


def results(runs: list[Json], **facts: Any) -> Json:
    """A file with these runs of one task."""
    first = runs[0]
    task = first["settings"]["task"]
    return {
        "tasks": {
            task: {
                "task": task,
                "train_images": 367,
                "test_images": 233,
                "metric": first["result"]["metric"],
                "trivial": first["result"]["trivial"],
                "absent_classes": [],
                **facts,
            }
        },
        "runs": runs,
    }


def write(folder: Path, content: Json) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def full_results(folder: Path, seeds: int = 3) -> Path:
    """Returns two networks, several seeds, a sweep over shares, two kinds of noise, metrics by class, and pictures."""
    draw, runs = random.Random(0), []
    for network in NETWORKS:
        for condition in CONDITIONS:
            for seed in range(seeds):
                final = LEVELS[condition] + draw.uniform(-0.03, 0.03)
                scores = [final - (final - TRIVIAL) * 0.5**i + draw.uniform(-0.02, 0.02) for i in range(1, 5)]
                curve = [{"step": 250 * i, "score": score, "train_loss": 1 / i} for i, score in enumerate(scores, 1)]
                curve[-1]["score"] = final
                more = {
                    "curve": curve,
                    "best": max(point["score"] for point in curve),
                    "seconds": draw.uniform(100, 900),
                    "metrics": {
                        "miou": final,
                        "pixel_accuracy": final + 0.05,
                        "class_iou": {"road": final, "sky": final + 0.02, "tram": None},
                    },
                }
                if condition == "protected+jpeg75":
                    more["stored"] = {
                        "psnr": 31.0,
                        "ssim": 0.88,
                        "lpips": None,
                        "max_change_object": 90,
                        "max_change_background": 80,
                    }
                if seed == 0 and "@" not in condition:
                    more |= pictures(folder, network, condition)
                made = run(network, condition, seed, final, **more)
                made["settings"]["steps"] = 1000
                runs.append(made)
    return write(folder, results(runs, absent_classes=["tram"], remarks=["Made for a test."]))


def pictures(folder: Path, network: str, condition: str) -> Json:
    """Example files of a run, as unseg evaluate writes them."""
    found: Json = {"examples": [], "training_examples": []}
    for name in ("astronaut", "coffee", "rocket"):
        photograph = np.ascontiguousarray(getattr(photographs, name)()[::4, ::4, :3])
        truth = photograph[..., 0] > photograph[..., 2]
        level = LEVELS[condition]
        answer = truth if level > 0.7 else np.roll(truth, round(40 * (1 - level)), 1)
        places = {
            kind: f"examples/{network}-{condition}/{name}-{kind}.png" for kind in ("image", "truth", "prediction")
        }
        for kind, pixels in (("image", photograph), ("truth", coloured(truth)), ("prediction", coloured(answer))):
            write_png(folder / places[kind], pixels)
        found["examples"].append({"name": f"{name}.jpg", **places})
    if condition.split("@")[0] != "clean":
        clean = np.ascontiguousarray(photographs.chelsea()[::2, ::2, :3])
        noise = np.random.default_rng(len(condition)).integers(-8, 9, (*clean.shape[:2], 1))
        changed = (clean.astype(int) + noise).clip(0, 255).astype(np.uint8)
        places = {kind: f"examples/training-{condition}/chelsea-{kind}.png" for kind in ("clean", "changed")}
        write_png(folder / places["clean"], clean)
        write_png(folder / places["changed"], changed)
        found["training_examples"].append({"name": "chelsea.jpg", **places})
    return found


def coloured(mask_HW: np.ndarray) -> np.ndarray:
    """A mask in two colours: H×W×3 uint8."""
    return np.array([[40, 40, 60], [230, 190, 90]], np.uint8)[mask_HW.astype(int)]
