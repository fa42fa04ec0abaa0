"""unseg protect: folder or files → their unlearnable versions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from unseg.commands.console import Terminated, print_list, printable, progress, quiet_decoders, terminated_as_interrupt
from unseg.method.config import Budget
from unseg.protecting.manifest import MANIFEST
from unseg.storage.image_limits import MAX_PIXELS

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.protecting.run import ProtectSettings, Summary

T = TypeVar("T")


def protect(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the protected images and the manifest.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES...", help="Folders (recursive) and image files. None where --annotations holds the images."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks, paired by relative name without suffix. Without masks and boxes: the whole image."
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Annotations in place of masks, a file or a folder: COCO, panoptic, VOC, Cityscapes, YOLO, LabelMe, Hugging "
            "Face and more; see docs/annotations.md."
        ),
    ] = None,
    annotations_format: Annotated[str, typer.Option(help="Their format, where it is not the detected one.")] = "auto",
    objects: Annotated[
        str,
        typer.Option(
            help="What is the object: all; things (or multi), countable ones only; class ids "
            "such as 3,4 or 1-5; by-class: every class gets a noise of its own and the "
            "object's budget."
        ),
    ] = "all",
    ignore_label: Annotated[int, typer.Option(help="Class id that is never the object; -1: none.")] = 255,
    background_label: Annotated[int, typer.Option(help="Class id that `--objects all` leaves out; -1: none.")] = 0,
    mask_type: Annotated[str, typer.Option(help="binary (above 127 is object), index (class ids), or auto.")] = "auto",
    boxes: Annotated[
        Path | None,
        typer.Option(help='JSON file of boxes, {"relative/name.jpg": [[x1, y1, x2, y2], ...]}, in place of masks.'),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Most that values of the object may change, of 255.")] = 8.0,
    background_epsilon: Annotated[float, typer.Option(help="The same for all other pixels.")] = 2.0,
    generator: Annotated[str, typer.Option(help="compact (shipped), or a weight file.")] = "compact",
    region: Annotated[
        str,
        typer.Option(
            help="Where --epsilon holds: mask (exactly the object), or published "
            "(the 256-pixel mask prompt resized back)."
        ),
    ] = "mask",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="png, tiff, webp (lossless, smaller, slower), or jpeg: changes "
            "values beyond the budget, and the run says by how much.",
        ),
    ] = "png",
    names: Annotated[
        str,
        typer.Option(
            help="png: an output gets its format's suffix; keep: exactly its input's name, so that a.jpg holds a PNG, which "
            "programs that go by content read."
        ),
    ] = "png",
    png_level: Annotated[int, typer.Option(help="Compression of PNG and TIFF, 0 to 9.")] = 1,
    metadata: Annotated[
        str,
        typer.Option(
            help="What a protected image keeps: icc (its colour profile alone), keep (EXIF and XMP too, with place and "
            "camera), or none. Copies keep all."
        ),
    ] = "icc",
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Give outputs their inputs' time stamps.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="Of generators derived from SAM: float32; float16, for GPUs, where about one "
            "value in a thousand differs by a grey level; bfloat16, one in a hundred, by "
            "up to two; auto: float16 on a GPU if that is measured to hold."
        ),
    ] = "float32",
    attention: Annotated[
        str,
        typer.Option(
            help="Of generators derived from SAM: auto (one form for each kind of device), or "
            "folded, flex, bias, or fastest (measured when the run begins)."
        ),
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the network (torch.compile): takes a minute or more at the start, for long runs."
        ),
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="On a GPU: record the network's work once, and replay it.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images a batch. Default: 1 on a CPU; on a GPU 32, or 8 with generators derived from SAM, fewer in a small one.",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: the number of cores.")] = None,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = MAX_PIXELS / 1e6,
    processes: Annotated[int, typer.Option(help="Processes that share the work; what is written is the same.")] = 1,
    gpus: Annotated[int | None, typer.Option(help="Use so many GPUs, one process each; 0: the CPU.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images, by name: for a try.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; count, forecast and list problems.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the closing table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON, all else to stderr.")] = False,
) -> None:
    """Make images unlearnable to segmentation models.

    Nothing of yours is ever overwritten. What cannot be protected is listed at the end and in the manifest. Run the
    same command again to go on after an interruption. Exit codes: 0 every image was protected; 1 some were not, the
    table says which and why; 2 it could not start or go on, one line says why; 130 Ctrl-C; 143 terminated.
    """
    from unseg.compute.device import device_of_gpus
    from unseg.data.annotations import ObjectRule
    from unseg.protecting.run import ProtectSettings
    from unseg.protecting.run import protect as run

    if gpus is not None:
        device = device_of_gpus(gpus, processes)
    rule = ObjectRule.parse(objects, _label(ignore_label), _label(background_label))
    settings = ProtectSettings(
        budget=Budget(epsilon, background_epsilon),
        generator=generator,
        region=region,
        mask_type=mask_type,
        format=form,
        names="suffix" if names == "png" else names,
        png_level=png_level,
        metadata=metadata,
        keep_times=keep_times,
        device=device,
        precision=precision,
        attention=attention,
        compile=compiled,
        graph=graph,
        batch_size=batch_size,
        workers=workers,
        max_megapixels=max_megapixels,
    )
    console = Console(highlight=False, stderr=as_json)
    try:
        with terminated_as_interrupt(), quiet_decoders():
            summary = run(
                inputs or [],
                out,
                settings,
                masks=masks,
                boxes=boxes,
                annotations=annotations,
                annotations_format=annotations_format,
                rule=rule,
                limit=limit,
                dry_run=dry_run,
                processes=gpus or processes,
                reporter=Terminal(console, quiet),
            )
    except KeyboardInterrupt as stop:
        raise typer.Exit(told_interrupted(stop)) from None
    if as_json:
        print(json.dumps(_as_dict(summary, out), indent=1))
    else:
        print_summary(console, summary, out, settings)
    raise typer.Exit(summary.exit_code)


def told_interrupted(stop: KeyboardInterrupt) -> int:
    """Say that a run was stopped, and how it goes on; the exit code."""
    typer.echo("unseg: interrupted; what is finished is kept, run the same command again to go on", err=True)
    return 143 if isinstance(stop, Terminated) else 130


def _label(value: int) -> int | None:
    return None if value < 0 else value


class Terminal:
    """Tells what a run does: sentences on stdout, bars on stderr."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(printable(text), markup=False, soft_wrap=True)

    def track(self, items: Iterable[T], total: int, what: str) -> Iterable[T]:
        return progress(items, total, what, self.quiet)


