"""The paper's validation: how well the surrogate segments held-out images, noised and clean, set by set.

Images and labels are stretched to the networks' input sizes, neither padded nor kept in shape; the noise has the
training budget; both players get a box. The surrogate's logits are resized to the image's own size, and what is above
0 is compared with the label. Every measure is taken image by image and averaged over the images of a set, as HQ-SAM's
evaluation does: it is not the IoU of all pixels together.

Shapes: B images of a group, V side of the generator's input, S side of the surrogate's, H×W an image's own size.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.compute.distributed import World, add_up, shard
from unseg.compute.progress import SILENT, Progress
from unseg.compute.threads import single_threaded_pool
from unseg.data.training_data import TrainingImage
from unseg.data.views import draw_mask
from unseg.method.code_prompts import object_code_prompt
from unseg.method.codes import OBJECT
from unseg.method.config import TrainConfig
from unseg.method.losses import LossRule, mask_loss
from unseg.method.metrics import boundary_iou, mask_iou
from unseg.method.noised_batches import add_noise
from unseg.method.prompts import draw_prompts, prompt_rule, seeded
from unseg.training.players import ALONE, sides_of

EVERY_PIXEL = LossRule(points=0)
GROUP = 8  # the most images that go through the networks together
AHEAD = 1  # groups that are read while one is in the networks
THREADS = 4  # that read and measure; each holds an image and its float copy
LABEL_THRESHOLD = 128
NAMED = 3  # images with an empty label that are named
MEASURES = ("iou_noised", "iou_clean", "boundary_iou_noised", "boundary_iou_clean", "loss_noised", "loss_clean")
# Columns of the table that the processes add up: the image was measured; its label is empty; the measures.
SCORED, EMPTY, FIRST_MEASURE = 0, 1, 2

Sets = Mapping[str, Sequence[TrainingImage]]


@dataclass(frozen=True)
class SetScore:
    """Holds what validation found on one set: means over its images, None where no image could be measured.

    images: how many were measured. empty: how many were left out because their label shows no object; empty_names:
    the first few of them. iou and boundary_iou (a band of 2 % of the diagonal): the surrogate's answer against the
    true label, 0 to 1. loss: the surrogate's loss (cross entropy + dice, over every pixel) against the true label.
    """

    name: str
    images: int
    empty: int = 0
    empty_names: tuple[str, ...] = ()
    iou_noised: float | None = None
    iou_clean: float | None = None
    boundary_iou_noised: float | None = None
    boundary_iou_clean: float | None = None
    loss_noised: float | None = None
    loss_clean: float | None = None


@dataclass(frozen=True)
class ValidationImage:
    """Holds a held-out image made ready for both networks, on the CPU.

    pixels: H×W×3 uint8. label: H×W bool. image_V, label_V: 3×V×V and 1×V×V in [0, 1], the image stretched for the
    generator; image_S, label_S: the same for the surrogate.
    """

    name: str
    pixels: np.ndarray
    label: np.ndarray
    image_V: Tensor
    label_V: Tensor
    image_S: Tensor
    label_S: Tensor


@dataclass(frozen=True)
class Answers:
    """Holds what the networks say on a group, in float32 on the CPU.

    noise: B×3×N×N. logits_noised, logits_clean: B×1×M×M. loss_noised, loss_clean: the surrogate's, B.
    """

    noise: Tensor
    logits_noised: Tensor
    logits_clean: Tensor
    loss_noised: Tensor
    loss_clean: Tensor


# --- scores ----------------------------------------------------------------------------------------------------------


def validate(
    generator: nn.Module,
    surrogate: nn.Module,
    sets: Sets,
    config: TrainConfig,
    *,
    world: World = ALONE,
    limit: int = 0,
    progress: Progress = SILENT,
) -> list[SetScore]:
    """Returns the scores of every set, in the order of `sets`; the same on every process, and whatever their number.

    sets: name → images, read when they are asked for. limit: images taken of each set, spread evenly over it (0: all).
    Every process of `world` must call this; each measures a part.

    Where a label is a map of segments, a union of random ones is the object, drawn from the seed and the image's name
    alone. An image whose label is empty cannot be prompted for: it is not measured but counted and named.
    """
    table = score_shard(generator, surrogate, sets, config, world=world, limit=limit, progress=progress)
    if world.size > 1:
        table = add_up(table.to(world.device))  # NCCL adds on GPUs only
    return summarise(table.cpu(), sets, limit)


def score_shard(
    generator: nn.Module,
    surrogate: nn.Module,
    sets: Sets,
    config: TrainConfig,
    *,
    world: World = ALONE,
    limit: int = 0,
    progress: Progress = SILENT,
) -> Tensor:
    """Returns this process's part of the table: a float64 row for each of `chosen(sets, limit)`, elsewhere zeros.

    Whole groups go to a process, the same whatever the number of processes and of much the same size, because the
    compact surrogates take statistics of the images that they see together: their scores depend a little on `limit`
    and the order of the sets. Each row is filled by one process, so the sum of the parts is exact, to the last bit.
    """
    images = chosen(sets, limit)
    table = torch.zeros(len(images), FIRST_MEASURE + len(MEASURES), dtype=torch.float64)
    sides = input_sides(generator, config)
    groups = shard(_groups(len(images)), world.rank, world.size)
    with (
        single_threaded_pool(THREADS) as pool,
        evaluating(generator, surrogate),
        progress.bar("validation", sum(map(len, groups))) as tick,
    ):
        measured: list[tuple[int, Future[list[float]]]] = []
        for group, read in _ahead(groups, lambda row: pool.submit(read_example, *images[row], sets, config, sides)):
            results = zip(group, (future.result() for future in read), strict=True)
            examples = {row: example for row, example in results if example is not None}
            answers = answer(generator, surrogate, list(examples.values()), config, world.device) if examples else None
            _collect(table, measured)  # of the group before: measured while this one was in the networks
            measured = []
            if answers is not None:
                for place, (row, example) in enumerate(examples.items()):
                    measured.append((row, pool.submit(_measure, example, answers, place)))
            table[[row for row in group if row not in examples], EMPTY] = 1
            for _ in group:
                tick()
        _collect(table, measured)
    return table


def summarise(table: Tensor, sets: Sets, limit: int = 0) -> list[SetScore]:
    """Returns the scores of every set from the whole table, the sum of all parts."""
    scores, images = [], chosen(sets, limit)
    ends = np.cumsum([0, *(_count(members, limit) for members in sets.values())]).tolist()
    for name, (first, end) in zip(sets, pairwise(ends), strict=True):
        rows = table[first:end]
        scored = rows[rows[:, SCORED] > 0, FIRST_MEASURE:]
        empty = (first + torch.nonzero(rows[:, EMPTY])[:, 0]).tolist()
        names = tuple(sets[name][images[row][1]].name for row in empty[:NAMED])
        means = dict(zip(MEASURES, scored.mean(0).tolist(), strict=True)) if len(scored) else {}
        scores.append(SetScore(name, len(scored), len(empty), names, **means))
    return scores


def mean_over_images(scores: Sequence[SetScore], measure: str) -> float | None:
    """Returns the mean of one of MEASURES over the images of all sets; None where none was measured."""
    count = sum(score.images for score in scores)
    return sum(score.images * getattr(score, measure) for score in scores if score.images) / count if count else None


def chosen(sets: Sets, limit: int = 0) -> list[tuple[str, int]]:
    """Returns (set, index) of the images that are validated on: all, or `limit` of each set at even distances."""
    places = []
    for name, images in sets.items():
        count = _count(images, limit)
        places += [(name, (2 * place + 1) * len(images) // (2 * count)) for place in range(count)]
    return places


def _count(images: Sequence[TrainingImage], limit: int) -> int:
    return min(len(images), limit) if limit else len(images)


def _groups(images: int) -> list[range]:
    """Returns the rows of the images in groups of at most GROUP, as equal as can be."""
    count = -(-images // GROUP)
    ends = [images * place // count for place in range(count + 1)] if count else []
    return [range(first, end) for first, end in pairwise(ends)]


def _ahead(
    groups: Sequence[range], submit: Callable[[int], Future[ValidationImage | None]]
) -> Iterator[tuple[range, list[Future[ValidationImage | None]]]]:
    """Yields every group with the futures of its rows, those of the next groups already at work."""
    waiting = deque([submit(row) for row in group] for group in groups[:AHEAD])
    for place, group in enumerate(groups):
        waiting.extend([submit(row) for row in later] for later in groups[place + AHEAD : place + AHEAD + 1])
        yield group, waiting.popleft()


def _measure(example: ValidationImage, answers: Answers, place: int) -> list[float]:
    """Returns the measures of one image, in the order of MEASURES."""
    masks = [mask_of(logits[place], *example.label.shape) for logits in (answers.logits_noised, answers.logits_clean)]
    ious = [measure(example.label, mask) for measure in (mask_iou, boundary_iou) for mask in masks]
    return [*ious, answers.loss_noised[place].item(), answers.loss_clean[place].item()]


def _collect(table: Tensor, measured: Sequence[tuple[int, Future[list[float]]]]) -> None:
    for row, future in measured:
        table[row, SCORED] = 1
        table[row, FIRST_MEASURE:] = torch.tensor(future.result(), dtype=torch.float64)


# --- one group -------------------------------------------------------------------------------------------------------


def input_sides(generator: nn.Module, config: TrainConfig) -> tuple[int, int]:
    """Returns V and S: the generator's own side, as in generation, and the largest that the surrogate is trained on."""
    return sides_of(generator)[0], max(config.surrogate_sizes)


