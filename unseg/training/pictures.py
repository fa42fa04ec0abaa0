"""What a person looks at during training: held-out images, their noise, and what the surrogate makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from unseg.method.config import Budget, TrainConfig
from unseg.method.metrics import mask_iou
from unseg.method.noised_batches import add_noise
from unseg.storage.panels import INK, MISSED, NOISE_GAIN, WRONG, answer_panel, captioned_grid, mask_panel, noise_panel
from unseg.training.validation import (
    GROUP,
    LABEL_THRESHOLD,
    Answers,
    Sets,
    ValidationImage,
    answer,
    chosen,
    evaluating,
    input_sides,
    mask_of,
    read_example,
)

PANEL = 256  # long side of a picture: the published generator's noise has this size
HALF_RANGE = 128.0  # from grey to black or white
LEGEND = (("surrogate's masks:  white: found", INK), ("orange: not object", WRONG), ("blue: missed", MISSED))


@dataclass(frozen=True)
class PictureRow:
    """Holds an image and what the players make of it, with the noise that the surrogate meets in training.

    pixels, noised: h×w×3 uint8, the image reduced or enlarged to a long side of `PANEL`. noise: h×w×3 float32, the
    change in grey levels, not rounded. label, mask_clean, mask_noised: h×w bool. iou_clean, iou_noised: of the masks
    at the image's own size.
    """

    name: str
    pixels: np.ndarray
    noise: np.ndarray
    noised: np.ndarray
    label: np.ndarray
    mask_clean: np.ndarray
    mask_noised: np.ndarray
    iou_clean: float
    iou_noised: float


def show(
    generator: nn.Module, surrogate: nn.Module, sets: Sets, config: TrainConfig, device: torch.device, count: int = 4
) -> list[PictureRow]:
    """Returns at most `count` images to look at: always the same ones, from each set in turn, those with an object."""
    by_set = [chosen({name: images}, -(-count // len(sets))) for name, images in sets.items()]
    turns = [turn for row in itertools.zip_longest(*by_set) for turn in row if turn is not None][:count]
    sides = input_sides(generator, config)
    read = [read_example(name, index, sets, config, sides) for name, index in turns]
    examples = [example for example in read if example is not None]
    shown = []
    with evaluating(generator, surrogate):
        for start in range(0, len(examples), GROUP):
            group = examples[start : start + GROUP]
            answers = answer(generator, surrogate, group, config, device)
            shown += [_shown(example, answers, place, config) for place, example in enumerate(group)]
    return shown


def _shown(example: ValidationImage, answers: Answers, place: int, config: TrainConfig) -> PictureRow:
    masks = [mask_of(logits[place], *example.label.shape) for logits in (answers.logits_clean, answers.logits_noised)]
    pixels = _to_panel(example.pixels)
    label, mask_clean, mask_noised = (
        _to_panel(mask.astype(np.uint8) * 255) >= LABEL_THRESHOLD for mask in (example.label, *masks)
    )
    clean_13hw = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    noised_13hw = add_noise(
        clean_13hw,
        answers.noise[place : place + 1],
        torch.from_numpy(label)[None, None],
        budget=config.budget,
        antialias=config.antialias,
    )
    return PictureRow(
        name=example.name,
        pixels=pixels,
        noise=((noised_13hw - clean_13hw) * 255)[0].permute(1, 2, 0).numpy(),
        noised=(noised_13hw * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy(),
        label=label,
        mask_clean=mask_clean,
        mask_noised=mask_noised,
        iou_clean=mask_iou(example.label, masks[0]),
        iou_noised=mask_iou(example.label, masks[1]),
    )


def _to_panel(array_HW: np.ndarray) -> np.ndarray:
    height, width = array_HW.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(array_HW, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def noise_gain(budget: Budget) -> float:
    """Returns by how much noise is enlarged in pictures: × 16 where the budget is 8, more for less, to be visible."""
    largest = max(budget.object, budget.background)
    return HALF_RANGE / largest if largest else NOISE_GAIN


def draw(shown: Sequence[PictureRow], budget: Budget) -> np.ndarray:
    """Returns a row for each image, H×W×3 uint8.

    A row has the image, its noise, the unlearnable image, the surrogate's masks without and with noise, and the label.
    """
    gain = noise_gain(budget)
    rows = [
        [
            (item.name, item.pixels),
            (f"noise x{gain:g}", noise_panel(item.noise, gain)),
            ("unlearnable", item.noised),
            (f"surrogate, clean: IoU {item.iou_clean:.2f}", answer_panel(item.label, item.mask_clean)),
            (f"surrogate, noised: IoU {item.iou_noised:.2f}", answer_panel(item.label, item.mask_noised)),
            ("label", mask_panel(item.label)),
        ]
        for item in shown
    ]
    return captioned_grid(rows, LEGEND)
