"""The state of a training run: two kinds of players, each with an optimizer of its own, and all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segment_anything_training.build import build_generator, build_surrogate, set_speed
from unseg.compute.device import in_bf16
from unseg.compute.distributed import GradientMean, World
from unseg.errors import UserError
from unseg.method.config import TrainConfig
from unseg.method.prompts import seeded

Loader = Callable[[nn.Module], None]
"""Fills a network with pretrained weights."""


class NonFiniteStep(Exception):
    """A step's loss or gradients are not finite; nothing was updated. ranks: the processes whose batch did it; loss: theirs."""

    def __init__(self, ranks: list[int], loss: float) -> None:
        self.ranks, self.loss = ranks, loss
        super().__init__(f"processes {ranks}: loss {loss}")


@dataclass
class Player:
    """A network, its optimizer, and how many steps it has taken."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    gradients: GradientMean
    steps: int = 0

    @classmethod
    def start(cls, name: str, network: nn.Module, learning_rate: float, config: TrainConfig, world: World) -> Player:
        network.to(device=world.device, memory_format=torch.channels_last)
        set_speed(network, in_bf16(config.precision, world.device), compiled=False)
        world.share_state(network)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            trainable, lr=learning_rate, betas=config.adam_betas, weight_decay=config.weight_decay, fused=True
        )
        return cls(name, network, optimizer, GradientMean(trainable, world))

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """One step down the gradient of the mean of all processes' losses, which is returned.

        NonFiniteStep where a loss or the gradient is not finite; the network and its optimizer are then as they were.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        with self.gradients:
            loss.backward()
        losses = self._checked(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return sum(losses) / len(losses)

    def _checked(self, loss: Tensor) -> list[float]:
        """The losses of all processes by rank."""
        norms = [
            torch.linalg.vector_norm(parameter.grad)
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        reports = self.gradients.world.gather(torch.stack([loss.double(), torch.stack(norms).sum().double()]))
        if all(report.isfinite().all() for report in reports):
            return [report[0].item() for report in reports]
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged, so a bad one shows on all processes; a bad loss shows where it comes from.
        ranks = [rank for rank, report in enumerate(reports) if not report[0].isfinite()] or list(range(len(reports)))
        raise NonFiniteStep(ranks, reports[ranks[0]][0].item())

    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "network": self.network.state_dict(),
            "steps": self.steps,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def _build(build: Callable[[str], nn.Module], name: str, field: str) -> nn.Module:
    try:
        return build(name)
    except ValueError as error:
        raise UserError(f"--set {field}={name}: {error}") from None


def _check_size(network: nn.Module, side: int, field: str) -> None:
    """SAM's networks take one size of input, the compact ones every multiple of their `size_step`."""
    step = getattr(network, "size_step", None)
    if side != network.image_size and (step is None or side % step):
        remedy = f"a multiple of {step}" if step else f"{network.image_size}"
        raise UserError(f"--set {field}={side}: this network takes {remedy}")


@dataclass
class Training:
    """A run between two steps. Everything random that it will draw follows from the seed and the step."""

    config: TrainConfig
    world: World
    generator: Player
    surrogates: list[Player]
    load_surrogate: Loader | None = None
    step: int = 0
    seconds: float = 0.0
    births: int = 0
    """How many surrogates have been started; each takes its random weights from this number."""
    recent: dict[str, list[float]] = field(default_factory=dict)
    """Each player's losses since the last line of the log."""

    @classmethod
    def start(
        cls,
        config: TrainConfig,
        world: World = World(),
        load_generator: Loader | None = None,
        load_surrogate: Loader | None = None,
    ) -> Training:
        """A new run, the same on every process. The loaders fill networks whose start is not random."""
        torch.manual_seed(config.seed)
        network = _build(build_generator, config.generator, "generator")
        _check_size(network, config.view_size, "view_size")
        if load_generator is not None:
            load_generator(network)
        training = cls(
            config,
            world,
            Player.start(config.generator, network, config.generator_learning_rate, config, world),
            [],
            load_surrogate,
        )
        training.surrogates = [training._new_surrogate(name) for name in config.surrogates]
        for place, surrogate in enumerate(training.surrogates):  # staggered, so that they never start afresh together
            surrogate.steps = config.surrogate_lifetime * place // len(training.surrogates)
        torch.manual_seed(config.seed + world.rank)  # what networks may draw themselves differs between processes
        return training

    def _new_surrogate(self, name: str) -> Player:
        self.births += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeded(self.config.seed, "surrogate", self.births).integers(2**62)))
            network = _build(build_surrogate, name, "surrogates")
        for size in self.config.surrogate_sizes:
            _check_size(network, size, "surrogate_sizes")
        if self.load_surrogate is not None:
            self.load_surrogate(network)
        return Player.start(name, network, self.config.surrogate_learning_rate, self.config, self.world)

    @property
    def mask_sides(self) -> tuple[float, float]:
        """The side of a mask prompt as a share of the generator's and of the surrogate's input."""
        generator, surrogate = self.generator.network, self.surrogates[0].network
        return generator.mask_size / generator.image_size, surrogate.mask_size / surrogate.image_size

    @property
    def oldest_surrogate(self) -> Player:
        return max(self.surrogates, key=lambda surrogate: surrogate.steps)

    def renew(self) -> None:
        """Replaces every surrogate whose life is over."""
        for place, surrogate in enumerate(self.surrogates):
            if self.config.surrogate_lifetime and surrogate.steps >= self.config.surrogate_lifetime:
                self.surrogates[place] = self._new_surrogate(surrogate.name)

    def take_losses(self) -> dict[str, float]:
        """Each player's mean loss since the last call."""
        means = {player: sum(losses) / len(losses) for player, losses in self.recent.items()}
        self.recent = {}
        return means

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint holds, but for the random states of the other processes."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "births": self.births,
            "recent": self.recent,
            "generator": self.generator.state(),
            "surrogates": [surrogate.state() for surrogate in self.surrogates],
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. Every process must call this; one of them writes it."""
        world = self.world
        on_gpu = [torch.cuda.get_rng_state(world.device)] if world.device.type == "cuda" else []
        return self.own_state() | {"random": [world.gather(state) for state in (torch.get_rng_state(), *on_gpu)]}

    def load(self, state: dict[str, Any]) -> None:
        for player, saved in zip([self.generator, *self.surrogates], [state["generator"], *state["surrogates"]]):
            player.load(saved)
        self.step, self.seconds, self.births, self.recent = (
            state[key] for key in ("step", "seconds", "births", "recent")
        )
        on_cpu, *on_gpu = (states[self.world.rank] for states in state["random"])
        torch.set_rng_state(on_cpu)
        if on_gpu and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(on_gpu[0], self.world.device)
