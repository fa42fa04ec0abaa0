"""`--config FILE`: options of a command in a YAML file, for runs that are repeated.

The file maps names of options, as `--help` lists them, to values; what the command line says wins:

    masks: data/masks
    objects: 3,4
    background-epsilon: 1
    quiet: true

Its values are texts, as words of the command line are: `010` is no octal number and `1:30` no time. Switches, such as
`quiet`, take true and false. Paths are relative to the folder in which the command runs, as on the command line. A
command accepts such a file by one parameter: `config: ConfigFile = None`.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from unseg.commands.removed import removal
from unseg.errors import UserError
from unseg.storage.files import read_text

NOT_IN_A_FILE = ("config", "help")
_read: ContextVar[tuple[typer.Context | None, Path | None]] = ContextVar("read", default=(None, None))
"""The command that runs, and the file of options that it was given."""
NOTHING = ("", "~", "null", "Null", "NULL")  # an option that is left out


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Reads the file and makes its values the defaults of the other options; returns `path`.

    Raises UserError where the file cannot be read or names an option that the command does not have.
    """
    if path is None:
        _read.set((None, None))  # of an earlier command of this process
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
        if value in NOTHING or parameter.name is None:
            continue
        try:
            given = _as_given(value, bool(getattr(parameter, "multiple", False)))
            parameter.process_value(context, given)
        except TyperException as error:
            said = " ".join(error.format_message().split()).rstrip(".")
            raise UserError(f"--config {path}: {said[:1].lower()}{said[1:]}") from None
        except TypeError:
            raise UserError(f"--config {path}: {name}: give a value, or a list of values") from None
        context.default_map[parameter.name] = given
    _read.set((context, path))
    return path


def naming_the_file(error: UserError) -> UserError:
    """Returns an error of the command that runs; where it is of an option from the file, one that names the file."""
    context, path = _read.get()
    option = str(error).partition(" ")[0]
    if context is None or not option.startswith("--"):
        return error
    names = {parameter.name for parameter in context.command.params if option.rstrip(":") in parameter.opts}
    from_file = [name for name in names & set(context.default_map or ()) if _is_from_file(context, name)]
    return UserError(f"--config {path}: {error}") if from_file else error


def _is_from_file(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


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
    import yaml  # which most runs do not need

    try:
        text = read_text(path)
        written = yaml.compose(text, yaml.BaseLoader)
        content = yaml.load(text, yaml.BaseLoader)  # texts, lists and mappings alone
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"--config {path}: give names of options and their values, such as `objects: 3,4`")
    names = [name.value for name, _ in written.value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--config {path}: {twice} is there twice; give it once")
    return content


def _unknown(name: str, context: typer.Context) -> str:
    command = context.info_name or ""
    told = removal(command, f"--{name}")
    return told if told else f"{name} is no option of `unseg {command}`; `unseg {command} --help` lists what there is"


def _as_given(value: Any, multiple: bool) -> Any:
    """Returns a value of the file as the command line would give it.

    A list becomes one text with commas; where the option may be repeated, each item is given by itself. A TypeError
    says that a value holds others.
    """
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        raise TypeError(value)
    if multiple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
