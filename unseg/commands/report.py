"""unseg report: makes one page and its tables of what `unseg evaluate` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unseg.commands.console import print_list
from unseg.compute.interrupts import in_good_order
from unseg.storage.files import printable


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Folders with a results.json of `evaluate` or `bench`, or such files."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The page; its tables as Markdown go beside it. Default: report.html in the first RUN."),
    ] = None,
    charts: Annotated[
        bool, typer.Option("--charts", help="Also write each figure as an SVG file beside the page.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
) -> None:
    """Write one HTML page and its tables as Markdown, from results.json alone.

    The page holds its pictures and charts itself and loads nothing. The same files give the same bytes. A file that
    this command did not create is never overwritten. Exit codes: 0 written; 2 a file is missing or broken, one line
    says which.
    """
    from unseg.report.text import TITLE
    from unseg.report.writing import write_report

    with in_good_order():
        written = write_report(runs, out, charts, title or TITLE)
    console = Console(highlight=False)
    print_list(console, "not on the page", written.problems, "yellow", "the page")
    names = ", ".join(printable(str(path)) for path in written.paths)
    size = sum(path.stat().st_size for path in written.paths)
    console.print(f"Written: {names} ({size / 1e3:,.0f} kB)", markup=False, soft_wrap=True)
