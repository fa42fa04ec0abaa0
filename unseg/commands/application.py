"""The sub-commands of `unseg`, each one function of `unseg.commands`, imported only when it runs."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.exceptions import TyperException

from unseg import __version__
from unseg.commands.config_file import naming_the_file
from unseg.commands.literal_help import LiteralHelp
from unseg.commands.paths import checking_paths
from unseg.commands.removed import removal
from unseg.compute import interrupts
from unseg.errors import EXTRA_OF_COMMAND, UserError, naming_the_extra

# Seconds; the launcher ends the other processes as soon as the first has told a wrong option and left.
FIRST_TELLS_WITHIN = 10.0

PANELS_FROM = 80  # columns; panels cut words that do not fit, plain lines do not


class Home(NamedTuple):
    """Says where a command is: a module of `unseg.commands`, its function, and the first sentence of its help."""

    module: str
    function: str
    sentence: str


COMMANDS = {
    "protect": Home("protect", "protect", "Make images unlearnable to segmentation models."),
    "merge": Home(
        "merge",
        "merge",
        "Make one folder of what the shards of a run wrote (`unseg protect --shard`): its manifest becomes whole.",
    ),
    "verify": Home(
        "verify", "verify", "Read every file back and prove the bound at every pixel against the originals."
    ),
    "web": Home(
        "web",
        "web",
        "Open a page on this machine that protects photographs: drop them, mark the objects, compare, download.",
    ),
    "train": Home(
        "train",
        "train_command",
        "Train a noise generator against surrogates on any folder of images with masks or segment maps.",
    ),
    "evaluate": Home(
        "evaluate", "evaluate", "Train networks on clean, protected and random-noise images, test them on clean ones."
    ),
    "bench": Home("bench", "bench", "Measure every noise under every defence with every network on every set."),
    "datasets": Home(
        "datasets",
        "datasets",
        "List the data sets whose unlearnable edition one command makes, what of each is on disk, and what is missing.",
    ),
    "edition": Home(
        "datasets",
        "edition",
        "Make the unlearnable edition of a data set, as scripts/generate_NAME.sh does; settings come from the"
        " environment.",
    ),
    "report": Home("report", "report", "Write one HTML page and its tables as Markdown, from results.json alone."),
    "info": Home("info", "info", "Print the version, the device and the facts of a generator."),
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unseg {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Options before the sub-command."""


def _paragraphs(command: Callable[..., None]) -> str:
    """Returns a command's docstring with one line a paragraph, which `--help` wraps to the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))


def command_of(name: str) -> Callable[..., None]:
    """Returns the function of a command, whose module is imported now."""
    home = COMMANDS[name]
    command: Callable[..., None] = getattr(import_module(f"unseg.commands.{home.module}"), home.function)
    return command


def app_of(*wanted: str) -> typer.Typer:
    """Returns the program with these commands; the others are there by name and first sentence alone."""
    app = typer.Typer(
        name="unseg",
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Make images unlearnable to segmentation models (UnSeg, NeurIPS 2024).",
    )
    app.callback()(_options)
    for name, home in COMMANDS.items():
        if name not in wanted:
            app.command(name, short_help=home.sentence)(_elsewhere)
            continue
        command = command_of(name)
        runs = _stopped_in_one_line(name, checking_paths(command))
        app.command(name, cls=LiteralHelp, help=_paragraphs(command), short_help=home.sentence)(runs)
    return app


def _elsewhere() -> None:
    """Stands for a command that is not the one that runs."""


def _stopped_in_one_line(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with a line and an exit code for an interrupt, of which typer says nothing.

    An error in an option that comes from a file names the file; a package that is missing, the extra to install.
    """

    @functools.wraps(command)
    def stopped(*arguments: Any, **options: Any) -> None:
        try:
            with naming_the_extra(f"unseg {name}", EXTRA_OF_COMMAND.get(name)):
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


def run(arguments: Sequence[str]) -> int:
    """Runs one sub-command and returns its exit code; a UserError says what cannot be."""
    columns = shutil.get_terminal_size().columns
    narrow = columns < PANELS_FROM
    app = app_of(*(name for name in arguments[:1] if name in COMMANDS))
    if narrow:
        app.rich_markup_mode = None
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
