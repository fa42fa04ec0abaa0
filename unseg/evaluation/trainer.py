"""One trainer for every task and condition: only the pixels of the training images differ between clean, protected and random.

The seed fixes first weights, batch order and augmentations, all drawn on the CPU, so two runs that differ in their images alone
see the same views in the same order. A run that is killed goes on from its last checkpoint and ends, on a CPU, with the same
numbers to the bit. Several processes (`torchrun`) share every batch: process r of n computes the images r, r + n, … of it and
gradients are averaged; the first process tests, writes and tells.
"""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unseg.compute.distributed import GradientMean, World
from unseg.errors import UserError
from unseg.evaluation.learner import Learner, Metrics
from unseg.storage.files import writing

OPTIMIZERS, DECAYS = ("adamw", "sgd"), ("cosine", "poly", "onecycle")
# Of the one-cycle schedule, as torch's OneCycleLR has them by default.
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 25e4  # shares of the peak rate
ONECYCLE_MOMENTA = (0.85, 0.95)  # at the peak rate, and at the ends
POLY_POWER = 0.9
# What torch.load raises for files that are none of its own, cut or altered.
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
LOOK_EVERY = 10  # steps between looks at the clock where several processes must agree on a checkpoint


@dataclass(frozen=True)
class Schedule:
    """A training run, apart from data and seed.

    The rate climbs linearly to `learning_rate` over a share `warm_up` of the steps, then falls to 0: as a half
    cosine, or as (1 − step / steps)^0.9 of all the steps (poly). onecycle: torch's `OneCycleLR` with its defaults
    and `warm_up` as the share of rising steps; rate and momentum (AdamW's first beta) go along half cosines. clip:
    the norm beyond which gradients are scaled down; None: never. momentum: of sgd.
    """

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    eval_every: int = 250
    optimizer: str = "adamw"
    momentum: float = 0.9
    decay: str = "cosine"
    warm_up: float = 0.1
    clip: float | None = None

    def __post_init__(self) -> None:
        # A batch of one image has no statistics where a network normalises over the batch at a single place.
        for name, least in (("steps", 1), ("batch", 2), ("eval_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {least}")
        for name, known in (("optimizer", OPTIMIZERS), ("decay", DECAYS)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name} {getattr(self, name)}: give {' or '.join(known)}")
        for name, low, high in (("learning_rate", 0, math.inf), ("clip", 0, math.inf)):
            value = getattr(self, name)
            if value is not None and not low < value < high:
                raise UserError(f"--{name.replace('_', '-')} {value}: give a number above {low}")
        for name, low, high in (("weight_decay", 0, math.inf), ("momentum", 0, 1), ("warm_up", 0, 1)):
            if not low <= getattr(self, name) < high:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {low}"
                    + (f" and below {high}" if high < math.inf else "")
                )

    def rate_factor(self, step: int) -> float:
        """The learning rate after `step` steps, as a share of its peak."""
        if self.decay == "onecycle":
            return self._on_cycle(step, (ONECYCLE_START, 1.0, ONECYCLE_END))
        climb = max(1, round(self.warm_up * self.steps)) if self.warm_up > 0 else 0
        if step < climb:
            return (step + 1) / climb
        if self.decay == "poly":
            return (1 - step / self.steps) ** POLY_POWER
        return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, self.steps - climb)))

    def momentum_at(self, step: int) -> float | None:
        """Returns the momentum (AdamW's first beta) after `step` steps; None where it does not change on the way."""
        if self.decay != "onecycle":
            return None
        low, high = ONECYCLE_MOMENTA
        return self._on_cycle(step, (high, low, high))

    def _on_cycle(self, step: int, values: tuple[float, float, float]) -> float:
        """Returns the value after `step` steps: by half cosines from the first value to the second and to the third."""
        peak, last = self.warm_up * self.steps - 1, self.steps - 1
        if step <= peak:
            return _half_cosine(values[0], values[1], step / peak if peak > 0 else 1.0)
        return _half_cosine(values[1], values[2], (step - max(peak, 0)) / max(last - max(peak, 0), 1e-9))


