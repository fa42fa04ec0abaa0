"""Recipes: each function returns one complete training configuration."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from unseg.errors import UserError
from unseg.method.config import RETIRED, Budget, TrainConfig


def paper() -> TrainConfig:
    """Returns the published training: ViT-B generator from SAM, ViT-B surrogate, 27 epochs of HQSeg-44K on 8 GPUs.

    With fewer processes the batch of a step is smaller and an epoch has more steps; `batch_size` is per process.
    Where an image has fewer than 10 object pixels, points are drawn twice (the published code drops points for the
    whole batch), and a view without any is drawn again.
    """
    return TrainConfig()


def compact() -> TrainConfig:
    """Returns the training of a compact generator: BSDS500, about 20 minutes on one processor core.

    It differs from the paper where a small network and victims without prompts ask for it: the final ε, single steps
    in turn, the true mask as target, two kinds of surrogate that see no prompt, are started afresh now and then and
    look at views of many sizes, since victims resize their images.
    """
    return TrainConfig(
        generator="compact",
        surrogates=("compact", "compact_fine"),
        generator_start="random",
        phases=("surrogate", "generator"),
        steps_per_phase=1,
        total_phases=2_400,
        batch_size=8,
        generator_learning_rate=1e-3,
        surrogate_learning_rate=1e-3,
        decay_phase=1_800,
        surrogate_lifetime=400,
        budget=Budget(8.0, 2.0),
        target="mask",
        loss_points=0,
        generator_prompts=("mask", "mask", "box", "points"),
        surrogate_prompts=(),
        view_size=128,
        frame_size=256,
        jitter=(0.5, 2.0),
        surrogate_sizes=(64, 96, 128),
        antialias=True,
    )


def smoke() -> TrainConfig:
    """Returns a few steps of the compact recipe: seconds on a processor, to see whether everything works."""
    return dataclasses.replace(
        compact(),
        total_phases=12,
        decay_phase=8,
        batch_size=2,
        view_size=64,
        surrogate_sizes=(64,),
        surrogate_lifetime=3,
        log_every=2,
        checkpoint_every=4,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {recipe.__name__: recipe for recipe in (paper, compact, smoke)}


def recipe(name: str, overrides: dict[str, str] | None = None) -> TrainConfig:
    """Returns the recipe `name` with `overrides` (field → text, as typed on the command line) put in and checked."""
    if name not in RECIPES:
        raise UserError(f"--recipe {name}: unknown; available: {', '.join(RECIPES)}")
    config = RECIPES[name]()
    types = typing.get_type_hints(TrainConfig)
    changes: dict[str, Any] = {}
    for field, text in (overrides or {}).items():
        if field in RETIRED:
            raise UserError(
                f"--set {field}: was removed in version 0.2 ({field}={RETIRED[field]} always holds); leave it out"
            )
        if field not in types:
            raise UserError(f"--set {field}: unknown; available: {', '.join(types)}")
        try:
            changes[field] = _parse(types[field], text)
        except (ValueError, LookupError, UserError):  # a budget checks itself, but does not know this option
            raise UserError(f"--set {field}={text}: expected {_describe(types[field])}") from None
    return dataclasses.replace(config, **changes)


def _parse(kind: Any, text: str) -> Any:
    if kind is bool:
        return _TRUTHS[text.lower()]
    if kind is Budget:
        return Budget(*_parse(tuple[float, float], text))
    if typing.get_origin(kind) is not tuple:
        return kind(text)
    inner = typing.get_args(kind)
    values = tuple(_parse(inner[0], part.strip()) for part in text.split(",") if part.strip())
    if inner[-1] is not Ellipsis and len(values) != len(inner):
        raise ValueError(text)
    return values


_TRUTHS = {"true": True, "false": False}
_NAMES = {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "names"}


def _describe(kind: Any) -> str:
    if kind is Budget:
        return "two numbers of grey levels from 0 to 255, of the object and of the background, as in 8,2"
    if typing.get_origin(kind) is not tuple:
        return _NAMES[kind]
    inner = typing.get_args(kind)
    count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
    return f"{count}{_PLURALS[inner[0]]}, separated by commas"
