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
    data_root: Annotated[Path, typer.Option("--data-root", help="Folder with images/ and masks/ (or segments/, gt/, labels/).")],
    output: Annotated[Path, typer.Option("--output", help="Where weights, log and checkpoint go.")],
    recipe: Annotated[str, typer.Option("--recipe", help="paper, compact or smoke.")] = "compact",
    settings: Annotated[Optional[list[str]], typer.Option("--set", help="Override of a recipe's field, FIELD=VALUE.")] = None,
    splits: Annotated[str, typer.Option("--splits", help="Sub-folders of images/ to train on; all if empty.")] = "",
    watch: Annotated[str, typer.Option("--watch", help="Sub-folders held out for the log.")] = "",
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
    from unseg.data.views import TrainingFolder
    from unseg.device import choose_device
    from unseg.recipes import recipe as named_recipe

    config = named_recipe(recipe, _overrides(settings or []))
    chosen = choose_device(device)
    if threads:
        torch.set_num_threads(threads)
    samples = TrainingFolder(data_root, _names(splits))
    watched = TrainingFolder(data_root, _names(watch)) if watch else ()
    held = set() if not watch else {name for name, _, _ in watched.pairs}
    shared = sorted(held & {name for name, _, _ in samples.pairs})
    if shared:
        raise UserError(f"--watch {watch}: {len(shared)} of its images are trained on ({shared[0]}, …); name the training "
                        "folders with --splits")
    print(f"{len(samples)} images to train on, {len(watched)} held out · {config.generator} generator on {chosen}")
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
