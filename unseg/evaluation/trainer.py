"""One trainer for every task and condition: only the pixels of the training images differ between clean, protected and
random.

The seed fixes first weights, batch order and augmentations, all drawn on the CPU, so two runs that differ in their
images alone see the same views in the same order. A run that is killed goes on from its last checkpoint and ends, on a
CPU, with the same numbers to the bit. Several processes (`torchrun`) share every batch: process r of n computes the
images r, r + n, … of it and gradients are averaged; the first process tests, writes and tells.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unseg.compute.distributed import GradientMean, World
from unseg.compute.progress import SILENT, Progress, Tick
from unseg.errors import UserError
from unseg.evaluation.learner import Learner, Metrics
from unseg.evaluation.schedule import Schedule
from unseg.storage.checkpoint_files import count, entry, load_optimizer, read_checkpoint, taken_over, write_checkpoint
from unseg.storage.files import check_room
from unseg.storage.locks import Held, writing_into

ANEW = "remove it and the run starts anew"  # what to do with a checkpoint that is none
LOOK_EVERY = 10  # steps between looks at the clock where several processes must agree on a checkpoint


@dataclass(frozen=True)
class Evaluation:
    """The state of a run after `step` steps.

    score: the learner's metric on the clean test images. train_loss: mean since the evaluation before.
    """

    step: int
    score: float
    train_loss: float


@dataclass(frozen=True)
class Trained:
    """What a run came to. metrics: all of them, at the end. seconds: over all parts of a run that was interrupted."""

    curve: list[Evaluation]
    metrics: Metrics
    seconds: float
    network: nn.Module = field(repr=False)

    @property
    def final(self) -> float:
        """Returns the score at the end."""
        return self.curve[-1].score

    @property
    def best(self) -> float:
        """Returns the highest score of all evaluations."""
        return max(point.score for point in self.curve)

    @property
    def train_loss(self) -> float:
        """Returns the mean training loss since the last evaluation but one."""
        return self.curve[-1].train_loss


@dataclass(frozen=True)
class Checkpoint:
    """Where a run's state is kept until it is done.

    settings: what the run depends on; the state of a run with other settings is not gone on with. every: seconds
    between two writes; there is one at every evaluation as well. held: the folder of results, as this process holds it.
    """

    path: Path
    settings: dict[str, Any]
    every: float = 120.0
    held: Held | None = None

    def write(self, state: dict[str, Any]) -> None:
        """Writes the state whole, in place of an earlier one."""
        with writing_into(self.held):
            write_checkpoint(self.path, state)

    def remove(self) -> None:
        """Removes the file, if there is one."""
        try:
            with writing_into(self.held):
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be removed ({error.strerror or error}); check permissions") from None


class BatchOrder:
    """Endless batches of indices: every image once an epoch, in a new order.

    The last, partial batch of an epoch is filled up from the next. A set smaller than the batch repeats images within
    one.
    """

    def __init__(self, count: int, batch: int, draw: torch.Generator) -> None:
        self.count, self.batch, self.draw = count, batch, draw
        self.pool = torch.empty(0, dtype=torch.int64)

    def next(self) -> torch.Tensor:
        """Returns the indices of the next batch, int64."""
        while len(self.pool) < self.batch:
            self.pool = torch.cat([self.pool, torch.randperm(self.count, generator=self.draw)])
        chosen, self.pool = self.pool[: self.batch], self.pool[self.batch :]
        return chosen


def train(
    learner: Learner,
    schedule: Schedule,
    seed: int,
    world: World | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    record: Callable[[Evaluation], None] | None = None,
    progress: Progress = SILENT,
    what: str = "training",
) -> Trained:
    """Trains the learner's network and tests it every `eval_every` steps and at the end.

    record: takes each evaluation to a file, on the first process. progress: has a bar called `what` with a tick a step,
    and is told where a checkpoint was gone on with. On one machine, one number of threads and processes, the same
    arguments give the same weights on the CPU. Raises UserError where the loss is not finite, or the checkpoint cannot
    be used.
    """
    world = world or World()
    if schedule.batch % world.size:
        raise UserError(
            f"--batch {schedule.batch}: {world.size} processes share it, so give a multiple of {world.size}"
        )
    # Forked, so that a caller's own random numbers do not move; dropout and first weights use the global generator.
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Training(learner, schedule, seed, world, what)
        resumed = checkpoint is not None and run.load(checkpoint)
        if checkpoint is not None:
            run.check_room(checkpoint)
        with progress.bar(what, schedule.steps) as tick:
            if resumed:
                progress.say(f"{what}: goes on from step {run.step}")
            for _ in range(run.step):
                tick()
            return run.finish(checkpoint, record, tick)


class _Training:
    """A run between two steps."""

    def __init__(self, learner: Learner, schedule: Schedule, seed: int, world: World, what: str) -> None:
        self.learner, self.schedule, self.world, self.what = learner, schedule, world, what
        model = learner.build().to(world.device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
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

    def finish(self, checkpoint: Checkpoint | None, record: Callable[[Evaluation], None] | None, tick: Tick) -> Trained:
        """Takes the steps that are left. See `train`."""
        schedule, saved = self.schedule, time.monotonic()
        began = saved - self.seconds
        while self.step < schedule.steps:
            self._step()
            tick()
            due = self.step % schedule.eval_every == 0 or self.step == schedule.steps
            if due:
                self._evaluate()
                if record is not None and self.world.leads:
                    record(self.curve[-1])
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
                f"{self.what}: training diverged: the loss is {value} at step {self.step}; try another seed (--seeds), "
                "a larger --batch or a smaller --learning-rate"
            )
        return value

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self.world.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def _late(self, saved: float, every: float) -> bool:
        """Returns whether a checkpoint is due; the answer is the same on every process."""
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
        state = {
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
        }
        checkpoint.write(state)

    def check_room(self, checkpoint: Checkpoint) -> None:
        """Raises UserError where the disk has no room for a checkpoint, which an optimizer makes larger later."""
        if not self.world.leads:
            return
        kept = 1 if self.schedule.optimizer == "sgd" else 2  # numbers that are remembered of each weight
        learned = sum(tensor.numel() * tensor.itemsize for tensor in self.parameters if tensor.requires_grad)
        whole = sum(tensor.numel() * tensor.itemsize for tensor in self.model.state_dict().values())
        with writing_into(checkpoint.held):
            check_room(checkpoint.path.parent, whole + kept * learned)

    def load(self, checkpoint: Checkpoint) -> bool:
        """Returns whether there is a checkpoint of this run; if so, the run goes on from there."""
        there = checkpoint.path.is_file()
        if not self.world.from_first("yes" if there else ""):
            return False
        if not there:
            raise UserError(
                f"{checkpoint.path}: this process does not see the checkpoint; --out must be a folder that all share"
            )
        try:
            state = read_checkpoint(checkpoint.path, ANEW)
        except FileNotFoundError:
            raise UserError(f"{checkpoint.path}: was removed while the run began; start it again") from None
        with taken_over(checkpoint.path, ANEW):
            if entry(state, "settings", str) != json.dumps(checkpoint.settings, sort_keys=True):
                return False
            self._take_over(state, checkpoint.path)
        return True

    def _take_over(self, state: dict[str, Any], path: Path) -> None:
        """Goes on from what `_save` wrote. Raises one of `MISFITS` where it is another run's."""
        if state["processes"] != self.world.size:
            raise UserError(
                f"{path}: made by {state['processes']} processes, now there are {self.world.size}; start as many, or"
                f" {ANEW}"
            )
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.draw.set_state(state["draw"])
        self.order.pool = _indices(state["pool"], self.order.count)
        self.step, self.since, self.seconds = count(state, "step"), count(state, "since"), float(state["seconds"])
        self.total = state["total"].reshape(()).to(self.world.device)
        self.curve = [_evaluation(point) for point in state["curve"]]
        self.metrics = dict(json.loads(state["metrics"]))
        torch.set_rng_state(state["random"]["cpu"][self.world.rank])
        if self.world.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"][self.world.rank], self.world.device)


def _indices(pool: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the images that are left of an epoch; ValueError where they are no places in `count` images."""
    if pool.dtype != torch.int64 or pool.dim() != 1 or not ((pool >= 0) & (pool < count)).all():
        raise ValueError("'pool' holds no images of this set")
    return pool


def _evaluation(point: dict[str, Any]) -> Evaluation:
    return Evaluation(count(point, "step"), float(point["score"]), float(point["train_loss"]))


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
