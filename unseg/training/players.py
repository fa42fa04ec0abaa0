"""The players of a training run, each a network with an optimizer of its own, and the state of a run between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from segment_anything_training.build import build_generator, build_surrogate, set_speed
from unseg.compute.device import in_bf16
from unseg.compute.distributed import GradientMean, World
from unseg.errors import UserError
from unseg.method.config import TrainConfig
from unseg.method.prompts import seeded
from unseg.storage.checkpoint_files import count, entry, load_optimizer

ALONE = World()
"""The world of a training of one process on the CPU."""
Loader = Callable[[nn.Module], None]
"""Fills a network with pretrained weights."""


@dataclass(frozen=True)
class Starts:
    """Fills new networks with pretrained weights; None where a player starts from random ones."""

    generator: Loader | None = None
    surrogate: Loader | None = None


FROM_RANDOM = Starts()


class NonFiniteStep(Exception):
    """Says that a step's loss or gradients are not finite; nothing was updated.

    ranks: the processes whose batch did it. loss: the loss of the first of them.
    """

    def __init__(self, ranks: list[int], loss: float) -> None:
        self.ranks, self.loss = ranks, loss
        super().__init__(f"processes {ranks}: loss {loss}")


@dataclass
class Player:
    """Joins a network with its optimizer, and counts the steps that they have taken."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    gradients: GradientMean
    steps: int = 0

    @classmethod
    def start(cls, name: str, network: nn.Module, learning_rate: float, config: TrainConfig, world: World) -> Player:
        """Returns a player that has taken no step, its network on the world's device and the same on all processes."""
        network.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack memory_format
        set_speed(network, in_bf16(config.precision, world.device))
        world.share_state(network)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            trainable, lr=learning_rate, betas=config.adam_betas, weight_decay=config.weight_decay, fused=True
        )
        return cls(name, network, optimizer, GradientMean(trainable, world))

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """Takes one step down the gradient of the mean of all processes' losses, and returns that mean.

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
        """Returns the losses of all processes by rank; NonFiniteStep where a loss or the gradient is not finite."""
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
        """Returns what a checkpoint holds of the player."""
        return {
            "name": self.name,
            "network": self.network.state_dict(),
            "steps": self.steps,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.steps = count(state, "steps")


class _Prompted(Protocol):
    image_size: int
    mask_size: int


def sides_of(network: nn.Module) -> tuple[int, int]:
    """Returns the sides of the image and of the mask prompt that a generator or a surrogate takes."""
    sized = cast(_Prompted, network)
    return sized.image_size, sized.mask_size


def _build(build: Callable[..., nn.Module], name: str, option: str, **options: bool) -> nn.Module:
    try:
        return build(name, **options)
    except ValueError as error:
        raise UserError(f"--set {option}={name}: {error}") from None


def _check_size(network: nn.Module, side: int, option: str) -> None:
    """Raises UserError where a network does not take images of that side.

    SAM's networks take one size, the compact ones every multiple of their `size_step`.
    """
    step, own_side = getattr(network, "size_step", None), sides_of(network)[0]
    if side == own_side or (step is not None and side % step == 0):
        return
    remedy = f"a multiple of {step}" if step else f"{own_side}"
    raise UserError(f"--set {option}={side}: this network takes {remedy}")


@dataclass
class Training:
    """Holds a run between two steps; everything random that it will draw follows from the seed and the step.

    births: how many surrogates have been started; each takes its random weights from this number. recent: each player's
    losses since the last line of the log.
    """

    config: TrainConfig
    world: World
    generator: Player
    surrogates: list[Player]
    load_surrogate: Loader | None = None
    step: int = 0
    seconds: float = 0.0
    births: int = 0
    recent: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def start(cls, config: TrainConfig, world: World = ALONE, starts: Starts = FROM_RANDOM) -> Training:
        """Returns a new run, the same on every process. starts: fill networks whose start is not random."""
        torch.manual_seed(config.seed)
        network = _build(build_generator, config.generator, option="generator", code_prompt=config.code_prompt)
        _check_size(network, config.view_size, option="view_size")
        if starts.generator is not None:
            starts.generator(network)
        generator = Player.start(config.generator, network, config.generator_learning_rate, config, world)
        training = cls(config, world, generator, surrogates=[], load_surrogate=starts.surrogate)
        training.surrogates = [training._new_surrogate(name) for name in config.surrogates]
        for place, surrogate in enumerate(training.surrogates):  # staggered, so that they never start afresh together
            surrogate.steps = config.surrogate_lifetime * place // len(training.surrogates)
        torch.manual_seed(config.seed + world.rank)  # what networks may draw themselves differs between processes
        return training

    def _new_surrogate(self, name: str) -> Player:
        self.births += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeded(self.config.seed, "surrogate", self.births).integers(2**62)))
            network = _build(build_surrogate, name, option="surrogates")
        for size in self.config.surrogate_sizes:
            _check_size(network, size, option="surrogate_sizes")
        if self.load_surrogate is not None:
            self.load_surrogate(network)
        return Player.start(name, network, self.config.surrogate_learning_rate, self.config, self.world)

    @property
    def mask_sides(self) -> tuple[float, float]:
        """The side of a mask prompt is this share of the generator's and of the surrogate's input."""
        generator, surrogate = sides_of(self.generator.network), sides_of(self.surrogates[0].network)
        return generator[1] / generator[0], surrogate[1] / surrogate[0]

    @property
    def oldest_surrogate(self) -> Player:
        """This surrogate has taken the most steps; it is the first of several."""
        return max(self.surrogates, key=lambda surrogate: surrogate.steps)

    def renew(self) -> None:
        """Replaces every surrogate whose life is over."""
        for place, surrogate in enumerate(self.surrogates):
            if self.config.surrogate_lifetime and surrogate.steps >= self.config.surrogate_lifetime:
                self.surrogates[place] = self._new_surrogate(surrogate.name)

    def take_losses(self) -> dict[str, float]:
        """Returns each player's mean loss since the last call, and forgets them."""
        means = {player: sum(losses) / len(losses) for player, losses in self.recent.items()}
        self.recent = {}
        return means

    def own_state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds, but for the random states of the other processes."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "births": self.births,
            "recent": self.recent,
            "generator": self.generator.state(),
            "surrogates": [surrogate.state() for surrogate in self.surrogates],
        }

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds. Every process must call this; one of them writes it."""
        world = self.world
        on_gpu = [torch.cuda.get_rng_state(world.device)] if world.device.type == "cuda" else []
        return self.own_state() | {"random": [world.gather(state) for state in (torch.get_rng_state(), *on_gpu)]}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned, on every process.

        Raises one of `MISFITS` of `unseg.storage.checkpoint_files` where it is another run's.
        """
        saved_players = [state["generator"], *state["surrogates"]]
        for player, saved in zip([self.generator, *self.surrogates], saved_players, strict=True):
            player.load(saved)
        self.step, self.births = count(state, "step"), count(state, "births")
        self.seconds = float(state["seconds"])
        self.recent = {name: [float(loss) for loss in losses] for name, losses in entry(state, "recent", dict).items()}
        on_cpu, *on_gpu = (states[self.world.rank] for states in state["random"])
        torch.set_rng_state(on_cpu)
        if on_gpu and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(on_gpu[0], self.world.device)