def _as_dict(summary: Summary, out: Path) -> dict[str, Any]:
    """What a run did, for programs. not_protected: every input that is not, with its status and why. forecast: what was
    foreseen before the run, seconds and bytes_out null where no image was tried."""
    protected = summary.of("protected")
    ratios = [entry.psnr for entry in protected if entry.psnr is not None]
    measured = [entry for entry in protected if entry.over_budget is not None]
    return {
        "ok": summary.exit_code == 0,
        "dry_run": summary.dry,
        "manifest": str(out / MANIFEST),
        "seconds": round(summary.seconds, 3),
        "forecast": asdict(summary.forecast),
        "protected": len(protected),
        "kept_from_earlier_runs": summary.kept,
        "copied": len(summary.of("copied")),
        "failed": len(summary.of("failed")),
        "psnr": {"mean": sum(ratios) / len(ratios), "lowest": min(ratios)} if ratios else None,
        "over_budget": {
            "share": sum(entry.over_budget for entry in measured) / len(measured),
            "grey_levels": max(entry.max_over for entry in measured),
        }
        if measured
        else None,
        "not_protected": [
            {"input": entry.input, "input_root": entry.input_root, "status": entry.status, "reason": entry.reason}
            for entry in summary.entries
            if entry.status != "protected"
        ],
        "notes": [{"input": entry.input, "note": entry.note} for entry in protected if entry.note],
    }


def print_summary(console: Console, summary: Summary, out: Path, settings: ProtectSettings) -> None:
    protected, copied, failed = (summary.of(status) for status in ("protected", "copied", "failed"))
    table = Table(title="dry run: nothing was written" if summary.dry else "unseg protect", title_justify="left")
    for heading, justify in (("", "left"), ("images", "right"), ("", "left")):
        table.add_column(heading, justify=justify)
    ratios = [entry.psnr for entry in protected if entry.psnr is not None]
    quality = f"PSNR {sum(ratios) / len(ratios):.1f} dB on average, {min(ratios):.1f} at least" if ratios else ""
    kept = f"{summary.kept} of them by an earlier run" if summary.kept else ""
    table.add_row("protected", str(len(protected)), "; ".join(filter(None, (quality, kept))))
    table.add_row(
        "copied without protection", str(len(copied)), "byte for byte, with all their metadata" if copied else ""
    )
    table.add_row("failed", str(len(failed)), "nothing written" if failed else "")
    console.print(table)
    manifest = str(out / MANIFEST)
    for title, entries, style in (("copied without protection", copied, "yellow"), ("failed", failed, "red")):
        print_list(console, title, [f"{entry.input}: {entry.reason}" for entry in entries], style, manifest)
    notes = [f"{entry.input}: {entry.note}" for entry in protected if entry.note]
    print_list(console, "notes", notes, "default", manifest)
    measured = [entry for entry in protected if entry.over_budget is not None]
    if measured:
        share = sum(entry.over_budget for entry in measured) / len(measured)
        console.print(
            f"JPEG breaks the bound: {share:.2%} of the values are beyond the budget (--epsilon "
            f"{settings.budget.object:g}, --background-epsilon {settings.budget.background:g}), by up to "
            f"{max(entry.max_over for entry in measured)} grey levels. PNG keeps it exactly.",
            style="yellow",
            soft_wrap=True,
        )
    made = len(summary.entries) - summary.kept
    if summary.seconds > 0 and not summary.dry:
        console.print(
            f"{made} images in {summary.seconds:.1f} s ({made / summary.seconds:.1f} images/s). "
            f"Manifest: {printable(manifest)}",
            markup=False,
            soft_wrap=True,
        )
