"""The paper's validation: how well the surrogate segments held-out images, noised and clean, set by set.

Images and labels are stretched to the networks' input sizes, neither padded nor kept in shape; the noise has the training
budget; both players get a box. The surrogate's logits are resized to the image's own size, and what is above 0 is compared with
the label. Every measure is taken image by image and averaged over the images of a set, as HQ-SAM's evaluation does: it is not the
IoU of all pixels together.

Shapes: B images of a group, V side of the generator's input, S side of the surrogate's, H×W an image's own size.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.compute.distributed import add_up
from unseg.compute.distributed import shard as part_of
from unseg.compute.threads import single_threaded_pool
from unseg.data.views import TrainingImage, draw_object
from unseg.method import noise
from unseg.method.config import TrainConfig
from unseg.method.losses import LossRule, mask_loss
from unseg.method.metrics import boundary_iou, mask_iou
from unseg.method.prompts import draw_prompts, prompt_rule, seeded

EVERY_PIXEL = LossRule(points=0)
GROUP = 8  # the most images that go through the networks together
AHEAD = 1  # groups that are read while one is in the networks
THREADS = 4  # that read and measure; each holds an image and its float copy
LABEL_THRESHOLD = 128
NAMED = 3  # images with an empty label that are named
PANEL = 256  # long side of what a person looks at: the published generator's noise has this size
MEASURES = ("iou_noised", "iou_clean", "boundary_iou_noised", "boundary_iou_clean", "loss_noised", "loss_clean")
# Columns of the table that the processes add up: the image was measured; its label is empty; the measures.
SCORED, EMPTY, FIRST_MEASURE = 0, 1, 2

Sets = Mapping[str, Sequence[TrainingImage]]


@dataclass(frozen=True)
class SetScore:
    """What validation found on one set: means over its images, None where no image could be measured.

    images: how many were measured. empty: how many were left out because their label shows no object; empty_names: the first
    few of them. iou and boundary_iou (a band of 2 % of the diagonal): the surrogate's answer against the true label, 0 to 1.
    loss: the surrogate's loss (cross entropy + dice, over every pixel) against the true label.
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
class Shown:
    """What a person looks at: an image and what the players make of it, with the noise that the surrogate meets in training.

    pixels, noised: h×w×3 uint8, the image reduced or enlarged to a long side of `PANEL`. noise: h×w×3 float32, the change in grey
    levels, not rounded. label, mask_clean, mask_noised: h×w bool. iou_clean, iou_noised: of the masks at the image's own size.
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


@dataclass(frozen=True)
class Example:
    """A held-out image made ready for both networks, on the CPU.

    pixels: H×W×3 uint8. label: H×W bool. image_V, label_V: 3×V×V and 1×V×V in [0, 1], the image stretched for the generator;
    image_S, label_S: the same for the surrogate.
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
    """What the networks say on a group, on the CPU: noise B×3×N×N, logits B×1×M×M, losses B of the surrogate, each in float32."""

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
    device: torch.device,
    *,
    limit: int = 0,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] = lambda images: None,
) -> list[SetScore]:
    """The scores of every set, in the order of `sets`; the same on every process, and whatever their number.

    sets: name → images, read when they are asked for. limit: images taken of each set, spread evenly over it (0: all). shard:
    (rank, number of processes); with several, every one of them must call this, with torch's process group running. progress:
    called with the number of images that this process has done since the last call.

    Where a label is a map of segments, a union of random ones is the object, drawn from the seed and the image's name alone. An
    image whose label is empty cannot be prompted for: it is not measured but counted and named.
    """
    table = score_shard(generator, surrogate, sets, config, device, limit=limit, shard=shard, progress=progress)
    if shard[1] > 1:
        table = add_up(table.to(device))  # NCCL adds on GPUs only
    return summarise(table.cpu(), sets, limit)


