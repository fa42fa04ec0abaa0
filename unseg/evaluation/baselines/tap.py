"""Targeted adversarial poisoning (Fowl et al., "Adversarial examples make strong poisons", NeurIPS 2021).

A network that was trained on the clean images is made to see another class: the labels are permuted, and each image's
noise goes down the network's loss on the permuted labels by signed gradient steps. As in the paper the network sees
the image anew in each step, here flipped and scaled at random. The paper takes 250 steps; here 12 of them cost about
two seconds of one core for an image of 320×270 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.compute.progress import SILENT, Progress
from unseg.evaluation.augmentation import standardised
from unseg.evaluation.baselines.material import Material, Numbering, Photograph, noised, seeded
from unseg.evaluation.conditions import Change
from unseg.evaluation.practice import Practice
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.tasks.practice_semantic import NativeSet, PracticeSemanticLearner
from unseg.evaluation.trainer import train
from unseg.method.metrics import IGNORE_LABEL
from unseg.method.noised_batches import epsilon_map
from unseg.victims.semantic_networks import STRIDE, build_network

CLEAN_TRAINED = "deeplabv3plus_timm-tf_efficientnet_lite0"
SCALES = (0.5, 1.25)  # of the views that the noise must work in


@dataclass(frozen=True)
class TapOptions:
    """How the noise is made. network, weights, schedule, crop: of the clean-trained network. steps: signed steps an
    image. step_size: as a share of the budget."""

    network: Callable[[int], nn.Module] = lambda classes: build_network(CLEAN_TRAINED, classes)
    weights: str | None = "imagenet"
    schedule: Schedule = Schedule(steps=600, batch=6, eval_every=600, decay="onecycle")
    crop: int = 144
    steps: int = 12
    step_size: float = 0.25


def tap(material: Material, seed: int, options: TapOptions = TapOptions(), network: nn.Module | None = None) -> Change:
    """Returns the change that aims at the permuted classes. network: clean-trained, for the classes of the
    photographs in rising order; None: one is trained here."""
    photographs = material.photographs()
    numbering = Numbering.of(photographs)
    if network is None:
        network = clean_trained(photographs, numbering, seed, options, progress=material.progress)
    network.eval().requires_grad_(False)
    aims = permuted(len(numbering.ids), seed)

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        labels = numbering.labels(classes)
        aimed = np.where(labels == IGNORE_LABEL, IGNORE_LABEL, aims[np.minimum(labels, len(aims) - 1)])
        bound = epsilon_map(torch.from_numpy(mask), material.budget)[None, None]
        draw = torch.Generator().manual_seed(int(seeded(f"tap {seed} {name}").integers(2**62)))
        noise = targeted(network, pixels, torch.from_numpy(aimed)[None].to(torch.int64), bound, draw, options)
        return noised(pixels, noise, mask, classes, material.budget)

    return change


def permuted(class_count: int, seed: int) -> np.ndarray:
    """Returns for every class another one, each once: C integers. The classes follow each other in an order drawn by
    the seed."""
    order = seeded(f"tap {seed} classes").permutation(class_count)
    aims = np.empty(class_count, np.int64)
    aims[order] = np.roll(order, -1)
    return aims


def clean_trained(
    photographs: Sequence[Photograph],
    numbering: Numbering,
    seed: int,
    options: TapOptions,
    *,
    progress: Progress = SILENT,
) -> nn.Module:
    """Returns the network trained on the clean photographs as people train."""
    clean = NativeSet(
        [photo.name for photo in photographs],
        [photo.pixels for photo in photographs],
        [numbering.labels(photo.classes) for photo in photographs],
    )
    first = NativeSet(clean.names[:1], clean.images[:1], clean.labels[:1])  # the trainer tests on something
    practice = Practice(crop=options.crop, weights=options.weights, seed=seed)
    names = [str(number) for number in numbering.ids]
    learner = PracticeSemanticLearner(options.network, clean, first, names, practice=practice)
    what = "tap: training a network on clean images"
    return train(learner, options.schedule, seed, progress=progress, what=what).network


def targeted(
    network: nn.Module,
    pixels_HW3: np.ndarray,
    aims_1HW: torch.Tensor,
    bound_11HW: torch.Tensor,
    draw: torch.Generator,
    options: TapOptions,
) -> np.ndarray:
    """Returns noise in [-1, 1] that lowers the network's loss on the aims, H×W×3 float32."""
    image = torch.from_numpy(np.ascontiguousarray(pixels_HW3)).permute(2, 0, 1)[None].to(torch.float32) / 255
    noise = torch.zeros_like(image)
    for scale, flip in torch.rand(options.steps, 2, generator=draw).tolist():
        noise = noise.detach().requires_grad_()
        seen, aims = view_of((image + bound_11HW * noise).clamp(0, 1), aims_1HW, scale, flip < 0.5)
        logits = network(standardised(seen.permute(0, 2, 3, 1)))
        loss = F.cross_entropy(logits, aims, ignore_index=IGNORE_LABEL, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, noise)
        noise = (noise - options.step_size * gradient.sign()).clamp(-1, 1)
    return noise.detach()[0].permute(1, 2, 0).contiguous().numpy()


def view_of(
    image_13HW: torch.Tensor, aims_1HW: torch.Tensor, scale: float, flip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the image and its aims, resized (scale: a share of the way along SCALES) to multiples of STRIDE,
    perhaps flipped."""
    factor = SCALES[0] + (SCALES[1] - SCALES[0]) * scale
    size = [max(STRIDE, round(side * factor / STRIDE) * STRIDE) for side in aims_1HW.shape[-2:]]
    seen = F.interpolate(image_13HW, size, mode="bilinear", align_corners=False)
    aims = F.interpolate(aims_1HW[:, None].to(torch.float32), size, mode="nearest-exact")[:, 0].to(torch.int64)
    return (seen.flip(-1), aims.flip(-1)) if flip else (seen, aims)
