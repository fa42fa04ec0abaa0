"""Error-minimising noise (Huang et al., "Unlearnable examples: making personal data unexploitable", ICLR 2021).

A small surrogate and the noise of every training image take turns: the noise goes down the surrogate's loss by signed
gradient steps, then the surrogate takes a step on the noised images. In the end each image's noise takes a few more
steps against the surrogate as it then is. Classification becomes segmentation by a loss over pixels; crops take the
place of whole images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.compute.progress import SILENT, Progress, track
from unseg.evaluation.augmentation import standardised
from unseg.evaluation.baselines.material import Material, Numbering, Photograph, noised
from unseg.evaluation.conditions import Change
from unseg.method.config import Budget
from unseg.method.metrics import IGNORE_LABEL
from unseg.method.noised_batches import epsilon_map
from unseg.victims.semantic_networks import build_network

SURROGATE = "fpn_mobilenet_v2"


@dataclass(frozen=True)
class EmOptions:
    """How the noise is made. steps: turns of noise and surrogate. inner, final: signed steps of the noise in a turn,
    and in the end. step_size: of a signed step, as a share of the budget. network: the surrogate, from random
    weights."""

    steps: int = 400
    batch: int = 6
    crop: int = 128
    inner: int = 3
    final: int = 6
    step_size: float = 0.2
    learning_rate: float = 1e-3
    network: Callable[[int], nn.Module] = lambda classes: build_network(SURROGATE, classes)


def em(material: Material, seed: int, options: EmOptions = EmOptions()) -> Change:
    """Returns the change that adds the noise fitted to `material.photographs`; fitting happens here."""
    photographs = material.photographs()
    numbering = Numbering.of(photographs)
    network, bank = fit_noise(photographs, numbering, material.budget, seed, options, progress=material.progress)

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        images, targets, bound = _tensors([Photograph(name, pixels, mask, classes)], numbering, material.budget)
        start = bank.get(name, np.zeros(pixels.shape, np.float32)).astype(np.float32)
        noise = torch.from_numpy(start).permute(2, 0, 1)[None]
        noise = minimised(network, images, targets, bound, noise, options.final, options.step_size)
        return noised(pixels, noise[0].permute(1, 2, 0).numpy(), mask, classes, material.budget)

    return change


def fit_noise(
    photographs: Sequence[Photograph],
    numbering: Numbering,
    budget: Budget,
    seed: int,
    options: EmOptions,
    *,
    progress: Progress = SILENT,
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Returns the surrogate, in evaluation mode, and each image's noise by name: H×W×3 float16 in [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = options.network(len(numbering.ids))
        optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate)
        bank = {photograph.name: np.zeros(photograph.pixels.shape, np.float16) for photograph in photographs}
        for _ in track(progress, range(options.steps), options.steps, "em: fitting noise and surrogate"):
            places = _draw_crops(photographs, options, draw)
            images, targets, bound = _tensors([_cropped(*place) for place in places], numbering, budget, options.crop)
            start = np.stack([_padded(bank[photo.name][part], options.crop) for photo, part in places])
            noise = torch.from_numpy(start.astype(np.float32)).permute(0, 3, 1, 2)
            network.eval()
            noise = minimised(network, images, targets, bound, noise, options.inner, options.step_size)
            for (photo, part), values in zip(places, noise.permute(0, 2, 3, 1).numpy(), strict=True):
                height, width = bank[photo.name][part].shape[:2]
                bank[photo.name][part] = values[:height, :width]
            network.train()
            loss = pixel_loss(network, (images + bound * noise).clamp(0, 1), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False), bank


def minimised(
    network: nn.Module,
    images_B3HW: torch.Tensor,
    targets_BHW: torch.Tensor,
    bound_B1HW: torch.Tensor,
    noise_B3HW: torch.Tensor,
    steps: int,
    step_size: float,
) -> torch.Tensor:
    """Returns the noise (in [-1, 1]) after `steps` signed gradient steps down the network's loss.

    images: in [0, 1]. bound: each pixel's budget as a fraction of the range.
    """
    for _ in range(steps):
        noise_B3HW = noise_B3HW.detach().requires_grad_()
        loss = pixel_loss(network, (images_B3HW + bound_B1HW * noise_B3HW).clamp(0, 1), targets_BHW)
        (gradient,) = torch.autograd.grad(loss, noise_B3HW)
        noise_B3HW = (noise_B3HW - step_size * gradient.sign()).clamp(-1, 1)
    return noise_B3HW.detach()


def pixel_loss(network: nn.Module, images_B3HW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross entropy over labelled pixels (0 where there is none) of images in [0, 1]."""
    logits = network(standardised(images_B3HW.permute(0, 2, 3, 1)))
    total = F.cross_entropy(logits, targets_BHW, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (targets_BHW != IGNORE_LABEL).sum().clamp(min=1)


Part = tuple[slice, slice]


def _draw_crops(
    photographs: Sequence[Photograph], options: EmOptions, draw: torch.Generator
) -> list[tuple[Photograph, Part]]:
    """Returns a batch of different photographs, each with rows and columns of at most `crop` pixels."""
    chosen = torch.randperm(len(photographs), generator=draw)[: options.batch].tolist()
    places = []
    for index, shares in zip(chosen, torch.rand(len(chosen), 2, generator=draw).tolist(), strict=True):
        sides = photographs[index].classes.shape
        starts = [int(share * (max(0, side - options.crop) + 1)) for share, side in zip(shares, sides, strict=True)]
        part = slice(starts[0], starts[0] + options.crop), slice(starts[1], starts[1] + options.crop)
        places.append((photographs[index], part))
    return places


def _cropped(photo: Photograph, part: Part) -> Photograph:
    return Photograph(photo.name, photo.pixels[part], photo.mask[part], photo.classes[part])


def _padded(values: np.ndarray, side: int, fill: int = 0) -> np.ndarray:
    """Returns the array with rows and columns filled up to `side` at the bottom and right."""
    room = [(0, max(0, side - length)) for length in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, room, constant_values=fill)


def _tensors(
    photographs: Sequence[Photograph], numbering: Numbering, budget: Budget, side: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns images B×3×H×W in [0, 1], labels B×H×W int64 and bounds B×1×H×W, each filled up to `side`."""
    pixels = np.stack([_padded(photo.pixels, side) for photo in photographs])
    labels = np.stack([_padded(numbering.labels(photo.classes), side, IGNORE_LABEL) for photo in photographs])
    masks = np.stack([_padded(photo.mask, side) for photo in photographs])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255
    return images, torch.from_numpy(labels).to(torch.int64), epsilon_map(torch.from_numpy(masks), budget)[:, None]
