"""One trainer for every condition: only the pixels of the training images differ between clean, protected and random.

The seed fixes first weights, batch order and augmentations, all drawn on the CPU, so two runs that differ in their images alone
see the same views in the same order. Shapes: N images, B batch, C classes, H×W the training size.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg import metrics
from unseg.device import choose_device
from unseg.errors import UserError
from unseg.evaluation.networks import build_network

# ImageNet's statistics, as the smp networks are usually fed; any fixed affine map would do.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ZOOM = (0.8, 1.4)  # a view's magnification, log-uniform
WARM_UP = 0.1  # share of the steps in which the rate climbs to its peak
EVAL_BATCH = 16


@dataclass(frozen=True)
class Schedule:
    """A training run, apart from data and seed. The rate climbs linearly to `learning_rate`, then falls to 0 as a half cosine."""

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    eval_every: int = 250

    def __post_init__(self) -> None:
        # A batch of one image has no statistics where a network normalises over the batch at a single place.
        for name, least in (("steps", 1), ("batch", 2), ("eval_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {least}")


@dataclass(frozen=True)
class Evaluation:
    """The state of a run after `step` steps. train_loss: mean cross entropy since the evaluation before."""

    step: int
    miou: float
    train_loss: float


@dataclass(frozen=True)
class Result:
    """What a run came to. All IoU are on the clean test images; per_class_iou (final) is None for absent classes."""

    curve: list[Evaluation]
    per_class_iou: list[float | None]
    network: nn.Module = field(repr=False)

    @property
    def final_miou(self) -> float:
        return self.curve[-1].miou

    @property
    def best_miou(self) -> float:
        return max(point.miou for point in self.curve)

    @property
    def train_loss(self) -> float:
        return self.curve[-1].train_loss


def train_and_test(train_images: np.ndarray, train_labels: np.ndarray, test_images: np.ndarray, test_labels: np.ndarray,
                   num_classes: int, network: str = "unet_resnet18", steps: int = 3000, seed: int = 0, *, batch: int = 8,
                   eval_every: int = 250, device: str = "auto",
                   report: Callable[[Evaluation], None] = lambda evaluation: None,
                   tick: Callable[[int], None] = lambda step: None) -> Result:
    """Trains `network` from random weights and tests it every `eval_every` steps and at the end.

    images: N×H×W×3 uint8; labels: N×H×W uint8, class or 255 (not counted). device: cpu, cuda, or auto (cuda where there is
    one). report is called after each evaluation, tick after each step. On one machine and one number
    of threads, the same arguments give the same weights on the CPU.
    """
    schedule = Schedule(steps=steps, batch=batch, eval_every=eval_every)
    check_labels(train_labels, num_classes, "training labels")
    check_labels(test_labels, num_classes, "test labels")
    target = choose_device(device)
    train = _to_device(train_images, train_labels, target)
    test = _to_device(test_images, test_labels, target)
    # Forked, so that a caller's own random numbers do not move; dropout and first weights use the global generator.
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build_network(network, num_classes).to(target, memory_format=torch.channels_last)
        curve, iou = [], []
        for step, loss in _train(model, train, schedule, seed):
            tick(step)
            if loss is not None:
                iou = measure(model, *test, num_classes)
                curve.append(Evaluation(step, metrics.mean_iou(iou), loss))
                report(curve[-1])
    return Result(curve, iou, model)


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Raises UserError unless every label is a class below `num_classes` or 255, and some pixel is labelled."""
    labelled = labels[labels != metrics.IGNORE_LABEL]
    if labelled.size == 0:
        raise UserError(f"{what}: no pixel has a class (all are {metrics.IGNORE_LABEL}, which is ignored)")
    if labelled.min() < 0 or labelled.max() >= num_classes:
        worst = int(labelled.max() if labelled.max() >= num_classes else labelled.min())
        raise UserError(f"{what}: class {worst} is out of range; with {num_classes} classes, "
                        f"labels are 0 to {num_classes - 1} or {metrics.IGNORE_LABEL}")


