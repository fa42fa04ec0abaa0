"""The sub-commands of `unseg`, each one function of `unseg.commands`; torch is imported only when one runs."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from unseg import __version__
from unseg.commands.bench import bench
from unseg.commands.config_file import naming_the_file
from unseg.commands.datasets import datasets, edition
from unseg.commands.evaluate import evaluate
from unseg.commands.info import info
from unseg.commands.literal_help import LiteralHelp
from unseg.commands.paths import checking_paths
from unseg.commands.protect import protect
from unseg.commands.removed import removal
from unseg.commands.report import report
from unseg.commands.train import train_command
from unseg.commands.verify import verify
from unseg.commands.web import web
from unseg.compute import interrupts
from unseg.errors import UserError

# Seconds; the launcher ends the other processes as soon as the first has told a wrong option and left.
FIRST_TELLS_WITHIN = 10.0

app = typer.Typer(
    name="unseg",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make images unlearnable to segmentation models (UnSeg, NeurIPS 2024).",
)
PANELS = app.rich_markup_mode
PANELS_FROM = 80  # columns; panels cut words that do not fit, plain lines do not


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Options before the sub-command."""


def _paragraphs(command: Callable[..., None]) -> str:
    """Returns a command's docstring with one line a paragraph, which `--help` wraps to the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))


COMMANDS: dict[str, Callable[..., None]] = {
    "protect": protect,
    "verify": verify,
    "web": web,
    "train": train_command,
    "evaluate": evaluate,
    "bench": bench,
    "datasets": datasets,
    "edition": edition,
    "report": report,
    "info": info,
}


def _stopped_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with a line and an exit code for an interrupt, of which typer says nothing.

    An error in an option that comes from a file names the file.
    """

    @functools.wraps(command)
    def stopped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except UserError as error:
            raise naming_the_file(error) from error.__cause__
        except KeyboardInterrupt as stop:
            told = isinstance(stop, interrupts.Terminated) and interrupts.was_launched()
            if interrupts.speaks() and not told:
                print(f"unseg: {str(stop) or 'interrupted'}", file=sys.stderr)
                interrupts.tell_the_launcher()
            raise typer.Exit(interrupts.exit_code(stop)) from None

    return stopped


for _name, _command in COMMANDS.items():
    _help = _paragraphs(_command)
    _short = _help.partition("\n")[0]
    app.command(_name, cls=LiteralHelp, help=_help, short_help=_short)(_stopped_in_one_line(checking_paths(_command)))


def run(arguments: Sequence[str]) -> int:
    """Runs one sub-command and returns its exit code; a UserError says what cannot be."""
    columns = shutil.get_terminal_size().columns
    narrow = columns < PANELS_FROM
    app.rich_markup_mode = None if narrow else PANELS
    try:
        # Standalone, an error would be a box of lines.
        code = app(
            args=list(arguments) or ["--help"],
            prog_name="unseg",
            standalone_mode=False,
            terminal_width=columns - 1 if narrow else None,
        )
    except TyperException as error:
        if not interrupts.speaks():
            time.sleep(FIRST_TELLS_WITHIN)
        raise UserError(_in_one_line(error)) from None
    except SystemExit as end:  # how typer ends where standard output was closed
        if end.code not in (None, 0) and not isinstance(end.code, int):
            raise UserError(f"a module ended the program: {end.code}") from end
        code = end.code
    return code or 0


def _in_one_line(error: TyperException) -> str:
    """Returns what is wrong with the options, and where they are listed."""
    context = getattr(error, "ctx", None)
    gone = removal(context.info_name or "", getattr(error, "option_name", "")) if context else None
    if gone is not None:
        return gone
    said = " ".join(error.format_message().split()).rstrip(".")
    command = f"{context.command_path} --help" if context else "--help"
    return f"{said[:1].lower()}{said[1:]}; `{command}` lists what there is"
