"""The baselines by name: conditions like any other, within the same budget, masks and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from unseg.errors import UserError
from unseg.evaluation.baselines.ar import ar
from unseg.evaluation.baselines.em import SURROGATE, EmOptions, em
from unseg.evaluation.baselines.lsp import lsp
from unseg.evaluation.baselines.material import Material
from unseg.evaluation.baselines.tap import CLEAN_TRAINED, TapOptions, tap
from unseg.evaluation.baselines.tint import tint
from unseg.evaluation.conditions import Change, random_noise

# The name → from material and a seed to the change.
BASELINES: dict[str, Callable[[Material, int], Change]] = {
    "random": lambda material, seed: random_noise(material.budget, seed),
    "tint": tint,
    "lsp": lsp,
    "ar": ar,
    "em": em,
    "tap": tap,
}


OPTIONS: dict[str, EmOptions | TapOptions] = {"em": EmOptions(), "tap": TapOptions()}  # of those that have some
NETWORKS = {"em": SURROGATE, "tap": CLEAN_TRAINED}  # that they train


def baseline_identity(name: str) -> dict[str, Any]:
    """Returns what the noise of a baseline depends on besides budget, seed and images: its name and numbers."""
    if name not in OPTIONS:
        return {"baseline": name}
    numbers = {key: value for key, value in asdict(OPTIONS[name]).items() if not callable(value)}
    return {"baseline": name, "fitted": {"network": NETWORKS[name], **numbers}}


def baseline(name: str, material: Material) -> Callable[[int], Change]:
    """Returns the condition of that name: from a seed to its change. `em` and `tap` train networks when they are
    called."""
    if name not in BASELINES:
        raise UserError(f"unknown baseline '{name}'; available: {', '.join(BASELINES)}")
    make = BASELINES[name]
    return lambda seed: make(material, seed)
