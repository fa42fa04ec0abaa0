"""Options of a command in named groups: one dataclass is one group, which `--help` shows as one panel.

A group is a frozen dataclass whose fields are options as typer declares them, and whose `PANEL` is the group's title:

    @dataclass(frozen=True)
    class Output:
        PANEL: ClassVar[str] = "Output"
        out: Annotated[Path, typer.Option("--out", help="The folder to write to.")]

    @grouped
    def protect(output: Output) -> None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from typer.models import ParameterInfo


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Returns `command` as typer takes it: with one parameter for each field of the groups that it asks for.

    A parameter of `command` whose type is a dataclass stands for that group; all others stay as they are.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}

    def flat(**values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**built, **values)

    flat.__name__, flat.__doc__, flat.__module__ = command.__name__, command.__doc__, command.__module__
    flat.__signature__ = inspect.Signature(list(_parameters(command, hints, groups)))  # type: ignore[attr-defined] # functions take any attribute
    return flat


def _parameters(
    command: Callable[..., None], hints: dict[str, Any], groups: dict[str, Any]
) -> Iterator[inspect.Parameter]:
    """Yields the flat parameters in the order of the command's own.

    They are given by keyword, so that one without a default may follow one that has it.
    """
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            yield from _options(groups[parameter.name])
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation = _in_panel(hints[field.name], group.PANEL)
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def first_given(group: Any, but: Collection[str] = ()) -> str | None:
    """Returns an option of a group that has not its default, as the user writes it; None where all have.

    but: names of fields that may have any value.
    """
    hints = get_type_hints(type(group), include_extras=True)
    for field in fields(group):
        value = getattr(group, field.name)
        if field.name not in but and value != field.default and value != []:
            option: ParameterInfo = get_args(hints[field.name])[1]
            declared = (option.default, *(option.param_decls or ()))  # in annotations the first name stands as default
            named = [name for name in declared if isinstance(name, str) and name.startswith("--")]
            return named[0] if named else f"--{field.name.replace('_', '-')}"
    return None


def _in_panel(annotation: Any, panel: str) -> Any:
    """Returns an option's annotation with the panel that `--help` shows it in."""
    kind, *declared = get_args(annotation)
    option: ParameterInfo = copy(declared[0])
    option.rich_help_panel = panel
    return Annotated[kind, option]
