"""Bilevel training: a surrogate learns to segment noised images while a generator learns the noise that makes it easy.

One readable loop. Each player has its own optimizer, and the frozen one keeps every bit.
Shapes: B batch, V side of the generator's view, S side of the surrogate's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segment_anything_training.prompt_batch import Prompts
from unseg.compute.distributed import PeerFailure, World
from unseg.compute.stopping import StopRequest
from unseg.data.loader import BatchLoader
from unseg.data.training_data import TrainingImage
from unseg.data.views import ViewBatch, steps_per_epoch
from unseg.errors import UserError
from unseg.method import noise
from unseg.method.config import BOOKKEEPING, TrainConfig
from unseg.method.losses import LossRule, mask_loss
from unseg.method.prompts import PromptRule, draw_prompts, draw_subset, prompt_rule, seeded
from unseg.storage.weights import save_generator
from unseg.training.checkpoints import GENERATOR_FILE, RunFolder, Settings, read_state
from unseg.training.log import Watch, is_due
from unseg.training.players import Loader, NonFiniteStep, Player, Training
from unseg.training.validation import Sets, SetScore, Shown, show, validate


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
    """A step's views with what is drawn for them.

    images: B×3×V×V in [0, 1]; small_images: B×3×S×S; labels: B×1×V×V in [0, 1]; small_labels: B×1×S×S in [0, 1]. points: a source
    of randomness for each image, on the CPU, that says where the losses compare.
    """

    images: Tensor
    labels: Tensor
    small_images: Tensor
    small_labels: Tensor
    generator_prompts: Prompts
    surrogate_prompts: Prompts
    points: tuple[torch.Generator, ...]


def prepare(views: ViewBatch, config: TrainConfig, mask_sides: tuple[float, float], rank: int = 0) -> Batch:
    """Draws sizes and prompts for the views, on their device; everything depends on seed, step and rank alone.

    mask_sides: the side of a mask prompt as a share of the generator's and of the surrogate's input. Every image has kinds of
    prompts of its own, as published. What is drawn for it comes from its slot in the step's batch over all processes, so that
    two processes draw for their images what one with the doubled batch would.
    """
    images, labels, step = views.images, views.labels, views.step
    size = int(seeded(config.seed, "size", step).choice(config.surrogate_sizes))
    small_images, small_labels = (
        F.interpolate(view, (size, size), mode="bilinear", align_corners=False, antialias=config.antialias)
        for view in (images, labels)
    )
    # A tiny object can vanish from the smaller view: its prompts are then found as the larger one's maximum.
    findable = torch.where(
        small_labels.amax((1, 2, 3), keepdim=True) > 0, small_labels, F.adaptive_max_pool2d(labels, size)
    )
    slots = range(rank * len(images), (rank + 1) * len(images))
    draws = [seeded(config.seed, "prompts", step, slot) for slot in slots]
    generator_kinds = [draw_subset(config.generator_prompts, random) for random in draws]
    surrogate_kinds = [
        (str(random.choice(config.surrogate_prompts)),) if config.surrogate_prompts else () for random in draws
    ]
    return Batch(
        images,
        labels,
        small_images,
        small_labels,
        _draw_each(labels, generator_kinds, round(config.view_size * mask_sides[0]), draws, prompt_rule(config)),
        _draw_each(findable, surrogate_kinds, round(size * mask_sides[1]), draws, prompt_rule(config)),
        tuple(
            torch.Generator().manual_seed(int(seeded(config.seed, "points", step, slot).integers(2**62)))
            for slot in slots
        ),
    )


def _draw_each(
    labels_B1SS: Tensor, kinds: Sequence[Sequence[str]], mask_size: int, draws: Sequence[Any], rule: PromptRule
) -> Prompts:
    """`draw_prompts` with kinds and a source of randomness for each image."""
    return Prompts.join(
        [
            draw_prompts(label[None], names, mask_size, random, rule)
            for label, names, random in zip(labels_B1SS, kinds, draws)
        ]
    )


def noised(batch: Batch, noise_B3NN: Tensor, config: TrainConfig) -> Tensor:
    """What the surrogate sees, B×3×S×S. The region of the object is the small label, rounded."""
    return noise.add_noise(batch.small_images, noise_B3NN, batch.small_labels.round(), config.budget, config.antialias)


def loss_rule(config: TrainConfig) -> LossRule:
    """How both players' losses are taken."""
    return LossRule(
        config.loss_points,
        config.loss_oversample,
        config.loss_uncertain_share,
        config.loss_weights,
        config.dice_smoothing,
    )


