"""The two steps of bilevel training, each a function of networks, batch and configuration.

In a surrogate's step the surrogate learns to segment noised images; in a generator's step the generator learns the
noise that makes this easy. Each player has its own optimizer, and the one that is not trained keeps every bit.

Shapes: B batch, V side of the generator's view, S side of the surrogate's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segment_anything_training.prompt_batch import Prompts
from unseg.data.views import ViewBatch
from unseg.method.code_prompts import object_code_prompt
from unseg.method.config import TrainConfig
from unseg.method.losses import loss_rule, mask_loss
from unseg.method.noised_batches import add_noise
from unseg.method.prompts import PromptRule, draw_prompts, draw_subset, prompt_rule, seeded
from unseg.training.players import Player


@dataclass(frozen=True)
class StepBatch:
    """Holds a step's views with what is drawn for them.

    images: B×3×V×V in [0, 1]; small_images: B×3×S×S; labels: B×1×V×V in [0, 1]; small_labels: B×1×S×S in [0, 1].
    points: a source of randomness for each image, on the CPU, that says where the losses compare.
    """

    images: Tensor
    labels: Tensor
    small_images: Tensor
    small_labels: Tensor
    generator_prompts: Prompts
    surrogate_prompts: Prompts
    points: tuple[torch.Generator, ...]


def prepare(views: ViewBatch, config: TrainConfig, mask_sides: tuple[float, float], rank: int = 0) -> StepBatch:
    """Draws the surrogate's size and all prompts for the views, on their device.

    Everything depends on seed, step and rank alone. mask_sides: the side of a mask prompt as a share of the
    generator's and of the surrogate's input. Every image has kinds of prompts of its own, as published. What is drawn
    for it comes from its slot in the step's batch over all processes, so that two processes draw what one with the
    doubled batch would.
    """
    images, labels, step = views.images, views.labels, views.step
    size = int(seeded(config.seed, "size", step).choice(config.surrogate_sizes))
    small_images, small_labels = _resized(images, size, config), _resized(labels, size, config)
    # A tiny object can vanish from the smaller view: its prompts are then found as the larger one's maximum.
    visible = small_labels.amax((1, 2, 3), keepdim=True) > 0
    findable = torch.where(visible, small_labels, F.adaptive_max_pool2d(labels, size))

    slots = range(rank * len(images), (rank + 1) * len(images))
    draws = [seeded(config.seed, "prompts", step, slot) for slot in slots]
    generator_kinds = [draw_subset(config.generator_prompts, random) for random in draws]
    surrogate_kinds = [_one_of(config.surrogate_prompts, random) for random in draws]
    rule = prompt_rule(config)
    generator_prompts = _draw_each(
        labels, generator_kinds, mask_size=round(config.view_size * mask_sides[0]), draws=draws, rule=rule
    )
    if config.code_prompt:
        codes = _codes(views, config, side=round(config.view_size * mask_sides[0]), slots=slots)
        generator_prompts = replace(generator_prompts, codes=codes.to(images.device))
    return StepBatch(
        images=images,
        labels=labels,
        small_images=small_images,
        small_labels=small_labels,
        generator_prompts=generator_prompts,
        surrogate_prompts=_draw_each(
            findable, surrogate_kinds, mask_size=round(size * mask_sides[1]), draws=draws, rule=rule
        ),
        points=tuple(_point_source(config, step, slot) for slot in slots),
    )


def _codes(views: ViewBatch, config: TrainConfig, side: int, slots: Sequence[int]) -> Tensor:
    """Returns the codes that the generator is given, B×3×side×side, a random code and key for each slot."""
    views_B4VV = views.pixels.cpu().numpy()
    draws = [seeded(config.seed, "codes", views.step, slot) for slot in slots]
    prompts = [object_code_prompt(view, side, random) for view, random in zip(views_B4VV, draws, strict=True)]
    return torch.from_numpy(np.stack(prompts))


def _resized(views_BCVV: Tensor, size: int, config: TrainConfig) -> Tensor:
    return F.interpolate(views_BCVV, (size, size), mode="bilinear", align_corners=False, antialias=config.antialias)


def _one_of(kinds: Sequence[str], random: np.random.Generator) -> tuple[str, ...]:
    return (str(random.choice(kinds)),) if kinds else ()


def _point_source(config: TrainConfig, step: int, slot: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(seeded(config.seed, "points", step, slot).integers(2**62)))


def _draw_each(
    labels_B1SS: Tensor,
    kinds: Sequence[Sequence[str]],
    *,
    mask_size: int,
    draws: Sequence[np.random.Generator],
    rule: PromptRule,
) -> Prompts:
    """Draws each image's prompts of its own kinds from its own source of randomness."""
    each = zip(labels_B1SS, kinds, draws, strict=True)
    return Prompts.join([draw_prompts(label[None], names, mask_size, random, rule) for label, names, random in each])


def noised(batch: StepBatch, noise_B3NN: Tensor, config: TrainConfig) -> Tensor:
    """Returns what the surrogate sees, B×3×S×S. The region of the object is the small label, rounded."""
    return add_noise(batch.small_images, noise_B3NN, batch.small_labels.round(), config.budget, config.antialias)


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Lets no parameter of `network` ask for a gradient within; gradients still flow through it."""
    asked = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def surrogate_step(
    generator: nn.Module, surrogate: Player, batch: StepBatch, config: TrainConfig, learning_rate: float
) -> float:
    """Lets the surrogate learn the true mask from noised images, and returns the loss; the generator stays."""
    with torch.no_grad():
        noise_B3NN = generator(batch.images, batch.generator_prompts)
    logits = surrogate.network(noised(batch, noise_B3NN, config), batch.surrogate_prompts)
    # The label as it was resized, not rounded: the published training compares with it so.
    loss = mask_loss(logits, batch.small_labels, loss_rule(config), batch.points)
    return surrogate.update(loss, learning_rate)


def generator_step(
    generator: Player, surrogate: nn.Module, batch: StepBatch, config: TrainConfig, learning_rate: float
) -> float:
    """Lets the generator learn noise with which the frozen surrogate answers the target, and returns the loss."""
    target = torch.ones_like(batch.small_labels) if config.target == "ones" else batch.small_labels
    with frozen(surrogate):
        noise_B3NN = generator.network(batch.images, batch.generator_prompts)
        logits = surrogate(noised(batch, noise_B3NN, config), batch.surrogate_prompts)
        loss = mask_loss(logits, target, loss_rule(config), batch.points)
        return generator.update(loss, learning_rate)
