"""unseg datasets, unseg edition: the paper's data sets, what of them is on disk, and unlearnable editions of them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from unseg.commands.console import Terminal, quiet_decoders, to_go_on_later
from unseg.commands.protect_summary import print_summary
from unseg.errors import UserError
from unseg.storage.files import printable
from unseg.storage.mirror import as_written

if TYPE_CHECKING:  # torch is imported only when an edition is made, so that --help is fast
    from unseg.editions.options import EditionSettings


def datasets(
    root: Annotated[
        Path | None,
        typer.Option(help="The folder to look in. Default: DATA_ROOT, else DETECTRON2_DATASETS, from the environment."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the data sets whose unlearnable edition one command makes, what of each is on disk, and what is missing.

    Exit codes: 0; 2 the folder is not there.
    """
    from unseg.editions.options import root_from
    from unseg.editions.survey import survey

    if root is None and any(os.environ.get(name) for name in ("DATA_ROOT", "DETECTRON2_DATASETS")):
        root = root_from(os.environ)
    if root is not None and not root.is_dir():
        raise UserError(f"--root {root}: no such folder; name the one that holds the data sets")
    found = survey(root)
    if as_json:
        print(json.dumps({"root": None if root is None else str(root), "datasets": found}, indent=1))
    else:
        _print_survey(Console(highlight=False), root, found)


def _print_survey(console: Console, root: Path | None, found: list[dict[str, Any]]) -> None:
    """Prints for each data set its command and what it needs, and a line for each of its sets and splits."""
    where = "no folder given (--root, DATA_ROOT or DETECTRON2_DATASETS)" if root is None else f"in {root}"
    lines = [f"data sets {where}"]
    for row in found:
        lines += ["", f"{row['name']}: {row['title']}. {row['command']}", f"  needs {row['needs']}"]
        for part in row["sets"] if root is not None else ():
            state = f"found ({part['annotations']})" if part["found"] else f"missing: {', '.join(part['missing'])}"
            name = " ".join(filter(None, (part["name"], part["split"])))
            lines.append(f"  {name:<20} {state}")
    for line in lines:
        console.print(printable(line), markup=False, soft_wrap=True)


def edition(
    name: Annotated[
        str,
        typer.Argument(help="pascal, ade20k, coco, cityscapes, interactive, remote, medical, camvid, carparts or ccp."),
    ],
) -> None:
    """Make the unlearnable edition of a data set, as scripts/generate_NAME.sh does; settings come from the environment.

    DATA_ROOT, LINKED_ROOTS, OUT, SPLIT, SET, ANNOTATIONS, OBJECTS, NOISE, GENERATOR, KEY, CODES, STRENGTH, EPSILON,
    BACKGROUND_EPSILON, REGION, NAMES, FORMAT,
    VAL, LIMIT, DRY_RUN, NGPU, NPROC, SHARD, ENGINE: see the header of that script. Run the same command again to go on
    after an interruption. Exit codes: 0 every image was protected; 1 some were not, the table says which and why; 2 it
    could not start or go on; 130 Ctrl-C; 143 terminated.
    """
    from unseg.data.edition_catalog import edition_row
    from unseg.editions.options import settings_from

    raise typer.Exit(_run(settings_from(edition_row(name), os.environ)))


# Options of `unseg protect` that are variables here.
VARIABLES = {
    option: option.upper().replace("-", "_")
    for option in (
        "out", "key", "codes", "region", "generator", "shard", "epsilon", "background-epsilon", "strength", "noise",
        "format", "names", "objects", "limit", "engine",
    )
} | {"processes": "NPROC"}  # fmt: skip
_OPTION = re.compile(rf"(^)?--({'|'.join(sorted(VARIABLES, key=len, reverse=True))})\b(?: (?=(\S*[/.\d])|))?")


def in_variables(said: str) -> str:
    """Returns a message of `unseg protect` with variables in place of options: `--out a/b: …` becomes `OUT=a/b: …`.

    An option at the start has its value behind it; elsewhere, what looks like a path or a number is taken for one.
    """

    def variable(option: re.Match[str]) -> str:
        space = option[0].endswith(" ")
        has_value = space and (option[1] is not None or option[3])
        return VARIABLES[option[2]] + ("=" if has_value else " " * space)

    return _OPTION.sub(variable, said)


def _run(settings: EditionSettings) -> int:
    """Makes an edition, tells what was done and returns the exit code."""
    from unseg.editions.edition import make_edition, protect_settings

    terminal = Terminal()
    try:
        with to_go_on_later(), quiet_decoders():
            made = make_edition(settings, terminal)
    except UserError as error:
        raise UserError(in_variables(str(error))) from error
    if not made.summary.planned:
        print_summary(terminal.console, made.summary, settings.out, protect_settings(settings, 0), in_variables)
    if made.carried is not None:
        done = Counter(line.how for line in made.carried)
        told = ", ".join(f"{count:,} {how}" for how, count in sorted(done.items())) or "nothing else"
        place = printable(as_written(settings.out))
        terminal.console.print(f"Beside the images: {told}. The edition: {place}", markup=False, soft_wrap=True)
    return made.summary.exit_code