def surrogate_step(
    generator: nn.Module, surrogate: Player, batch: Batch, config: TrainConfig, learning_rate: float
) -> float:
    """The surrogate learns the true mask from noised images; the generator gets no gradient. Returns the loss."""
    with torch.no_grad():
        noise_B3NN = generator(batch.images, batch.generator_prompts)
    logits = surrogate.network(noised(batch, noise_B3NN, config), batch.surrogate_prompts)
    return surrogate.update(mask_loss(logits, batch.small_labels, loss_rule(config), batch.points), learning_rate)


def generator_step(
    generator: Player, surrogate: nn.Module, batch: Batch, config: TrainConfig, learning_rate: float
) -> float:
    """The generator learns noise with which the frozen surrogate answers the target. Returns the loss."""
    with frozen(surrogate):
        noise_B3NN = generator.network(batch.images, batch.generator_prompts)
        logits = surrogate(noised(batch, noise_B3NN, config), batch.surrogate_prompts)
        target = torch.ones_like(batch.small_labels) if config.target == "ones" else batch.small_labels
        return generator.update(mask_loss(logits, target, loss_rule(config), batch.points), learning_rate)


def learning_rates(config: TrainConfig, phase: int) -> dict[str, float]:
    """Each player's rate in a phase."""
    factor = config.final_learning_rate_factor if phase >= config.decay_phase else 1.0
    return {"surrogate": config.surrogate_learning_rate * factor, "generator": config.generator_learning_rate * factor}


