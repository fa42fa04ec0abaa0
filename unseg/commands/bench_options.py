"""The options of `unseg bench` in groups, and what they are parsed into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from unseg.commands.evaluate_parsing import named_weights, parse_seeds, split_list
from unseg.compute.progress import Progress
from unseg.compute.threads import check_threads
from unseg.errors import UserError
from unseg.method.config import Budget

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.evaluation.matrix import Bench
    from unseg.evaluation.on_the_way import OnTheWay

SHIPPED = "compact"  # the generator that this project ships
ENCODER = "encoder"


@dataclass(frozen=True)
class CrossedOptions:
    """What is crossed with what."""

    PANEL: ClassVar[str] = "What is measured"
    sets: Annotated[str, typer.Option(help="carparts, camvid11, ccp, camvid-binary, carparts4000, carparts-grey.")] = (
        "carparts,camvid11"
    )
    noises: Annotated[
        str,
        typer.Option(
            help="Clean images are always among them; codes (what ships; also codes-one, codes-by-class, "
            "codes-grey-safe, codes-by-contrast, codes-jpeg), tint (what shipped until 0.1), lsp, ar, em, tap, random, "
            "pattern; protected, which --generator makes; and codes-learned, which --learned makes."
        ),
    ] = "clean,codes,tint,lsp,tap"
    defences: Annotated[
        str,
        typer.Option(
            help="What is done to all training images: none (always among them), jpeg75, grey, whiten, project, notch, "
            "localnotch, denoise, quarter, …; several joined by +."
        ),
    ] = "none,jpeg75,grey"
    networks: Annotated[
        str | None,
        typer.Option(help="ARCHITECTURE_ENCODER or module:name. Default: deeplabv3plus_timm-tf_efficientnet_lite0."),
    ] = None
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2; all cells of one come before those of the next.")] = "0"

    def set_names(self) -> tuple[str, ...]:
        """Returns the names of the sets."""
        return split_list("--sets", self.sets)

    def first_seed(self) -> int:
        """Returns the first of the seeds."""
        return parse_seeds(self.seeds)[0]


@dataclass(frozen=True)
class NoiseOptions:
    """How noise is made."""

    PANEL: ClassVar[str] = "Noise"
    generator: Annotated[
        str | None,
        typer.Option(help="Makes the noise `protected`: compact, a weight file, or module:name of your own."),
    ] = None
    learned: Annotated[
        Path | None,
        typer.Option(help="Makes the noise `codes-learned`: weights that benchmarks.learn_codes wrote."),
    ] = None
    epsilon: Annotated[float, typer.Option(help="Budget on every class but the background, grey levels of 255.")] = 8.0
    background_epsilon: Annotated[float, typer.Option(help="Budget on the background, grey levels of 255.")] = 2.0


@dataclass(frozen=True)
class TrainingOptions:
    """How every network is trained."""

    PANEL: ClassVar[str] = "Training"
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1500
    batch: Annotated[int, typer.Option(help="Images a step.")] = 6
    crop: Annotated[int, typer.Option(help="Side of a view, pixels.")] = 144
    eval_every: Annotated[int, typer.Option(help="Test every so many steps, and at the end.")] = 500
    learning_rate: Annotated[float, typer.Option(help="At its peak, of AdamW on a one-cycle schedule.")] = 1e-3
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="[NETWORK=]PATH, imagenet or none. Default: imagenet for encoders whose package is installed."
        ),
    ] = None
    freeze: Annotated[str | None, typer.Option(help="encoder: it keeps its weights.")] = None


@dataclass(frozen=True)
class RunningOptions:
    """How long it runs, and where."""

    PANEL: ClassVar[str] = "Run"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what is not measured yet and how long it takes; train nothing.")
    ] = False
    limit_hours: Annotated[
        float | None, typer.Option(help="Begin no training that would not end within so many hours.")
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto"
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints of a training.")] = 120.0


def bench_of(
    data_root: Path,
    out: Path,
    crossed: CrossedOptions,
    noises: NoiseOptions,
    training: TrainingOptions,
    running: RunningOptions,
    progress: Progress,
) -> Bench:
    """Returns the matrix of options that `check_options` has passed. Raises UserError for the first that is wrong."""
    import torch

    from unseg.evaluation.bench_study import BenchSetup
    from unseg.evaluation.matrix import Bench, Matrix
    from unseg.evaluation.practice import Practice
    from unseg.evaluation.schedule import Schedule
    from unseg.evaluation.tasks.registry import DEFAULT_NETWORKS

    if running.threads is not None:
        torch.set_num_threads(running.threads)
    budget = Budget(noises.epsilon, noises.background_epsilon)
    networks = split_list("--networks", crossed.networks or DEFAULT_NETWORKS["semantic"])
    setup = BenchSetup(
        data_root=data_root,
        out=out,
        networks=networks,
        schedule=Schedule(
            steps=training.steps,
            batch=training.batch,
            learning_rate=training.learning_rate,
            eval_every=training.eval_every,
            decay="onecycle",
        ),
        practice=Practice(crop=training.crop, frozen_encoder=training.freeze == ENCODER),
        budget=budget,
        shipped=_loader(SHIPPED, budget, running.device),
        generator=None if noises.generator is None else _loader(noises.generator, budget, running.device),
        learned=noises.learned,
        weights=named_weights(training.weights or []),
        device=running.device,
        checkpoint_every=running.checkpoint_every,
    )
    matrix = Matrix(
        sets=crossed.set_names(),
        noises=split_list("--noises", crossed.noises),
        defences=split_list("--defences", crossed.defences),
        networks=networks,
        seeds=parse_seeds(crossed.seeds),
    )
    return Bench(setup, matrix, progress)


def check_options(
    crossed: CrossedOptions, noises: NoiseOptions, training: TrainingOptions, running: RunningOptions
) -> None:
    """Raises UserError for an option that is wrong whatever is measured, or not asked for; it needs no torch."""
    names = split_list("--noises", crossed.noises)
    for option, given, noise in (
        ("--learned", noises.learned, "codes-learned"),
        ("--generator", noises.generator, "protected"),
    ):
        if given is not None and noise not in names:
            raise UserError(
                f"{option} {given}: makes the noise {noise}, which is not among --noises; add it or leave this out"
            )
    if training.freeze not in (None, ENCODER):
        raise UserError(f"--freeze {training.freeze}: give {ENCODER}, or leave it out")
    if running.threads is not None:
        check_threads(running.threads, least=1)
    if running.limit_hours is not None and not running.limit_hours > 0:
        raise UserError(f"--limit-hours {running.limit_hours}: give a number above 0")


def _loader(name: str, budget: Budget, device: str) -> Callable[[], OnTheWay]:
    from unseg.commands.evaluate import load_noise

    return lambda: load_noise(name, budget, device)
