"""`unseg train`: recipe + overrides → bilevel training."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unseg import __version__
from unseg.commands.console import Terminal, to_go_on_later
from unseg.compute.progress import SILENT, Progress, Tick
from unseg.compute.threads import check_threads
from unseg.errors import UserError
from unseg.training.recipes import RECIPES

if TYPE_CHECKING:
    from unseg.compute.distributed import World
    from unseg.data.catalog import Pair
    from unseg.method.config import TrainConfig
    from unseg.training.loop import Outcome, RunOptions
    from unseg.training.players import Starts

PACKAGE = Path(__file__).resolve().parent


def _revision() -> str:
    """Returns the checkout's revision, with "+" if it has uncommitted changes; else the package's version."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        return f"{revision}+" if _git("status", "--porcelain", "-uno") else revision
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


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


DATA, NETWORKS, RUN, MACHINE = "Data", "What is trained, and how", "The run and what it leaves", "Machine"

DataRoot = Annotated[
    Path,
    typer.Option(
        "--data-root",
        help="HQSeg-44K's folders, or images/ with masks/ (or segments/, gt/, labels/).",
        rich_help_panel=DATA,
    ),
]
Splits = Annotated[
    str,
    typer.Option(
        "--splits",
        help="Sub-folders of images/, or sets of HQSeg-44K, to train on; all if empty.",
        rich_help_panel=DATA,
    ),
]
HeldOut = Annotated[
    str,
    typer.Option(
        "--watch",
        help="Sub-folders, or validation sets of HQSeg-44K, held out for the log.",
        rich_help_panel=DATA,
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Train on what is there where sets, masks or images are missing, and say what was left out.",
        rich_help_panel=DATA,
    ),
]
Recipe = Annotated[str, typer.Option("--recipe", help=f"{', '.join(RECIPES)}.", rich_help_panel=NETWORKS)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override of a recipe's field, FIELD=VALUE.", rich_help_panel=NETWORKS),
]
SamWeights = Annotated[
    Path | None,
    typer.Option(
        "--sam",
        help="SAM weights that the generator starts from: the official file, or the folder of its three parts.",
        rich_help_panel=NETWORKS,
    ),
]
MaeWeights = Annotated[
    Path | None,
    typer.Option(
        "--mae",
        help="MAE weights (CC BY-NC 4.0: not for commercial use) that surrogates start from; without, they start from "
        "scratch.",
        rich_help_panel=NETWORKS,
    ),
]
Output = Annotated[Path, typer.Option("--output", help="Where weights, log and checkpoints go.", rich_help_panel=RUN)]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Insist on going on with the run in --output; without, a run that is there goes on, too, and else a new "
        "one starts.",
        rich_help_panel=RUN,
    ),
]
Keep = Annotated[
    int,
    typer.Option("--keep", help="Checkpoints that stay; older ones are removed.", rich_help_panel=RUN),
]
ValidationImages = Annotated[
    int | None,
    typer.Option(
        "--validation-images",
        min=0,
        metavar="N",
        help="Images measured of each held-out set, 0 for all; without: all where the log has a line an epoch, else "
        "16.",
        rich_help_panel=RUN,
    ),
]
Tensorboard = Annotated[
    bool | None,
    typer.Option(
        "--tensorboard/--no-tensorboard",
        help="Curves and pictures for TensorBoard; without: if it is installed.",
        rich_help_panel=RUN,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.", rich_help_panel=RUN)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=MACHINE)]
Threads = Annotated[
    int,
    typer.Option("--threads", help="Processor threads; 0: as many as there are cores.", rich_help_panel=MACHINE),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes that prepare images ahead, for each training process; without: what the cores allow.",
        rich_help_panel=MACHINE,
    ),
]


def train_command(
    data_root: DataRoot,
    output: Output,
    splits: Splits = "",
    watch: HeldOut = "",
    allow_missing: AllowMissing = False,
    recipe: Recipe = "compact",
    settings: Settings = None,
    sam: SamWeights = None,
    mae: MaeWeights = None,
    resume: Resume = False,
    keep: Keep = 3,
    validation_images: ValidationImages = None,
    tensorboard: Tensorboard = None,
    quiet: Quiet = False,
    device: Device = "auto",
    threads: Threads = 0,
    workers: Workers = None,
) -> None:
    """Train a noise generator against surrogates on any folder of images with masks or segment maps.

    The same command goes on after an interruption, to the same weights as if there had been none. Exit code 0:
    trained; 2: it could not start or go on; 130 and 143: stopped by Ctrl-C or SIGTERM, with a checkpoint.
    """
    from unseg.compute.device import denormals_flushed
    from unseg.compute.distributed import EXIT_PEER_FAILED, PeerFailure, connect
    from unseg.compute.interrupts import EXIT_SIGNAL
    from unseg.data.loader import default_workers
    from unseg.training.loop import RunOptions

    data = _DataOptions(data_root, splits, watch, allow_missing)
    facts = {"recipe": recipe, "overrides": " ".join(settings or []), "revision": _revision()}
    try:
        with to_go_on_later(), denormals_flushed(), connect(device) as world:
            config = _configuration(recipe, settings or [], sam, mae)
            _use_threads(threads)
            options = RunOptions(
                keep=keep,
                workers=default_workers(_local_processes()) if workers is None else workers,
                resume=resume,
                validation_images=validation_images,
                tensorboard=tensorboard,
                facts=facts,
            )
            progress = _progress(world, quiet)
            if mae is not None:
                progress.say(f"surrogates start from {mae}: MAE's weights are CC BY-NC 4.0, not for commercial use")
            outcome = _train(config, data, output, world, starts=_starts(sam, mae), options=options, progress=progress)
    except PeerFailure:
        raise typer.Exit(EXIT_PEER_FAILED) from None
    if outcome.stopped_by is not None:
        raise typer.Exit(EXIT_SIGNAL + outcome.stopped_by)


@dataclass(frozen=True)
class _DataOptions:
    """Holds what to train on as the command line says it: a folder, and names separated by commas."""

    root: Path
    splits: str
    watch: str
    allow_missing: bool


def _train(
    config: TrainConfig,
    data: _DataOptions,
    output: Path,
    world: World,
    *,
    starts: Starts,
    options: RunOptions,
    progress: Progress,
) -> Outcome:
    """Opens the data, tells what begins, trains, and tells where the results are."""
    from unseg.data.training_data import open_training_data
    from unseg.training.log import LOG_FILE
    from unseg.training.loop import train

    opened = open_training_data(
        data.root,
        _names(data.splits),
        data.allow_missing,
        watch=_names(data.watch),
        listing=output / "data-faults.txt" if world.leads else None,
        progress=progress,
    )
    progress.say(
        f"{config.generator} generator on {world.device}, {world.size} process{'es' if world.size > 1 else ''}, "
        f"{config.batch_size * world.size} images a step"
    )
    facts = {
        "data": data.root.name,
        "splits": data.splits or "all",
        "images": str(len(opened.train)),
        "processes": str(world.size),
    }
    outcome = train(
        config,
        opened.train,
        output,
        world,
        held_out=opened.validation,
        starts=starts,
        options=replace(
            options,
            facts={**options.facts, **facts},
            same={"samples": _digest([described(pair) for pair in opened.train.pairs])},
        ),
        progress=progress,
    )
    progress.say(f"generator: {outcome.weights}")
    progress.say(f"log:       {output / LOG_FILE}")
    return outcome


class _SentencesOnly:
    """Tells sentences and draws no bars."""

    def __init__(self, told: Progress) -> None:
        self._told = told

    def say(self, text: str) -> None:
        """Tells the sentence."""
        self._told.say(text)

    def bar(self, what: str, total: int) -> AbstractContextManager[Tick]:
        """Returns a context whose tick does nothing."""
        return SILENT.bar(what, total)


def _progress(world: World, quiet: bool) -> Progress:
    """Returns the terminal for the process that leads; nobody listens to the others."""
    if not world.leads:
        return SILENT
    return _SentencesOnly(Terminal()) if quiet else Terminal()


def _use_threads(count: int) -> None:
    """Lets torch use so many threads; 0 leaves the number as it is."""
    import torch

    check_threads(count)
    if count:
        torch.set_num_threads(count)


def _configuration(recipe: str, settings: list[str], sam: Path | None, mae: Path | None) -> TrainConfig:
    """Returns the recipe with what the command line changes."""
    from unseg.training.recipes import recipe as named_recipe

    return named_recipe(recipe, _with_starts(_overrides(settings), sam, mae))


def _with_starts(overrides: dict[str, str], sam: Path | None, mae: Path | None) -> dict[str, str]:
    """Returns the overrides with what the weight files say that their networks start from."""
    given = (("--sam", sam, "generator_start", "sam"), ("--mae", mae, "surrogate_start", "mae"))
    starts = {}
    for option, path, field, value in given:
        if path is None:
            continue
        if overrides.get(field, value) != value:
            raise UserError(f"{option} {path}: contradicts --set {field}={overrides[field]}; leave one of them out")
        starts[field] = value
    return overrides | starts


def _starts(sam: Path | None, mae: Path | None) -> Starts:
    """Returns what fills a new generator and a new surrogate."""
    from unseg.storage import weights
    from unseg.training.players import Starts

    return Starts(
        generator=None if sam is None else lambda network: weights.initialise_from_sam(network, sam),
        surrogate=None if mae is None else lambda network: weights.initialise_from_mae(network, mae),
    )


def _local_processes() -> int:
    """Returns how many training processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def described(pair: Pair) -> str:
    """Returns a pair's name with the sizes of its files: enough to tell other data, without reading it."""
    return " ".join([pair.name, *(str(os.stat(path).st_size) for path in (pair.image, *pair.masks))])


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:12]
