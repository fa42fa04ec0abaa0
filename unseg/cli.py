"""The `unseg` command. Each sub-command is one function of `unseg.commands`; torch is imported only when one runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from unseg import __version__
from unseg.commands.bench import bench
from unseg.commands.datasets import datasets, edition
from unseg.commands.evaluate import evaluate
from unseg.commands.info import info
from unseg.commands.literal_help import LiteralHelp
from unseg.commands.paths import checking_paths, told_of_file
from unseg.commands.protect import protect
from unseg.commands.removed import removal
from unseg.commands.report import report
from unseg.commands.streams import standard_streams
from unseg.commands.train import train_command
from unseg.commands.verify import verify
from unseg.errors import UserError
from unseg.storage.files import printable

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130
# Seconds; the launcher ends the other processes as soon as the first has told a wrong option and left.
FIRST_TELLS_WITHIN = 10.0

app = typer.Typer(
    name="unseg",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make images unlearnable to segmentation models (UnSeg, NeurIPS 2024).",
)


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
    "train": train_command,
    "evaluate": evaluate,
    "bench": bench,
    "datasets": datasets,
    "edition": edition,
    "report": report,
    "info": info,
}
for _name, _command in COMMANDS.items():
    app.command(_name, cls=LiteralHelp, help=_paragraphs(_command))(checking_paths(_command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 all done; 1 something was not protected, or does not hold; 2 user error; 130 Ctrl-C; 143 terminated.
    """
    with standard_streams():
        try:
            code = _run(arguments)
            sys.stdout.flush()
        except UserError as error:
            print(printable(f"unseg: error: {error}"), file=sys.stderr)  # file names may hold any byte
            code = EXIT_USER_ERROR
        except (OSError, UnicodeEncodeError) as error:  # of files that are asked for deep inside a command
            print(printable(f"unseg: error: {told_of_file(error)}"), file=sys.stderr)
            code = EXIT_USER_ERROR
        except KeyboardInterrupt:
            print("unseg: interrupted", file=sys.stderr)
            code = EXIT_INTERRUPTED
    return code


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Standalone, an error would be a box of lines.
        code = app(args=given or ["--help"], prog_name="unseg", standalone_mode=False)
    except TyperException as error:
        if os.environ.get("RANK", "0") != "0":
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


if __name__ == "__main__":
    sys.exit(main())
