"""Bilevel training: one loop that takes steps, and what happens at an epoch's end and when the run stops."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from unseg.compute.distributed import PeerFailure, World
from unseg.compute.interrupts import tell_the_launcher
from unseg.compute.progress import SILENT, Progress
from unseg.compute.stopping import StopRequest
from unseg.data.loader import BatchLoader
from unseg.data.training_data import TrainingImage
from unseg.data.views import ViewBatch
from unseg.errors import UserError
from unseg.method.config import BOOKKEEPING, TrainConfig, facts_of
from unseg.storage.checkpoint_files import taken_over
from unseg.storage.weights import save_generator
from unseg.training.checkpoints import GENERATOR_FILE, REMEDY, RunFolder, Settings, read_state
from unseg.training.log import Report, TrainingLog
from unseg.training.phases import Phases, learning_rates, player_of, round_of
from unseg.training.pictures import show
from unseg.training.players import ALONE, FROM_RANDOM, NonFiniteStep, Starts, Training
from unseg.training.steps import generator_step, prepare, surrogate_step
from unseg.training.validation import Sets, validate


@dataclass(frozen=True)
class RunOptions:
    """Says what a run does besides its computation.

    keep: how many checkpoints stay. workers: processes that prepare batches ahead of each training process. resume:
    insist on an earlier run to go on with. validation_images: how many are measured of each held-out set (0: all;
    None: all where the log has a line an epoch, else 16; of the training images, where nothing is held out, 16).
    tensorboard: see `TrainingLog`. facts: are put into the weights' metadata. same: what else, besides the
    configuration, must be the same when a run goes on.
    """

    keep: int = 3
    workers: int = 0
    resume: bool = False
    validation_images: int | None = None
    tensorboard: bool | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def limit(self, config: TrainConfig, held_out: bool) -> int:
        """Returns how many images of each set are measured, 0 for all.

        held_out: there are validation sets; else it is the training images that are measured, which are many.
        """
        if self.validation_images is not None:
            return self.validation_images
        return 0 if held_out and not config.steps_per_phase else 16


@dataclass(frozen=True)
class Outcome:
    """Says how a run ended.

    weights: the generator's file. step: how many steps have been taken. stopped_by: the signal that ended it early.
    """

    weights: Path
    step: int
    stopped_by: Signals | None = None


def train(
    config: TrainConfig,
    samples: Sequence[TrainingImage],
    output: Path,
    world: World = ALONE,
    *,
    held_out: Sets | None = None,
    starts: Starts = FROM_RANDOM,
    options: RunOptions = RunOptions(),
    progress: Progress = SILENT,
) -> Outcome:
    """Runs the configuration, or goes on with the run in `output` to the same weights as if it had never stopped.

    samples: what to train on. held_out: sets for validation (some of the samples if there are none). starts: fill new
    networks with pretrained weights. output receives `checkpoints/`, `generator.safetensors` and what `TrainingLog`
    writes. Every process of `world` calls this with the same arguments; the first one writes and tells.
    """
    phases = Phases.of(config, len(samples), world.size)
    settings = run_settings(config, {"processes": world.size, "images": len(samples), **options.same})
    folder, progress = RunFolder(output, options.keep), progress if world.leads else SILENT
    sets, limit = held_out or {"training images": samples}, options.limit(config, bool(held_out))
    with enough_memory(config, world.device), contextlib.ExitStack() as stack:
        if world.leads:
            stack.enter_context(folder)
        training = _start_or_resume(
            folder, settings, phases, world=world, starts=starts, options=options, progress=progress
        )
        log = stack.enter_context(_open_log(training, phases, output, options=options, progress=progress))
        loader = stack.enter_context(_open_loader(training, phases, samples, options.workers))
        stop = stack.enter_context(StopRequest())
        tick = stack.enter_context(progress.bar("training", phases.total_steps - training.step))
        clock = time.monotonic() - training.seconds
        while training.step < phases.total_steps:
            phase, views = phases.phase_of(training.step), next(loader)
            try:
                player, loss = take_step(training, views.to(world.device), phase)
            except NonFiniteStep as error:
                raise _not_finite(error, training, views, player=player_of(config, phase), folder=folder) from None
            training.seconds = time.monotonic() - clock
            log.count(training.step, player, loss, waited=loader.waited)
            tick()
            if phases.logs_after(training.step):
                log.write(_report(training, phase, sets, limit=limit, progress=progress))
            stopped_by = _agreed_signal(stop, world)
            if stopped_by is not None or phases.saves_after(training.step):
                saved = _save(training, folder, settings, options.facts)
            if stopped_by is not None and training.step < phases.total_steps:
                progress.say(
                    f"stopped by {stopped_by.name} after step {training.step} of {phases.total_steps}; "
                    f"{saved} is saved, and the same command goes on from there"
                )
                tell_the_launcher()
                return Outcome(output / GENERATOR_FILE, training.step, stopped_by)
    return Outcome(output / GENERATOR_FILE, training.step)


def take_step(training: Training, views: ViewBatch, phase: int) -> tuple[str, float]:
    """Takes one step of the player whose turn it is in that phase; returns the player's name and loss.

    NonFiniteStep leaves all as it was.
    """
    config = training.config
    batch = prepare(views, config, training.mask_sides, training.world.rank)
    player = player_of(config, phase)
    surrogate = training.surrogates[round_of(config, phase) % len(training.surrogates)]
    rate = learning_rates(config, phase)[player]
    if player == "surrogate":
        loss = surrogate_step(training.generator.network, surrogate, batch, config, rate)
    else:
        loss = generator_step(training.generator, surrogate.network, batch, config, rate)
    training.recent.setdefault(player, []).append(loss)
    training.step += 1
    training.renew()
    return player, loss


@contextlib.contextmanager
def enough_memory(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Turns memory that runs out within into a UserError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for GPUs only; a worker's error arrives as text
        of_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        if not of_memory and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"{device} has too little memory for this training; give a smaller number than --set batch_size="
            f"{config.batch_size}, and another --output where that run has begun"
        ) from None


# --- the beginning ---------------------------------------------------------------------------------------------------


def run_settings(config: TrainConfig, same: Mapping[str, Any]) -> Settings:
    """Returns what must be the same when a run goes on."""
    return {name: value for name, value in facts_of(config).items() if name not in BOOKKEEPING} | dict(same)


def _start_or_resume(
    folder: RunFolder,
    settings: Settings,
    phases: Phases,
    *,
    world: World,
    starts: Starts,
    options: RunOptions,
    progress: Progress,
) -> Training:
    """Returns a new run, or the one that the folder holds."""
    newest = _newest(folder, settings, world=world, resume=options.resume, progress=progress)
    training = Training.start(phases.config, world, _needed_starts(phases.config, starts, fresh=newest is None))
    if newest is not None:
        state = read_state(newest)
        with taken_over(newest, REMEDY):
            training.load(state)
        rest = "goes on from there" if training.step < phases.total_steps else "nothing is left to do"
        progress.say(f"{newest}: {training.step} of {phases.total_steps} steps are done; {rest}")
    return training


def _newest(folder: RunFolder, settings: Settings, *, world: World, resume: bool, progress: Progress) -> Path | None:
    """Returns the checkpoint to go on from, chosen by the first process for all."""
    newest = folder.newest(settings, progress) if world.leads else None
    if world.leads and resume and newest is None:
        raise UserError(f"--resume: {folder.output} holds no checkpoint; start without --resume")
    name = world.from_first(str(newest or ""))
    return Path(name) if name else None


def _needed_starts(config: TrainConfig, starts: Starts, fresh: bool) -> Starts:
    """Returns what fills new networks, as the configuration says. The generator of a run that goes on needs nothing."""
    from_sam, from_mae = config.generator_start == "sam", config.surrogate_start == "mae"
    if fresh and from_sam and starts.generator is None:
        raise UserError(
            "generator_start=sam: the generator starts from SAM; name its weights with --sam, or start from random "
            "ones with --set generator_start=random"
        )
    if from_mae and starts.surrogate is None:
        raise UserError(
            "surrogate_start=mae: the surrogate starts from MAE; name its weights with --mae, or start from scratch "
            "with --set surrogate_start=scratch"
        )
    surrogates_begin = fresh or config.surrogate_lifetime > 0
    return Starts(
        generator=starts.generator if fresh and from_sam else None,
        surrogate=starts.surrogate if from_mae and surrogates_begin else None,
    )


def _open_log(
    training: Training, phases: Phases, output: Path, *, options: RunOptions, progress: Progress
) -> TrainingLog:
    return TrainingLog(
        output,
        phases,
        step=training.step,
        images_per_step=phases.config.batch_size * training.world.size,
        revision=options.facts.get("revision", ""),
        tensorboard=options.tensorboard,
        leads=training.world.leads,
        progress=progress,
    )


def _open_loader(training: Training, phases: Phases, samples: Sequence[TrainingImage], workers: int) -> BatchLoader:
    world = training.world
    return BatchLoader(
        samples,
        phases.config,
        start_step=training.step,
        stop_step=phases.total_steps,
        rank=world.rank,
        world_size=world.size,
        workers=workers,
        pin=world.device.type == "cuda",
    )


# --- an epoch's end, and the run's -----------------------------------------------------------------------------------


def _report(training: Training, phase: int, sets: Sets, *, limit: int, progress: Progress) -> Report:
    """Returns the report on a run after a step of a phase.

    Validation is against the oldest surrogate and shared among the processes; the first one makes the picture.
    """
    world, config, oldest = training.world, training.config, training.oldest_surrogate
    networks = training.generator.network, oldest.network
    scores = validate(*networks, sets, config, world=world, limit=limit, progress=progress)
    return Report(
        step=training.step,
        seconds=training.seconds,
        losses=training.take_losses(),
        scores=scores,
        learning_rates=learning_rates(config, phase),
        surrogate_age=oldest.steps,
        shown=show(*networks, sets, config, world.device) if world.leads else (),
    )


def _agreed_signal(stop: StopRequest, world: World) -> Signals | None:
    """Returns the signal that some process was sent, on all of them: they stop after the same step."""
    number = max(int(sent) for sent in world.gather(torch.tensor(stop.signal or 0)))
    return Signals(number) if number else None


def _save(training: Training, folder: RunFolder, settings: Settings, facts: Mapping[str, str]) -> Path:
    """Saves the generator's weights and a checkpoint, and returns the checkpoint's path."""
    state, network = training.state(), training.generator.network
    if training.world.leads:
        folder.check_held()
        metadata = dict(facts) | {
            "step": str(training.step),
            "hours": f"{training.seconds / 3600:.3f}",
            "config": json.dumps(facts_of(training.config)),
        }
        # It builds a network to compare with; how often a run saves must not show in its random numbers.
        with torch.random.fork_rng(devices=[]):
            save_generator(network, training.config.generator, folder.output / GENERATOR_FILE, metadata)
        folder.save(state, training.step, settings)
    return folder.path(training.step)


def _not_finite(
    error: NonFiniteStep, training: Training, views: ViewBatch, *, player: str, folder: RunFolder
) -> Exception:
    """Returns what stops the run. The process whose batch it was saves the batch and the state before the step."""
    rank = training.world.rank
    if rank != error.ranks[0]:
        training.world.barrier()  # fails, as it should, once that process has saved and left
        return PeerFailure(str(error))
    batch = {"names": list(views.names), "pixels": views.pixels.cpu()}
    path = folder.save_failure(training.own_state() | batch, training.step, rank)
    return UserError(
        f"step {training.step}: the {player}'s loss is {error.loss} or its gradient is not finite, on the images "
        f"{', '.join(views.names)}; the state before the step and the batch are in {path}; lower the rates with "
        "--set generator_learning_rate=… --set surrogate_learning_rate=… and another --output, or look at these images"
    )