def _half_cosine(start: float, end: float, share: float) -> float:
    """Returns the value at a share (0 to 1) of the way from start to end."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Evaluation:
    """The state of a run after `step` steps. score: the learner's metric on the clean test images. train_loss: mean since the
    evaluation before."""

    step: int
    score: float
    train_loss: float


@dataclass(frozen=True)
class Trained:
    """What a run came to. metrics: all of them, at the end. seconds: of all parts of a run that was interrupted."""

    curve: list[Evaluation]
    metrics: Metrics
    seconds: float
    network: nn.Module = field(repr=False)

    @property
    def final(self) -> float:
        return self.curve[-1].score

    @property
    def best(self) -> float:
        return max(point.score for point in self.curve)

    @property
    def train_loss(self) -> float:
        return self.curve[-1].train_loss


@dataclass(frozen=True)
class Checkpoint:
    """Where a run's state is kept until it is done. settings: those of the run; the state of another one is not gone on with.
    every: seconds between two writes; there is one at every evaluation as well."""

    path: Path
    settings: dict[str, Any]
    every: float = 120.0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class BatchOrder:
    """Endless batches of indices: every image once an epoch, in a new order; the last, partial batch of an epoch is filled up
    from the next. A set smaller than the batch repeats images within one."""

    def __init__(self, count: int, batch: int, draw: torch.Generator) -> None:
        self.count, self.batch, self.draw = count, batch, draw
        self.pool = torch.empty(0, dtype=torch.int64)

    def next(self) -> torch.Tensor:
        while len(self.pool) < self.batch:
            self.pool = torch.cat([self.pool, torch.randperm(self.count, generator=self.draw)])
        chosen, self.pool = self.pool[: self.batch], self.pool[self.batch :]
        return chosen


def train(
    learner: Learner,
    schedule: Schedule,
    seed: int,
    world: World = World(),
    *,
    checkpoint: Checkpoint | None = None,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
    tick: Callable[[int], None] = lambda step: None,
    resumed: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains the learner's network and tests it every `eval_every` steps and at the end.

    report: called after each evaluation, on the first process; tick: after each step; resumed: with the step that a checkpoint
    was made at. On one machine, one number of threads and processes, the same arguments give the same weights on the CPU.
    UserError where the loss is not finite, or the checkpoint cannot be used.
    """
    if schedule.batch % world.size:
        raise UserError(
            f"--batch {schedule.batch}: {world.size} processes share it, so give a multiple of {world.size}"
        )
    # Forked, so that a caller's own random numbers do not move; dropout and first weights use the global generator.
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(learner, schedule, seed, world)
        if checkpoint is not None and run.load(checkpoint):
            resumed(run.step)
        return run.finish(checkpoint, report, tick)