def score_shard(
    generator: nn.Module,
    surrogate: nn.Module,
    sets: Sets,
    config: TrainConfig,
    device: torch.device,
    *,
    limit: int = 0,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """One process's part of the table: a float64 row for each of `chosen(sets, limit)`, zeros where another process measures.

    Whole groups go to a process, the same whatever the number of processes and of much the same size, because the compact
    surrogates take statistics of the images that they see together: their scores depend a little on `limit` and the order of the
    sets. Each row is filled by one process, so the sum of the parts is exact, to the last bit.
    """
    rank, processes = shard
    images = chosen(sets, limit)
    table = torch.zeros(len(images), FIRST_MEASURE + len(MEASURES), dtype=torch.float64)
    sides = input_sides(generator, config)
    count = -(-len(images) // GROUP)
    ends = [len(images) * place // count for place in range(1, count + 1)]
    groups = part_of([range(first, end) for first, end in zip([0, *ends], ends)], rank, processes)
    with single_threaded_pool(THREADS) as pool, _evaluating(generator, surrogate):
        measured: list[tuple[int, Future[list[float]]]] = []
        for group, read in _ahead(groups, lambda row: pool.submit(read_example, *images[row], sets, config, sides)):
            examples = {row: example for row, future in zip(group, read) if (example := future.result()) is not None}
            answers = answer(generator, surrogate, list(examples.values()), config, device) if examples else None
            _collect(table, measured)  # of the group before: measured while this one was in the networks
            measured = [
                (row, pool.submit(_measure, example, answers, place))
                for place, (row, example) in enumerate(examples.items())
            ]
            table[[row for row in group if row not in examples], EMPTY] = 1
            progress(len(group))
        _collect(table, measured)
    return table


def summarise(table: Tensor, sets: Sets, limit: int = 0) -> list[SetScore]:
    """The scores of every set from the whole table, the sum of all parts."""
    scores, images = [], chosen(sets, limit)
    for name, (first, end) in zip(sets, _spans(sets, limit)):
        rows = table[first:end]
        scored = rows[rows[:, SCORED] > 0, FIRST_MEASURE:]
        empty = (first + torch.nonzero(rows[:, EMPTY])[:, 0]).tolist()
        names = tuple(sets[name][images[row][1]].name for row in empty[:NAMED])
        means = dict(zip(MEASURES, scored.mean(0).tolist())) if len(scored) else {}
        scores.append(SetScore(name, len(scored), len(empty), names, **means))
    return scores


def mean_over_images(scores: Sequence[SetScore], measure: str) -> float | None:
    """The mean of one of MEASURES over the images of all sets; None where none was measured."""
    count = sum(score.images for score in scores)
    return sum(score.images * getattr(score, measure) for score in scores if score.images) / count if count else None


def chosen(sets: Sets, limit: int = 0) -> list[tuple[str, int]]:
    """(set, index) of the images that are validated on: all, or `limit` of each set at even distances."""
    return [
        (name, (2 * place + 1) * len(images) // (2 * count))
        for name, images in sets.items()
        for count in [_count(images, limit)]
        for place in range(count)
    ]


def _count(images: Sequence[TrainingImage], limit: int) -> int:
    return min(len(images), limit) if limit else len(images)


def _spans(sets: Sets, limit: int) -> list[tuple[int, int]]:
    """(first row, row after the last) of each set in the table."""
    ends = np.cumsum([_count(images, limit) for images in sets.values()], dtype=int).tolist()
    return list(zip([0, *ends], ends))


def _ahead(groups: Sequence[range], submit: Callable[[int], Future]) -> Iterator[tuple[range, list[Future]]]:
    """Every group with the futures of its rows, those of the next groups already at work."""
    waiting: deque[list[Future]] = deque([submit(row) for row in group] for group in groups[:AHEAD])
    for place, group in enumerate(groups):
        waiting.extend([submit(row) for row in later] for later in groups[place + AHEAD : place + AHEAD + 1])
        yield group, waiting.popleft()


def _measure(example: Example, answers: Answers, place: int) -> list[float]:
    """The measures of one image, in the order of MEASURES."""
    masks = [mask_of(logits[place], *example.label.shape) for logits in (answers.logits_noised, answers.logits_clean)]
    return [measure(example.label, mask) for measure in (mask_iou, boundary_iou) for mask in masks] + [
        answers.loss_noised[place].item(),
        answers.loss_clean[place].item(),
    ]


def _collect(table: Tensor, measured: Sequence[tuple[int, Future[list[float]]]]) -> None:
    for row, future in measured:
        table[row, SCORED] = 1
        table[row, FIRST_MEASURE:] = torch.tensor(future.result(), dtype=torch.float64)


# --- one group -------------------------------------------------------------------------------------------------------


def input_sides(generator: nn.Module, config: TrainConfig) -> tuple[int, int]:
    """V and S: the generator's own side, as in generation, and the largest that the surrogate is trained on."""
    return generator.image_size, max(config.surrogate_sizes)


def read_example(set_name: str, index: int, sets: Sets, config: TrainConfig, sides: tuple[int, int]) -> Example | None:
    """Reads and stretches an image; None where its label shows no object."""
    sample = sets[set_name][index]
    random = seeded(config.seed, "validation", sample.name)
    label = sample.labels[random.integers(len(sample.labels))]
    if not label.any():
        return None
    label = draw_object(label, random)
    image_3HW = torch.from_numpy(np.ascontiguousarray(sample.pixels)).permute(2, 0, 1).float() / 255
    label_1HW = torch.from_numpy(label)[None].float() / 255
    stretched = [stretch(image_3HW, side, config.antialias) for side in sides]
    labels = [_stretch_label(label_1HW, side, config.antialias) for side in sides]
    return Example(
        sample.name, sample.pixels, label > LABEL_THRESHOLD, stretched[0], labels[0], stretched[1], labels[1]
    )


def stretch(image_CHW: Tensor, side: int, antialias: bool = False) -> Tensor:
    """C×side×side, whatever the shape of the image; bilinear."""
    return F.interpolate(image_CHW[None], (side, side), mode="bilinear", align_corners=False, antialias=antialias)[0]


def _stretch_label(label_1HW: Tensor, side: int, antialias: bool) -> Tensor:
    """The stretched label; an object so thin that it vanishes is then found as the maximum over each pixel's area."""
    label = stretch(label_1HW, side, antialias)
    return label if label.any() else F.adaptive_max_pool2d(label_1HW, side)


@torch.no_grad()
def answer(
    generator: nn.Module, surrogate: nn.Module, examples: Sequence[Example], config: TrainConfig, device: torch.device
) -> Answers:
    """What the generator makes of a group of images, and the surrogate of them with and without that noise."""
    images_V, labels_V, images_S, labels_S = (
        torch.stack([getattr(example, field) for example in examples]).to(device)
        for field in ("image_V", "label_V", "image_S", "label_S")
    )
    draws = seeded(config.seed, "validation prompts", examples[0].name)
    mask_side = round(images_S.shape[-1] * surrogate.mask_size / surrogate.image_size)
    rule = prompt_rule(config)
    prompts_V = draw_prompts(labels_V, _prompt_kind(config.generator_prompts), generator.mask_size, draws, rule)
    prompts_S = draw_prompts(labels_S, _prompt_kind(config.surrogate_prompts), mask_side, draws, rule)
    noise_B3NN = generator(images_V, prompts_V)
    noised_B3SS = noise.add_noise(images_S, noise_B3NN, labels_S.round(), config.budget, config.antialias)
    # One after the other, since the compact surrogates take statistics of their batch.
    logits = [surrogate(images, prompts_S) for images in (noised_B3SS, images_S)]
    losses = [
        torch.stack(
            [
                mask_loss(of[place : place + 1], labels_S[place : place + 1], EVERY_PIXEL)
                for place in range(len(examples))
            ]
        )
        for of in logits
    ]
    return Answers(*(tensor.cpu() for tensor in (noise_B3NN, *logits, *losses)))


def _prompt_kind(kinds: Sequence[str]) -> tuple[str, ...]:
    """A box, as published; the first kind of a player that is trained without boxes, nothing for one without prompts."""
    return ("box",) if "box" in kinds else tuple(kinds[:1])


def mask_of(logits_1MM: Tensor, height: int, width: int) -> np.ndarray:
    """The surrogate's answer at the image's own size: H×W bool."""
    logits = F.interpolate(logits_1MM[None], (height, width), mode="bilinear", align_corners=False)
    return (logits[0, 0] > 0).numpy()


@contextlib.contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    """Within, the networks are in evaluation mode; each goes back to the mode that it had."""
    modes = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for network, mode in zip(networks, modes):
            network.train(mode)


# --- pictures --------------------------------------------------------------------------------------------------------


def show(
    generator: nn.Module, surrogate: nn.Module, sets: Sets, config: TrainConfig, device: torch.device, count: int = 4
) -> list[Shown]:
    """At most `count` images for a person to look at: always the same ones, from each set in turn, those with an object."""
    by_set = [chosen({name: images}, -(-count // len(sets))) for name, images in sets.items()]
    turns = [turn for row in itertools.zip_longest(*by_set) for turn in row if turn is not None][:count]
    sides = input_sides(generator, config)
    examples = [example for turn in turns if (example := read_example(*turn, sets, config, sides)) is not None]
    shown = []
    with _evaluating(generator, surrogate):
        for start in range(0, len(examples), GROUP):
            group = examples[start : start + GROUP]
            answers = answer(generator, surrogate, group, config, device)
            shown += [_shown(example, answers, place, config) for place, example in enumerate(group)]
    return shown


def _shown(example: Example, answers: Answers, place: int, config: TrainConfig) -> Shown:
    masks = [mask_of(logits[place], *example.label.shape) for logits in (answers.logits_clean, answers.logits_noised)]
    pixels = _to_panel(example.pixels)
    label, mask_clean, mask_noised = (
        _to_panel(mask.astype(np.uint8) * 255) >= LABEL_THRESHOLD for mask in (example.label, *masks)
    )
    clean_13hw = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    noised_13hw = noise.add_noise(
        clean_13hw,
        answers.noise[place : place + 1],
        torch.from_numpy(label)[None, None],
        config.budget,
        config.antialias,
    )
    change = ((noised_13hw - clean_13hw) * 255)[0].permute(1, 2, 0).numpy()
    noised = (noised_13hw * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    ious = [mask_iou(example.label, mask) for mask in masks]
    return Shown(example.name, pixels, change, noised, label, mask_clean, mask_noised, *ious)


def _to_panel(array_HW: np.ndarray) -> np.ndarray:
    height, width = array_HW.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(array_HW, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
