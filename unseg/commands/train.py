"""`unseg train`: recipe + overrides → bilevel training."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unseg import __version__
from unseg.errors import UserError

if TYPE_CHECKING:
    from unseg.training.players import Loader

MOST_THREADS = 1024
PACKAGE = Path(__file__).resolve().parent


def _revision() -> str:
    """The checkout's revision, with "+" if it has uncommitted changes; the version where there is no checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        return git("rev-parse", "--short=12", "HEAD").strip() + (
            "+" if git("status", "--porcelain", "-uno").strip() else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"


def _overrides(settings: list[str]) -> dict[str, str]:
    changes = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected FIELD=VALUE, as in batch_size=4")
        changes[field.strip()] = text.strip()
    return changes


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def train_command(
    data_root: Annotated[
        Path,
        typer.Option("--data-root", help="HQSeg-44K's folders, or images/ with masks/ (or segments/, gt/, labels/)."),
    ],
    output: Annotated[Path, typer.Option("--output", help="Where weights, log and checkpoint go.")],
    recipe: Annotated[str, typer.Option("--recipe", help="paper, compact or smoke.")] = "compact",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override of a recipe's field, FIELD=VALUE.")
    ] = None,
    splits: Annotated[
        str, typer.Option("--splits", help="Sub-folders of images/, or sets of HQSeg-44K, to train on; all if empty.")
    ] = "",
    watch: Annotated[
        str, typer.Option("--watch", help="Sub-folders, or validation sets of HQSeg-44K, held out for the log.")
    ] = "",
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Train on what is there where sets, masks or images are missing, and say what was left out.",
        ),
    ] = False,
    sam: Annotated[
        Path | None,
        typer.Option(
            "--sam",
            help="SAM weights that the generator starts from: the official file, or the folder of its three parts.",
        ),
    ] = None,
    mae: Annotated[
        Path | None,
        typer.Option(
            "--mae",
            help="MAE weights (CC BY-NC 4.0: not for commercial use) that "
            "surrogates start from; without, they start from scratch.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Insist on going on with the run in --output; without, a run that "
            "is there goes on, too, and else a new one starts.",
        ),
    ] = False,
    keep: Annotated[int, typer.Option("--keep", help="Checkpoints that stay; older ones are removed.")] = 3,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Processes that prepare images ahead, for each training process; without: what the cores allow.",
        ),
    ] = None,
    validation_images: Annotated[
        int | None,
        typer.Option(
            "--validation-images",
            min=0,
            help="Images measured of each "
            "held-out set, 0 for all; without: all where the log has a line an epoch, "
            "else 16.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool | None,
        typer.Option(
            "--tensorboard/--no-tensorboard", help="Curves and pictures for TensorBoard; without: if it is installed."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="Processor threads; 0: as many as there are cores.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a noise generator against surrogates on any folder of images with masks or segment maps.

    The same command goes on after an interruption, to the same weights as if there had been none. Exit code 0: trained; 2: it
    could not start or go on; 130 and 143: stopped by Ctrl-C or SIGTERM, with a checkpoint.
    """
    import torch

    from unseg.compute.distributed import EXIT_PEER_FAILED, PeerFailure, connect
    from unseg.compute.stopping import EXIT_SIGNAL
    from unseg.data.loader import default_workers
    from unseg.data.training_data import open_training_data
    from unseg.training.bilevel import RunOptions, train
    from unseg.training.log import LOG_FILE
    from unseg.training.recipes import recipe as named_recipe

    # Numbers that decay below the normal ones slow a processor down many times over and change no result that matters.
    torch.set_flush_denormal(True)
    try:
        with connect(device) as world:
            overrides = _overrides(settings or [])
            config = named_recipe(recipe, _with_starts(overrides, sam, mae))
            if not 0 <= threads <= MOST_THREADS:
                raise UserError(f"--threads {threads}: give a whole number from 0 to {MOST_THREADS:,}")
            if threads:
                torch.set_num_threads(threads)
            data = open_training_data(
                data_root,
                _names(splits),
                allow_missing,
                world.say,
                watch=_names(watch),
                listing=output / "data-faults.txt" if world.leads else None,
            )
            world.say(
                f"{config.generator} generator on {world.device}, {world.size} process{'es' if world.size > 1 else ''}, "
                f"{config.batch_size * world.size} images a step"
            )
            if mae is not None:
                world.say(f"surrogates start from {mae}: MAE's weights are CC BY-NC 4.0, not for commercial use")
            outcome = train(
                config,
                data.train,
                output,
                world,
                data.validation,
                *_loaders(sam, mae),
                RunOptions(
                    keep,
                    default_workers(_local_processes()) if workers is None else workers,
                    resume,
                    validation_images,
                    tensorboard,
                    quiet,
                    same={"samples": _digest([pair.name for pair in data.train.pairs])},
                    facts={
                        "recipe": recipe,
                        "revision": _revision(),
                        "data": data_root.name,
                        "splits": splits or "all",
                        "overrides": " ".join(settings or []),
                        "images": str(len(data.train)),
                        "processes": str(world.size),
                    },
                ),
            )
            world.say(f"generator: {outcome.weights}\nlog:       {output / LOG_FILE}")
    except PeerFailure:
        raise typer.Exit(EXIT_PEER_FAILED) from None
    finally:
        torch.set_flush_denormal(False)  # it holds for the whole process
    if outcome.stopped_by is not None:
        raise typer.Exit(EXIT_SIGNAL + outcome.stopped_by)


def _with_starts(overrides: dict[str, str], sam: Path | None, mae: Path | None) -> dict[str, str]:
    """A weight file says what its network starts from."""
    starts = {}
    for option, path, field, value in (
        ("--sam", sam, "generator_start", "sam"),
        ("--mae", mae, "surrogate_start", "mae"),
    ):
        if path is not None:
            starts[field] = value
            if overrides.get(field, value) != value:
                raise UserError(f"{option} {path}: contradicts --set {field}={overrides[field]}; leave one of them out")
    return overrides | starts


def _loaders(sam: Path | None, mae: Path | None) -> tuple[Loader | None, Loader | None]:
    """What fills a new generator and a new surrogate."""
    from unseg.storage import weights

    return (
        None if sam is None else lambda network: weights.initialise_from_sam(network, sam),
        None if mae is None else lambda network: weights.initialise_from_mae(network, mae),
    )


def _local_processes() -> int:
    """How many training processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:12]
