"""unseg merge: the shards of a run, made one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unseg.commands.console import Terminal
from unseg.commands.protect_summary import print_counts


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The --out folder of all shards.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the closing table.")] = False,
) -> None:
    """Make one folder of what the shards of a run wrote (`unseg protect --shard`): its manifest becomes whole.

    Nothing is changed where a shard is missing or was cut off, or where two overlap: one line names it. Run twice, it
    changes nothing more. Exit codes: 0 every image is protected; 1 some are not, the table says which and why; 2 it
    could not merge; 130 Ctrl-C.
    """
    from unseg.protecting.stores import merge_anywhere

    terminal = Terminal(quiet)
    summary = merge_anywhere(out)
    terminal.say(f"merged: {len(summary.entries):,} images; `unseg verify {out}` proves them")
    print_counts(terminal.console, summary, out)
    raise typer.Exit(summary.exit_code)