def read_example(
    set_name: str, index: int, sets: Sets, config: TrainConfig, sides: tuple[int, int]
) -> ValidationImage | None:
    """Returns an image read and stretched; None where its label shows no object."""
    sample = sets[set_name][index]
    random = seeded(config.seed, "validation", sample.name)
    label = draw_mask(sample, random)
    if not label.any():
        return None
    image_3HW = torch.from_numpy(np.ascontiguousarray(sample.pixels)).permute(2, 0, 1).float() / 255
    label_1HW = torch.from_numpy(label)[None].float() / 255
    images = [stretch(image_3HW, side, config.antialias) for side in sides]
    labels = [_stretch_label(label_1HW, side, config.antialias) for side in sides]
    return ValidationImage(
        sample.name,
        sample.pixels,
        label > LABEL_THRESHOLD,
        image_V=images[0],
        label_V=labels[0],
        image_S=images[1],
        label_S=labels[1],
    )


def stretch(image_CHW: Tensor, side: int, antialias: bool = False) -> Tensor:
    """Returns C×side×side, whatever the shape of the image; bilinear."""
    return F.interpolate(image_CHW[None], (side, side), mode="bilinear", align_corners=False, antialias=antialias)[0]


def _stretch_label(label_1HW: Tensor, side: int, antialias: bool) -> Tensor:
    """Returns the stretched label; an object that vanishes in it is found as the maximum over each pixel's area."""
    label = stretch(label_1HW, side, antialias)
    return label if label.any() else F.adaptive_max_pool2d(label_1HW, side)


