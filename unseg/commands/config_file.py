"""`--config FILE`: options of a command in a YAML file, for runs that are repeated.

The file maps names of options, as `--help` lists them, to values; what the command line says wins:

    masks: data/masks
    objects: 3,4
    background-epsilon: 1
    quiet: true

Paths in it are relative to the folder in which the command runs, as on the command line. A command accepts such a file
by one parameter: `config: ConfigFile = None`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from unseg.commands.removed import removal
from unseg.errors import UserError
from unseg.storage.files import read_text

NOT_IN_A_FILE = ("config", "help")


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Reads the file and makes its values the defaults of the other options; returns `path`.

    Raises UserError where the file cannot be read or names an option that the command does not have.
    """
    if path is None:
        return None
    options = {
        name.removeprefix("--"): parameter
        for parameter in context.command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    context.default_map = {}
    for name, value in _mapping(path).items():
        parameter = options.get(name)
        if parameter is None or name in NOT_IN_A_FILE:
            raise UserError(f"--config {path}: {_unknown(name, context)}")
        if value is not None and parameter.name is not None:
            context.default_map[parameter.name] = _as_given(value, bool(getattr(parameter, "multiple", False)))
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        callback=read_config,
        is_eager=True,
        help="YAML file of options, such as `objects: 3,4`; options of the command line win.",
    ),
]


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"--config {path}: give names of options and their values, such as `objects: 3,4`")
    return content


def _unknown(name: str, context: typer.Context) -> str:
    command = context.info_name or ""
    told = removal(command, f"--{name}")
    return told if told else f"{name} is no option of `unseg {command}`; `unseg {command} --help` lists what there is"


def _as_given(value: Any, multiple: bool) -> Any:
    """Returns a value of the file as the command line would give it.

    A list becomes one text with commas; where the option may be repeated, each item is given by itself.
    """
    if multiple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, bool) else str(value)