def take_step(training: Training, views: ViewBatch, phase: int) -> tuple[str, float]:
    """One step of the player whose turn it is in that phase: its name and loss. NonFiniteStep leaves all as it was."""
    config = training.config
    batch = prepare(views, config, training.mask_sides, training.world.rank)
    player = config.phases[phase % len(config.phases)]
    surrogate = training.surrogates[phase // len(config.phases) % len(training.surrogates)]
    rate = learning_rates(config, phase)[player]
    if player == "surrogate":
        loss = surrogate_step(training.generator.network, surrogate, batch, config, rate)
    else:
        loss = generator_step(training.generator, surrogate.network, batch, config, rate)
    training.recent.setdefault(player, []).append(loss)
    training.step += 1
    training.renew()
    return player, loss


@dataclass(frozen=True)
class RunOptions:
    """What a run does besides its computation.

    keep: checkpoints that stay. workers: processes that prepare batches ahead of each training process. resume: insist on
    an earlier run to go on with. validation_images: measured of each held-out set (0: all; None: all where the log has a line an
    epoch, else 16; of the training images, where nothing is held out, 16). tensorboard: see `Watch`. facts: put into the
    weights' metadata; same: what else, besides the configuration, must be the same when a run goes on.
    """

    keep: int = 3
    workers: int = 0
    resume: bool = False
    validation_images: int | None = None
    tensorboard: bool | None = None
    quiet: bool = False
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def limit(self, config: TrainConfig, held_out: bool) -> int:
        """Images measured of each set. held_out: there are validation sets; else it is the training images, which are many."""
        if self.validation_images is not None:
            return self.validation_images
        return 0 if held_out and not config.steps_per_phase else 16


@dataclass(frozen=True)
class Outcome:
    """weights: the generator's file. step: the steps that were taken. stopped_by: the signal that ended the run early."""

    weights: Path
    step: int
    stopped_by: Signals | None = None


def train(
    config: TrainConfig,
    samples: Sequence[TrainingImage],
    output: Path,
    world: World = World(),
    held_out: Sets | None = None,
    load_generator: Loader | None = None,
    load_surrogate: Loader | None = None,
    options: RunOptions = RunOptions(),
) -> Outcome:
    """Runs the configuration, or goes on with the run that `output` holds, to the same weights as if it had never stopped.

    samples: what to train on. held_out: sets for validation (some of the samples if there are none). load_generator,
    load_surrogate: fill new networks with pretrained weights. output receives `checkpoints/`, `generator.safetensors` and what
    `unseg.training.log` writes. Every process of `world` calls this with the same arguments; the first one writes.
    """
    per_epoch = steps_per_epoch(len(samples), config, world.size)
    total = config.total_phases * (config.steps_per_phase or per_epoch)
    settings = run_settings(config, {"processes": world.size, "images": len(samples), **options.same})
    with enough_memory(config, world.device), contextlib.ExitStack() as stack:
        folder = RunFolder(output, options.keep)
        if world.leads:
            stack.enter_context(folder)
        newest = _newest(folder, settings, options, world)
        training = Training.start(
            config, world, *_loaders(config, load_generator, load_surrogate, fresh=newest is None)
        )
        if newest is not None:
            training.load(read_state(newest))
            rest = "goes on from there" if training.step < total else "nothing is left to do"
            world.say(f"{newest}: {training.step} of {total} steps are done; {rest}")
        watch = stack.enter_context(
            Watch(
                output,
                config,
                step=training.step,
                total_steps=total,
                steps_per_epoch=per_epoch,
                quiet=options.quiet,
                main=world.leads,
                images_per_step=config.batch_size * world.size,
                revision=options.facts.get("revision", ""),
                say=world.say,
                tensorboard=options.tensorboard,
            )
        )
        loader = stack.enter_context(
            BatchLoader(
                samples,
                config,
                training.step,
                total,
                world.rank,
                world.size,
                options.workers,
                pin=world.device.type == "cuda",
            )
        )
        stop = stack.enter_context(StopRequest())
        clock = time.monotonic() - training.seconds
        while training.step < total:
            phase = training.step // (config.steps_per_phase or per_epoch)
            views = next(loader)
            try:
                player, loss = take_step(training, views.to(world.device), phase)
            except NonFiniteStep as error:
                raise _not_finite(error, training, views, config.phases[phase % len(config.phases)], folder) from None
            training.seconds = time.monotonic() - clock
            watch.advance(training.step, player, loss, loader.waited)
            if is_due(config, training.step, per_epoch, total):
                scores, shown = look(
                    training,
                    held_out or {"training images": samples},
                    options.limit(config, bool(held_out)),
                    watch.validated,
                )
                watch.record(
                    training.step,
                    seconds=training.seconds,
                    losses=training.take_losses(),
                    scores=scores,
                    shown=shown,
                    learning_rates=learning_rates(config, phase),
                    facts={"surrogate_age": training.oldest_surrogate.steps},
                )
            stopped_by = _agreed_signal(stop, world)
            done = training.step == total or stopped_by is not None
            epoch_ends = not config.steps_per_phase and training.step % per_epoch == 0
            if done or epoch_ends or training.step % config.checkpoint_every == 0:
                path = _save(training, folder, settings, options.facts)
            if stopped_by is not None and training.step < total:
                world.say(
                    f"stopped by {stopped_by.name} after step {training.step} of {total}; {path} is saved, and the same "
                    "command goes on from there"
                )
                return Outcome(output / GENERATOR_FILE, training.step, stopped_by)
    return Outcome(output / GENERATOR_FILE, training.step)


@contextlib.contextmanager
def enough_memory(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Within, memory that runs out is a UserError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for GPUs only; a worker's error arrives as text
        if not isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) and "can't allocate memory" not in str(
            error
        ):
            raise
        raise UserError(
            f"{device} has too little memory for this training; give a smaller number than --set batch_size="
            f"{config.batch_size}, and another --output where that run has begun"
        ) from None


def look(
    training: Training, sets: Sets, limit: int, progress: Callable[[int], None]
) -> tuple[list[SetScore], list[Shown]]:
    """Validation against the oldest surrogate, shared among the processes, and what the first one shows of it."""
    world = training.world
    networks = training.generator.network, training.oldest_surrogate.network
    scores = validate(
        *networks, sets, training.config, world.device, limit=limit, shard=(world.rank, world.size), progress=progress
    )
    return scores, show(*networks, sets, training.config, world.device) if world.leads else []


def run_settings(config: TrainConfig, same: Mapping[str, Any]) -> Settings:
    """What must be the same when a run goes on."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in BOOKKEEPING} | dict(same)


def _newest(folder: RunFolder, settings: Settings, options: RunOptions, world: World) -> Path | None:
    """The checkpoint to go on from, chosen by the first process for all."""
    newest = folder.newest(settings, world.say) if world.leads else None
    if world.leads and options.resume and newest is None:
        raise UserError(f"--resume: {folder.output} holds no checkpoint; start without --resume")
    name = world.from_first(str(newest or ""))
    return Path(name) if name else None


def _loaders(
    config: TrainConfig, generator: Loader | None, surrogate: Loader | None, fresh: bool
) -> tuple[Loader | None, Loader | None]:
    """What fills new networks, as the configuration says. The generator of a run that goes on needs nothing."""
    if fresh and config.generator_start == "sam" and generator is None:
        raise UserError(
            "generator_start=sam: the generator starts from SAM; name its weights with --sam, or start from random "
            "ones with --set generator_start=random"
        )
    if config.surrogate_start == "mae" and surrogate is None:
        raise UserError(
            "surrogate_start=mae: the surrogate starts from MAE; name its weights with --mae, or start from scratch "
            "with --set surrogate_start=scratch"
        )
    needs_surrogate = config.surrogate_start == "mae" and (fresh or config.surrogate_lifetime > 0)
    return generator if fresh and config.generator_start == "sam" else None, surrogate if needs_surrogate else None


def _agreed_signal(stop: StopRequest, world: World) -> Signals | None:
    """The signal that some process was sent, on all of them: they stop after the same step."""
    number = max(int(sent) for sent in world.gather(torch.tensor(stop.signal or 0)))
    return Signals(number) if number else None


def _save(training: Training, folder: RunFolder, settings: Settings, facts: Mapping[str, str]) -> Path:
    state = training.state()
    if training.world.leads:
        metadata = dict(facts) | {
            "step": str(training.step),
            "hours": f"{training.seconds / 3600:.3f}",
            "config": json.dumps(dataclasses.asdict(training.config)),
        }
        with torch.random.fork_rng(
            devices=[]
        ):  # it builds a network to compare with; how often it saves must not show in a run
            save_generator(
                training.generator.network, training.config.generator, folder.output / GENERATOR_FILE, metadata
            )
        folder.save(state, training.step, settings)
    return folder.path(training.step)


def _not_finite(
    error: NonFiniteStep, training: Training, views: ViewBatch, player: str, folder: RunFolder
) -> Exception:
    """What stops the run: the process whose batch it was saves it with the state before the step, and says so."""
    rank = training.world.rank
    if rank != error.ranks[0]:
        training.world.barrier()  # fails, as it should, once that process has saved and left
        return PeerFailure(str(error))
    batch = {"names": list(views.names), "pixels": views.pixels.cpu()}
    path = folder.save_failure(training.own_state() | batch, training.step, rank)
    return UserError(
        f"step {training.step}: the {player}'s loss is {error.loss} or its gradient is not finite, on the images "
        f"{', '.join(views.names)}; the state before the step and the batch are in {path}; lower the rate with "
        f"--set {player}_learning_rate=… and another --output, or look at these images"
    )