def _train(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor],
           schedule: Schedule, seed: int) -> Iterator[tuple[int, float | None]]:
    """Yields (step, None) after every step, and (step, mean loss since the last evaluation) where one is due."""
    images, labels = data
    draw = torch.Generator().manual_seed(seed)
    order = batch_order(len(images), schedule.batch, draw)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, schedule.steps))
    total, since = torch.zeros((), device=images.device), 0
    for step in range(1, schedule.steps + 1):
        model.train()
        index = next(order).to(images.device)
        view, target = augment(images[index], labels[index], draw)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
            logits = model(view)
        loss = F.cross_entropy(logits.float(), target, ignore_index=metrics.IGNORE_LABEL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        total, since = total + loss.detach(), since + 1
        due = step % schedule.eval_every == 0 or step == schedule.steps
        yield step, _finite(total / since, step) if due else None
        if due:
            total, since = torch.zeros_like(total), 0


def _finite(loss: torch.Tensor, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise UserError(f"training diverged: the loss is {value} at step {step}; try another seed (--seeds) or a larger --batch")
    return value


def rate_factor(step: int, steps: int) -> float:
    """The learning rate after `step` of `steps` steps, as a share of its peak."""
    climb = max(1, round(WARM_UP * steps))
    if step < climb:
        return (step + 1) / climb
    return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, steps - climb)))


def batch_order(count: int, batch: int, draw: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of indices: every image once an epoch, in a new order; the last, partial batch of an epoch is
    filled up from the next. A set smaller than the batch repeats images within one."""
    pool = torch.empty(0, dtype=torch.int64)
    while True:
        while len(pool) < batch:
            pool = torch.cat([pool, torch.randperm(count, generator=draw)])
        yield pool[:batch]
        pool = pool[batch:]


def augment(images_BHW3: torch.Tensor, labels_BHW: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A random view of every image: horizontal flip, zoom within ZOOM, shift. Returns normalised B×3×H×W float32 and B×H×W int64.

    images, labels: uint8. Zooming in crops; zooming out pads with the mean colour, labelled 255. `draw` lives on the CPU.
    """
    count = len(images_BHW3)
    zoom = torch.exp(torch.empty(count).uniform_(math.log(ZOOM[0]), math.log(ZOOM[1]), generator=draw))
    flip = torch.where(torch.rand(count, generator=draw) < 0.5, -1.0, 1.0)
    room = (1 - 1 / zoom).abs()  # how far the view may shift and still be inside the image (or the image inside it)
    shift = (torch.rand(count, 2, generator=draw) * 2 - 1) * room[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = flip / zoom, 1 / zoom, shift
    images = normalise(images_BHW3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(images.device)
    view = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # Shifted by 255 so that the zeros outside the image come back as "ignored".
    labels = metrics.IGNORE_LABEL - labels_BHW[:, None].to(torch.float32)
    target = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (view.contiguous(memory_format=torch.channels_last),
            (metrics.IGNORE_LABEL - target[:, 0]).round().to(torch.int64))


def normalise(images_BHW3: torch.Tensor) -> torch.Tensor:
    """uint8 B×H×W×3 to B×3×H×W float32 (channels last in memory), zero mean and unit variance by ImageNet's statistics."""
    mean, std = (torch.tensor(value, device=images_BHW3.device) for value in (MEAN, STD))
    return ((images_BHW3.to(torch.float32) / 255 - mean) / std).permute(0, 3, 1, 2)


@torch.inference_mode()
def measure(model: nn.Module, images_NHW3: torch.Tensor, labels_NHW: torch.Tensor,
                 num_classes: int) -> list[float | None]:
    """Every class's IoU over all the images together (not a mean over images)."""
    model.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=images_NHW3.device)
    for images, labels in zip(images_NHW3.split(EVAL_BATCH), labels_NHW.split(EVAL_BATCH), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
            predictions = model(normalise(images)).argmax(1)
        confusion += metrics.confusion_matrix(labels, predictions, num_classes)
    return metrics.class_iou(confusion)


def _to_device(images: np.ndarray, labels: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or images.shape[:3] != labels.shape:
        raise ValueError(f"expected images N×H×W×3 uint8 and labels N×H×W, got {images.shape} {images.dtype}, {labels.shape}")
    return torch.from_numpy(images).to(device), torch.from_numpy(labels.astype(np.uint8, copy=False)).to(device)
