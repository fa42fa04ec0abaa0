"""What Python callers give, checked by kind: a text where a number belongs is one line that names the option."""

from __future__ import annotations

import types
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

import numpy as np

from unseg.errors import UserError

SAID = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple of numbers"}


def of_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values, numbers of numpy as Python's own; UserError for the first that is not of its option's kind.

    kinds: name → annotation, of bool, int, float, str, tuples of int, and None. Options of other kinds, and those
    without one, pass. Truth values are no numbers.
    """
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    for name, value in values.items():
        allowed = _members(kinds.get(name))
        if allowed and allowed <= SAID.keys() | {type(None)} and not any(_is(value, kind) for kind in allowed):
            said = " or ".join(text for kind, text in SAID.items() if kind in allowed)
            none = ", or None" if type(None) in allowed else ""
            raise UserError(f"{name}: is {str(value)[:40]!r}, {_a(type(value).__name__)}; give {said}{none}")
    return values


def _members(annotation: Any) -> frozenset[Any]:
    """Returns the kinds of which an annotation allows any; a tuple's stands for all of its items."""
    if annotation is None:
        return frozenset()
    if get_origin(annotation) in (Union, types.UnionType):
        return frozenset().union(*map(_members, get_args(annotation)))
    return frozenset({get_origin(annotation) or annotation})


def _is(value: Any, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        wanted = Integral if kind is int else Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    if kind is tuple:
        return isinstance(value, tuple) and all(_is(item, int) for item in value)
    return isinstance(value, kind)


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
