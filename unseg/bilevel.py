"""Bilevel training: a surrogate learns to segment noised images while a generator learns the noise that makes it easy.

One readable loop. Each player has its own optimizer, and the frozen one keeps every bit.
Shapes: B batch, V side of the generator's view, S side of the surrogate's.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from segment_anything_training.build import build_generator, build_surrogate
from segment_anything_training.prompts import Prompts
from unseg import noise
from unseg.checkpoint import save_generator, write_durably
from unseg.config import TrainConfig
from unseg.data.views import TrainingImage, draw_batch
from unseg.errors import UserError
from unseg.losses import mask_loss
from unseg.prompts import draw_prompts, draw_subset, seeded

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
GENERATOR_FILE = "generator.safetensors"


@dataclass
class Player:
    """A network, its optimizer, and how many steps it has taken."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int = 0

    @classmethod
    def start(cls, name: str, network: nn.Module, learning_rate: float, device: torch.device) -> "Player":
        network.to(device=device, memory_format=torch.channels_last)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return cls(name, network, torch.optim.Adam(trainable, lr=learning_rate))

    def update(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within, no parameter of `network` asks for a gradient; gradients still flow through it."""
    asked = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Batch:
    """A step's views with the prompts drawn for them.

    images: B×3×V×V in [0, 1]; small_images: B×3×S×S; labels: B×1×V×V in [0, 1]; small_labels: B×1×S×S in [0, 1].
    """

    images: Tensor
    labels: Tensor
    small_images: Tensor
    small_labels: Tensor
    generator_prompts: Prompts
    surrogate_prompts: Prompts


def prepare(images: Tensor, labels: Tensor, config: TrainConfig, step: int, mask_sides: tuple[float, float],
            device: torch.device) -> Batch:
    """Moves the views to the device and draws sizes and prompts; everything depends on the seed and the step alone.

    mask_sides: the side of a mask prompt as a share of the generator's and of the surrogate's input.
    """
    draws = seeded(config.seed, "prompts", step)
    size = int(draws.choice(config.surrogate_sizes))
    images, labels = images.to(device), labels.to(device)
    small_images, small_labels = (
        F.interpolate(view, (size, size), mode="bilinear", align_corners=False, antialias=config.antialias)
        for view in (images, labels)
    )
    generator_kinds = draw_subset(config.generator_prompts, draws)
    surrogate_kinds = (str(draws.choice(config.surrogate_prompts)),) if config.surrogate_prompts else ()
    # A tiny object can vanish from the smaller view: its prompts are then found as the larger one's maximum.
    findable = torch.where(small_labels.amax((1, 2, 3), keepdim=True) > 0, small_labels, F.adaptive_max_pool2d(labels, size))
    return Batch(
        images, labels, small_images, small_labels,
        draw_prompts(labels, generator_kinds, round(config.view_size * mask_sides[0]), draws),
        draw_prompts(findable, surrogate_kinds, round(size * mask_sides[1]), draws),
    )


def noised(batch: Batch, noise_B3NN: Tensor, config: TrainConfig) -> Tensor:
    """What the surrogate sees, B×3×S×S. The region of the object is the small label, rounded."""
    return noise.add_noise(batch.small_images, noise_B3NN, batch.small_labels.round(), config.budget, config.antialias)


def surrogate_step(generator: nn.Module, surrogate: Player, batch: Batch, config: TrainConfig, learning_rate: float,
                   points: torch.Generator) -> float:
    """The surrogate learns the true mask from noised images; the generator gets no gradient. Returns the loss."""
    with torch.no_grad():
        noise_B3NN = generator(batch.images, batch.generator_prompts)
    logits = surrogate.network(noised(batch, noise_B3NN, config), batch.surrogate_prompts)
    loss = mask_loss(logits, batch.small_labels, config.loss_points, points)
    surrogate.update(loss, learning_rate)
    return loss.item()


def generator_step(generator: Player, surrogate: nn.Module, batch: Batch, config: TrainConfig, learning_rate: float,
                   points: torch.Generator) -> float:
    """The generator learns noise with which the frozen surrogate answers the target. Returns the loss."""
    with frozen(surrogate):
        noise_B3NN = generator.network(batch.images, batch.generator_prompts)
        logits = surrogate(noised(batch, noise_B3NN, config), batch.surrogate_prompts)
        target = torch.ones_like(batch.small_labels) if config.target == "ones" else batch.small_labels
        loss = mask_loss(logits, target, config.loss_points, points)
        generator.update(loss, learning_rate)
    return loss.item()


@torch.no_grad()
def surrogate_losses(generator: nn.Module, surrogate: nn.Module, batch: Batch, config: TrainConfig) -> tuple[float, float]:
    """The surrogate's loss against the true mask on noised and on clean images: the gap is what the noise does."""
    noise_B3NN = generator(batch.images, batch.generator_prompts)
    return tuple(
        mask_loss(surrogate(images, batch.surrogate_prompts), batch.small_labels, points=0).item()
        for images in (noised(batch, noise_B3NN, config), batch.small_images)
    )


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
    """The state of a run: what a checkpoint holds."""

    config: TrainConfig
    device: torch.device
    generator: Player
    surrogates: list[Player]
    step: int = 0
    seconds: float = 0.0
    births: int = 0
    """How many surrogates have been started; each takes its random weights from this number."""
    recent: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def start(cls, config: TrainConfig, device: torch.device) -> "Training":
        torch.manual_seed(config.seed)
        network = _build(build_generator, config.generator, "generator")
        _check_size(network, config.view_size, "view_size")
        generator = Player.start(config.generator, network, config.generator_learning_rate, device)
        training = cls(config, device, generator, [])
        training.surrogates = [training._new_surrogate(name) for name in config.surrogates]
        for place, surrogate in enumerate(training.surrogates):  # staggered, so that they never start afresh together
            surrogate.steps = config.surrogate_lifetime * place // len(training.surrogates)
        return training

    def _new_surrogate(self, name: str) -> Player:
        self.births += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeded(self.config.seed, "surrogate", self.births).integers(2**62)))
            network = _build(build_surrogate, name, "surrogates")
        for size in self.config.surrogate_sizes:
            _check_size(network, size, "surrogate_sizes")
        return Player.start(name, network, self.config.surrogate_learning_rate, self.device)

    @property
    def mask_sides(self) -> tuple[float, float]:
        generator, surrogate = self.generator.network, self.surrogates[0].network
        return generator.mask_size / generator.image_size, surrogate.mask_size / surrogate.image_size

    def phase_of(self, step: int, steps_per_epoch: int) -> int:
        return step // (self.config.steps_per_phase or steps_per_epoch)

    def renew(self) -> None:
        """Replaces every surrogate whose life is over."""
        for place, surrogate in enumerate(self.surrogates):
            if self.config.surrogate_lifetime and surrogate.steps >= self.config.surrogate_lifetime:
                self.surrogates[place] = self._new_surrogate(surrogate.name)

    def take_step(self, samples: Sequence[TrainingImage], steps_per_epoch: int) -> None:
        """One step of the player whose turn it is."""
        config, phase = self.config, self.phase_of(self.step, steps_per_epoch)
        batch = prepare(*draw_batch(samples, config, self.step), config, self.step, self.mask_sides, self.device)
        surrogate = self.surrogates[phase // len(config.phases) % len(self.surrogates)]
        decay = config.final_learning_rate_factor if phase >= config.decay_phase else 1.0
        points = torch.Generator().manual_seed(int(seeded(config.seed, "points", self.step).integers(2**62)))
        player = config.phases[phase % len(config.phases)]
        if player == "surrogate":
            loss = surrogate_step(self.generator.network, surrogate, batch, config,
                                  config.surrogate_learning_rate * decay, points)
        else:
            loss = generator_step(self.generator, surrogate.network, batch, config,
                                  config.generator_learning_rate * decay, points)
        if not np.isfinite(loss):
            raise UserError(f"step {self.step}: the {player}'s loss is {loss}; lower its learning rate with --set "
                            f"{player}_learning_rate=… and continue from the last checkpoint with --resume")
        self.recent.setdefault(player, []).append(loss)
        self.step += 1
        self.renew()

    def state(self) -> dict[str, Any]:
        def of(player: Player) -> dict[str, Any]:
            return {"name": player.name, "network": player.network.state_dict(), "steps": player.steps,
                    "optimizer": player.optimizer.state_dict()}

        return {"config": json.dumps(dataclasses.asdict(self.config)), "step": self.step, "seconds": self.seconds,
                "births": self.births, "recent": self.recent, "generator": of(self.generator),
                "surrogates": [of(surrogate) for surrogate in self.surrogates]}

    def load(self, state: dict[str, Any], source: Path) -> None:
        if json.loads(state["config"]) != json.loads(json.dumps(dataclasses.asdict(self.config))):
            theirs, ours = json.loads(state["config"]), json.loads(json.dumps(dataclasses.asdict(self.config)))
            changed = [f"{key} {theirs.get(key)} → {ours.get(key)}" for key in ours if theirs.get(key) != ours.get(key)]
            raise UserError(f"{source}: made with other settings ({'; '.join(changed)}); resume with the same, or use "
                            "another --output")
        for player, saved in zip([self.generator, *self.surrogates], [state["generator"], *state["surrogates"]]):
            player.network.load_state_dict(saved["network"])
            player.optimizer.load_state_dict(saved["optimizer"])
            player.steps = saved["steps"]
        self.step, self.seconds, self.births, self.recent = (state[key] for key in ("step", "seconds", "births", "recent"))


def _save(training: Training, output: Path, facts: dict[str, str]) -> None:
    buffer = io.BytesIO()
    torch.save(training.state(), buffer)
    write_durably(output / STATE_FILE, buffer.getvalue())
    metadata = facts | {"step": str(training.step), "hours": f"{training.seconds / 3600:.3f}",
                        "config": json.dumps(dataclasses.asdict(training.config))}
    save_generator(training.generator.network, training.config.generator, output / GENERATOR_FILE, metadata)


def train(config: TrainConfig, samples: Sequence[TrainingImage], output: Path, device: str = "cpu", resume: bool = False,
          watched: Sequence[TrainingImage] = (), initialise: Any = None, facts: dict[str, str] | None = None,
          quiet: bool = False) -> Path:
    """Runs the configuration and returns the path of the generator's weights.

    samples: what to train on. watched: held-out samples for the log (the first samples if empty). initialise: a function
    that loads pretrained weights into (generator network, surrogate networks) before a fresh start. facts: put into the
    weights' metadata. output receives `generator.safetensors`, `state.pt` (for resume) and `log.jsonl`: a line every
    `log_every` steps with the players' mean losses and the surrogate's losses on noised and on clean held-out images.
    """
    output.mkdir(parents=True, exist_ok=True)
    state_path = output / STATE_FILE
    if not resume and (state_path.exists() or (output / GENERATOR_FILE).exists()):
        raise UserError(f"--output {output}: holds an earlier run; continue it with --resume, or use another folder")
    if resume and not state_path.exists():
        raise UserError(f"--resume: {state_path} does not exist; start without --resume")
    training = Training.start(config, torch.device(device))
    if resume:
        training.load(torch.load(state_path, map_location=device, weights_only=True), state_path)
    elif initialise is not None:
        initialise(training.generator.network, [surrogate.network for surrogate in training.surrogates])

    steps_per_epoch = max(1, len(samples) // config.batch_size)
    total = config.total_phases * (config.steps_per_phase or steps_per_epoch)
    watch_config = dataclasses.replace(config, seed=config.seed + 1)
    clock = time.monotonic() - training.seconds
    with open(output / LOG_FILE, "a", encoding="utf-8") as log, \
            tqdm(total=total, initial=training.step, unit="step", disable=quiet, dynamic_ncols=True) as bar:
        while training.step < total:
            training.take_step(samples, steps_per_epoch)
            training.seconds = time.monotonic() - clock
            if training.step % config.log_every == 0 or training.step == total:
                line = _log_line(training, prepare(*draw_batch(watched or samples, watch_config, training.step), watch_config,
                                                   training.step, training.mask_sides, training.device))
                print(json.dumps(line), file=log, flush=True)
                bar.set_postfix(noised=f"{line['surrogate_noised']:.3f}", clean=f"{line['surrogate_clean']:.3f}")
            bar.update()
            if training.step % config.checkpoint_every == 0 or training.step == total:
                _save(training, output, facts or {})
    return output / GENERATOR_FILE


def _log_line(training: Training, batch: Batch) -> dict[str, Any]:
    oldest = max(training.surrogates, key=lambda surrogate: surrogate.steps)
    on_noised, on_clean = surrogate_losses(training.generator.network, oldest.network, batch, training.config)
    means = {f"{player}_loss": round(float(np.mean(losses)), 5) for player, losses in training.recent.items()}
    training.recent = {}
    return {"step": training.step, "seconds": round(training.seconds, 1), **means, "surrogate_noised": round(on_noised, 5),
            "surrogate_clean": round(on_clean, 5), "surrogate_age": oldest.steps}
