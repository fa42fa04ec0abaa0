"""Paths that a command is given: what the system cannot even be asked about ends in one line, for every option."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unseg.errors import UserError

AROUND = 20  # characters that are shown of a text that cannot be written


def checking_paths(command: Callable[..., None]) -> Callable[..., None]:
    """Returns `command` with a check of every path among its values; UserError where the system refuses to look at one.

    What is not there is left to the command, which may be about to make it. A folder that is locked on the way, a name
    that is too long and a link in a circle would be an error wherever the path is used first.
    """

    @functools.wraps(command)
    def checked(**values: Any) -> None:
        for path in _paths(values):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise UserError(told_of_file(error)) from error
            except ValueError as error:  # a zero byte, or half of a character
                raise UserError(f"{path}: no file can have that name") from error
        command(**values)

    return checked


def _paths(values: dict[str, Any]) -> Iterator[Path]:
    for value in values.values():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Path):
                yield item


def told_of_file(error: OSError | UnicodeEncodeError) -> str:
    """Returns what the system says of a file, in one line that names it; or which text cannot be written, and why."""
    if isinstance(error, UnicodeEncodeError):
        part = error.object[max(0, error.start - AROUND) : error.end]
        return f"{part}: holds half of a character, which no file and no name of one can hold; correct it"
    if error.filename is None:
        return f"{error.strerror or error}; check space and permissions"
    return f"{error.filename}: cannot be used: {error.strerror or error}; check its name and permissions"
