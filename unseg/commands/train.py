"""`unseg train`: recipe + overrides → bilevel training."""
from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated, Optional

import typer

from unseg import __version__
from unseg.errors import UserError

PACKAGE = Path(__file__).resolve().parent


def _revision() -> str:
    """The checkout's revision, with "+" if it has uncommitted changes; the version where there is no checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
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
    data_root: Annotated[Path, typer.Option("--data-root", help="HQSeg-44K's folders, or images/ with masks/ (or segments/, "
                                                   "gt/, labels/).")],
    output: Annotated[Path, typer.Option("--output", help="Where weights, log and checkpoint go.")],
    recipe: Annotated[str, typer.Option("--recipe", help="paper, compact or smoke.")] = "compact",
    settings: Annotated[Optional[list[str]], typer.Option("--set", help="Override of a recipe's field, FIELD=VALUE.")] = None,
    splits: Annotated[str, typer.Option("--splits", help="Sub-folders of images/, or sets of HQSeg-44K, to train on; all if "
                                        "empty.")] = "",
    watch: Annotated[str, typer.Option("--watch", help="Sub-folders, or validation sets of HQSeg-44K, held out for the "
                                       "log.")] = "",
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Train on what is there where sets, masks or images "
                                                "are missing, and say what was left out.")] = False,
    sam: Annotated[Optional[Path], typer.Option("--sam", help="SAM weights that the generator starts from: the official "
                                                "file, or the folder of its three parts.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="Processor threads; 0: as many as there are cores.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a noise generator against surrogates on any folder of images with masks or segment maps."""
    import torch

    from unseg.bilevel import LOG_FILE, train
    from unseg.checkpoint import initialise_from_sam
    from unseg.data.training import TrainingSet, open_training_data
    from unseg.device import choose_device
    from unseg.recipes import recipe as named_recipe

    config = named_recipe(recipe, _overrides(settings or []))
    chosen = choose_device(device)
    if threads:
        torch.set_num_threads(threads)
    data = open_training_data(data_root, _names(splits), allow_missing, watch=_names(watch), listing=output / "data-faults.txt")
    samples = data.train
    watched = TrainingSet([pair for held_out in data.validation.values() for pair in held_out.pairs])
    print(f"{config.generator} generator on {chosen}")
    # Numbers that decay below the normal ones slow a processor down many times over and change no result that matters.
    torch.set_flush_denormal(True)
    try:
        path = train(
            config, samples, output, str(chosen), resume, watched,
            initialise=None if sam is None else lambda generator, _: initialise_from_sam(generator, sam),
            facts={"recipe": recipe, "revision": _revision(), "data": data_root.name, "splits": splits or "all",
                   "overrides": " ".join(settings or []), "images": str(len(samples))},
            quiet=quiet,
        )
    finally:
        torch.set_flush_denormal(False)  # it holds for the whole process
    print(f"generator: {path}\nlog:       {output / LOG_FILE}")