class _Run:
    """A run between two steps."""

    def __init__(self, learner: Learner, schedule: Schedule, seed: int, world: World) -> None:
        self.learner, self.schedule, self.world = learner, schedule, world
        model = learner.build().to(world.device, memory_format=torch.channels_last)
        if world.size > 1:
            if world.device.type == "cuda":
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            world.share_state(model)
            torch.manual_seed(seed + 1_000_003 * world.rank)  # dropout differs between the images of a batch
        self.model = model
        self.groups = learner.parameter_groups(model)
        self.rates = [group.get("rate", 1) for group in self.groups]
        self.optimizer = _optimizer(
            [{key: value for key, value in group.items() if key != "rate"} for group in self.groups], schedule
        )
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.gradients = GradientMean([parameter for parameter in self.parameters if parameter.requires_grad], world)
        self.draw = torch.Generator().manual_seed(seed)
        self.order = BatchOrder(learner.train_count, schedule.batch, self.draw)
        self.step, self.since, self.seconds = 0, 0, 0.0
        self.total = torch.zeros((), device=world.device)
        self.curve: list[Evaluation] = []
        self.metrics: Metrics = {}

    def finish(
        self, checkpoint: Checkpoint | None, report: Callable[[Evaluation], None], tick: Callable[[int], None]
    ) -> Trained:
        schedule, saved = self.schedule, time.monotonic()
        began = saved - self.seconds
        while self.step < schedule.steps:
            self._step()
            tick(self.step)
            due = self.step % schedule.eval_every == 0 or self.step == schedule.steps
            if due:
                self._evaluate()
                if self.world.leads:
                    report(self.curve[-1])
            self.seconds = time.monotonic() - began
            if checkpoint is not None and (due or self._late(saved, checkpoint.every)):
                self._save(checkpoint)
                saved = time.monotonic()
        return Trained(self.curve, self.metrics, self.seconds, self.model)

    def _step(self) -> None:
        self.model.train()
        indices = self.order.next().tolist()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = self.schedule.learning_rate * rate * self.schedule.rate_factor(self.step)
            _set_momentum(group, self.schedule.momentum_at(self.step))
        with self._autocast():
            loss = self._loss(indices)
        self.optimizer.zero_grad()
        with self.gradients:
            loss.backward()
        if self.schedule.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        self.optimizer.step()
        self.total, self.since, self.step = self.total + loss.detach().float(), self.since + 1, self.step + 1

    def _loss(self, indices: list[int]) -> torch.Tensor:
        world = self.world
        if world.size == 1:
            return self.learner.loss(self.model, indices, self.draw, world.device)
        return self.learner.part_loss(self.model, indices, self.draw, world.device, world.rank, world.size)

    def _evaluate(self) -> None:
        loss = self._finite(self.world.sum([float(self.total / self.since)])[0] / self.world.size)
        told = ""
        if self.world.leads:
            self.model.eval()
            with torch.no_grad(), self._autocast():
                told = json.dumps(self.learner.evaluate(self.model, self.world.device))
        self.metrics = json.loads(self.world.from_first(told))
        score = self.metrics[self.learner.metric]
        if score is None:
            raise UserError(f"the test images show nothing that {self.learner.metric} could be measured on")
        self.curve.append(Evaluation(self.step, score, loss))
        self.total, self.since = torch.zeros_like(self.total), 0

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise UserError(
                f"training diverged: the loss is {value} at step {self.step}; try another seed (--seeds), a larger "
                "--batch or a smaller --learning-rate"
            )
        return value

    def _autocast(self) -> AbstractContextManager:
        kind = self.world.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def _late(self, saved: float, every: float) -> bool:
        """Whether a checkpoint is due; the same on every process."""
        late = time.monotonic() - saved >= every
        if self.world.size == 1:
            return late
        return self.step % LOOK_EVERY == 0 and self.world.sum([float(late and self.world.leads)])[0] > 0

    def _save(self, checkpoint: Checkpoint) -> None:
        device = self.world.device
        random = {"cpu": self.world.gather(torch.get_rng_state())}
        if device.type == "cuda":
            random["cuda"] = self.world.gather(torch.cuda.get_rng_state(device))
        if not self.world.leads:
            return
        with writing(checkpoint.path) as file:
            torch.save(
                {
                    "settings": json.dumps(checkpoint.settings, sort_keys=True),
                    "processes": self.world.size,
                    "step": self.step,
                    "since": self.since,
                    "seconds": self.seconds,
                    "total": self.total,
                    "pool": self.order.pool.clone(),
                    "draw": self.draw.get_state(),
                    "random": random,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "curve": [asdict(point) for point in self.curve],
                    "metrics": json.dumps(self.metrics),
                },
                file,
            )

    def load(self, checkpoint: Checkpoint) -> bool:
        """Goes on from the checkpoint, if there is one of this run."""
        there = checkpoint.path.is_file()
        if not self.world.from_first("yes" if there else ""):
            return False
        if not there:
            raise UserError(
                f"{checkpoint.path}: this process does not see the checkpoint; --out must be a folder that all share"
            )
        try:
            state = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            raise UserError(
                f"{checkpoint.path}: this checkpoint cannot be read ({type(error).__name__}); remove it and the run "
                "starts anew"
            ) from None
        if state["settings"] != json.dumps(checkpoint.settings, sort_keys=True):
            return False
        if state["processes"] != self.world.size:
            raise UserError(
                f"{checkpoint.path}: made by {state['processes']} processes, now there are {self.world.size}; start "
                "as many, or remove it and the run starts anew"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draw.set_state(state["draw"])
        self.order.pool = state["pool"]
        self.step, self.since, self.seconds = state["step"], state["since"], state["seconds"]
        self.total = state["total"].to(self.world.device)
        self.curve = [Evaluation(**point) for point in state["curve"]]
        self.metrics = json.loads(state["metrics"])
        torch.set_rng_state(state["random"]["cpu"][self.world.rank])
        if self.world.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"][self.world.rank], self.world.device)
        return True


def _set_momentum(group: dict[str, Any], momentum: float | None) -> None:
    """Gives an optimizer's group that momentum, or AdamW its first beta; None leaves it as it is."""
    if momentum is None:
        return
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum


def _optimizer(groups: list[dict[str, Any]], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(
            groups, schedule.learning_rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
    return torch.optim.AdamW(groups, schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
