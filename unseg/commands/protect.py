"""unseg protect: folder or files → their unlearnable versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from unseg.commands.config_file import ConfigFile
from unseg.commands.console import Terminal, quiet_decoders, to_go_on_later
from unseg.commands.option_groups import grouped
from unseg.commands.protect_summary import as_dict, print_summary
from unseg.method.config import Budget
from unseg.storage.image_limits import MAX_PIXELS

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.protecting.run import ProtectSettings, Summary


@dataclass(frozen=True)
class ImageOptions:
    """The images and the place for their protected versions."""

    PANEL: ClassVar[str] = "What is protected"
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the protected images and the manifest.")]
    generator: Annotated[str, typer.Option(help="compact (shipped), a weight file, or module:name (your own).")] = (
        "compact"
    )
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = MAX_PIXELS / 1e6


@dataclass(frozen=True)
class ObjectOptions:
    """The part of an image that a network is to learn nothing of."""

    PANEL: ClassVar[str] = "What the object is"
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks, paired by relative name without suffix. Without masks, annotations and boxes: the "
            "whole image."
        ),
    ] = None
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Annotations in place of masks, a file or a folder: COCO, panoptic, VOC, Cityscapes, YOLO, LabelMe, "
            "Hugging Face and more; see the manual on annotations."
        ),
    ] = None
    annotations_format: Annotated[str, typer.Option(help="Their format, where it is not the detected one.")] = "auto"
    boxes: Annotated[
        Path | None,
        typer.Option(help='JSON file of boxes, {"relative/name.jpg": [[x1, y1, x2, y2], ...]}, in place of masks.'),
    ] = None
    objects: Annotated[
        str,
        typer.Option(
            help="What is the object: all; things (or multi), countable ones only; class ids such as 3,4 or 1-5; "
            "by-class: every class has its own noise, and the second-largest class has none."
        ),
    ] = "all"
    ignore_label: Annotated[int, typer.Option(help="Class id that is never the object; -1: none.")] = 255
    background_label: Annotated[int, typer.Option(help="Class id that `--objects all` leaves out; -1: none.")] = 0
    mask_type: Annotated[str, typer.Option(help="binary (above 127 is object), index (class ids), or auto.")] = "auto"


@dataclass(frozen=True)
class ChangeOptions:
    """The bound, and where each part of it holds."""

    PANEL: ClassVar[str] = "How much may change"
    epsilon: Annotated[float, typer.Option(help="Most that values of the object may change, of 255.")] = 8.0
    background_epsilon: Annotated[float, typer.Option(help="The same for all other pixels.")] = 2.0
    region: Annotated[
        str,
        typer.Option(
            help="Where --epsilon holds: mask (exactly the object), or published (the 256-pixel mask prompt resized "
            "back)."
        ),
    ] = "mask"


@dataclass(frozen=True)
class FileOptions:
    """The files that are written."""

    PANEL: ClassVar[str] = "Output"
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="png, tiff, webp (lossless, smaller, slower), or jpeg: changes values beyond the budget, and the run "
            "says by how much.",
        ),
    ] = "png"
    names: Annotated[
        str,
        typer.Option(
            help="png: an output gets its format's suffix. keep: it has exactly its input's name, so that a.jpg holds "
            "a PNG, which programs that go by content read."
        ),
    ] = "png"
    png_level: Annotated[int, typer.Option(help="Compression of PNG and TIFF, 0 to 9.")] = 1
    metadata: Annotated[
        str,
        typer.Option(
            help="What a protected image keeps: icc (its colour profile alone), keep (EXIF and XMP too, with place and "
            "camera), or none. Copies keep all."
        ),
    ] = "icc"
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Give outputs their inputs' time stamps.")] = False


@dataclass(frozen=True)
class SpeedOptions:
    """Where the network runs, and how many threads and processes share the work."""

    PANEL: ClassVar[str] = "Speed and device"
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
    gpus: Annotated[int | None, typer.Option(help="Use so many GPUs, one process each; 0: the CPU.")] = None
    precision: Annotated[
        str,
        typer.Option(
            help="Of generators derived from SAM: float32, or bfloat16, where about one value in a hundred "
            "differs by a grey level or two."
        ),
    ] = "float32"
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a batch. Default: 1 on a CPU; on a GPU 32, or 8 with generators derived from SAM."),
    ] = None
    workers: Annotated[int | None, typer.Option(help="Threads. Default: the number of cores.")] = None
    processes: Annotated[int, typer.Option(help="Processes that share the work; what is written is the same.")] = 1


@dataclass(frozen=True)
class TrialOptions:
    """A look at what a run would do."""

    PANEL: ClassVar[str] = "A try first"
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; count, forecast and list problems.")] = (
        False
    )
    limit: Annotated[int | None, typer.Option(help="Only the first so many images, by name: for a try.")] = None


ImagePaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="IMAGES...", help="Folders (recursive) and image files. None where --annotations holds the images."
    ),
]


@grouped
def protect(
    images: ImageOptions,
    inputs: ImagePaths = None,
    *,
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
    settings = _settings(images, what, change, files, speed)
    terminal = Terminal(quiet, to_stderr=as_json)
    with to_go_on_later(), quiet_decoders():
        summary = _run(inputs or [], images, what, speed, trial, settings=settings, terminal=terminal)
    if as_json:
        print(json.dumps(as_dict(summary, images.out), indent=1))
    else:
        print_summary(terminal.console, summary, images.out, settings)
    raise typer.Exit(summary.exit_code)


def _settings(
    images: ImageOptions, what: ObjectOptions, change: ChangeOptions, files: FileOptions, speed: SpeedOptions
) -> ProtectSettings:
    """Returns what the options ask for; UserError names the one that cannot be."""
    from unseg.compute.device import device_of_gpus
    from unseg.data.object_rule import ObjectRule
    from unseg.protecting.run import ProtectSettings

    device = speed.device if speed.gpus is None else device_of_gpus(speed.gpus, speed.processes)
    labels = (_label(what.ignore_label), _label(what.background_label))
    words: dict[str, Any] = {  # each one of a few; ProtectSettings refuses others
        "region": change.region,
        "mask_type": what.mask_type,
        "format": files.form,
        "names": "suffix" if files.names == "png" else files.names,
        "metadata": files.metadata,
        "precision": speed.precision,
    }
    return ProtectSettings(
        budget=Budget(change.epsilon, change.background_epsilon),
        generator=images.generator,
        rule=ObjectRule.parse(what.objects, *labels),
        **words,
        png_level=files.png_level,
        keep_times=files.keep_times,
        device=device,
        batch_size=speed.batch_size,
        workers=speed.workers,
        max_megapixels=images.max_megapixels,
    )


def _label(value: int) -> int | None:
    return None if value < 0 else value


def _run(
    inputs: list[Path],
    images: ImageOptions,
    what: ObjectOptions,
    speed: SpeedOptions,
    trial: TrialOptions,
    *,
    settings: ProtectSettings,
    terminal: Terminal,
) -> Summary:
    from unseg.protecting import run

    return run.protect(
        inputs,
        images.out,
        settings,
        masks=what.masks,
        boxes=what.boxes,
        annotations=what.annotations,
        annotations_format=what.annotations_format,
        limit=trial.limit,
        dry_run=trial.dry_run,
        processes=speed.gpus or speed.processes,
        progress=terminal,
    )