@torch.no_grad()
def answer(
    generator: nn.Module,
    surrogate: nn.Module,
    examples: Sequence[ValidationImage],
    config: TrainConfig,
    device: torch.device,
) -> Answers:
    """Returns the generator's noise for a group of images, and what the surrogate makes of them with and without it."""
    images_V, labels_V, images_S, labels_S = (
        torch.stack([getattr(example, name) for example in examples]).to(device)
        for name in ("image_V", "label_V", "image_S", "label_S")
    )
    draws = seeded(config.seed, "validation prompts", examples[0].name)
    surrogate_side, surrogate_mask_side = sides_of(surrogate)
    mask_side = round(images_S.shape[-1] * surrogate_mask_side / surrogate_side)
    rule = prompt_rule(config)
    prompts_V = draw_prompts(labels_V, _prompt_kind(config.generator_prompts), sides_of(generator)[1], draws, rule)
    prompts_S = draw_prompts(labels_S, _prompt_kind(config.surrogate_prompts), mask_side, draws, rule)
    if config.code_prompt:
        codes = [_codes(example, sides_of(generator)[1], config.seed) for example in examples]
        prompts_V = replace(prompts_V, codes=torch.cat(codes).to(device))
    noise_B3NN = generator(images_V, prompts_V)
    noised_B3SS = add_noise(images_S, noise_B3NN, labels_S.round(), config.budget, config.antialias)
    # One after the other, since the compact surrogates take statistics of their batch.
    logits_noised, logits_clean = (surrogate(images, prompts_S) for images in (noised_B3SS, images_S))
    return Answers(
        noise=noise_B3NN.cpu(),
        logits_noised=logits_noised.cpu(),
        logits_clean=logits_clean.cpu(),
        loss_noised=_loss_of_each(logits_noised, labels_S).cpu(),
        loss_clean=_loss_of_each(logits_clean, labels_S).cpu(),
    )


def _codes(example: ValidationImage, side: int, seed: int) -> Tensor:
    """Returns the codes that the generator is given for an image: those of the first code, always with the same key."""
    planes = torch.cat([example.image_V, example.label_V]).mul(255).round().to(torch.uint8).numpy()
    draws = seeded(seed, "validation codes", example.name)
    return torch.from_numpy(object_code_prompt(planes, side, draws, code=OBJECT))[None]


def _loss_of_each(logits_B1MM: Tensor, labels_B1SS: Tensor) -> Tensor:
    pairs = zip(logits_B1MM, labels_B1SS, strict=True)
    return torch.stack([mask_loss(logits[None], label[None], EVERY_PIXEL) for logits, label in pairs])


def _prompt_kind(kinds: Sequence[str]) -> tuple[str, ...]:
    """Returns a box, as published; the first kind of a player that is trained without boxes, if it has any."""
    return ("box",) if "box" in kinds else tuple(kinds[:1])


def mask_of(logits_1MM: Tensor, height: int, width: int) -> np.ndarray:
    """Returns the surrogate's answer at the image's own size: H×W bool."""
    logits = F.interpolate(logits_1MM[None], (height, width), mode="bilinear", align_corners=False)
    return (logits[0, 0] > 0).numpy()


@contextlib.contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Keeps the networks in evaluation mode within; each goes back to the mode that it had."""
    modes = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
