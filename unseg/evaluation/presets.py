"""Schedules by name: `tiny` for two processor cores, `small-scratch` as version 0.1 measured, `paper` close to what the
tasks' published evaluators use.

Epochs are turned into steps by the number of training images. What an option of the command says goes before the
preset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unseg.errors import UserError

MOST_EPOCHS = 1_000_000
Values = dict[str, Any]  # fields of `Schedule`, `size` as WIDTHxHEIGHT, `epochs` in place of `steps`

# 128×96 is CamVid's shape. Instances, boxes and prompts cost several times a semantic network's step, so they get fewer
# steps.
_TINY: Values = {"size": "128x96", "steps": 1000, "batch": 4, "eval_every": 250}
_TINY_SMALL: Values = {"size": "128x96", "steps": 300, "batch": 2, "eval_every": 100}
# A quarter of a second of one core a step. Fewer views a step, or half the rate, taught a prompted network nothing in
# 240 steps.
_TINY_PROMPTS: Values = {"size": "64x64", "steps": 700, "batch": 8, "eval_every": 350, "learning_rate": 3e-3}
_TRANSFORMER: Values = {"batch": 16, "learning_rate": 1e-4, "decay": "poly", "warm_up": 0.0}

DEFAULTS: Values = {"size": "128x96", "steps": 3000, "batch": 8, "eval_every": 250}
# Of views as in practice: rate, weight decay and share of rising steps are the defaults of `Schedule`.
PRACTICE_DEFAULTS: Values = {"steps": 1500, "batch": 8, "eval_every": 250, "decay": "onecycle"}

PRESETS: dict[str, dict[str, Values]] = {
    "tiny": {
        **dict.fromkeys(("semantic", "medical"), _TINY),
        **dict.fromkeys(("instance", "panoptic", "detection", "remote"), _TINY_SMALL),
        "interactive": _TINY_PROMPTS,
    },
    "small-scratch": dict.fromkeys(
        ("semantic", "instance", "panoptic", "detection", "interactive", "medical", "remote"), DEFAULTS
    ),
    # Sources: Mask2Former (Cheng et al. 2022): ADE20K 160,000 steps of 16 at 512², COCO 50 epochs at 1024², rate 1e-4,
    # decay 0.05, gradients clipped at 0.01. DETR's descendants: 50 epochs, clip 0.1. RSPrompter (Chen et al. 2024): 300
    # epochs, rate 2e-4. SAM-HQ (Ke et al. 2023): 12 epochs of HQSeg-44K, batch 32, rate 1e-3. medical: DeepLab's SGD,
    # for want of a published one.
    "paper": {
        "semantic": {
            **_TRANSFORMER,
            "size": "512x512",
            "steps": 160_000,
            "eval_every": 5000,
            "weight_decay": 0.05,
            "clip": 0.01,
        },
        "instance": {
            **_TRANSFORMER,
            "size": "1024x1024",
            "epochs": 50,
            "eval_every": 5000,
            "weight_decay": 0.05,
            "clip": 0.01,
        },
        "panoptic": {
            **_TRANSFORMER,
            "size": "1024x1024",
            "epochs": 50,
            "eval_every": 5000,
            "weight_decay": 0.05,
            "clip": 0.01,
        },
        "detection": {
            **_TRANSFORMER,
            "size": "1024x1024",
            "epochs": 50,
            "eval_every": 5000,
            "weight_decay": 1e-4,
            "clip": 0.1,
        },
        "remote": {
            "size": "1024x1024",
            "epochs": 300,
            "batch": 16,
            "eval_every": 2000,
            "learning_rate": 2e-4,
            "decay": "cosine",
            "weight_decay": 0.05,
            "clip": 0.1,
        },
        "interactive": {
            "size": "1024x1024",
            "epochs": 12,
            "batch": 32,
            "eval_every": 2000,
            "learning_rate": 1e-3,
            "decay": "cosine",
            "weight_decay": 1e-4,
        },
        "medical": {
            "size": "352x352",
            "epochs": 100,
            "batch": 16,
            "eval_every": 500,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "decay": "poly",
            "warm_up": 0.0,
            "weight_decay": 1e-4,
        },
    },
}


def preset_values(name: str | None, task: str, *, practice: bool = False) -> Values:
    """Returns what a preset sets for a task; the defaults where none is named. Raises UserError where there is none.

    practice: whether views are those of practice, which have no size.
    """
    defaults = dict(PRACTICE_DEFAULTS if practice else DEFAULTS)
    if name is None:
        return defaults
    if name not in PRESETS:
        raise UserError(f"--preset {name}: give one of {', '.join(PRESETS)}")
    if task not in PRESETS[name]:
        raise UserError(f"--preset {name}: there is none for task {task}; it has one for {', '.join(PRESETS[name])}")
    chosen = {key: value for key, value in PRESETS[name][task].items() if not practice or key != "size"}
    if "epochs" in chosen:
        del defaults["steps"]
    return defaults | chosen


@dataclass(frozen=True)
class Choices:
    """What is settled for a run.

    size: WIDTHxHEIGHT; None with views as in practice. epochs: in place of steps, or None. schedule: the fields of a
    `Schedule`.
    """

    size: str | None
    epochs: float | None
    schedule: Values

    def steps_for(self, train_images: int) -> Values:
        """Returns the schedule's fields, epochs counted in steps."""
        if self.epochs is None:
            return self.schedule
        return {**self.schedule, "steps": max(1, round(self.epochs * train_images / self.schedule["batch"]))}


def _check_used(said: Values, values: Values) -> None:
    """Raises UserError where the user gave what the schedule has no use for. values: what was said and the preset."""
    if "momentum" in said and values.get("optimizer", "adamw") == "adamw":
        raise UserError(f"--momentum {said['momentum']}: is of sgd; give --optimizer sgd, or leave it out")
    if "momentum" in said and values.get("decay") == "onecycle":
        raise UserError(f"--momentum {said['momentum']}: follows the cycle with --decay onecycle; give another --decay")
    if "warm_up" in said and values.get("decay") == "constant":
        raise UserError(f"--warm-up {said['warm_up']}: there is none with --decay constant; leave one of the two out")


def choose(preset: str | None, task: str, given: Values, *, practice: bool = False) -> Choices:
    """Returns the preset with what the user gave (None: not given) in its place. practice: see `preset_values`."""
    said = {key: value for key, value in given.items() if value is not None}
    if "steps" in said and "epochs" in said:
        raise UserError("--steps and --epochs: give one of the two")
    values = preset_values(preset, task, practice=practice)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in said:
            values.pop(other, None)
    values |= said
    if values.get("epochs") is not None and not 0 < values["epochs"] < MOST_EPOCHS:
        raise UserError(f"--epochs {values['epochs']}: give a number above 0 and below {MOST_EPOCHS:,}")
    _check_used(said, values)
    return Choices(values.pop("size", None), values.pop("epochs", None), values)
