"""unseg protect: folder or files → their unlearnable versions."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unseg.commands.config_file import ConfigFile
from unseg.commands.console import Terminal, quiet_decoders, to_go_on_later
from unseg.commands.option_groups import grouped
from unseg.commands.protect_one import STREAM, OneImage, check_for_one, format_of, is_one
from unseg.commands.protect_options import (
    ChangeOptions,
    FileOptions,
    ImageOptions,
    ImagePaths,
    NoiseOptions,
    ObjectOptions,
    SpeedOptions,
    TrialOptions,
)
from unseg.commands.protect_summary import as_dict, print_summary
from unseg.errors import UserError

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.protecting.run import ProtectSettings, Summary


NAMES = {"form": "format"}  # fields of the groups above → what settings call them


@grouped
def protect(
    images: ImageOptions,
    inputs: ImagePaths = None,
    *,
    noise: NoiseOptions,
    what: ObjectOptions,
    change: ChangeOptions,
    files: FileOptions,
    speed: SpeedOptions,
    trial: TrialOptions,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the closing table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON, all else to stderr.")] = False,
    config: ConfigFile = None,
) -> None:
    """Make images unlearnable to segmentation models.

    Nothing of yours is ever overwritten. What cannot be protected is listed at the end and in the manifest. Run the
    same command again to go on after an interruption. Exit codes: 0 every image was protected; 1 some were not, the
    table says which and why; 2 it could not start or go on, one line says why; 130 Ctrl-C; 143 terminated.
    """
    one = is_one(inputs or [], images.out)
    if one:
        check_for_one(
            inputs or [], images.out, _for_folders(inputs or [], images, what, files, speed=speed, trial=trial)
        )
        files = replace(files, form=format_of(files.form, images.out))
    settings = _settings(images, noise, what, change, files, speed=speed)
    if one:
        image = OneImage(inputs or [], images.out, _hints(noise, what), settings)
        raise typer.Exit(image.protect(Terminal(quiet, to_stderr=True), as_json))
    if images.out is None:
        raise UserError("missing option '--out': name a folder; `unseg protect --help` lists what there is")
    if images.watch and as_json:
        raise UserError("--json: tells what a run did at its end, and --watch has none; the manifest tells it")
    terminal = Terminal(quiet, to_stderr=as_json)
    summary = _run(inputs or [], images, noise, what, speed, trial=trial, settings=settings, terminal=terminal)
    if as_json:
        print(json.dumps(as_dict(summary, images.out), indent=1))
    elif not summary.planned:
        print_summary(terminal.console, summary, images.out, settings)
    raise typer.Exit(summary.exit_code)


def _settings(
    images: ImageOptions,
    noise: NoiseOptions,
    what: ObjectOptions,
    change: ChangeOptions,
    files: FileOptions,
    *,
    speed: SpeedOptions,
) -> ProtectSettings:
    """Returns what the options ask for; UserError names the one that cannot be."""
    from unseg.protecting.named_settings import NamedOptions, named_settings

    options: dict[str, Any] = {  # each one is checked where settings are made
        name: value
        for group in (images, noise, what, change, files, speed)
        for field in fields(group)
        if (name := NAMES.get(field.name, field.name)) in NamedOptions.__annotations__
        if (value := getattr(group, field.name)) is not None
    }
    if options.get("bands") is not None:
        options["bands"] = _bands(options["bands"])
    return named_settings(**options)


def _bands(text: str) -> tuple[int, ...]:
    """Returns the numbers in --bands; UserError where it holds others."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in parts):
        raise UserError(f"--bands {text}: give numbers of bands from 1, such as 1,2,3")
    return tuple(map(int, parts))


def _run(
    inputs: list[Path],
    images: ImageOptions,
    noise: NoiseOptions,
    what: ObjectOptions,
    speed: SpeedOptions,
    *,
    trial: TrialOptions,
    settings: ProtectSettings,
    terminal: Terminal,
) -> Summary:
    from unseg.compute.engine import Engine
    from unseg.protecting import run
    from unseg.protecting.shards import Shard

    assert images.out is not None, "a run has a folder to write to"
    engine = Engine.named(speed.engine, speed.ray_address, speed.processes)
    with to_go_on_later(), quiet_decoders():
        return run.protect(
            inputs,
            images.out,
            settings,
            **_hints(noise, what),
            webdataset=what.webdataset,
            huggingface=what.huggingface,
            limit=trial.limit,
            dry_run=trial.dry_run,
            watch=images.watch,
            processes=1 if speed.processes is None or engine is not None else speed.processes,
            gpus=speed.gpus,
            shard=None if speed.shard is None else Shard.parse(speed.shard),
            engine=engine,
            progress=terminal,
        )


def _hints(noise: NoiseOptions, what: ObjectOptions) -> dict[str, Any]:
    """Returns what a run is told about objects and codes, by the names of its arguments."""
    return {
        "masks": what.masks,
        "mask": what.mask,
        "boxes": what.boxes,
        "refine_boxes": what.refine_boxes,
        "points": what.points,
        "annotations": what.annotations,
        "annotations_format": what.annotations_format,
        "whole_image": what.whole_image,
        "key": noise.key,
        "codes": noise.codes,
    }


def _for_folders(
    inputs: list[Path],
    images: ImageOptions,
    what: ObjectOptions,
    files: FileOptions,
    *,
    speed: SpeedOptions,
    trial: TrialOptions,
) -> dict[str, bool]:
    """Returns the options that are for folders of images alone, and whether each is given."""
    nameless = STREAM in inputs
    return {
        "--masks": nameless and what.masks is not None,
        "--annotations": nameless and what.annotations is not None,
        "--names": files.names != "png",
        "--keep-times": files.keep_times,
        "--processes": speed.processes not in (None, 1),
        "--gpus": speed.gpus is not None,
        "--limit": trial.limit is not None,
        "--dry-run": trial.dry_run,
        "--watch": images.watch,
        "--webdataset": what.webdataset is not None,
        "--huggingface": what.huggingface is not None,
        "--shard": speed.shard is not None,
        "--engine": speed.engine is not None,
        "--ray-address": speed.ray_address is not None,
    }
