"""unseg verify: the proof that protected files keep their promise."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from unseg.commands.console import Terminal, print_list, quiet_decoders
from unseg.compute.interrupts import in_good_order
from unseg.errors import UserError
from unseg.storage.files import printable
from unseg.storage.image_limits import MAX_PIXELS
from unseg.storage.mirror import as_written

if TYPE_CHECKING:  # torch is imported only when the command runs
    from unseg.protecting.verification import Verification


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of `unseg protect`.")],
    originals: Annotated[Path | None, typer.Option(help="The originals, if not where the manifest says.")] = None,
    masks: Annotated[Path | None, typer.Option(help="The masks, if not where the manifest says.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="The annotations, if not where the manifest says.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads.")] = None,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = MAX_PIXELS / 1e6,
    engine: Annotated[str | None, typer.Option(help="ray: the machines of a cluster share the work.")] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the cluster's head. Default: RAY_ADDRESS, else this machine alone."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="With --engine: its processes. Default: as many as there are cores for.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Read every file back and prove the bound at every pixel against the originals.

    Exit codes: 0 every image is protected and within its budget, and nothing is missing, changed or extra; 1 something
    is not, the lists say what; 2 it could not start, one line says why; 130 Ctrl-C.
    """
    from unseg.compute.engine import Engine
    from unseg.editions.audit import verify_edition
    from unseg.protecting.stores import verify_anywhere

    terminal, named = Terminal(quiet=quiet or as_json), Engine.named(engine, ray_address, processes)
    if processes is not None and named is None:
        raise UserError(f"--processes {processes}: is for --engine ray; give more --workers")
    with quiet_decoders(), nullcontext() if named is None else in_good_order():
        result = verify_anywhere(
            folder,
            originals=originals,
            masks=masks,
            annotations=annotations,
            workers=workers,
            max_megapixels=max_megapixels,
            engine=named,
            progress=terminal,
            on_disk=verify_edition,
        )
    if as_json:
        print(json.dumps(result.as_dict(), indent=1))
    else:
        _print_findings(terminal.console, folder, result)
    raise typer.Exit(result.exit_code)


def _print_findings(console: Console, folder: Path, result: Verification) -> None:
    """Prints everything that is not as it should be, and one line on the whole."""
    others = [f"{item.name}: {item.problem}" for item in result.other_files]
    lists = (
        ("failed", [f"{item.name}: {item.problem}" for item in result.failures], "red"),
        ("not protected", [f"{item.name}: {item.problem}" for item in result.unprotected], "yellow"),
        ("annotations, records and other files", others, "red"),
        ("missing", list(result.missing), "red"),
        ("not written by unseg", list(result.extra), "yellow"),
    )
    for title, lines, style in lists:
        print_list(console, title, lines, style, "the list that --json prints")
    if result.note:
        console.print(f"note: {printable(result.note)}", markup=False, soft_wrap=True)
    good = len(result.findings) - len(result.failures)
    place = printable(as_written(folder))
    on_object, elsewhere = (value or 0 for value in result.largest_changes())
    told = f"{good} of {result.images} images hold the bound at every pixel; most change {on_object:g} on objects,"
    console.print(
        f"{place}: {told} {elsewhere:g} elsewhere"
        if good
        else f"{place}: none of {result.images} images is shown to be protected",
        markup=False,
        soft_wrap=True,
    )
